/* NCCL's types and reductions. */
#pragma once
#include <stddef.h>

size_t width_of(int type);

/* to[i] = to[i] op from[i] */
void reduce_into(void *to, const void *from, size_t elements, int type, int op);

/* What is left to do after the last rank: the mean. */
void finish_reduction(void *to, size_t elements, int type, int op, int ranks);
