#include "nccl_sums.h"

#include <stdint.h>
#include <string.h>

enum { INT8, UINT8, INT32, UINT32, INT64, UINT64, FLOAT16, FLOAT32, FLOAT64, BFLOAT16 }; /* ncclDataType_t */
enum { SUM, PRODUCT, MAX, MIN, AVERAGE };                                             /* ncclRedOp_t */

size_t width_of(int type) {
  static const size_t widths[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return widths[type];
}

typedef struct {
  uint16_t bits;
} bfloat16;

static float from_bfloat16(bfloat16 value) {
  uint32_t bits = (uint32_t)value.bits << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

static bfloat16 to_bfloat16(float value) { /* to the nearest, ties to even */
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (bfloat16){(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

#define COMBINE(a, b) (op == PRODUCT ? a * b : op == MAX ? (a > b ? a : b) : op == MIN ? (a < b ? a : b) : a + b)
#define REDUCE_AS(kind)                                             \
  {                                                                 \
    kind *into = to;                                                \
    const kind *with = from;                                        \
    for (size_t i = 0; i < elements; i++) into[i] = (kind)COMBINE(into[i], with[i]); \
    break;                                                          \
  }

void reduce_into(void *to, const void *from, size_t elements, int type, int op) {
  switch (type) {
    case INT8: REDUCE_AS(int8_t)
    case UINT8: REDUCE_AS(uint8_t)
    case INT32: REDUCE_AS(int32_t)
    case UINT32: REDUCE_AS(uint32_t)
    case INT64: REDUCE_AS(int64_t)
    case UINT64: REDUCE_AS(uint64_t)
    case FLOAT16: REDUCE_AS(_Float16)
    case FLOAT32: REDUCE_AS(float)
    case FLOAT64: REDUCE_AS(double)
    case BFLOAT16: {
      bfloat16 *into = to;
      const bfloat16 *with = from;
      for (size_t i = 0; i < elements; i++) {
        float a = from_bfloat16(into[i]), b = from_bfloat16(with[i]);
        into[i] = to_bfloat16(COMBINE(a, b));
      }
      break;
    }
    default: break; /* 8 bits of floating point: nobody reduces these */
  }
}

#define DIVIDE_AS(kind)                                              \
  {                                                                  \
    kind *into = to;                                                 \
    for (size_t i = 0; i < elements; i++) into[i] = (kind)(into[i] / (kind)ranks); \
    break;                                                           \
  }

void finish_reduction(void *to, size_t elements, int type, int op, int ranks) {
  if (op != AVERAGE) return;
  switch (type) {
    case INT32: DIVIDE_AS(int32_t)
    case INT64: DIVIDE_AS(int64_t)
    case FLOAT16: DIVIDE_AS(_Float16)
    case FLOAT32: DIVIDE_AS(float)
    case FLOAT64: DIVIDE_AS(double)
    case BFLOAT16: {
      bfloat16 *into = to;
      for (size_t i = 0; i < elements; i++) into[i] = to_bfloat16(from_bfloat16(into[i]) / (float)ranks);
      break;
    }
    default: break;
  }
}
