// Prologues, quantising, and float weights with AVX-512 (F, BW, DQ, VL).
//
// Float weights become floats in a panel of 32 rows, column by column; a tile is 12 tokens, column by column too, each value
// broadcast against two vectors of rows.
#include <math.h>

#include "matmul_simd.h"
#include "vec_avx512.h"

#define ROWS 32
#define TOKENS 12

// The first n of 16 lanes.
LH_INLINE __mmask16 lanes(int64_t n) { return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1); }

static void rms_norm(const float *x, const float *weight, float eps, int64_t n, float *out) {
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t i = 0; i < n; i += 32)
        for (int j = 0; j < 2 && i + 16 * j < n; j++) {
            __m512 v = _mm512_maskz_loadu_ps(lanes(n - i - 16 * j), x + i + 16 * j);
            sum[j] = _mm512_fmadd_ps(v, v, sum[j]);
        }
    float squares = _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
    __m512 factor = _mm512_set1_ps(1 / sqrtf(squares / (float)n + eps));
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lanes(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), factor);
        _mm512_mask_storeu_ps(out + i, m, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, weight + i)));
    }
}

static void silu_mul(const float *gate, const float *x, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lanes(n - i);
        __m512 g = _mm512_maskz_loadu_ps(m, gate + i);
        __m512 e = lh_exp_ps_avx512(_mm512_sub_ps(_mm512_setzero_ps(), g));
        __m512 silu = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1), e));
        _mm512_mask_storeu_ps(out + i, m, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(m, x + i)));
    }
}

static void quantise(const float *x, int64_t n, lh_act_row *row) {
    for (int64_t b = 0; b < n / LH_ACT_BLOCK; b++) {
        __m512 v0 = _mm512_loadu_ps(x + 32 * b), v1 = _mm512_loadu_ps(x + 32 * b + 16);
        // max gives its second argument where one is NaN.
        __m512 m = _mm512_max_ps(_mm512_abs_ps(v1), _mm512_max_ps(_mm512_abs_ps(v0), _mm512_setzero_ps()));
        float max = _mm512_reduce_max_ps(m);
        float inverse = max > 1e-35f ? 127 / max : 0, scale = max > 1e-35f ? max / 127 : 0;
        __m512i q[2];
        for (int h = 0; h < 2; h++) {
            __m512 value = _mm512_mul_ps(h ? v1 : v0, _mm512_set1_ps(inverse));
            q[h] = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(value, value, _CMP_ORD_Q), value);
        }
        __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(q[1]), _mm512_cvtepi32_epi8(q[0]));
        _mm256_storeu_si256((__m256i *)(row->q + 32 * b), bytes);
        // Sums of 8 bytes + 128 each, then of 16.
        __m256i sums = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
        sums = _mm256_add_epi64(sums, _mm256_unpackhi_epi64(sums, sums));
        int32_t low = _mm256_extract_epi32(sums, 0) - 16 * 128, high = _mm256_extract_epi32(sums, 4) - 16 * 128;
        row->scale[b] = scale;
        row->q_sum[2 * b] = low;
        row->q_sum[2 * b + 1] = high;
        row->sum16[2 * b] = scale * (float)low;
        row->sum16[2 * b + 1] = scale * (float)high;
        row->sum32[b] = scale * (float)(low + high);
    }
}

// --- float weights ---------------------------------------------------------------------------------------------

// 16 weights at p, the first of them that the mask has.
LH_INLINE __m512 load_weights(lh_type type, const char *p, __mmask16 m) {
    if (type == LH_TYPE_F32) return _mm512_maskz_loadu_ps(m, p);
    __m256i halves = _mm256_maskz_loadu_epi16(m, p);
    if (type == LH_TYPE_F16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

LH_INLINE void dot_rows(lh_type type, size_t weight_size, const void *rows, size_t row_size, int64_t n_rows, int64_t n_cols,
                        const lh_act_row *act, float *out) {
    for (int64_t r = 0; r < n_rows; r++) {
        const char *w = (const char *)rows + (size_t)r * row_size;
        __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        int64_t i = 0;
        for (; i + 64 <= n_cols; i += 64)
            LH_UNROLL for (int j = 0; j < 4; j++) {
                __m512 weights = load_weights(type, w + (size_t)(i + 16 * j) * weight_size, 0xffff);
                sum[j] = _mm512_fmadd_ps(weights, _mm512_loadu_ps(act->x + i + 16 * j), sum[j]);
            }
        for (; i < n_cols; i += 16) {
            __mmask16 m = lanes(n_cols - i);
            __m512 weights = load_weights(type, w + (size_t)i * weight_size, m);
            sum[0] = _mm512_fmadd_ps(weights, _mm512_maskz_loadu_ps(m, act->x + i), sum[0]);
        }
        out[r] = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
    }
}

static void dot_f32(const lh_type_traits *traits, const void *rows, size_t row_size, int64_t n_rows, int64_t n_cols,
                    const lh_act_row *act, float *out) {
    (void)traits;
    dot_rows(LH_TYPE_F32, 4, rows, row_size, n_rows, n_cols, act, out);
}

static void dot_f16(const lh_type_traits *traits, const void *rows, size_t row_size, int64_t n_rows, int64_t n_cols,
                    const lh_act_row *act, float *out) {
    (void)traits;
    dot_rows(LH_TYPE_F16, 2, rows, row_size, n_rows, n_cols, act, out);
}

static void dot_bf16(const lh_type_traits *traits, const void *rows, size_t row_size, int64_t n_rows, int64_t n_cols,
                     const lh_act_row *act, float *out) {
    (void)traits;
    dot_rows(LH_TYPE_BF16, 2, rows, row_size, n_rows, n_cols, act, out);
}

LH_INLINE void pack_rows(lh_type type, size_t weight_size, const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols,
                         float *panel) {
    for (int half = 0; half < 2; half++)
        for (int64_t c = 0; c < n_cols; c += 16) {
            __mmask16 m = lanes(n_cols - c);
            __m512i v[16];
            LH_UNROLL for (int r = 0; r < 16; r++) {
                int64_t from = row + 16 * half + r;
                const char *p = (const char *)w->data + (size_t)from * w->row_size + (size_t)(col + c) * weight_size;
                v[r] = from < w->n_rows ? _mm512_castps_si512(load_weights(type, p, m)) : _mm512_setzero_si512();
            }
            lh_transpose_16x16(v);
            LH_UNROLL for (int j = 0; j < 16; j++)
                if (c + j < n_cols) _mm512_storeu_si512(panel + (c + j) * ROWS + 16 * half, v[j]);
        }
}

static void pack(const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols, void *panel) {
    if (w->type == LH_TYPE_F32) pack_rows(LH_TYPE_F32, 4, w, row, col, n_cols, panel);
    else if (w->type == LH_TYPE_F16) pack_rows(LH_TYPE_F16, 2, w, row, col, n_cols, panel);
    else pack_rows(LH_TYPE_BF16, 2, w, row, col, n_cols, panel);
}

static void pack_tokens(const lh_act_row *row, int64_t n_cols, int32_t t, void *tile) {
    float *to = (float *)tile + t;
    for (int64_t i = 0; i < n_cols; i++) to[i * TOKENS] = row ? row->x[i] : 0;
}

static void multiply(const lh_type_traits *traits, const void *panel, const void *tile, int64_t col, int64_t n_cols,
                     const lh_tile_out *out) {
    (void)traits;
    const float *w = panel, *act = (const float *)tile + col * TOKENS;
    __m512 sum[TOKENS][2];
    LH_UNROLL for (int t = 0; t < TOKENS; t++) sum[t][0] = sum[t][1] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n_cols; i++, w += ROWS, act += TOKENS) {
        __m512 w0 = _mm512_loadu_ps(w), w1 = _mm512_loadu_ps(w + 16);
        LH_UNROLL for (int t = 0; t < TOKENS; t++) {
            __m512 a = _mm512_set1_ps(act[t]);
            sum[t][0] = _mm512_fmadd_ps(a, w0, sum[t][0]);
            sum[t][1] = _mm512_fmadd_ps(a, w1, sum[t][1]);
        }
    }
    LH_UNROLL for (int t = 0; t < TOKENS; t++)
        if (t < out->n_tokens) lh_put_rows_avx512(out, t, sum[t]);
}

void lh_matmul_kernels_avx512(lh_matmul_kernels *k) {
    k->name = "avx512";
    k->rms_norm = rms_norm;
    k->silu_mul = silu_mul;
    k->quantise = quantise;
    k->dot[LH_TYPE_F32] = dot_f32;
    k->dot[LH_TYPE_F16] = dot_f16;
    k->dot[LH_TYPE_BF16] = dot_bf16;
    k->real = (lh_panel_kernels){ROWS, TOKENS, sizeof(float), pack, pack_tokens, multiply};
}
