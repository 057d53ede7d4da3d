/* Device, pinned and managed memory: all of it the host's, told apart by address. */
#pragma once
#include <cuda_runtime_api.h>
#include <stddef.h>

extern __thread int current_device;

int device_count(void);
size_t device_bytes(void); /* memory of a device */
size_t device_bytes_used(int device);
int is_on_device(enum cudaMemoryType type);
enum cudaMemoryType memory_type(const void *address, int *device);
