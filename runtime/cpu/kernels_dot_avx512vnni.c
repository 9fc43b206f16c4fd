// Rows of quantised weights, as they lie in the file or in spans, times one token's activations: AVX-512 VNNI.
//
// A format is two small functions: its weights as bytes (quant_avx512.h), and the scales of up to 16 runs of them, multiplied
// by those of the activations. What the bytes are more than the weights, and the mins, are multiples of the sums of
// activations that share a run: one multiplication for 16 runs.
#include "simd_avx512.h"
// The vectors come first.
#include "quant_avx512.h"

// Weights 64 * i and following of a span, or only 32 of them and zeros.
typedef __m512i (*values_fn)(const char *span, int i, bool only_32);
// Scales of a span's n runs, times the activations' from column col on; zero from lane n on. *fix: lane by lane the sum
// of everything that is a multiple of a sum of activations.
typedef __m512 (*scales_fn)(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix);

// The sums of 64 products, four by four, times the scales of their runs: `at` says which one is each lane's.
LH_INLINE __m512 add_products(__m512i weights, __m512i q, __m512i at, __m512 scale, __m512 total) {
    __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, q);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(at, scale), total);
}

// run: weights that share a scale. A span here is 16 blocks of a legacy format, in either layout, or one block of
// a K format.
LH_INLINE void dot_rows(values_fn values, scales_fn scales, int run, int64_t span_cols, size_t span_size,
                        const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, int tokens, float *out) {
    const int64_t n_cols = w->n_cols;
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const size_t step = span_size * 64 / (size_t)span_cols;
    for (int64_t r = 0; r < n_rows; r++) {
        const char *span = (const char *)w->data + (size_t)(row + r) * w->row_size;
        __m512 total[LH_DOT_TOKENS], fix[LH_DOT_TOKENS], scale[LH_DOT_TOKENS];
        LH_UNROLL for (int t = 0; t < tokens; t++) total[t] = fix[t] = _mm512_setzero_ps();
        for (int64_t col = 0; col < n_cols; col += span_cols, span += span_size) {
            int n = span_cols == 256 ? 256 : (int)LH_MIN(n_cols - col, span_cols), i = 0;
            LH_UNROLL for (int t = 0; t < tokens; t++) scale[t] = scales(span, n / run, &act[t], col, &fix[t]);
            // The run of each lane's four weights.
            __m512i at = _mm512_srli_epi32(lane, run == 32 ? 3 : 2);
            for (; i < n / 64; i++) {
                fetch_ahead(span + (size_t)i * step, 1);  // few at a time: many at once wait for each other
                __m512i v = values(span, i, false);
                LH_UNROLL for (int t = 0; t < tokens; t++)
                    total[t] = add_products(v, _mm512_loadu_si512(act[t].q + col + 64 * i), at, scale[t], total[t]);
                at = _mm512_add_epi32(at, _mm512_set1_epi32(64 / run));
            }
            if (n % 64) {
                __m512i v = values(span, i, true);
                LH_UNROLL for (int t = 0; t < tokens; t++)
                    total[t] = add_products(v, _mm512_maskz_loadu_epi8(0xffffffff, act[t].q + col + 64 * i), at, scale[t],
                                            total[t]);
            }
        }
        LH_UNROLL for (int t = 0; t < tokens; t++)
            out[t * n_rows + r] = _mm512_reduce_add_ps(_mm512_add_ps(total[t], fix[t]));
    }
}

// --- legacy formats ---------------------------------------------------------------------------------------------

LH_INLINE __m512 legacy_scales(legacy f, const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    __mmask16 m = (__mmask16)((1u << n) - 1);
    run_numbers w = legacy_numbers(f, span, n);
    __m512 more = f.parts.min ? w.min : _mm512_mul_ps(w.scale, _mm512_set1_ps(-(float)f.zero));
    *fix = _mm512_fmadd_ps(more, _mm512_maskz_loadu_ps(m, act->sum32 + col / 32), *fix);
    return _mm512_mul_ps(w.scale, _mm512_maskz_loadu_ps(m, act->scale + col / 32));
}

LH_INLINE __m512 scales_q8_0(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    return legacy_scales((legacy){lh_parts_q8_0, false, 128}, span, n, act, col, fix);
}

LH_INLINE __m512 scales_q8_0_span(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    return legacy_scales((legacy){lh_parts_q8_0, true, 128}, span, n, act, col, fix);
}

// Four blocks, the first of them the `first`-th of a span of 16. Behind the last block of a row scales are zeros.
LH_INLINE void add_four(four_fn four, int n, int first, lh_block_view span, const lh_act_row *act, int tokens, int64_t col,
                        const __m512 *scale, __m512 *total) {
    const __m512i quarter = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    __m512i at = _mm512_add_epi32(quarter, _mm512_set1_epi32(first));
    span.weights += (size_t)first * span.weights_step;
    span.fifth += (size_t)first * span.fifth_step;
    four_blocks w = four(span, n);
    LH_UNROLL for (int t = 0; t < tokens; t++) {
        const int8_t *q = act[t].halves + col + 32 * first;
        __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.low, _mm512_loadu_si512(q));
        sum = _mm512_dpbusd_epi32(sum, w.high, _mm512_loadu_si512(q + 64));
        total[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(at, scale[t]), total[t]);
    }
}

static void arrange(int64_t n, lh_act_row *row) {
    for (int64_t col = 0; col < n; col += 128) {
        __m512i a = _mm512_loadu_si512(row->q + col);
        __m512i b = n - col > 64 ? _mm512_loadu_si512(row->q + col + 64) : a;
        _mm512_storeu_si512(row->halves + col, _mm512_shuffle_i64x2(a, b, 0x88));
        _mm512_storeu_si512(row->halves + col + 64, _mm512_shuffle_i64x2(a, b, 0xdd));
    }
}

// Few at a time: many at once wait for each other. Nibbles keep up with memory only in two steps, into the second-level
// cache far ahead, and from there: SmolLM2 writes up to a tenth faster than with fetch_ahead.
LH_INLINE void fetch_four(const char *blocks, size_t bytes) {
    lh_prefetch_second(blocks + 8192, bytes);
    lh_prefetch(blocks + 512, bytes);
}

LH_INLINE void dot_fours(four_fn four, legacy f, const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act,
                         int tokens, float *out) {
    const size_t size = lh_block_size(f.parts);
    for (int64_t r = 0; r < n_rows; r++) {
        const char *at = (const char *)w->data + (size_t)(row + r) * w->row_size;
        __m512 total[LH_DOT_TOKENS], fix[LH_DOT_TOKENS], scale[LH_DOT_TOKENS];
        LH_UNROLL for (int t = 0; t < tokens; t++) total[t] = fix[t] = _mm512_setzero_ps();
        for (int64_t col = 0; col < w->n_cols; col += 32 * LH_SPAN_BLOCKS, at += LH_SPAN_BLOCKS * size) {
            int n = (int)LH_MIN((w->n_cols - col) / 32, LH_SPAN_BLOCKS), i = 0;
            lh_block_view span = lh_view_blocks(f.parts, f.span, at, n);
            LH_UNROLL for (int t = 0; t < tokens; t++) scale[t] = legacy_scales(f, at, n, &act[t], col, &fix[t]);
            for (; i + 4 <= n; i += 4) {
                fetch_four(at + (size_t)i * size, 4 * size);
                add_four(four, 4, i, span, act, tokens, col, scale, total);
            }
            switch (n - i) {
                case 3: add_four(four, 3, i, span, act, tokens, col, scale, total); break;
                case 2: add_four(four, 2, i, span, act, tokens, col, scale, total); break;
                case 1: add_four(four, 1, i, span, act, tokens, col, scale, total); break;
                default: break;
            }
        }
        LH_UNROLL for (int t = 0; t < tokens; t++)
            out[t * n_rows + r] = _mm512_reduce_add_ps(_mm512_add_ps(total[t], fix[t]));
    }
}

// --- K formats ---------------------------------------------------------------------------------------------------

LH_INLINE __m512 two_floats(const float *low, const float *high) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high), 1);
}

// Scales and mins at once.
LH_INLINE __m512 scales_4_5_k(__m512 numbers, const lh_act_row *act, int64_t col, __m512 *fix) {
    __m512 scale = _mm512_mul_ps(numbers, two_floats(act->scale + col / 32, act->sum32 + col / 32));
    *fix = _mm512_mask_add_ps(*fix, 0xff00, *fix, scale);
    return scale;
}

// 16 scales of runs of 16, times the scales of the activations. more: what makes the sums of activations: the mins, or
// -zero * scale.
LH_INLINE __m512 scales_of_16(__m512 scale, __m512 more, const lh_act_row *act, int64_t col, __m512 *fix) {
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    *fix = _mm512_fmadd_ps(more, _mm512_loadu_ps(act->sum16 + col / 16), *fix);
    __m512 act_scale = _mm512_castps256_ps512(_mm256_loadu_ps(act->scale + col / 32));
    return _mm512_mul_ps(scale, _mm512_permutexvar_ps(twice, act_scale));
}

LH_INLINE __m512 scales_q4_k(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    (void)n;
    return scales_4_5_k(numbers_q4_k(span), act, col, fix);
}

LH_INLINE __m512 scales_q5_k(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    (void)n;
    return scales_4_5_k(numbers_q5_k(span), act, col, fix);
}

LH_INLINE __m512 scales_q6_k(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    (void)n;
    __m512 scale = numbers_q6_k(span).scale;
    return scales_of_16(scale, _mm512_mul_ps(scale, _mm512_set1_ps(-32)), act, col, fix);
}

LH_INLINE __m512 scales_q2_k(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    (void)n;
    run_numbers w = numbers_q2_k(span);
    return scales_of_16(w.scale, w.min, act, col, fix);
}

LH_INLINE __m512 scales_q3_k(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    (void)n;
    __m512 scale = numbers_q3_k(span).scale;
    return scales_of_16(scale, _mm512_mul_ps(scale, _mm512_set1_ps(-4)), act, col, fix);
}

LH_INLINE __m512 scales_iq4_xs(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    (void)n;
    __m256 scale = numbers_iq4_xs(span);
    __m256 more = _mm256_mul_ps(_mm256_mul_ps(scale, _mm256_set1_ps(-128)), _mm256_loadu_ps(act->sum32 + col / 32));
    *fix = _mm512_add_ps(*fix, _mm512_zextps256_ps512(more));
    return _mm512_zextps256_ps512(_mm256_mul_ps(scale, _mm256_loadu_ps(act->scale + col / 32)));
}

// --- the table -------------------------------------------------------------------------------------------------

// Of each format and layout one loop for a token, and one for several.
#define DEFINE_LOOPS(suffix, loop)                                                                                  \
    static void dot_##suffix(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {  \
        const int tokens = 1;                                                                                       \
        loop                                                                                                        \
    }                                                                                                               \
    static void dots_##suffix(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) { \
        const int tokens = LH_DOT_TOKENS;                                                                           \
        loop                                                                                                        \
    }

#define DEFINE_DOT(suffix, run)                                                                                  \
    DEFINE_LOOPS(suffix, dot_rows(values_##suffix, scales_##suffix, run, 256, sizeof(lh_block_##suffix), w, row, \
                                  n_rows, act, tokens, out);)

#define DEFINE_FOURS_DOT(suffix, four, zero)                                                                             \
    DEFINE_LOOPS(suffix,                                                                                                 \
                 if (w->spans) dot_fours(four, (legacy){lh_parts_##suffix, true, zero}, w, row, n_rows, act, tokens, out); \
                 else dot_fours(four, (legacy){lh_parts_##suffix, false, zero}, w, row, n_rows, act, tokens, out);)

DEFINE_FOURS_DOT(q4_0, four_nibbles, 8)
DEFINE_FOURS_DOT(q4_1, four_nibbles, 0)
DEFINE_FOURS_DOT(q5_0, four_of_five, 16)
DEFINE_FOURS_DOT(q5_1, four_of_five, 0)
DEFINE_FOURS_DOT(iq4_nl, four_iq4, 128)
DEFINE_DOT(q2_k, 16)
DEFINE_DOT(q3_k, 16)
DEFINE_DOT(q4_k, 32)
DEFINE_DOT(q5_k, 32)
DEFINE_DOT(q6_k, 16)
DEFINE_DOT(iq4_xs, 32)

#define Q8_SPAN 32 * LH_SPAN_BLOCKS, LH_SPAN_BLOCKS * sizeof(lh_block_q8_0)
DEFINE_LOOPS(q8_0, if (w->spans) dot_rows(values_q8_0_span, scales_q8_0_span, 32, Q8_SPAN, w, row, n_rows, act, tokens, out);
                   else dot_rows(values_q8_0, scales_q8_0, 32, Q8_SPAN, w, row, n_rows, act, tokens, out);)

void lh_dot_kernels_avx512vnni(lh_matmul_kernels *k) {
    k->arrange = arrange;
#define SET_DOT(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block) \
    k->dot[LH_TYPE_##TYPE] = dot_##suffix;                                       \
    k->dots[LH_TYPE_##TYPE] = dots_##suffix;
    LH_QUANT_FORMATS(SET_DOT)
}
