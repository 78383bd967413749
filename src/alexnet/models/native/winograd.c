#line 1 "winograd.c"
/* What a convolution by Winograd's short products is made of, beside products of matrices: tiles of channels_last
 * images, [N, H, W, C] in memory, multiplied by a small matrix M on both sides, M X M^T.
 *
 * Tiles lie in squares of `across` x `across` over every image, their corners `step` pixels apart, the first one `pad`
 * pixels above and left of the image, beyond which all is zero. What M makes of them is kept number by number: a matrix
 * of tiles x channels for each place in a transformed tile, those of a group of channels after those of the one before.
 * An image's values are computed by one thread, in one order: the number of threads changes nothing.
 */
#ifdef __AVX512F__
enum { WIDTH = 16 };
#else
enum { WIDTH = 8 };
#endif
enum { SIDE = 8, PLACES = SIDE * SIDE }; /* the largest tile */

typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias)); /* some channels */

typedef struct {
    long n, h, w, c, groups;              /* images */
    long across, step, pad, side, points; /* tiles, and their side as images have them and transformed */
} Tiling;

INLINE Vector get(const float *from, long lanes) {
    if (lanes == WIDTH) return *(const Vector *)from;
    Vector value = {0};
    for (long lane = 0; lane < lanes; lane++) value[lane] = from[lane];
    return value;
}

INLINE void set(float *to, Vector value, long lanes) {
    if (lanes == WIDTH) *(Vector *)to = value;
    else
        for (long lane = 0; lane < lanes; lane++) to[lane] = value[lane];
}

/* half = m x, with x [ins, ins] and m [outs, ins]. */
INLINE void from_left(const float *m, const Vector *x, Vector *half, long outs, long ins) {
    for (long b = 0; b < ins; b++)
        for (long i = 0; i < outs; i++) {
            Vector sum = m[i * ins] * x[b];
#pragma GCC unroll 8
            for (long a = 1; a < ins; a++) sum += m[i * ins + a] * x[a * ins + b];
            half[i * ins + b] = sum;
        }
}

/* One place of half m^T. */
INLINE Vector from_right(const float *m, const Vector *half, long i, long j, long ins) {
    Vector sum = m[j * ins] * half[i * ins];
#pragma GCC unroll 8
    for (long b = 1; b < ins; b++) sum += m[j * ins + b] * half[i * ins + b];
    return sum;
}

/* Some channels of the tile whose corner is (top, left) in an image, transformed into places that lie `plane` apart. */
INLINE void transform(const float *m, const float *image, float *kept, const Tiling *t, long top, long left, long plane,
                      long lanes, long side) {
    Vector x[PLACES], half[PLACES];
    for (long a = 0; a < side; a++)
        for (long b = 0; b < side; b++) {
            long row = top + a, column = left + b, inside = row >= 0 && row < t->h && column >= 0 && column < t->w;
            x[a * side + b] = inside ? get(image + (row * t->w + column) * t->c, lanes) : (Vector){0};
        }
    from_left(m, x, half, t->points, side);
    for (long i = 0; i < t->points; i++)
        for (long j = 0; j < t->points; j++)
            set(kept + (i * t->points + j) * plane, from_right(m, half, i, j, side), lanes);
}

/* And back, added to what the image has there. */
INLINE void restore(const float *m, float *image, const float *kept, const Tiling *t, long top, long left, long plane,
                    long lanes, long points) {
    Vector x[PLACES], half[PLACES];
    for (long p = 0; p < points * points; p++) x[p] = get(kept + p * plane, lanes);
    from_left(m, x, half, t->side, points);
    for (long a = 0; a < t->side; a++)
        for (long b = 0; b < t->side; b++) {
            long row = top + a, column = left + b;
            if (row < 0 || row >= t->h || column < 0 || column >= t->w) continue;
            float *to = image + (row * t->w + column) * t->c;
            set(to, get(to, lanes) + from_right(m, half, a, b, points), lanes);
        }
}

/* All tiles of one image, of which the first is number `first` of `all`: into `tiles`, or `back` from there. What they
 * have before the transformation on a side is `ins`. */
INLINE void pass(const float *m, float *image, float *tiles, const Tiling *t, long first, long all, long ins, int back) {
    long width = t->c / t->groups, plane = all * width;
    for (long tile = 0; tile < t->across * t->across; tile++) {
        long top = tile / t->across * t->step - t->pad, left = tile % t->across * t->step - t->pad;
        for (long g = 0; g < t->groups; g++)
            for (long c = 0; c < width; c += WIDTH) {
                float *part = image + g * width + c;
                float *kept = tiles + g * t->points * t->points * plane + (first + tile) * width + c;
                long lanes = least(WIDTH, width - c);
                if (back) restore(m, part, kept, t, top, left, plane, lanes, ins);
                else transform(m, part, kept, t, top, left, plane, lanes, ins);
            }
    }
}

#define TILING                                                                                                    \
    (const float *m, float *images, float *tiles, const float *bias, long n, long h, long w, long c, long groups, \
     long across, long step, long pad, long side, long points, int threads)
#define EACH_IMAGE                                                    \
    Tiling t = {n, h, w, c, groups, across, step, pad, side, points}; \
    long one = across * across;                                       \
    _Pragma("omp parallel for schedule(static) num_threads(threads)") for (long i = 0; i < n; i++)
#define PASS(ins, back) \
    case ins: pass(m, image, tiles, &t, i * one, n * one, ins, back); break
#define PASSES(ins, back)                                                                                        \
    switch (ins) {                                                                                               \
        PASS(2, back); PASS(3, back); PASS(4, back); PASS(5, back); PASS(6, back); PASS(7, back); PASS(8, back); \
    }

/* tiles [groups, points, points, n * across * across, c / groups] of images [n, h, w, c], by m [points, side]. */
void winograd_tiles TILING {
    (void)bias;
    EACH_IMAGE {
        float *image = images + i * h * w * c;
        PASSES(side, 0)
    }
}

/* Images from tiles, by m [side, points]: sums where tiles overlap, and of every pixel and the bias, if there is one. */
void winograd_images TILING {
    EACH_IMAGE {
        float *image = images + i * h * w * c;
        for (long pixel = 0; pixel < h * w; pixel++)
            for (long channel = 0; channel < c; channel++) image[pixel * c + channel] = bias ? bias[channel] : 0;
        PASSES(points, 1)
    }
}
