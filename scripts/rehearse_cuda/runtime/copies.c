/* Copies are the host's memcpy, done at once, whatever the stream. */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "counters.h"
#include "memory.h"

enum { SMALL = 1 << 16 };

/* Whether large contents matter: a rehearsal without arithmetic leaves fresh pages untouched, so that models larger than this
 * machine's memory fit. */
static int contents_matter(void) {
  static int answer = -1;
  if (answer < 0) {
    const char *text = getenv("REHEARSAL_CONTENTS");
    answer = !text || atoi(text);
  }
  return answer;
}

/* Counts a copy; returns whether both ends are on the device. */
static int note(const void *to, const void *from, size_t bytes, int host_waits) {
  enum cudaMemoryType to_type = memory_type(to, NULL), from_type = memory_type(from, NULL);
  if (is_on_device(to_type) && is_on_device(from_type)) {
    count(D2D, bytes);
    return 1;
  }
  if (is_on_device(to_type)) {
    if (from_type == cudaMemoryTypeHost)
      count_and_tell(H2D_PINNED, bytes, "copy from pinned memory to the device");
    else
      count_and_tell(H2D_PAGEABLE, bytes, "copy from pageable memory to the device");
  } else if (to_type == cudaMemoryTypeHost) {
    count_and_tell(D2H_PINNED, bytes, "copy from the device to pinned memory");
  } else {
    count_and_tell(D2H_PAGEABLE, bytes, "copy from the device to pageable memory");
  }
  if (host_waits) count_and_tell(WAITS, 0, "cudaMemcpy");
  return 0;
}

static cudaError_t copy(void *to, const void *from, size_t bytes, int host_waits) {
  int within_device = note(to, from, bytes, host_waits);
  if (bytes <= SMALL || !within_device || contents_matter()) memmove(to, from, bytes);
  return cudaSuccess;
}

API cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) { return copy(to, from, bytes, 1); }

API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
  return copy(to, from, bytes, 0);
}

API cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes, cudaStream_t stream) {
  return copy(to, from, bytes, 0);
}

API cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                                  enum cudaMemcpyKind kind, cudaStream_t stream) {
  note(to, from, width * height, 0);
  for (size_t row = 0; row < height; row++) memmove((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
  return cudaSuccess;
}

API cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *from, size_t bytes, size_t offset, enum cudaMemcpyKind kind) {
  return cudaSuccess; /* only kernels read symbols */
}

API cudaError_t cudaMemset(void *at, int value, size_t bytes) {
  if (value || bytes <= SMALL || contents_matter()) memset(at, value, bytes);
  return cudaSuccess;
}

API cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream) { return cudaMemset(at, value, bytes); }
