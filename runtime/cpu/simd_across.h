// One number of each of 16 vectors, in one. Over simd_avx512.h, which comes first.
#ifndef LH_SIMD_ACROSS_H
#define LH_SIMD_ACROSS_H

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
ACROSS(most_across, MOST)
ACROSS(sum_across, SUM)
ACROSS(most_word_across, MOST_WORD)
#undef ACROSS
#undef MOST_WORD
#undef SUM
#undef MOST

#endif
