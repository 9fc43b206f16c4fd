// The vectors that attention_simd.h is written in, as AVX-512. The same names in simd_avx2.h and simd_neon.h.
#ifndef LH_SIMD_AVX512_H
#define LH_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>

typedef __m512 vf;
#define VN 16        // floats in a vector
#define BLOCK_ROWS 6  // a register tile: 6 x 4 accumulators and 5 operands of 32 registers
#define BLOCK_VECS 4
#define FEW_ROWS 8    // up to so many a panel costs attention more than it saves
// Measured where two threads of a core share 16 lines on their way to the first-level cache: fetched into it, 4 KB
// ahead, weights of 8 bits came at 60% of what they come at this way, weights of 4 bits at 75%.
#define FETCH_AHEAD 3584
#define FETCH lh_prefetch_second

static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline void vf_store_f16(uint16_t *p, vf a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline vf vf_load_bf16(const uint16_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline vf vf_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
// Rounded to whole numbers within -128..127.
static inline void vf_store_i8(int8_t *p, vf a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}
static inline vf vf_set1(float x) { return _mm512_set1_ps(x); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_swap_pairs(vf a) { return _mm512_permute_ps(a, 0xb1); }
static inline float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }
static inline float vf_top(vf a) { return _mm512_reduce_max_ps(a); }

// p * 2^n for whole n; underflows to 0.
static inline vf vf_scale(vf p, vf n) { return _mm512_scalef_ps(p, n); }
static inline vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// r[i][j] <-> r[j][i]
static inline void vf_transpose(vf r[VN]) {
    __m512 t[16], u[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        u[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        u[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        u[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
        u[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    }
    // u[4a + c] holds, in its lane b, column 4b + c of rows 4a .. 4a + 3.
    for (int c = 0; c < 4; c++) {
        __m512 lo01 = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x88), hi01 = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xdd);
        __m512 lo23 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x88);
        __m512 hi23 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xdd);
        r[c] = _mm512_shuffle_f32x4(lo01, lo23, 0x88);
        r[8 + c] = _mm512_shuffle_f32x4(lo01, lo23, 0xdd);
        r[4 + c] = _mm512_shuffle_f32x4(hi01, hi23, 0x88);
        r[12 + c] = _mm512_shuffle_f32x4(hi01, hi23, 0xdd);
    }
}

#define MOST(a, b) _mm512_max_ps(a, b)
#define SUM(a, b) _mm512_add_ps(a, b)
#define MOST_WORD(a, b) \
    _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)))

// Lane i: all lanes of v[i], put together by `both`. Two vectors become one that has half of each, four times over.
#define ACROSS(name, both)                                                                                         \
    static inline __m512 name(__m512 v[16]) {                                                                      \
        for (int i = 0; i < 8; i++)                                                                                \
            v[i] = both(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));   \
        for (int i = 0; i < 4; i++) {                                                                              \
            __m512d a = _mm512_castps_pd(v[2 * i]), b = _mm512_castps_pd(v[2 * i + 1]);                            \
            v[i] = both(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));   \
        }                                                                                                          \
        for (int n = 2; n > 0; n /= 2)                                                                             \
            for (int i = 0; i < n; i++)                                                                            \
                v[i] = both(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x88),                                    \
                            _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xdd));                                   \
        return v[0];                                                                                               \
    }
ACROSS(vf_tops, MOST)
ACROSS(vf_sums, SUM)
ACROSS(vf_top_words, MOST_WORD)
#undef ACROSS
#undef MOST_WORD
#undef SUM
#undef MOST

#endif
