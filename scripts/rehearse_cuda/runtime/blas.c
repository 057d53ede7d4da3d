/* cuBLAS, as far as an answer is more than success; what computes is in do_nothing.txt. */
#include <stdlib.h>
#include <string.h>

#include "counters.h"

enum { HEURISTIC_BYTES = 64 }; /* of cublasLtMatmulHeuristicResult_t, up to the workspace that it asks for */

API int cublasCreate_v2(void **handle) {
  *handle = malloc(16);
  return 0;
}
API int cublasLtCreate(void **handle) { return cublasCreate_v2(handle); }
API int cublasGetMathMode(void *handle, int *mode) {
  *mode = 0;
  return 0;
}
API int cublasGetPointerMode_v2(void *handle, int *mode) {
  *mode = 0;
  return 0;
}
API size_t cublasLtGetVersion(void) { return 130100; }
API int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference, int asked,
                                       void *results, int *found) {
  memset(results, 0, HEURISTIC_BYTES);
  *found = 1;
  return 0;
}
