/* libcuda.so.1, which torch's library for compiled kernels is linked to. The other functions are in do_nothing.txt. */
#include <stdlib.h>

#include "counters.h"

/* torch asks which devices are in use, so as not to begin using others: it is the one of this rank. */
API int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
  const char *local_rank = getenv("LOCAL_RANK");
  *flags = 0;
  *active = device == (local_rank ? atoi(local_rank) : 0);
  return 0;
}
API int cuCtxGetCurrent(void **context) {
  *context = (void *)16; /* any but NULL */
  return 0;
}
