// Formats whose scales have to be searched for: values to blocks with the least weighted squared error.
//
// A block is encoded in three steps. Every run of 16 or 32 values gets the scale (and min) that fit it best, over a
// range of guesses each mended by least squares. Then the runs' scales are themselves rounded to multiples of the
// block's scale, each to whichever neighbour leaves the least error. Last, with all small integers fixed, the block's
// own scale (and scale of mins) has a closed solution; it is taken where it helps after everything is rounded again.
//
// Large weights matter more than their number says: the error of a value counts by its size, see weigh.
#include <float.h>
#include <math.h>
#include <string.h>

#include "quant_blocks.h"
#include "quant_encode.h"

enum { BLOCK = 256, MAX_RUNS = 16 };

// Four floats as GCC and Clang know them; sums in four lanes, which the compiler may not make by itself.
typedef float f4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));

static inline f4 load4(const float *p) {
    f4 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline f4 all4(float v) { return (f4){v, v, v, v}; }
static inline f4 pick4(i4 mask, f4 yes, f4 no) { return (f4)(((i4)yes & mask) | ((i4)no & ~mask)); }
static inline float sum4(f4 v) { return (v[0] + v[1]) + (v[2] + v[3]); }

// To the nearest integer in [low, high]; low where it is no number.
static inline f4 round4(f4 v, float low, float high) {
    const f4 magic = all4(12582912.0f);  // 1.5 * 2^23: what is added to it loses its fraction
    v = pick4(v > all4(low), v, all4(low));
    v = pick4(v < all4(high), v, all4(high));
    return (v + magic) - magic;
}

static int round_to(float v, int low, int high) {
    return (int)round4(all4(v), (float)low, (float)high)[0];
}

// The value's size and that of its run, both: size alone would give up the small ones.
static void weigh(const float *x, int n, int run_len, float *w) {
    for (int r = 0; r < n; r += run_len) {
        float squares = 0;
        for (int i = r; i < r + run_len; i++) squares += x[i] * x[i];
        float size = sqrtf(squares / (float)run_len);
        for (int i = r; i < r + run_len; i++) w[i] = size + fabsf(x[i]);
    }
}

// --- formats with a min: x ~ scale * q - min, 0 <= q <= most, scale and min not negative ----------------------------

typedef struct affine {
    int n_runs, run_len;
    int most;            // of q
    int scale_most;      // of the runs' rounded scales and mins
    int n_guesses;       // of each run's scale
    float first_guess;   // how many levels more than `most` the first guess spans, in steps of a tenth
} affine;

typedef struct affine_block {
    uint16_t d, dmin;                    // halves
    uint8_t scale[MAX_RUNS], min[MAX_RUNS];
    uint8_t q[BLOCK];
} affine_block;

typedef struct affine_fit {
    double scale, min, gain;             // gain: by how much the error is less than with all zero
} affine_fit;

// Least squares for q = round((x + min) * inverse). w_sum, wx_sum: of the run.
static affine_fit fit_affine(const affine *f, const float *x, const float *w, float min, float inverse, double w_sum,
                             double wx_sum) {
    f4 wq = all4(0), wqq = all4(0), wxq = all4(0);
    for (int i = 0; i < f->run_len; i += 4) {
        f4 v = load4(x + i), q = round4((v + all4(min)) * all4(inverse), 0, (float)f->most), t = load4(w + i) * q;
        wq += t;
        wqq += t * q;
        wxq += t * v;
    }
    double a = sum4(wq), b = sum4(wqq), c = sum4(wxq), determinant = w_sum * b - a * a;
    affine_fit fit = {0};
    if (determinant > 1e-6 * w_sum * b) {
        fit.scale = (w_sum * c - wx_sum * a) / determinant;
        fit.min = (a * c - b * wx_sum) / determinant;
    }
    if (!(fit.min > 0) && b > 0) {  // none, or all levels are alike and tell nothing of it
        fit.min = 0;
        fit.scale = c / b;
    }
    if (!(fit.scale > 0)) return (affine_fit){0};
    fit.gain = 2 * (fit.scale * c - fit.min * wx_sum) - fit.scale * fit.scale * b + 2 * fit.scale * fit.min * a -
               fit.min * fit.min * w_sum;
    return fit;
}

static affine_fit search_affine(const affine *f, const float *x, const float *w) {
    float low = 0, high = x[0];
    double w_sum = 0, wx_sum = 0;
    for (int i = 0; i < f->run_len; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
        w_sum += w[i];
        wx_sum += w[i] * x[i];
    }
    // All alike and not positive: the min alone says it.
    affine_fit best = {.min = w_sum > 0 ? fmax(0, -wx_sum / w_sum) : -low};
    best.gain = best.min * (-2 * wx_sum - best.min * w_sum);
    if (!(high > low)) return best;
    for (int guess = 0; guess < f->n_guesses; guess++) {
        float inverse = ((float)f->most + f->first_guess + 0.1f * (float)guess) / (high - low);
        affine_fit fit = fit_affine(f, x, w, -low, inverse, w_sum, wx_sum);
        if (fit.gain > best.gain) best = fit;
    }
    for (int again = 0; again < 2 && best.scale > 0; again++) {
        affine_fit fit = fit_affine(f, x, w, (float)best.min, (float)(1 / best.scale), w_sum, wx_sum);
        if (!(fit.gain > best.gain)) break;
        best = fit;
    }
    return best;
}

// Weighted squared error of a run at this scale and min, q rounded as best it can.
static float error_affine(const affine *f, const float *x, const float *w, float scale, float min) {
    f4 sum = all4(0);
    float inverse = scale > 0 ? 1 / scale : 0;
    for (int i = 0; i < f->run_len; i += 4) {
        f4 v = load4(x + i) + all4(min), e = all4(scale) * round4(v * all4(inverse), 0, (float)f->most) - v;
        sum += load4(w + i) * e * e;
    }
    return sum4(sum);
}

// Rounds a run's scale and min to multiples of b's halves.
static void round_run_affine(const affine *f, const float *x, const float *w, affine_fit fit, affine_block *b, int r) {
    float d = lh_half(b->d), dmin = lh_half(b->dmin), least = INFINITY;
    int scale = d > 0 ? round_to((float)fit.scale / d, 0, f->scale_most) : 0;
    int min = dmin > 0 ? round_to((float)fit.min / dmin, 0, f->scale_most) : 0;
    for (int s = scale - 1; s <= scale + 1; s++)
        for (int m = min - 1; m <= min + 1; m++) {
            if (s < 0 || m < 0 || s > f->scale_most || m > f->scale_most) continue;
            float e = error_affine(f, x, w, d * (float)s, dmin * (float)m);
            if (!(e < least)) continue;
            least = e;
            b->scale[r] = (uint8_t)s;
            b->min[r] = (uint8_t)m;
        }
}

// Rounds all values at b's scales and mins; returns the error.
static double round_values_affine(const affine *f, const float *x, const float *w, affine_block *b) {
    f4 error = all4(0);
    for (int r = 0; r < f->n_runs; r++) {
        float scale = lh_half(b->d) * (float)b->scale[r], min = lh_half(b->dmin) * (float)b->min[r];
        float inverse = scale > 0 ? 1 / scale : 0;
        for (int i = r * f->run_len; i < (r + 1) * f->run_len; i += 4) {
            f4 v = load4(x + i) + all4(min), q = round4(v * all4(inverse), 0, (float)f->most);
            f4 e = all4(scale) * q - v;
            error += load4(w + i) * e * e;
            for (int j = 0; j < 4; j++) b->q[i + j] = (uint8_t)q[j];
        }
    }
    return sum4(error);
}

// The d and dmin that suit b's integers best.
static void refit_affine(const affine *f, const float *x, const float *w, affine_block *b) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;  // of a = scale * q and b = min, weighted
    for (int r = 0; r < f->n_runs; r++) {
        f4 wq = all4(0), wqq = all4(0), wqx = all4(0), wx = all4(0), w1 = all4(0);
        for (int i = r * f->run_len; i < (r + 1) * f->run_len; i += 4) {
            const uint8_t *p = b->q + i;
            f4 q = {(float)p[0], (float)p[1], (float)p[2], (float)p[3]}, v = load4(x + i), u = load4(w + i), t = u * q;
            w1 += u;
            wx += u * v;
            wq += t;
            wqq += t * q;
            wqx += t * v;
        }
        double s = b->scale[r], m = b->min[r];
        aa += s * s * sum4(wqq);
        ab += s * m * sum4(wq);
        bb += m * m * sum4(w1);
        ax += s * sum4(wqx);
        bx += m * sum4(wx);
    }
    double determinant = aa * bb - ab * ab, d = 0, dmin = 0;
    if (determinant > 0) {
        d = (ax * bb - bx * ab) / determinant;
        dmin = (ax * ab - bx * aa) / determinant;
    } else if (aa > 0) {
        d = ax / aa;
    }
    b->d = lh_f32_to_f16((float)fmax(0, d));
    b->dmin = lh_f32_to_f16((float)fmax(0, dmin));
}

static void encode_affine(const affine *f, const float *x, affine_block *best) {
    float w[BLOCK];
    weigh(x, BLOCK, f->run_len, w);
    affine_fit runs[MAX_RUNS];
    double scale = 0, min = 0;
    for (int r = 0; r < f->n_runs; r++) {
        runs[r] = search_affine(f, x + r * f->run_len, w + r * f->run_len);
        scale = fmax(scale, runs[r].scale);
        min = fmax(min, runs[r].min);
    }
    *best = (affine_block){0};
    best->d = lh_f32_to_f16((float)(scale / f->scale_most));
    best->dmin = lh_f32_to_f16((float)(min / f->scale_most));
    for (int r = 0; r < f->n_runs; r++)
        round_run_affine(f, x + r * f->run_len, w + r * f->run_len, runs[r], best, r);
    double error = round_values_affine(f, x, w, best);
    affine_block b = *best;
    for (int again = 0; again < 2; again++) {
        refit_affine(f, x, w, &b);
        double e = round_values_affine(f, x, w, &b);
        if (!(e < error)) break;
        error = e;
        *best = b;
    }
}

// --- formats around zero: x ~ scale * q, scale of either sign --------------------------------------------------------

typedef struct symmetric {
    int n_runs, run_len;
    int low, high;       // of q; or, with levels, of their values
    const int8_t *levels;  // 16, ascending; NULL: all integers
    int scale_low;       // of the runs' rounded scales, up to -scale_low - 1
    int n_guesses;       // on either side, a tenth of a level apart (levels: one)
} symmetric;

typedef struct symmetric_block {
    uint16_t d;          // half
    int8_t scale[MAX_RUNS];
    int8_t q[BLOCK];     // with levels: values, not indices
} symmetric_block;

static inline f4 nearest4(const symmetric *f, f4 v) {
    if (!f->levels) return round4(v, (float)f->low, (float)f->high);
    f4 q = all4(f->levels[0]);
    for (int i = 1; i < 16; i++) {
        float middle = 0.5f * (float)(f->levels[i - 1] + f->levels[i]);
        q = pick4(v > all4(middle), all4(f->levels[i]), q);
    }
    return q;
}

typedef struct symmetric_fit {
    float scale, gain;
} symmetric_fit;

static symmetric_fit fit_symmetric(const symmetric *f, const float *x, const float *w, float inverse) {
    f4 wxq = all4(0), wqq = all4(0);
    for (int i = 0; i < f->run_len; i += 4) {
        f4 v = load4(x + i), q = nearest4(f, v * all4(inverse)), t = load4(w + i) * q;
        wxq += t * v;
        wqq += t * q;
    }
    float a = sum4(wxq), b = sum4(wqq);
    return b > 0 ? (symmetric_fit){a / b, a / b * a} : (symmetric_fit){0, 0};
}

static float search_symmetric(const symmetric *f, const float *x, const float *w) {
    float far = 0;
    for (int i = 0; i < f->run_len; i++)
        if (fabsf(x[i]) > fabsf(far)) far = x[i];
    symmetric_fit best = {0, 0};
    if (!(fabsf(far) > FLT_MIN)) return 0;
    float step = f->levels ? 1.0f : 0.1f;
    for (int guess = -f->n_guesses; guess <= f->n_guesses; guess++)
        for (int side = 0; side < 2; side++) {
            float end = side ? (float)f->high + step * (float)guess : (float)f->low - step * (float)guess;
            symmetric_fit fit = fit_symmetric(f, x, w, end / far);
            if (fit.gain > best.gain) best = fit;
        }
    for (int again = 0; again < 2 && best.scale != 0; again++) {
        symmetric_fit fit = fit_symmetric(f, x, w, 1 / best.scale);
        if (!(fit.gain > best.gain)) break;
        best = fit;
    }
    return best.scale;
}

static float error_symmetric(const symmetric *f, const float *x, const float *w, float scale) {
    f4 sum = all4(0);
    float inverse = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < f->run_len; i += 4) {
        f4 v = load4(x + i), e = all4(scale) * nearest4(f, v * all4(inverse)) - v;
        sum += load4(w + i) * e * e;
    }
    return sum4(sum);
}

static void round_run_symmetric(const symmetric *f, const float *x, const float *w, float fit, symmetric_block *b,
                                int r) {
    float d = lh_half(b->d), least = INFINITY;
    int high = -f->scale_low - 1, scale = d != 0 ? round_to(fit / d, f->scale_low, high) : 0;
    for (int s = scale - 1; s <= scale + 1; s++) {
        float e = s < f->scale_low || s > high ? INFINITY : error_symmetric(f, x, w, d * (float)s);
        if (!(e < least)) continue;
        least = e;
        b->scale[r] = (int8_t)s;
    }
}

static double round_values_symmetric(const symmetric *f, const float *x, const float *w, symmetric_block *b) {
    f4 error = all4(0);
    for (int r = 0; r < f->n_runs; r++) {
        float scale = lh_half(b->d) * (float)b->scale[r], inverse = scale != 0 ? 1 / scale : 0;
        for (int i = r * f->run_len; i < (r + 1) * f->run_len; i += 4) {
            f4 v = load4(x + i), q = nearest4(f, v * all4(inverse)), e = all4(scale) * q - v;
            error += load4(w + i) * e * e;
            for (int j = 0; j < 4; j++) b->q[i + j] = (int8_t)q[j];
        }
    }
    return sum4(error);
}

static void encode_symmetric(const symmetric *f, const float *x, symmetric_block *best) {
    float w[BLOCK];
    weigh(x, BLOCK, f->run_len, w);
    float runs[MAX_RUNS], far = 0;
    for (int r = 0; r < f->n_runs; r++) {
        runs[r] = search_symmetric(f, x + r * f->run_len, w + r * f->run_len);
        if (fabsf(runs[r]) > fabsf(far)) far = runs[r];
    }
    *best = (symmetric_block){0};
    best->d = lh_f32_to_f16(far / (float)f->scale_low);
    for (int r = 0; r < f->n_runs; r++)
        round_run_symmetric(f, x + r * f->run_len, w + r * f->run_len, runs[r], best, r);
    double error = round_values_symmetric(f, x, w, best);
    symmetric_block b = *best;
    for (int again = 0; again < 2; again++) {
        double ax = 0, aa = 0;  // of a = scale * q, weighted
        for (int i = 0; i < f->n_runs * f->run_len; i++) {
            double a = b.scale[i / f->run_len] * b.q[i];
            ax += w[i] * a * x[i];
            aa += w[i] * a * a;
        }
        b.d = lh_f32_to_f16(aa > 0 ? (float)(ax / aa) : 0);
        double e = round_values_symmetric(f, x, w, &b);
        if (!(e < error)) break;
        error = e;
        *best = b;
    }
}

// --- layouts ---------------------------------------------------------------------------------------------------------

// Eight scales and eight mins of 6 bits, see lh_scales_4_5_k.
static void pack_scales_4_5_k(const affine_block *a, uint8_t *packed) {
    for (int j = 0; j < 4; j++) {
        packed[j] = (uint8_t)(a->scale[j] | (a->scale[4 + j] >> 4) << 6);
        packed[4 + j] = (uint8_t)(a->min[j] | (a->min[4 + j] >> 4) << 6);
        packed[8 + j] = (uint8_t)((a->scale[4 + j] & 15) | (a->min[4 + j] & 15) << 4);
    }
}

// Runs of 32 in pairs: low nibbles, high nibbles.
static void pack_nibbles_k(const uint8_t *q, uint8_t *qs) {
    for (int i = 0; i < 128; i++) {
        const uint8_t *pair = q + 64 * (i / 32) + i % 32;
        qs[i] = (uint8_t)((pair[0] & 15) | (pair[32] & 15) << 4);
    }
}

// Two low bits of all values.
static void pack_pairs_k(const uint8_t *q, uint8_t *qs) {
    for (int i = 0; i < 64; i++) {
        const uint8_t *four = q + 128 * (i / 32) + i % 32;
        qs[i] = (uint8_t)((four[0] & 3) | (four[32] & 3) << 2 | (four[64] & 3) << 4 | (four[96] & 3) << 6);
    }
}

static void block_q2_k(const float *x, lh_block_q2_k *b) {
    static const affine format = {16, 16, 3, 15, 16, -0.5f};
    affine_block a;
    encode_affine(&format, x, &a);
    b->d = a.d;
    b->dmin = a.dmin;
    for (int j = 0; j < 16; j++) b->scales[j] = (uint8_t)(a.scale[j] | a.min[j] << 4);
    pack_pairs_k(a.q, b->qs);
}

static void block_q4_k(const float *x, lh_block_q4_k *b) {
    static const affine format = {8, 32, 15, 63, 20, -1};
    affine_block a;
    encode_affine(&format, x, &a);
    b->d = a.d;
    b->dmin = a.dmin;
    pack_scales_4_5_k(&a, b->scales);
    pack_nibbles_k(a.q, b->qs);
}

static void block_q5_k(const float *x, lh_block_q5_k *b) {
    static const affine format = {8, 32, 31, 63, 10, -0.5f};
    affine_block a;
    encode_affine(&format, x, &a);
    b->d = a.d;
    b->dmin = a.dmin;
    pack_scales_4_5_k(&a, b->scales);
    pack_nibbles_k(a.q, b->qs);
    memset(b->qh, 0, sizeof b->qh);
    for (int i = 0; i < BLOCK; i++) b->qh[i % 32] |= (uint8_t)((a.q[i] >> 4) << i / 32);
}

static void block_q3_k(const float *x, lh_block_q3_k *b) {
    static const symmetric format = {16, 16, -4, 3, NULL, -32, 9};
    symmetric_block s;
    uint8_t q[BLOCK];
    encode_symmetric(&format, x, &s);
    b->d = s.d;
    memset(b->scales, 0, sizeof b->scales);
    for (int j = 0; j < 16; j++) {
        int scale = s.scale[j] + 32;
        b->scales[j % 8] |= (uint8_t)((scale & 15) << j / 8 * 4);
        b->scales[8 + j % 4] |= (uint8_t)((scale >> 4) << j / 4 * 2);
    }
    memset(b->hmask, 0, sizeof b->hmask);
    for (int i = 0; i < BLOCK; i++) {
        q[i] = (uint8_t)(s.q[i] + 4);
        b->hmask[i % 32] |= (uint8_t)((q[i] >> 2) << i / 32);
    }
    pack_pairs_k(q, b->qs);
}

static void block_q6_k(const float *x, lh_block_q6_k *b) {
    static const symmetric format = {16, 16, -32, 31, NULL, -128, 6};
    symmetric_block s;
    encode_symmetric(&format, x, &s);
    b->d = s.d;
    memcpy(b->scales, s.scale, sizeof b->scales);
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i++) {
            int q[4];
            for (int j = 0; j < 4; j++) q[j] = s.q[128 * h + 32 * j + i] + 32;
            b->ql[64 * h + i] = (uint8_t)((q[0] & 15) | (q[2] & 15) << 4);
            b->ql[64 * h + 32 + i] = (uint8_t)((q[1] & 15) | (q[3] & 15) << 4);
            b->qh[32 * h + i] = (uint8_t)(q[0] >> 4 | (q[1] >> 4) << 2 | (q[2] >> 4) << 4 | (q[3] >> 4) << 6);
        }
}

// 32 values of lh_iq4_values as indices.
static void pack_iq4(const int8_t *q, uint8_t *qs) {
    uint8_t index[256] = {0};
    for (int i = 0; i < 16; i++) index[(uint8_t)lh_iq4_values[i]] = (uint8_t)i;
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t)(index[(uint8_t)q[i]] | index[(uint8_t)q[16 + i]] << 4);
}

static void block_iq4_nl(const float *x, lh_block_iq4_nl *b) {
    static const symmetric format = {1, 32, -127, 113, lh_iq4_values, -1, 7};
    int8_t q[32];
    float w[32];
    weigh(x, 32, 32, w);
    b->d = lh_f32_to_f16(search_symmetric(&format, x, w));
    float d = lh_half(b->d), inverse = d != 0 ? 1 / d : 0;
    for (int i = 0; i < 32; i++) q[i] = (int8_t)nearest4(&format, all4(x[i] * inverse))[0];
    pack_iq4(q, b->qs);
}

static void block_iq4_xs(const float *x, lh_block_iq4_xs *b) {
    static const symmetric format = {8, 32, -127, 113, lh_iq4_values, -32, 7};
    symmetric_block s;
    encode_symmetric(&format, x, &s);
    b->d = s.d;
    uint16_t high = 0;
    memset(b->scales_l, 0, sizeof b->scales_l);
    for (int j = 0; j < 8; j++) {
        int scale = s.scale[j] + 32;
        b->scales_l[j / 2] |= (uint8_t)((scale & 15) << j % 2 * 4);
        high |= (uint16_t)((scale >> 4) << 2 * j);
        pack_iq4(s.q + 32 * j, b->qs + 16 * j);
    }
    b->scales_h = high;
}

#define ENCODE(suffix, block_len)                                                \
    void lh_encode_##suffix(const float *x, void *blocks, int64_t n) {           \
        lh_block_##suffix *b = blocks;                                           \
        for (int64_t i = 0; i < n; i += (block_len)) block_##suffix(x + i, b++); \
    }
ENCODE(q2_k, 256)
ENCODE(q3_k, 256)
ENCODE(q4_k, 256)
ENCODE(q5_k, 256)
ENCODE(q6_k, 256)
ENCODE(iq4_nl, 32)
ENCODE(iq4_xs, 256)
