/* Allocations are fresh anonymous mappings, so new memory is zero and costs nothing until it is touched. A sorted array of
 * them answers what kind of memory an address is. */
#define _GNU_SOURCE
#include "memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "counters.h"

enum { PAGE = 4096, GRANULE = 512, MOST_DEVICES = 64 }; /* torch's allocator asks in multiples of 512 bytes */

typedef struct {
  uintptr_t address;
  size_t mapped; /* 0: registered memory of the caller's */
  size_t bytes;
  enum cudaMemoryType type;
  int device;
} range;

__thread int current_device;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static range *ranges;
static size_t range_count, range_room;
static uint64_t device_used[MOST_DEVICES], device_peak[MOST_DEVICES], pinned_used, pinned_peak, managed_used, managed_peak;

int device_count(void) {
  const char *text = getenv("REHEARSAL_DEVICES");
  int devices = text ? atoi(text) : 8;
  return devices < MOST_DEVICES ? devices : MOST_DEVICES;
}

size_t device_bytes(void) {
  const char *text = getenv("REHEARSAL_GIB");
  return (size_t)((text ? atof(text) : 80.0) * (1 << 30));
}

size_t device_bytes_used(int device) { return device_used[device]; }

int is_on_device(enum cudaMemoryType type) { return type == cudaMemoryTypeDevice || type == cudaMemoryTypeManaged; }

/* How many ranges begin at or before the address. The lock is held. */
static size_t ranges_up_to(uintptr_t address) {
  size_t low = 0, high = range_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (ranges[middle].address <= address)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static void account(enum cudaMemoryType type, int device, int64_t bytes) {
  uint64_t *used = type == cudaMemoryTypeDevice ? &device_used[device] : type == cudaMemoryTypeHost ? &pinned_used : &managed_used;
  uint64_t *peak = type == cudaMemoryTypeDevice ? &device_peak[device] : type == cudaMemoryTypeHost ? &pinned_peak : &managed_peak;
  *used += (uint64_t)bytes;
  if (*used > *peak) *peak = *used;
}

static void remember(range made) {
  pthread_mutex_lock(&lock);
  if (range_count == range_room) {
    range_room = range_room ? 2 * range_room : 1024;
    ranges = realloc(ranges, range_room * sizeof *ranges);
  }
  size_t place = ranges_up_to(made.address);
  memmove(&ranges[place + 1], &ranges[place], (range_count - place) * sizeof *ranges);
  ranges[place] = made;
  range_count++;
  account(made.type, made.device, (int64_t)made.bytes);
  pthread_mutex_unlock(&lock);
}

static cudaError_t forget(void *address) {
  if (!address) return cudaSuccess;
  pthread_mutex_lock(&lock);
  size_t place = ranges_up_to((uintptr_t)address);
  int found = place && ranges[place - 1].address == (uintptr_t)address;
  if (found) {
    range gone = ranges[place - 1];
    memmove(&ranges[place - 1], &ranges[place], (range_count - place) * sizeof *ranges);
    range_count--;
    account(gone.type, gone.device, -(int64_t)gone.bytes);
    if (gone.mapped) munmap(address, gone.mapped);
  }
  pthread_mutex_unlock(&lock);
  return found ? cudaSuccess : cudaErrorInvalidValue;
}

enum cudaMemoryType memory_type(const void *address, int *device) {
  enum cudaMemoryType type = cudaMemoryTypeUnregistered;
  pthread_mutex_lock(&lock);
  size_t place = ranges_up_to((uintptr_t)address);
  if (place) {
    const range *at = &ranges[place - 1];
    if ((uintptr_t)address < at->address + at->bytes) {
      type = at->type;
      if (device) *device = at->device;
    }
  }
  pthread_mutex_unlock(&lock);
  return type;
}

static cudaError_t allocate(void **address, size_t bytes, enum cudaMemoryType type) {
  *address = NULL;
  if (!bytes) return cudaSuccess;
  const char *local_rank = getenv("LOCAL_RANK");
  if (local_rank && atoi(local_rank) != current_device) count_and_tell(OTHER_DEVICE, bytes, "allocation on another device");
  bytes = (bytes + GRANULE - 1) / GRANULE * GRANULE;
  if (type == cudaMemoryTypeDevice && device_used[current_device] + bytes > device_bytes()) return cudaErrorMemoryAllocation;
  size_t mapped = (bytes + PAGE - 1) / PAGE * PAGE;
  void *at = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return cudaErrorMemoryAllocation;
  remember((range){(uintptr_t)at, mapped, bytes, type, current_device});
  *address = at;
  return cudaSuccess;
}

API cudaError_t cudaMalloc(void **address, size_t bytes) {
  count(DEVICE_ALLOCATIONS, bytes);
  return allocate(address, bytes, cudaMemoryTypeDevice);
}
API cudaError_t cudaMallocAsync(void **address, size_t bytes, cudaStream_t stream) { return cudaMalloc(address, bytes); }
API cudaError_t cudaFree(void *address) { return forget(address); }
API cudaError_t cudaFreeAsync(void *address, cudaStream_t stream) { return forget(address); }

API cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags) {
  count_and_tell(PINNED_ALLOCATIONS, bytes, "cudaHostAlloc");
  return allocate(address, bytes, cudaMemoryTypeHost);
}
API cudaError_t cudaFreeHost(void *address) { return forget(address); }
API cudaError_t cudaHostRegister(void *address, size_t bytes, unsigned flags) {
  count_and_tell(PINNED_ALLOCATIONS, bytes, "cudaHostRegister");
  remember((range){(uintptr_t)address, 0, bytes, cudaMemoryTypeHost, current_device});
  return cudaSuccess;
}
API cudaError_t cudaHostUnregister(void *address) { return forget(address); }
API cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
  *device = host;
  return cudaSuccess;
}

API cudaError_t cudaMallocManaged(void **address, size_t bytes, unsigned flags) {
  count(MANAGED_ALLOCATIONS, bytes);
  return allocate(address, bytes, cudaMemoryTypeManaged);
}

API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *address) {
  memset(found, 0, sizeof *found);
  found->device = current_device;
  found->type = memory_type(address, &found->device);
  if (found->type != cudaMemoryTypeUnregistered) found->devicePointer = (void *)address;
  if (found->type == cudaMemoryTypeHost || found->type == cudaMemoryTypeManaged) found->hostPointer = (void *)address;
  return cudaSuccess;
}

API cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
  *total_bytes = device_bytes();
  *free_bytes = *total_bytes - device_used[current_device];
  return cudaSuccess;
}

/* used and peak of: this thread's device, pinned memory, managed memory */
API void rehearsal_memory(uint64_t *used, uint64_t *peak) {
  pthread_mutex_lock(&lock);
  used[0] = device_used[current_device], used[1] = pinned_used, used[2] = managed_used;
  peak[0] = device_peak[current_device], peak[1] = pinned_peak, peak[2] = managed_peak;
  pthread_mutex_unlock(&lock);
}

API void rehearsal_reset_peaks(void) {
  pthread_mutex_lock(&lock);
  memcpy(device_peak, device_used, sizeof device_peak);
  pinned_peak = pinned_used, managed_peak = managed_used;
  pthread_mutex_unlock(&lock);
}
