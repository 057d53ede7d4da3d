/* Kernels: registered, asked about, launched, and never run. */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "counters.h"

/* Where kernels are launched is told on request: there are hundreds a step. */
static cudaError_t launched(void) {
  static int told = -1;
  if (told < 0) told = getenv("REHEARSAL_LAUNCHES") != NULL;
  if (told)
    count_and_tell(LAUNCHES, 0, "launch");
  else
    count(LAUNCHES, 0);
  return cudaSuccess;
}

API cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  return launched();
}
API cudaError_t cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  return launched();
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **arguments) { return launched(); }
API cudaError_t __cudaLaunchKernel(void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  return launched();
}
API cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
  function(data); /* what comes before it in the stream is done */
  return cudaSuccess;
}

/* kernel<<<grid, block, shared, stream>>>() pushes its configuration, and the kernel's stub pops it. */
typedef struct {
  dim3 grid, block;
  size_t shared;
  void *stream;
} configuration;

static __thread configuration pushed[16];
static __thread int depth;

API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
  pushed[depth++] = (configuration){grid, block, shared, stream};
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  configuration last = pushed[--depth];
  *grid = last.grid, *block = last.block, *shared = last.shared;
  *(void **)stream = last.stream;
  return cudaSuccess;
}

API cudaError_t __cudaGetKernel(void **kernel, const void *function) {
  *kernel = (void *)function;
  return cudaSuccess;
}
API void **__cudaRegisterFatBinary(void *binary) {
  static void *handle[4];
  return handle;
}

API cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *told, const void *function) {
  memset(told, 0, sizeof *told);
  told->maxThreadsPerBlock = 1024;
  told->numRegs = 32;
  told->ptxVersion = told->binaryVersion = 90;
  told->maxDynamicSharedSizeBytes = 49152;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int threads, size_t shared) {
  *blocks = 2;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int threads, size_t shared, unsigned flags) {
  *blocks = 2;
  return cudaSuccess;
}
API cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) {
  static char zeros[1 << 16];
  *address = zeros;
  return cudaSuccess;
}

/* Functions of the driver that are looked up by name: whichever it is, it succeeds. */
static int succeed(void) { return 0; }

API cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags,
                                                 enum cudaDriverEntryPointQueryResult *result) {
  *function = (void *)succeed;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
