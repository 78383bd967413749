#line 1 "pool.c"
/* Pooling of channels_last images, [N, H, W, C] in memory: maxima, and the gradients of maxima and of averages.
 *
 * Every bit is torch's. Its maximum is the first of equals, and of several NaN the last. Its gradient of a pixel is a
 * sum over the windows that hold it, row by row, rounded to the tensor's format after every addition. Here every pixel
 * collects that sum by itself, in the same order: the number of threads changes nothing, and no pixel is written twice.
 */
enum { BLOCK = 32 }; /* channels at a time; with fewer at the end, some are computed twice */

typedef struct {
    long n, h, w, c; /* images */
    long oh, ow;     /* windows */
    long size, stride;
} Shape;

/* A sum or quotient of values of the format, to the nearest of the format, ties to even. A NaN has no low bits here. */
static inline float rounded(float value, int type) {
    return type == FP32 ? value : float_of((uint32_t)nearest(value) << 16);
}

/* A value that is one of the format. */
static inline void put(void *to, long i, float value, int type) {
    if (type == FP32)
        ((float *)to)[i] = value;
    else
        ((uint16_t *)to)[i] = (uint16_t)(bits_of(value) >> 16);
}

/* Some channels of one window's maximum, over rows x columns pixels: it begins at `from` in x and lies at `to` in y. */
INLINE void greatest(const void *restrict x, void *restrict y, uint16_t *restrict at, const Shape *s, long from,
                     long to, long rows, long columns, long lanes, int type) {
    float best[BLOCK];
    int where[BLOCK];
    for (long i = 0; i < lanes; i++) best[i] = -INFINITY, where[i] = 0;
#pragma GCC unroll 3
    for (long row = 0; row < rows; row++)
#pragma GCC unroll 3
        for (long column = 0; column < columns; column++) {
            long here = from + (row * s->w + column) * s->c;
            int place = (int)(row * s->size + column);
            for (long i = 0; i < lanes; i++) {
                float value = load(x, here + i, type);
                int better = (value > best[i]) | (value != value);
                best[i] = better ? value : best[i];
                where[i] = better ? place : where[i];
            }
        }
    for (long i = 0; i < lanes; i++) put(y, to + i, best[i], type);
    if (at)
        for (long i = 0; i < lanes; i++) at[to + i] = (uint16_t)where[i];
}

/* y = the maxima and, where there is `at`, where in its window each lies, counted row by row. */
INLINE void maxima(const void *x, void *y, uint16_t *at, Shape s, int type) {
#pragma omp for schedule(static)
    for (long number = 0; number < s.n * s.oh; number++) {
        long top = number % s.oh * s.stride, rows = least(s.size, s.h - top);
        for (long q = 0; q < s.ow; q++) {
            long left = q * s.stride, columns = least(s.size, s.w - left);
            long from = ((number / s.oh * s.h + top) * s.w + left) * s.c, to = (number * s.ow + q) * s.c;
            if (s.c < BLOCK || rows != columns || rows < 2 || rows > 3)
                for (long c = 0; c < s.c; c += BLOCK)
                    greatest(x, y, at, &s, from + c, to + c, rows, columns, least(BLOCK, s.c - c), type);
            else
                for (long next = 0; next < s.c; next += BLOCK) {
                    long c = least(next, s.c - BLOCK);
                    if (rows == 3) greatest(x, y, at, &s, from + c, to + c, 3, 3, BLOCK, type);
                    else greatest(x, y, at, &s, from + c, to + c, 2, 2, BLOCK, type);
                }
        }
    }
}

/* Some channels of one pixel's gradient: the sum over rows x columns windows, of which the first lies at `from` and
 * has the pixel in place `first`, of what is in g; where there is `at`, if the maximum lay there. */
INLINE void collect(const void *restrict g, const uint16_t *restrict at, void *restrict d, const Shape *s, long from,
                    long first, long to, long rows, long columns, long lanes, int in, int type) {
    float sum[BLOCK];
    for (long i = 0; i < lanes; i++) sum[i] = 0;
#pragma GCC unroll 2
    for (long p = 0; p < rows; p++)
#pragma GCC unroll 2
        for (long q = 0; q < columns; q++) {
            long here = from + (p * s->ow + q) * s->c;
            int place = (int)(first - (p * s->size + q) * s->stride);
            for (long i = 0; i < lanes; i++) {
                float value = load(g, here + i, in);
                if (at) value = float_of(at[here + i] == place ? bits_of(value) : 0);
                sum[i] = rounded(sum[i] + value, type);
            }
        }
    for (long i = 0; i < lanes; i++) put(d, to + i, sum[i], type);
}

/* A row of pixels, from `to` on; the image's first window lies at `base` in g. */
INLINE void gradients(const void *g, const uint16_t *at, void *d, const Shape *s, long row, long base, long to, int in,
                      int type) {
    long p = row < s->size ? 0 : (row - s->size) / s->stride + 1, rows = least(row / s->stride, s->oh - 1) - p + 1;
    long q = 0, end = 0; /* the windows that hold a pixel are those from q to before `end` */
    for (long column = 0; column < s->w; column++, to += s->c) {
        while (end < s->ow && end * s->stride <= column) end++;
        while (q < end && q * s->stride + s->size <= column) q++;
        long columns = end - q, from = base + (p * s->ow + q) * s->c;
        long first = (row - p * s->stride) * s->size + column - q * s->stride;
        if (s->c < BLOCK || rows < 1 || rows > 2 || columns < 1 || columns > 2) {
            for (long c = 0; c < s->c; c += BLOCK)
                collect(g, at, d, s, from + c, first, to + c, rows, columns, least(BLOCK, s->c - c), in, type);
            continue;
        }
        for (long next = 0; next < s->c; next += BLOCK) {
            long c = least(next, s->c - BLOCK);
#define COLLECT(rows, columns) collect(g, at, d, s, from + c, first, to + c, rows, columns, BLOCK, in, type)
            if (rows == 1 && columns == 1) COLLECT(1, 1);
            else if (rows == 1) COLLECT(1, 2);
            else if (columns == 1) COLLECT(2, 1);
            else COLLECT(2, 2);
        }
    }
}

INLINE void max_gradients(const void *g, const uint16_t *at, void *d, Shape s, int type) {
#pragma omp for schedule(static)
    for (long number = 0; number < s.n * s.h; number++)
        gradients(g, at, d, &s, number % s.h, number / s.h * s.oh * s.ow * s.c, number * s.w * s.c, type, type);
}

/* torch divides before it adds; here once for each window, an image at a time. */
INLINE void average_gradients(const void *g, void *d, Shape s, int type) {
    long windows = s.oh * s.ow;
    float *part = malloc(windows * s.c * sizeof(float));
    if (!part) abort();
#pragma omp for schedule(static)
    for (long n = 0; n < s.n; n++) {
        for (long i = 0; i < windows; i++) {
            long rows = least(s.size, s.h - i / s.ow * s.stride), columns = least(s.size, s.w - i % s.ow * s.stride);
            float divisor = (float)(rows * columns);
            for (long c = i * s.c; c < (i + 1) * s.c; c++)
                part[c] = rounded(load(g, n * windows * s.c + c, type) / divisor, type);
        }
        for (long row = 0; row < s.h; row++)
            gradients(part, 0, d, &s, row, 0, (n * s.h + row) * s.w * s.c, FP32, type);
    }
    free(part);
}

/* x and y or g and d, where the maxima lie, and a Shape. */
#define ARGUMENTS(a, b)                                                                                          \
    (const void *a, void *b, uint16_t *at, long n, long h, long w, long c, long oh, long ow, long size, long stride, \
     int threads)
#define PARALLEL                                  \
    Shape s = {n, h, w, c, oh, ow, size, stride}; \
    _Pragma("omp parallel num_threads(threads)")
#define ENTRIES(name, type)                                                                 \
    void max_##name ARGUMENTS(x, y) {                                                       \
        PARALLEL { if (at) maxima(x, y, at, s, type); else maxima(x, y, 0, s, type); }      \
    }                                                                                       \
    void max_gradient_##name ARGUMENTS(g, d) { PARALLEL max_gradients(g, at, d, s, type); } \
    void average_gradient_##name ARGUMENTS(g, d) {                                          \
        (void)at;                                                                           \
        PARALLEL average_gradients(g, d, s, type);                                          \
    }
ENTRIES(fp32, FP32)
ENTRIES(bf16, BF16)
