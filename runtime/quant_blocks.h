// How to unpack one block of each quantised format (quant_layout.h) on the host.
//
// The unpack functions are plain C: kernels include them and the compiler vectorises them for their ISA.
#ifndef LH_QUANT_BLOCKS_H
#define LH_QUANT_BLOCKS_H

#include <string.h>

#include "quant_layout.h"

#if defined(__F16C__) || defined(__SSSE3__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// A float as a bfloat16: rounded to nearest even; NaN stays NaN.
static inline uint16_t lh_bfloat(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

// A half as a float, exactly.
static inline float lh_half(uint16_t h) {
#ifdef __F16C__
    return _cvtsh_ss(h);
#else
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff, bits;
    if (magnitude >= 0x7c00) {
        bits = magnitude << 13 | 0x7f800000;  // infinity, NaN
    } else if (magnitude >= 0x0400) {
        bits = (magnitude << 13) + ((127 - 15) << 23);
    } else {
        float subnormal = (float)magnitude * 0x1p-24f;
        memcpy(&bits, &subnormal, 4);
    }
    bits |= sign;
    float f;
    memcpy(&f, &bits, 4);
    return f;
#endif
}

// --- unpacking: q in the order of values, one scale (and min) for each run -----------------------------------------

// 16 bytes as one vector of GCC's and Clang's: loops this short are peeled before they could be vectorised.
typedef uint8_t lh_u8x16 __attribute__((vector_size(16)));

static inline lh_u8x16 lh_u8x16_load(const void *p) {
    lh_u8x16 v;
    memcpy(&v, p, 16);
    return v;
}

// 16 bytes of nibbles: the low ones, then the high ones. fifth: 32 bytes that are 0 or 16, or NULL.
static inline void lh_unpack_nibbles(const uint8_t *restrict qs, const uint8_t *fifth, uint8_t zero,
                                     int8_t *restrict q) {
    lh_u8x16 v = lh_u8x16_load(qs), low = v & 15, high = v >> 4;
    if (fifth) {
        low |= lh_u8x16_load(fifth);
        high |= lh_u8x16_load(fifth + 16);
    }
    low -= zero;
    high -= zero;
    memcpy(q, &low, 16);
    memcpy(q + 16, &high, 16);
}

// 32 bits as 32 bytes that are 0 or 16.
static inline void lh_unpack_fifth_bits(const uint8_t *qh, uint8_t *out) {
    for (int i = 0; i < 4; i++) {
        // A byte eight times; of the i-th copy bit i remains, is carried to the top where it is set, and moved down.
        uint64_t bits = qh[i] * 0x0101010101010101u & 0x8040201008040201u;
        bits = ((bits + 0x7f7f7f7f7f7f7f7f) & 0x8080808080808080) >> 3;
        memcpy(out + 8 * i, &bits, 8);
    }
}

// 16 bytes of nibbles as indices into lh_iq4_values.
static inline void lh_unpack_iq4(const uint8_t *restrict qs, int8_t *restrict q) {
    int8_t index[32];
    lh_unpack_nibbles(qs, NULL, 0, index);
#if defined(__SSSE3__)
    __m128i values = _mm_loadu_si128((const __m128i *)lh_iq4_values);
    for (int i = 0; i < 32; i += 16) {
        __m128i v = _mm_shuffle_epi8(values, _mm_loadu_si128((const __m128i *)(index + i)));
        _mm_storeu_si128((__m128i *)(q + i), v);
    }
#elif defined(__aarch64__)
    for (int i = 0; i < 32; i += 16)
        vst1q_s8(q + i, vqtbl1q_s8(vld1q_s8(lh_iq4_values), vreinterpretq_u8_s8(vld1q_s8(index + i))));
#else
    for (int i = 0; i < 32; i++) q[i] = lh_iq4_values[index[i]];
#endif
}

static inline void lh_unpack_q4_0(const lh_block_q4_0 *b, int8_t *q, float *scale) {
    scale[0] = lh_half(b->d);
    lh_unpack_nibbles(b->qs, NULL, 8, q);
}

static inline void lh_unpack_q4_1(const lh_block_q4_1 *b, int8_t *q, float *scale, float *min) {
    scale[0] = lh_half(b->d);
    min[0] = lh_half(b->m);
    lh_unpack_nibbles(b->qs, NULL, 0, q);
}

static inline void lh_unpack_q5_0(const lh_block_q5_0 *b, int8_t *q, float *scale) {
    uint8_t fifth[32];
    lh_unpack_fifth_bits(b->qh, fifth);
    scale[0] = lh_half(b->d);
    lh_unpack_nibbles(b->qs, fifth, 16, q);
}

static inline void lh_unpack_q5_1(const lh_block_q5_1 *b, int8_t *q, float *scale, float *min) {
    uint8_t fifth[32];
    lh_unpack_fifth_bits(b->qh, fifth);
    scale[0] = lh_half(b->d);
    min[0] = lh_half(b->m);
    lh_unpack_nibbles(b->qs, fifth, 0, q);
}

static inline void lh_unpack_q8_0(const lh_block_q8_0 *b, int8_t *q, float *scale) {
    scale[0] = lh_half(b->d);
    memcpy(q, b->qs, 32);
}

static inline void lh_unpack_iq4_nl(const lh_block_iq4_nl *b, int8_t *q, float *scale) {
    scale[0] = lh_half(b->d);
    lh_unpack_iq4(b->qs, q);
}

static inline void lh_unpack_q2_k(const lh_block_q2_k *restrict b, int8_t *restrict q, float *scale, float *min) {
    float d = lh_half(b->d), dmin = lh_half(b->dmin);
    for (int j = 0; j < 16; j++) {
        scale[j] = d * (float)(b->scales[j] & 15);
        min[j] = -(dmin * (float)(b->scales[j] >> 4));
    }
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 32; i++) q[128 * h + 32 * j + i] = (int8_t)(b->qs[32 * h + i] >> (2 * j) & 3);
}

static inline void lh_unpack_q3_k(const lh_block_q3_k *restrict b, int8_t *restrict q, float *scale) {
    float d = lh_half(b->d);
    for (int j = 0; j < 16; j++) {
        int low = b->scales[j % 8] >> (j / 8 * 4) & 15, high = b->scales[8 + j % 4] >> (j / 4 * 2) & 3;
        scale[j] = d * (float)((low | high << 4) - 32);
    }
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 32; i++) {
                int low = b->qs[32 * h + i] >> (2 * j) & 3, high = b->hmask[i] >> (4 * h + j) & 1;
                q[128 * h + 32 * j + i] = (int8_t)((low | high << 2) - 4);
            }
}

// The scales and mins of Q4_K and Q5_K, 6 bits each, as bytes: eight scales in two words, eight mins in two. The upper
// bits of the last four of each are the upper bits of the first four's bytes.
static inline void lh_scales_4_5_k(const uint8_t *packed, uint32_t words[4]) {
    uint32_t p[3];
    memcpy(p, packed, sizeof p);
    words[0] = p[0] & 0x3f3f3f3f;
    words[1] = (p[2] & 0x0f0f0f0f) | (p[0] >> 2 & 0x30303030);
    words[2] = p[1] & 0x3f3f3f3f;
    words[3] = (p[2] >> 4 & 0x0f0f0f0f) | (p[1] >> 2 & 0x30303030);
}

static inline void lh_unpack_scales_4_5_k(uint16_t d, uint16_t dmin, const uint8_t *packed, float *scale, float *min) {
    uint32_t words[4];
    uint8_t six[16];
    lh_scales_4_5_k(packed, words);
    memcpy(six, words, sizeof six);
    float factor = lh_half(d), minus = -lh_half(dmin);
    for (int j = 0; j < 8; j++) scale[j] = factor * (float)six[j];
    for (int j = 0; j < 8; j++) min[j] = minus * (float)six[8 + j];
}

static inline void lh_unpack_q4_k(const lh_block_q4_k *restrict b, int8_t *restrict q, float *scale, float *min) {
    lh_unpack_scales_4_5_k(b->d, b->dmin, b->scales, scale, min);
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 32; i++) q[64 * j + i] = (int8_t)(b->qs[32 * j + i] & 15);
        for (int i = 0; i < 32; i++) q[64 * j + 32 + i] = (int8_t)(b->qs[32 * j + i] >> 4);
    }
}

static inline void lh_unpack_q5_k(const lh_block_q5_k *restrict b, int8_t *restrict q, float *scale, float *min) {
    lh_unpack_scales_4_5_k(b->d, b->dmin, b->scales, scale, min);
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 32; i++)
            q[64 * j + i] = (int8_t)((b->qs[32 * j + i] & 15) | (b->qh[i] >> (2 * j) & 1) << 4);
        for (int i = 0; i < 32; i++)
            q[64 * j + 32 + i] = (int8_t)(b->qs[32 * j + i] >> 4 | (b->qh[i] >> (2 * j + 1) & 1) << 4);
    }
}

static inline void lh_unpack_q6_k(const lh_block_q6_k *restrict b, int8_t *restrict q, float *scale) {
    float d = lh_half(b->d);
    for (int j = 0; j < 16; j++) scale[j] = d * (float)b->scales[j];
    for (int h = 0; h < 2; h++) {
        const uint8_t *ql = b->ql + 64 * h, *qh = b->qh + 32 * h;
        int8_t *o = q + 128 * h;
        for (int i = 0; i < 32; i++) o[i] = (int8_t)(((ql[i] & 15) | (qh[i] & 3) << 4) - 32);
        for (int i = 0; i < 32; i++) o[32 + i] = (int8_t)(((ql[32 + i] & 15) | (qh[i] >> 2 & 3) << 4) - 32);
        for (int i = 0; i < 32; i++) o[64 + i] = (int8_t)((ql[i] >> 4 | (qh[i] >> 4 & 3) << 4) - 32);
        for (int i = 0; i < 32; i++) o[96 + i] = (int8_t)((ql[32 + i] >> 4 | (qh[i] >> 6) << 4) - 32);
    }
}

static inline void lh_unpack_iq4_xs(const lh_block_iq4_xs *restrict b, int8_t *restrict q, float *scale) {
    float d = lh_half(b->d);
    for (int j = 0; j < 8; j++) {
        int low = b->scales_l[j / 2] >> (j % 2 * 4) & 15, high = b->scales_h >> (2 * j) & 3;
        scale[j] = d * (float)((low | high << 4) - 32);
        lh_unpack_iq4(b->qs + 16 * j, q + 32 * j);
    }
}

// The quantised formats: X(suffix, TYPE, block_len, scale_len, has_min, bits, unpack call on block b).
// has_min: 1: w = scale * q + min, 0 <= q < 2^bits; 0: w = scale * q, -2^(bits-1) <= q < 2^(bits-1).
#define LH_QUANT_FORMATS(X)                                                    \
    X(q4_0, Q4_0, 32, 32, 0, 4, lh_unpack_q4_0(b, q, scale))                   \
    X(q4_1, Q4_1, 32, 32, 1, 4, lh_unpack_q4_1(b, q, scale, min))              \
    X(q5_0, Q5_0, 32, 32, 0, 5, lh_unpack_q5_0(b, q, scale))                   \
    X(q5_1, Q5_1, 32, 32, 1, 5, lh_unpack_q5_1(b, q, scale, min))              \
    X(q8_0, Q8_0, 32, 32, 0, 8, lh_unpack_q8_0(b, q, scale))                   \
    X(q2_k, Q2_K, 256, 16, 1, 2, lh_unpack_q2_k(b, q, scale, min))             \
    X(q3_k, Q3_K, 256, 16, 0, 3, lh_unpack_q3_k(b, q, scale))                  \
    X(q4_k, Q4_K, 256, 32, 1, 4, lh_unpack_q4_k(b, q, scale, min))             \
    X(q5_k, Q5_K, 256, 32, 1, 5, lh_unpack_q5_k(b, q, scale, min))             \
    X(q6_k, Q6_K, 256, 16, 0, 6, lh_unpack_q6_k(b, q, scale))                  \
    X(iq4_nl, IQ4_NL, 32, 32, 0, 8, lh_unpack_iq4_nl(b, q, scale))             \
    X(iq4_xs, IQ4_XS, 256, 32, 0, 8, lh_unpack_iq4_xs(b, q, scale))

// Defines unpack_*: n values, a multiple of the block length.
#define LH_DEFINE_UNPACK(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block)                      \
    static void unpack_##suffix(const void *blocks, int64_t n, int8_t *q, float *scale, float *min) {          \
        const lh_block_##suffix *b = blocks;                                                                   \
        (void)min;                                                                                             \
        for (int64_t i = 0; i < n; i += (block_len), b++) {                                                    \
            unpack_block;                                                                                      \
            q += (block_len);                                                                                  \
            scale += (block_len) / (scale_len);                                                                \
            if (has_min) min += (block_len) / (scale_len);                                                     \
        }                                                                                                      \
    }

#endif
