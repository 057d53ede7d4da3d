#include "counters.h"

static const char *const NAMES[COUNTERS] = {
    "launches",       "blas",           "waits",        "h2d_pinned",         "h2d_pageable",
    "d2h_pinned",     "d2h_pageable",   "d2d",          "device_allocations", "pinned_allocations",
    "managed_allocations", "other_device", "all_reduce", "all_gather",         "reduce_scatter",
    "broadcast",      "reduce",         "all_to_all",   "exchange",
};
static uint64_t calls[COUNTERS], total_bytes[COUNTERS];

typedef void (*listener_t)(const char *counter, const char *what, size_t bytes);
static listener_t listener;

void count(enum counter which, size_t bytes) {
  __atomic_fetch_add(&calls[which], 1, __ATOMIC_RELAXED);
  __atomic_fetch_add(&total_bytes[which], bytes, __ATOMIC_RELAXED);
}

void count_and_tell(enum counter which, size_t bytes, const char *what) {
  count(which, bytes);
  listener_t told = listener;
  if (told) told(NAMES[which], what, bytes);
}

API void rehearsal_listen(listener_t told) { listener = told; }

API const char *rehearsal_counter_name(int which) { return which < COUNTERS ? NAMES[which] : NULL; }

API void rehearsal_read(uint64_t *calls_out, uint64_t *bytes_out) {
  for (int i = 0; i < COUNTERS; i++) {
    calls_out[i] = __atomic_load_n(&calls[i], __ATOMIC_RELAXED);
    bytes_out[i] = __atomic_load_n(&total_bytes[i], __ATOMIC_RELAXED);
  }
}
