#line 1 "lrn.c"
/* Local response normalisation (section 3.3), forward and backward, one pass over memory each.
 *
 * Tensors are [outer, channels, inner], dense: inner = height * width in torch's default layout, 1 in channels_last.
 * A tile, one pixel in channels_last and a row of them in the default layout, is copied into a buffer between channels
 * of zeros while the next one is fetched into the cache. Sums are float32 in both formats. Every value is computed by
 * itself, so that the number of threads changes nothing.
 *
 *     s_c = k + alpha / size * sum(x_j^2, j in window(c)),   y_c = x_c * s_c^-beta
 *     dx_c = g_c * s_c^-beta - 2 * alpha * beta / size * x_c * sum(g_j * x_j * s_j^(-beta-1), c in window(j))
 */
enum { TILE = 16384, LANES = 16, LINE = 64 };

typedef struct {
    long rows, row; /* so many, of so many numbers one after the other; in the buffer all are */
    long stride;    /* from row to row in the tensor */
    long ahead;     /* to the next tile */
} Tile;

static inline void store(void *to, long i, float value, int type) {
    if (type == FP32) {
        ((float *)to)[i] = value;
        return;
    }
    if (type == UINT8) {
        value += 0.5f;
        ((uint8_t *)to)[i] = (uint8_t)(int)(value < 0 ? 0 : value > 255 ? 255 : value);
        return;
    }
    ((uint16_t *)to)[i] = value != value ? 0x7fc0 : nearest(value);
}

static inline void copy_in(const char *from, float *restrict to, Tile tile, int type) {
    long one = bytes(type);
    for (long r = 0; r < tile.rows; r++, from += tile.stride * one, to += tile.row) {
        for (long i = 0; i < tile.row; i++) to[i] = load(from, i, type);
        for (long i = 0; i < tile.row * one; i += LINE) __builtin_prefetch(from + tile.ahead * one + i, 0);
    }
}

static inline void copy_out(const float *restrict from, char *to, Tile tile, int type) {
    long one = bytes(type);
    for (long r = 0; r < tile.rows; r++, from += tile.row, to += tile.stride * one) {
        for (long i = 0; i < tile.row; i++) store(to, i, from[i], type);
        for (long i = 0; i < tile.row * one; i += LINE) __builtin_prefetch(to + tile.ahead * one + i, 1);
    }
}

/* The sum of a window of five that begins at `first`. */
static inline float five(const float *first, long step, int squares) {
    float a = first[0], b = first[step], c = first[2 * step], d = first[3 * step], e = first[4 * step];
    return squares ? a * a + b * b + c * c + d * d + e * e : a + b + c + d + e;
}

/* Those of windows of any size, one after the other. */
static inline void any(const float *restrict first, float *restrict sum, long count, long step, long size,
                       int squares) {
    for (long i = 0; i < count; i++) sum[i] = 0;
    for (long j = 0; j < size; j++)
        for (long i = 0; i < count; i++) {
            float value = first[i + j * step];
            sum[i] += squares ? value * value : value;
        }
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

/* result = unit * x_c * s_c^-beta of windows from `value` on; x_c lies `middle` further. */
INLINE void forward(const float *restrict value, float *restrict sum, float *restrict result, long count, long step,
                    long middle, long size, float a, float beta, float k, float unit) {
    if (size != 5) any(value, sum, count, step, size, 1);
    for (long i = 0; i < count; i++) {
        float s = size == 5 ? five(value + i, step, 1) : sum[i], inverse;
        result[i] = value[i + middle] * powers(k + a * s, beta, &inverse) * unit;
    }
}

/* result = g_c * s_c^-beta, cross = result * x_c / s_c */
INLINE void backward(const float *restrict value, const float *restrict gradient, float *restrict sum,
                     float *restrict result, float *restrict cross, long count, long step, long middle, long size,
                     float a, float beta, float k) {
    if (size != 5) any(value, sum, count, step, size, 1);
    for (long i = 0; i < count; i++) {
        float s = size == 5 ? five(value + i, step, 1) : sum[i], inverse;
        float direct = gradient[i] * powers(k + a * s, beta, &inverse);
        result[i] = direct;
        cross[i] = direct * value[i + middle] * inverse;
    }
}

/* result += b * x_c * the sum of the window of `cross` */
INLINE void across(const float *restrict value, const float *restrict cross, float *restrict sum,
                   float *restrict result, long count, long step, long middle, long size, float b) {
    if (size != 5) any(cross, sum, count, step, size, 0);
    for (long i = 0; i < count; i++) {
        float s = size == 5 ? five(cross + i, step, 0) : sum[i];
        result[i] += value[i + middle] * b * s;
    }
}

/* Zeros before and after the channels. */
INLINE void clear(float *buffer, long channels, long width, long before, long after) {
    memset(buffer, 0, sizeof(float) * before * width);
    memset(buffer + (before + channels) * width, 0, sizeof(float) * after * width);
}

/* What one thread of several does: y from x; or, where there is g, y = dx. */
INLINE void lrn(const char *x, const char *g, char *y, long outer, long channels, long inner, long size, float alpha,
                float beta, float k, float unit, int type, int out) {
    long before = size / 2, after = (size - 1) / 2;
    long width = TILE / channels / LANES * LANES;
    width = inner == 1 ? 1 : width < LANES ? LANES : width;
    long columns = (inner + width - 1) / width, cleared = 0;
    long room = ((channels + size) * width / LANES + 1) * LANES;
    float a = alpha / size, b = -2 * alpha * beta / size;
    float *value = aligned_alloc(sizeof(float) * LANES, sizeof(float) * 5 * room);
    if (!value) abort();
    float *gradient = value + room, *cross = gradient + room, *sum = cross + room, *result = sum + room;
#pragma omp for schedule(static)
    for (long number = 0; number < outer * columns; number++) {
        long first = number % columns * width, w = inner - first < width ? inner - first : width;
        long start = number / columns * channels * inner + first, from = start * bytes(type), count = channels * w;
        Tile tile = inner == 1 ? (Tile){1, channels, 0, channels} : (Tile){channels, w, inner, w};
        if (w != cleared) clear(value, channels, cleared = w, before, after);
        copy_in(x + from, value + before * w, tile, type);
        if (g) {
            copy_in(g + from, gradient, tile, type);
            backward(value, gradient, sum, result, cross + after * w, count, w, before * w, size, a, beta, k);
            clear(cross, channels, w, after, before); /* windows seen from their members: mirrored */
            across(value, cross, sum, result, count, w, before * w, size, b);
        } else
            forward(value, sum, result, count, w, before * w, size, a, beta, k, unit);
        copy_out(result, y + start * bytes(out), tile, out);
    }
    free(value);
}

/* Each case is compiled by itself; in the published ones size, beta and, in channels_last, inner are known. */
#define CASES(g, unit, type, out)                                                            \
    _Pragma("omp parallel num_threads(threads)") {                                           \
        if (size != 5 || beta != 0.75f)                                                      \
            lrn(x, g, y, outer, channels, inner, size, alpha, beta, k, unit, type, out);     \
        else if (inner == 1)                                                                 \
            lrn(x, g, y, outer, channels, 1, 5, alpha, 0.75f, k, unit, type, out);           \
        else                                                                                 \
            lrn(x, g, y, outer, channels, inner, 5, alpha, 0.75f, k, unit, type, out);       \
    }
#define ENTRY(name, type)                                                                                           \
    void name(const void *x, const void *g, void *y, long outer, long channels, long inner, long size, float alpha, \
              float beta, float k, int threads) {                                                                   \
        if (g)                                                                                                      \
            CASES(g, 1, type, type)                                                                                 \
        else                                                                                                        \
            CASES(0, 1, type, type)                                                                                 \
    }
ENTRY(lrn_fp32, FP32)
ENTRY(lrn_bf16, BF16)

/* Forward, to the nearest of 0 to 255 units. */
void lrn_rounded(const void *x, float unit, void *y, long outer, long channels, long inner, long size, float alpha,
                 float beta, float k, int threads) {
    CASES(0, 1 / unit, BF16, UINT8)
}
