/* What the pretended device was asked to do: counted here, read by rehearse_cuda/counting.py. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define API __attribute__((visibility("default")))

/* The names of these are in counters.c, in the same order. */
enum counter {
  LAUNCHES,       /* kernels, but those inside of cuBLAS and NCCL */
  BLAS,           /* calls of cuBLAS that compute: a kernel each, or two */
  WAITS,          /* the host waits for the device */
  H2D_PINNED,     /* copies by where they come from and go to */
  H2D_PAGEABLE,
  D2H_PINNED,
  D2H_PAGEABLE,
  D2D,
  DEVICE_ALLOCATIONS,
  PINNED_ALLOCATIONS,
  MANAGED_ALLOCATIONS,
  OTHER_DEVICE,   /* allocations on a device that is not that of LOCAL_RANK */
  ALL_REDUCE,     /* collectives, with the bytes that this rank puts in (of gathers and scatters: of all ranks) */
  ALL_GATHER,
  REDUCE_SCATTER,
  BROADCAST,
  REDUCE,
  ALL_TO_ALL,
  EXCHANGE,       /* groups of sends and receives, which is what an all-to-all of unequal parts is; bytes sent */
  COUNTERS
};

void count(enum counter which, size_t bytes);

/* Count, and tell the listener, who looks at the stack of the calling thread. No lock may be held: it takes Python's. */
void count_and_tell(enum counter which, size_t bytes, const char *what);
