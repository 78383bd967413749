/* Local response normalisation (section 3.3), forward and backward, one pass over memory each.
 *
 * Tensors are [outer, channels, inner], dense: inner = height * width in torch's default layout, 1 in channels_last.
 * A tile of pixels with all their channels stays in the cache; sums are float32 in both formats. Every value is
 * computed by itself, so that the number of threads changes nothing.
 *
 *     s_c = k + alpha / size * sum(x_j^2, j in window(c)),   y_c = x_c * s_c^-beta
 *     dx_c = g_c * s_c^-beta - 2 * alpha * beta / size * x_c * sum(g_j * x_j * s_j^(-beta-1), c in window(j))
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 16384, LANES = 16 };

static inline float load(const void *from, long i, int bf16) {
    if (!bf16) return ((const float *)from)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[i] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline void store(void *to, long i, float value, int bf16) {
    uint32_t bits;
    if (!bf16) {
        ((float *)to)[i] = value;
        return;
    }
    memcpy(&bits, &value, 4); /* to the nearest, ties to even */
    ((uint16_t *)to)[i] = value != value ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* sum[i] = k + a * (the `size` values of `padded` from i on, `step` apart) */
static inline void window(const float *restrict padded, float *restrict sum, long count, long step, long size, float a,
                          float k) {
    if (size == 5) {
        for (long i = 0; i < count; i++)
            sum[i] = k + a * (padded[i] + padded[i + step] + padded[i + 2 * step] + padded[i + 3 * step] +
                              padded[i + 4 * step]);
        return;
    }
    for (long i = 0; i < count; i++) sum[i] = padded[i];
    for (long j = 1; j < size; j++)
        for (long i = 0; i < count; i++) sum[i] += padded[i + j * step];
    for (long i = 0; i < count; i++) sum[i] = k + a * sum[i];
}

/* scale^-beta and 1 / scale */
static inline float powers(float scale, float beta, float *inverse) {
    if (beta == 0.75f) {
        float root = 1 / sqrtf(scale);
        *inverse = root * root;
        return root * sqrtf(root);
    }
    *inverse = 1 / scale;
    return powf(scale, -beta);
}

/* y from x; or, where there is g, y = dx. */
static inline __attribute__((always_inline)) void lrn(const void *restrict x, const void *restrict g, void *restrict y,
                                                      long outer, long channels, long inner, long size, float alpha,
                                                      float beta, float k, int threads, int bf16) {
    long width = TILE / channels / LANES * LANES;
    width = inner == 1 ? 1 : width < LANES ? LANES : width;
    long tiles = (inner + width - 1) / width;
    long before = size / 2, after = (size - 1) / 2;
#pragma omp parallel num_threads(threads)
    {
        float *value = malloc(sizeof(float) * (4 * channels + size) * width);
        if (!value) abort();
        float *padded = value + channels * width, *sum = padded + (channels + size) * width;
        float *direct = sum + channels * width;
#pragma omp for schedule(static)
        for (long tile = 0; tile < outer * tiles; tile++) {
            long first = tile % tiles * width, w = inner - first < width ? inner - first : width;
            long start = tile / tiles * channels * inner + first, count = channels * w;
            long rows = inner == 1 ? 1 : channels, row = count / rows; /* the loops over a row are the vector loops */
            memset(padded, 0, sizeof(float) * before * w);
            memset(padded + before * w + count, 0, sizeof(float) * after * w);
            for (long r = 0; r < rows; r++)
                for (long i = 0; i < row; i++) {
                    float v = load(x, start + r * inner + i, bf16);
                    value[r * row + i] = v;
                    padded[before * w + r * row + i] = v * v;
                }
            window(padded, sum, count, w, size, alpha / size, k);
            if (!g) {
                for (long r = 0; r < rows; r++)
                    for (long i = 0; i < row; i++) {
                        float inverse, power = powers(sum[r * row + i], beta, &inverse);
                        store(y, start + r * inner + i, value[r * row + i] * power, bf16);
                    }
                continue;
            }
            memset(padded, 0, sizeof(float) * after * w); /* windows seen from their members: mirrored */
            memset(padded + after * w + count, 0, sizeof(float) * before * w);
            for (long r = 0; r < rows; r++)
                for (long i = 0; i < row; i++) {
                    float inverse, power = powers(sum[r * row + i], beta, &inverse);
                    direct[r * row + i] = load(g, start + r * inner + i, bf16) * power;
                    padded[after * w + r * row + i] = direct[r * row + i] * value[r * row + i] * inverse;
                }
            window(padded, sum, count, w, size, -2 * alpha * beta / size, 0);
            for (long r = 0; r < rows; r++)
                for (long i = 0; i < row; i++)
                    store(y, start + r * inner + i, direct[r * row + i] + value[r * row + i] * sum[r * row + i], bf16);
        }
        free(value);
    }
}

/* Each case is compiled by itself: no gradient and the published beta are known there. */
#define ENTRY(name, bf16)                                                                                           \
    void name(const void *x, const void *g, void *y, long outer, long channels, long inner, long size, float alpha, \
              float beta, float k, int threads) {                                                                   \
        if (g && beta == 0.75f)                                                                                     \
            lrn(x, g, y, outer, channels, inner, size, alpha, 0.75f, k, threads, bf16);                             \
        else if (g)                                                                                                 \
            lrn(x, g, y, outer, channels, inner, size, alpha, beta, k, threads, bf16);                              \
        else if (beta == 0.75f)                                                                                     \
            lrn(x, 0, y, outer, channels, inner, size, alpha, 0.75f, k, threads, bf16);                             \
        else                                                                                                        \
            lrn(x, 0, y, outer, channels, inner, size, alpha, beta, k, threads, bf16);                              \
    }
ENTRY(lrn_fp32, 0)
ENTRY(lrn_bf16, 1)
