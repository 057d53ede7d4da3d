/* What the device says of itself (that of an H100, with the name and memory that were asked for), streams, events, waits. */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "counters.h"
#include "memory.h"

enum { CUDA_VERSION_TOLD = 13000, L2_BYTES = 50 << 20, PROCESSORS = 132 };

API cudaError_t cudaGetDeviceCount(int *devices) {
  const char *error = getenv("REHEARSAL_NO_CUDA"); /* the error that CUDA starts with */
  *devices = error ? 0 : device_count();
  return error ? (cudaError_t)atoi(error) : cudaSuccess;
}
API cudaError_t cudaGetDevice(int *device) {
  *device = current_device;
  return cudaSuccess;
}
API cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= device_count()) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDA_VERSION_TOLD;
  return cudaSuccess;
}
API cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = CUDA_VERSION_TOLD;
  return cudaSuccess;
}

API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *told, int device) {
  const char *name = getenv("REHEARSAL_NAME");
  memset(told, 0, sizeof *told);
  snprintf(told->name, sizeof told->name, "%s", name ? name : "rehearsed H100");
  told->totalGlobalMem = device_bytes();
  told->major = 9, told->minor = 0;
  told->multiProcessorCount = PROCESSORS;
  told->warpSize = 32;
  told->maxThreadsPerBlock = 1024;
  told->maxThreadsDim[0] = told->maxThreadsDim[1] = 1024, told->maxThreadsDim[2] = 64;
  told->maxGridSize[0] = 2147483647, told->maxGridSize[1] = told->maxGridSize[2] = 65535;
  told->maxThreadsPerMultiProcessor = 2048;
  told->maxBlocksPerMultiProcessor = 32;
  told->sharedMemPerBlock = 49152, told->sharedMemPerBlockOptin = 232448, told->sharedMemPerMultiprocessor = 233472;
  told->regsPerBlock = told->regsPerMultiprocessor = 65536;
  told->l2CacheSize = L2_BYTES;
  told->memoryBusWidth = 5120;
  told->managedMemory = told->concurrentManagedAccess = told->unifiedAddressing = 1;
  told->canMapHostMemory = told->concurrentKernels = 1;
  told->asyncEngineCount = 3;
  told->textureAlignment = 512;
  told->pciBusID = device + 1;
  return cudaSuccess;
}

API cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: *value = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *value = 64; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    case cudaDevAttrMultiProcessorCount: *value = PROCESSORS; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
    case cudaDevAttrL2CacheSize: *value = L2_BYTES; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrTextureAlignment: *value = 512; break;
    case cudaDevAttrPciBusId: *value = device + 1; break;
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrConcurrentManagedAccess: *value = 1; break;
    default: *value = 0;
  }
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
API cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
  *can = 1;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetPCIBusId(char *text, int room, int device) {
  snprintf(text, (size_t)room, "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}

/* Waits. On a device they last until its work is done; here there is none left. */
API cudaError_t cudaDeviceSynchronize(void) {
  count_and_tell(WAITS, 0, "cudaDeviceSynchronize");
  return cudaSuccess;
}
API cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  count_and_tell(WAITS, 0, stream ? "cudaStreamSynchronize of a side stream" : "cudaStreamSynchronize of the default stream");
  return cudaSuccess;
}
API cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  count_and_tell(WAITS, 0, "cudaEventSynchronize");
  return cudaSuccess;
}

/* Streams and events are only told apart by their address. */
static void *handle(void) { return malloc(16); }

API cudaError_t cudaStreamCreate(cudaStream_t *stream) {
  *stream = handle();
  return cudaSuccess;
}
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return cudaStreamCreate(stream); }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) { return cudaStreamCreate(stream); }
API cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
  *priority = 0;
  return cudaSuccess;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                         cudaGraph_t *graph, const cudaGraphNode_t **dependencies, const cudaGraphEdgeData **edges,
                                         size_t *count) {
  *status = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  return cudaSuccess;
}
API cudaError_t cudaEventCreate(cudaEvent_t *event) {
  *event = handle();
  return cudaSuccess;
}
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return cudaEventCreate(event); }
API cudaError_t cudaEventDestroy(cudaEvent_t event) {
  free(event);
  return cudaSuccess;
}
API cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
  *ms = 1.0f; /* 0 would divide someone's work by nothing */
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) {
  *pool = handle();
  return cudaSuccess;
}

API const char *cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "an error of the rehearsal";
}
API const char *cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "an error of the rehearsal";
}
