#line 1 "common.c"
/* What the kernels share: formats of numbers, and how one is read and rounded. It comes first in the one source that all
 * of them are compiled as.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline)) /* so that what a case knows is known in its loops */
enum { FP32, BF16, UINT8 };

static inline long least(long a, long b) { return a < b ? a : b; }

static inline long bytes(int type) { return type == FP32 ? 4 : type == BF16 ? 2 : 1; }

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* The bits of a float32 in bf16: to the nearest, ties to even. Of a NaN they may be those of an infinity. */
static inline uint16_t nearest(float value) {
    uint32_t bits = bits_of(value);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float load(const void *from, long i, int type) {
    if (type == FP32) return ((const float *)from)[i];
    return float_of((uint32_t)((const uint16_t *)from)[i] << 16);
}
