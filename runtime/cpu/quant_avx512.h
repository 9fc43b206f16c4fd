// Quantised formats as AVX-512 reads them, as they lie in the file or in spans: 64 weights as unsigned bytes in order of
// columns, or 128 of nibbles, by halves of blocks; and of every run of weights that shares a scale, this and what is to be
// added. Over simd_avx512.h, which comes first.
#ifndef LH_QUANT_AVX512_H
#define LH_QUANT_AVX512_H

#include "quant_blocks.h"
#include "spans.h"
// The vectors come first.
#include "matmul_tile.h"

LH_INLINE __m256i load_256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
LH_INLINE __m128i load_128(const void *p) { return _mm_loadu_si128((const __m128i *)p); }

// Of n runs, one a lane, and zeros behind them: a weight is (byte - zero) * scale + min. `zero` is the format's.
typedef struct run_numbers {
    __m512 scale, min;
} run_numbers;

// --- legacy formats: 32 weights a block, one scale -------------------------------------------------------------

typedef struct legacy {
    lh_block_parts parts;
    bool span;  // as spans.h has them
    int zero;
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

// Of a span of n blocks.
LH_INLINE run_numbers legacy_numbers(legacy f, const char *span, int n) {
    lh_block_view at = lh_view_blocks(f.parts, f.span, span, n);
    __m512 min = f.parts.min ? halves(at.min, at.half_step, n) : _mm512_setzero_ps();
    return (run_numbers){halves(at.scale, at.half_step, n), min};
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

// Weights 64 * i and following of a span, or only 32 of them and zeros.
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

// --- K formats: 256 weights a block, runs of 32 or 16 ------------------------------------------------------------

// 32 bytes twice, shifted right by a and by b bits. The bits that come in from neighbours are for the caller to clear.
LH_INLINE __m512i shifted_twice(const void *p, int a, int b) {
    __m512i v = _mm512_broadcast_i64x4(load_256(p));
    return _mm512_srlv_epi64(v, _mm512_setr_epi64(a, a, a, a, b, b, b, b));
}

// Eight scales of 6 bits in the low lanes, eight mins in the high ones.
LH_INLINE __m512 numbers_4_5_k(uint16_t d, uint16_t dmin, const uint8_t *packed) {
    uint32_t words[4];
    lh_scales_4_5_k(packed, words);
    __m128i bytes = _mm_setr_epi32((int32_t)words[0], (int32_t)words[1], (int32_t)words[2], (int32_t)words[3]);
    __m512 factor = _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(lh_half(d)), _mm512_set1_ps(-lh_half(dmin)));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), factor);
}

LH_INLINE __m512 numbers_q4_k(const char *span) {
    const lh_block_q4_k *b = (const lh_block_q4_k *)span;
    return numbers_4_5_k(b->d, b->dmin, b->scales);
}

LH_INLINE __m512i values_q4_k(const char *span, int i, bool only_32) {
    (void)only_32;
    return _mm512_and_si512(shifted_twice(((const lh_block_q4_k *)span)->qs + 32 * i, 0, 4), _mm512_set1_epi8(15));
}

LH_INLINE __m512 numbers_q5_k(const char *span) {
    const lh_block_q5_k *b = (const lh_block_q5_k *)span;
    return numbers_4_5_k(b->d, b->dmin, b->scales);
}

LH_INLINE __m512i values_q5_k(const char *span, int i, bool only_32) {
    const lh_block_q5_k *b = (const lh_block_q5_k *)span;
    (void)only_32;
    __m512i low = _mm512_and_si512(shifted_twice(b->qs + 32 * i, 0, 4), _mm512_set1_epi8(15));
    __m512i high = _mm512_and_si512(shifted_twice(b->qh, 2 * i, 2 * i + 1), _mm512_set1_epi8(1));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 4));
}

LH_INLINE run_numbers numbers_q6_k(const char *span) {
    const lh_block_q6_k *b = (const lh_block_q6_k *)span;
    __m512 scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_128(b->scales)));
    return (run_numbers){_mm512_mul_ps(scale, _mm512_set1_ps(lh_half(b->d))), _mm512_setzero_ps()};
}

LH_INLINE __m512i values_q6_k(const char *span, int i, bool only_32) {
    const lh_block_q6_k *b = (const lh_block_q6_k *)span;
    (void)only_32;
    __m512i low = _mm512_srli_epi64(_mm512_loadu_si512(b->ql + i / 2 * 64), (unsigned)(i % 2 * 4));
    __m512i high = _mm512_and_si512(shifted_twice(b->qh + i / 2 * 32, i % 2 * 4, i % 2 * 4 + 2), _mm512_set1_epi8(3));
    return _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(15)), _mm512_slli_epi32(high, 4));
}

LH_INLINE run_numbers numbers_q2_k(const char *span) {
    const lh_block_q2_k *b = (const lh_block_q2_k *)span;
    __m512i bytes = _mm512_cvtepu8_epi32(load_128(b->scales));
    __m512 scale = _mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(15)));
    __m512 min = _mm512_cvtepi32_ps(_mm512_srli_epi32(bytes, 4));
    return (run_numbers){_mm512_mul_ps(scale, _mm512_set1_ps(lh_half(b->d))),
                         _mm512_mul_ps(min, _mm512_set1_ps(-lh_half(b->dmin)))};
}

LH_INLINE __m512i values_q2_k(const char *span, int i, bool only_32) {
    const uint8_t *qs = ((const lh_block_q2_k *)span)->qs + i / 2 * 32;
    (void)only_32;
    return _mm512_and_si512(shifted_twice(qs, i % 2 * 4, i % 2 * 4 + 2), _mm512_set1_epi8(3));
}

LH_INLINE run_numbers numbers_q3_k(const char *span) {
    const lh_block_q3_k *b = (const lh_block_q3_k *)span;
    uint32_t s[3];
    memcpy(s, b->scales, 12);
    __m128i low = _mm_setr_epi32((int32_t)s[0], (int32_t)s[1], (int32_t)(s[0] >> 4), (int32_t)(s[1] >> 4));
    __m128i high = _mm_setr_epi32((int32_t)s[2], (int32_t)(s[2] >> 2), (int32_t)(s[2] >> 4), (int32_t)(s[2] >> 6));
    __m128i bytes = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)),
                                 _mm_slli_epi32(_mm_and_si128(high, _mm_set1_epi8(3)), 4));
    __m512 scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_sub_epi8(bytes, _mm_set1_epi8(32))));
    return (run_numbers){_mm512_mul_ps(scale, _mm512_set1_ps(lh_half(b->d))), _mm512_setzero_ps()};
}

LH_INLINE __m512i values_q3_k(const char *span, int i, bool only_32) {
    const lh_block_q3_k *b = (const lh_block_q3_k *)span;
    (void)only_32;
    __m512i low = _mm512_and_si512(shifted_twice(b->qs + i / 2 * 32, i % 2 * 4, i % 2 * 4 + 2), _mm512_set1_epi8(3));
    __m512i high = _mm512_and_si512(shifted_twice(b->hmask, 2 * i, 2 * i + 1), _mm512_set1_epi8(1));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 2));
}

// Eight.
LH_INLINE __m256 numbers_iq4_xs(const char *span) {
    const lh_block_iq4_xs *b = (const lh_block_iq4_xs *)span;
    uint32_t low;
    memcpy(&low, b->scales_l, 4);
    const __m256i shift = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    __m256i l = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int32_t)low), _mm256_slli_epi32(shift, 1)),
                                 _mm256_set1_epi32(15));
    __m256i h = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(b->scales_h), shift), _mm256_set1_epi32(3));
    __m256i bits = _mm256_sub_epi32(_mm256_or_si256(l, _mm256_slli_epi32(h, 4)), _mm256_set1_epi32(32));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(bits), _mm256_set1_ps(lh_half(b->d)));
}

LH_INLINE __m512i values_iq4_xs(const char *span, int i, bool only_32) {
    const uint8_t *qs = ((const lh_block_iq4_xs *)span)->qs + 32 * i;
    (void)only_32;
    return iq4_values(nibbles(qs, qs + 16));
}

#endif
