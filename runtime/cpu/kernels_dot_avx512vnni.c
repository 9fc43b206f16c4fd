// Rows of quantised weights, as they lie in the file or in spans, times one token's activations: AVX-512 VNNI.
//
// A format is two small functions: 64 weights as unsigned bytes in order of columns, or 128 of nibbles, by halves of
// blocks; and the scales of up to 16 runs of weights, multiplied by those of the activations. What the bytes are more than
// the weights, and the mins, are multiples of the sums of activations that share a run: one multiplication for 16 runs.
#include "quant_blocks.h"
#include "simd_avx512.h"
#include "spans.h"
// The vectors come first.
#include "matmul_tile.h"

// Weights 64 * i and following of a span, or only 32 of them and zeros.
typedef __m512i (*values_fn)(const char *span, int i, bool only_32);
// Scales of a span's n runs, times the activations' from column col on; zero from lane n on. *fix: lane by lane the sum
// of everything that is a multiple of a sum of activations.
typedef __m512 (*scales_fn)(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix);

// run: weights that share a scale. A span here is 16 blocks of a legacy format, in either layout, or one block of
// a K format.
LH_INLINE void dot_rows(values_fn values, scales_fn scales, int run, int64_t span_cols, size_t span_size,
                        const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {
    const int64_t n_cols = w->n_cols;
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i zero = _mm512_setzero_si512();
    const size_t step = span_size * 64 / (size_t)span_cols;
    for (int64_t r = 0; r < n_rows; r++) {
        const char *span = (const char *)w->data + (size_t)(row + r) * w->row_size;
        __m512 total = _mm512_setzero_ps(), fix = _mm512_setzero_ps();
        for (int64_t col = 0; col < n_cols; col += span_cols, span += span_size) {
            int n = span_cols == 256 ? 256 : (int)LH_MIN(n_cols - col, span_cols), i = 0;
            __m512 scale = scales(span, n / run, act, col, &fix);
            // The run of each lane's four weights.
            __m512i at = _mm512_srli_epi32(lane, run == 32 ? 3 : 2);
            for (; i < n / 64; i++) {
                fetch_ahead(span + (size_t)i * step, 1);  // few at a time: many at once wait for each other
                __m512i q = _mm512_loadu_si512(act->q + col + 64 * i);
                __m512i sum = _mm512_dpbusd_epi32(zero, values(span, i, false), q);
                total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(at, scale), total);
                at = _mm512_add_epi32(at, _mm512_set1_epi32(64 / run));
            }
            if (n % 64) {
                __m512i q = _mm512_maskz_loadu_epi8(0xffffffff, act->q + col + 64 * i);
                __m512i sum = _mm512_dpbusd_epi32(zero, values(span, i, true), q);
                total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(at, scale), total);
            }
        }
        out[r] = _mm512_reduce_add_ps(_mm512_add_ps(total, fix));
    }
}

// --- legacy formats: 32 weights a block, one scale -------------------------------------------------------------

LH_INLINE __m256i load_256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
LH_INLINE __m128i load_128(const void *p) { return _mm_loadu_si128((const __m128i *)p); }

typedef struct legacy {
    lh_block_parts parts;
    bool span;   // as spans.h has them
    float zero;  // what a byte is more than its weight
} legacy;

// The halves of n blocks, 1 to 16, as floats. Where they are apart they are put together four by four: stored, and
// loaded again as a vector, they would have to reach the cache first, and inserting them one by one keeps a port busy.
LH_INLINE uint64_t four_halves(const char *p, size_t step, int n) {
    uint64_t four = 0;
    for (int i = 3; i >= 0; i--) {
        uint16_t h;
        if (i >= n) continue;
        memcpy(&h, p + (size_t)i * step, 2);
        four = four << 16 | h;
    }
    return four;
}

LH_INLINE __m512 halves(const char *p, size_t step, int n) {
    if (step == 2) return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
    uint64_t v[4] = {0};
    if (n == 16)
        LH_UNROLL for (int i = 0; i < 4; i++) v[i] = four_halves(p + (size_t)(4 * i) * step, step, 4);
    else
        for (int i = 0; 4 * i < n; i++) v[i] = four_halves(p + (size_t)(4 * i) * step, step, n - 4 * i);
    __m128i low = _mm_set_epi64x((int64_t)v[1], (int64_t)v[0]), high = _mm_set_epi64x((int64_t)v[3], (int64_t)v[2]);
    return _mm512_cvtph_ps(_mm256_set_m128i(high, low));
}

LH_INLINE __m512 legacy_scales(legacy f, const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    lh_block_view at = lh_view_blocks(f.parts, f.span, span, n);
    __mmask16 m = (__mmask16)((1u << n) - 1);
    __m512 scale = halves(at.scale, at.half_step, n);
    __m512 sum = _mm512_maskz_loadu_ps(m, act->sum32 + col / 32);
    __m512 more = f.parts.min ? halves(at.min, at.half_step, n) : _mm512_mul_ps(scale, _mm512_set1_ps(-f.zero));
    *fix = _mm512_fmadd_ps(more, sum, *fix);
    return _mm512_mul_ps(scale, _mm512_maskz_loadu_ps(m, act->scale + col / 32));
}

// The nibbles of 16 bytes at a and at b: low ones, then high ones.
LH_INLINE __m512i nibbles(const void *a, const void *b) {
    __m512i v = _mm512_maskz_broadcast_i32x4(0x00ff, load_128(a));
    v = _mm512_mask_broadcast_i32x4(v, 0xff00, load_128(b));
    v = _mm512_srlv_epi64(v, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

// The 16 values of IQ4, as bytes that are 128 more.
LH_INLINE __m512i iq4_values(__m512i index) {
    __m512i table = _mm512_broadcast_i32x4(load_128(lh_iq4_values));
    return _mm512_shuffle_epi8(_mm512_xor_si512(table, _mm512_set1_epi8(-128)), index);
}

LH_INLINE __m512 scales_q8_0(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    return legacy_scales((legacy){lh_parts_q8_0, false, 128}, span, n, act, col, fix);
}

LH_INLINE __m512 scales_q8_0_span(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    return legacy_scales((legacy){lh_parts_q8_0, true, 128}, span, n, act, col, fix);
}

LH_INLINE __m512i values_q8_0(const char *span, int i, bool only_32) {
    const lh_block_q8_0 *b = (const lh_block_q8_0 *)span + 2 * i;
    __m512i v = _mm512_zextsi256_si512(load_256(b[0].qs));
    if (!only_32) v = _mm512_inserti64x4(v, load_256(b[1].qs), 1);
    return _mm512_xor_si512(v, _mm512_set1_epi8(-128));
}

LH_INLINE __m512i values_q8_0_span(const char *span, int i, bool only_32) {
    __m512i v = only_32 ? _mm512_zextsi256_si512(load_256(span + 64 * i)) : _mm512_loadu_si512(span + 64 * i);
    return _mm512_xor_si512(v, _mm512_set1_epi8(-128));
}

// --- legacy formats of nibbles: four blocks at a time ---------------------------------------------------------------

// Of four blocks the first 16 weights, and the other 16: a quarter of a vector is of one block.
typedef struct four_blocks {
    __m512i low, high;
} four_blocks;

// n of the four are there, 1 to 4; the others are zeros.
typedef four_blocks (*four_fn)(lh_block_view blocks, int n);

LH_INLINE __m512i four_of(const char *at, size_t step, int n) {
    if (step == 16) return n == 4 ? _mm512_loadu_si512(at) : _mm512_maskz_loadu_epi64((__mmask8)((1u << 2 * n) - 1), at);
    __m512i v = _mm512_zextsi128_si512(load_128(at));
    if (n > 1) v = _mm512_inserti32x4(v, load_128(at + step), 1);
    if (n > 2) v = _mm512_inserti32x4(v, load_128(at + 2 * step), 2);
    if (n > 3) v = _mm512_inserti32x4(v, load_128(at + 3 * step), 3);
    return v;
}

LH_INLINE four_blocks four_nibbles(lh_block_view blocks, int n) {
    const __m512i lowest = _mm512_set1_epi8(15);
    __m512i v = four_of(blocks.weights, blocks.weights_step, n);
    return (four_blocks){_mm512_and_si512(v, lowest), _mm512_and_si512(_mm512_srli_epi16(v, 4), lowest)};
}

// And their fifth bits.
LH_INLINE four_blocks four_of_five(lh_block_view blocks, int n) {
    four_blocks v = four_nibbles(blocks, n);
    uint64_t low = 0, high = 0;
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, blocks.fifth + (size_t)i * blocks.fifth_step, 4);
        low |= (uint64_t)(bits & 0xffff) << (16 * i);
        high |= (uint64_t)(bits >> 16) << (16 * i);
    }
    return (four_blocks){_mm512_or_si512(v.low, _mm512_maskz_set1_epi8(low, 16)),
                         _mm512_or_si512(v.high, _mm512_maskz_set1_epi8(high, 16))};
}

LH_INLINE four_blocks four_iq4(lh_block_view blocks, int n) {
    four_blocks v = four_nibbles(blocks, n);
    return (four_blocks){iq4_values(v.low), iq4_values(v.high)};
}

// Four blocks, the first of them the `first`-th of a span of 16.
LH_INLINE __m512 add_four(four_fn four, int n, int first, lh_block_view span, const int8_t *q, __m512 scale,
                          __m512 total) {
    const __m512i quarter = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    // Behind the last block of a row scales are zeros, whatever these are.
    __m512i a = _mm512_loadu_si512(q + 32 * first), b = n > 2 ? _mm512_loadu_si512(q + 32 * first + 64) : a;
    span.weights += (size_t)first * span.weights_step;
    span.fifth += (size_t)first * span.fifth_step;
    four_blocks w = four(span, n);
    __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.low, _mm512_shuffle_i64x2(a, b, 0x88));
    sum = _mm512_dpbusd_epi32(sum, w.high, _mm512_shuffle_i64x2(a, b, 0xdd));
    __m512i at = _mm512_add_epi32(quarter, _mm512_set1_epi32(first));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(at, scale), total);
}

// Few at a time: many at once wait for each other. Nibbles keep up with memory only in two steps, into the second-level
// cache far ahead, and from there: SmolLM2 writes up to a tenth faster than with fetch_ahead.
LH_INLINE void fetch_four(const char *blocks, size_t bytes) {
    lh_prefetch_second(blocks + 8192, bytes);
    lh_prefetch(blocks + 512, bytes);
}

LH_INLINE void dot_fours(four_fn four, legacy f, const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act,
                         float *out) {
    const size_t size = lh_block_size(f.parts);
    for (int64_t r = 0; r < n_rows; r++) {
        const char *at = (const char *)w->data + (size_t)(row + r) * w->row_size;
        __m512 total = _mm512_setzero_ps(), fix = total;
        for (int64_t col = 0; col < w->n_cols; col += 32 * LH_SPAN_BLOCKS, at += LH_SPAN_BLOCKS * size) {
            const int8_t *q = act->q + col;
            int n = (int)LH_MIN((w->n_cols - col) / 32, LH_SPAN_BLOCKS), i = 0;
            lh_block_view span = lh_view_blocks(f.parts, f.span, at, n);
            __m512 scale = legacy_scales(f, at, n, act, col, &fix);
            for (; i + 4 <= n; i += 4) {
                fetch_four(at + (size_t)i * size, 4 * size);
                total = add_four(four, 4, i, span, q, scale, total);
            }
            switch (n - i) {
                case 3: total = add_four(four, 3, i, span, q, scale, total); break;
                case 2: total = add_four(four, 2, i, span, q, scale, total); break;
                case 1: total = add_four(four, 1, i, span, q, scale, total); break;
                default: break;
            }
        }
        out[r] = _mm512_reduce_add_ps(_mm512_add_ps(total, fix));
    }
}

// --- K formats: 256 weights a block, runs of 32 or 16 ------------------------------------------------------------

LH_INLINE __m512 two_floats(const float *low, const float *high) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high), 1);
}

// Eight scales of 6 bits in the low lanes, eight mins in the high ones.
LH_INLINE __m512 scales_4_5_k(uint16_t d, uint16_t dmin, const uint8_t *packed, const lh_act_row *act, int64_t col,
                              __m512 *fix) {
    uint32_t words[4];
    lh_scales_4_5_k(packed, words);
    __m128i bytes = _mm_setr_epi32((int32_t)words[0], (int32_t)words[1], (int32_t)words[2], (int32_t)words[3]);
    __m512 factor = _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(lh_half(d)), _mm512_set1_ps(-lh_half(dmin)));
    __m512 scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), factor);
    scale = _mm512_mul_ps(scale, two_floats(act->scale + col / 32, act->sum32 + col / 32));
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

// 32 bytes twice, shifted right by a and by b bits. The bits that come in from neighbours are for the caller to clear.
LH_INLINE __m512i shifted_twice(const void *p, int a, int b) {
    __m512i v = _mm512_broadcast_i64x4(load_256(p));
    return _mm512_srlv_epi64(v, _mm512_setr_epi64(a, a, a, a, b, b, b, b));
}

LH_INLINE __m512 scales_q4_k(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    const lh_block_q4_k *b = (const lh_block_q4_k *)span;
    (void)n;
    return scales_4_5_k(b->d, b->dmin, b->scales, act, col, fix);
}

LH_INLINE __m512i values_q4_k(const char *span, int i, bool only_32) {
    (void)only_32;
    return _mm512_and_si512(shifted_twice(((const lh_block_q4_k *)span)->qs + 32 * i, 0, 4), _mm512_set1_epi8(15));
}

LH_INLINE __m512 scales_q5_k(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    const lh_block_q5_k *b = (const lh_block_q5_k *)span;
    (void)n;
    return scales_4_5_k(b->d, b->dmin, b->scales, act, col, fix);
}

LH_INLINE __m512i values_q5_k(const char *span, int i, bool only_32) {
    const lh_block_q5_k *b = (const lh_block_q5_k *)span;
    (void)only_32;
    __m512i low = _mm512_and_si512(shifted_twice(b->qs + 32 * i, 0, 4), _mm512_set1_epi8(15));
    __m512i high = _mm512_and_si512(shifted_twice(b->qh, 2 * i, 2 * i + 1), _mm512_set1_epi8(1));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 4));
}

LH_INLINE __m512 scales_q6_k(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    const lh_block_q6_k *b = (const lh_block_q6_k *)span;
    (void)n;
    __m512 scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_128(b->scales)));
    scale = _mm512_mul_ps(scale, _mm512_set1_ps(lh_half(b->d)));
    return scales_of_16(scale, _mm512_mul_ps(scale, _mm512_set1_ps(-32)), act, col, fix);
}

LH_INLINE __m512i values_q6_k(const char *span, int i, bool only_32) {
    const lh_block_q6_k *b = (const lh_block_q6_k *)span;
    (void)only_32;
    __m512i low = _mm512_srli_epi64(_mm512_loadu_si512(b->ql + i / 2 * 64), (unsigned)(i % 2 * 4));
    __m512i high = _mm512_and_si512(shifted_twice(b->qh + i / 2 * 32, i % 2 * 4, i % 2 * 4 + 2), _mm512_set1_epi8(3));
    return _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(15)), _mm512_slli_epi32(high, 4));
}

LH_INLINE __m512 scales_q2_k(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    const lh_block_q2_k *b = (const lh_block_q2_k *)span;
    (void)n;
    __m512i bytes = _mm512_cvtepu8_epi32(load_128(b->scales));
    __m512 scale = _mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(15)));
    __m512 min = _mm512_cvtepi32_ps(_mm512_srli_epi32(bytes, 4));
    return scales_of_16(_mm512_mul_ps(scale, _mm512_set1_ps(lh_half(b->d))),
                        _mm512_mul_ps(min, _mm512_set1_ps(-lh_half(b->dmin))), act, col, fix);
}

LH_INLINE __m512i values_q2_k(const char *span, int i, bool only_32) {
    const uint8_t *qs = ((const lh_block_q2_k *)span)->qs + i / 2 * 32;
    (void)only_32;
    return _mm512_and_si512(shifted_twice(qs, i % 2 * 4, i % 2 * 4 + 2), _mm512_set1_epi8(3));
}

LH_INLINE __m512 scales_q3_k(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    const lh_block_q3_k *b = (const lh_block_q3_k *)span;
    (void)n;
    uint32_t s[3];
    memcpy(s, b->scales, 12);
    __m128i low = _mm_setr_epi32((int32_t)s[0], (int32_t)s[1], (int32_t)(s[0] >> 4), (int32_t)(s[1] >> 4));
    __m128i high = _mm_setr_epi32((int32_t)s[2], (int32_t)(s[2] >> 2), (int32_t)(s[2] >> 4), (int32_t)(s[2] >> 6));
    __m128i bytes = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)),
                                 _mm_slli_epi32(_mm_and_si128(high, _mm_set1_epi8(3)), 4));
    __m512i scale = _mm512_cvtepi8_epi32(_mm_sub_epi8(bytes, _mm_set1_epi8(32)));
    __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(scale), _mm512_set1_ps(lh_half(b->d)));
    return scales_of_16(scaled, _mm512_mul_ps(scaled, _mm512_set1_ps(-4)), act, col, fix);
}

LH_INLINE __m512i values_q3_k(const char *span, int i, bool only_32) {
    const lh_block_q3_k *b = (const lh_block_q3_k *)span;
    (void)only_32;
    __m512i low = _mm512_and_si512(shifted_twice(b->qs + i / 2 * 32, i % 2 * 4, i % 2 * 4 + 2), _mm512_set1_epi8(3));
    __m512i high = _mm512_and_si512(shifted_twice(b->hmask, 2 * i, 2 * i + 1), _mm512_set1_epi8(1));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 2));
}

LH_INLINE __m512 scales_iq4_xs(const char *span, int n, const lh_act_row *act, int64_t col, __m512 *fix) {
    const lh_block_iq4_xs *b = (const lh_block_iq4_xs *)span;
    (void)n;
    uint32_t low;
    memcpy(&low, b->scales_l, 4);
    const __m256i shift = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    __m256i l = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int32_t)low), _mm256_slli_epi32(shift, 1)),
                                 _mm256_set1_epi32(15));
    __m256i h = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(b->scales_h), shift), _mm256_set1_epi32(3));
    __m256i bits = _mm256_sub_epi32(_mm256_or_si256(l, _mm256_slli_epi32(h, 4)), _mm256_set1_epi32(32));
    __m256 scale = _mm256_mul_ps(_mm256_cvtepi32_ps(bits), _mm256_set1_ps(lh_half(b->d)));
    __m256 more = _mm256_mul_ps(_mm256_mul_ps(scale, _mm256_set1_ps(-128)), _mm256_loadu_ps(act->sum32 + col / 32));
    *fix = _mm512_add_ps(*fix, _mm512_zextps256_ps512(more));
    return _mm512_zextps256_ps512(_mm256_mul_ps(scale, _mm256_loadu_ps(act->scale + col / 32)));
}

LH_INLINE __m512i values_iq4_xs(const char *span, int i, bool only_32) {
    const uint8_t *qs = ((const lh_block_iq4_xs *)span)->qs + 32 * i;
    (void)only_32;
    return iq4_values(nibbles(qs, qs + 16));
}

// --- the table -------------------------------------------------------------------------------------------------

#define DEFINE_DOT(suffix, run)                                                                                       \
    static void dot_##suffix(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {     \
        dot_rows(values_##suffix, scales_##suffix, run, 256, sizeof(lh_block_##suffix), w, row, n_rows, act, out);     \
    }

// A copy of the loop for each layout.
#define DEFINE_FOURS_DOT(suffix, four, zero)                                                                           \
    static void dot_##suffix(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {     \
        if (w->spans) dot_fours(four, (legacy){lh_parts_##suffix, true, zero}, w, row, n_rows, act, out);              \
        else dot_fours(four, (legacy){lh_parts_##suffix, false, zero}, w, row, n_rows, act, out);                      \
    }

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

static void dot_q8_0(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {
    const int64_t cols = 32 * LH_SPAN_BLOCKS;
    const size_t size = LH_SPAN_BLOCKS * sizeof(lh_block_q8_0);
    if (w->spans) dot_rows(values_q8_0_span, scales_q8_0_span, 32, cols, size, w, row, n_rows, act, out);
    else dot_rows(values_q8_0, scales_q8_0, 32, cols, size, w, row, n_rows, act, out);
}

void lh_dot_kernels_avx512vnni(lh_dot_fn dot[LH_TYPE_COUNT]) {
#define SET_DOT(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block) dot[LH_TYPE_##TYPE] = dot_##suffix;
    LH_QUANT_FORMATS(SET_DOT)
}
