// Vector mathematics with AVX-512F.
#ifndef LH_VEC_AVX512_H
#define LH_VEC_AVX512_H

#include <immintrin.h>

#include "vec_exp.h"

static inline __m512 lh_exp_ps_avx512(__m512 x) {
    // max and min give their second argument where one is NaN.
    x = _mm512_min_ps(_mm512_set1_ps(LH_EXP_MAX), _mm512_max_ps(_mm512_set1_ps(LH_EXP_MIN), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(LH_EXP_LOG2E)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LH_EXP_LN2_HI), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LH_EXP_LN2_LO), r);
    __m512 p = _mm512_set1_ps(LH_EXP_P4);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(LH_EXP_P3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(LH_EXP_P2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(LH_EXP_P1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(LH_EXP_P0));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

// 16 rows of 16 words become 16 columns of 16 words.
static inline __attribute__((always_inline)) void lh_transpose_16x16(__m512i v[16]) {
    __m512i a[16];
    for (int i = 0; i < 16; i += 4) {
        __m512i lo01 = _mm512_unpacklo_epi32(v[i], v[i + 1]), hi01 = _mm512_unpackhi_epi32(v[i], v[i + 1]);
        __m512i lo23 = _mm512_unpacklo_epi32(v[i + 2], v[i + 3]), hi23 = _mm512_unpackhi_epi32(v[i + 2], v[i + 3]);
        a[i] = _mm512_unpacklo_epi64(lo01, lo23);
        a[i + 1] = _mm512_unpackhi_epi64(lo01, lo23);
        a[i + 2] = _mm512_unpacklo_epi64(hi01, hi23);
        a[i + 3] = _mm512_unpackhi_epi64(hi01, hi23);
    }
    // a[4i + j]: rows 4i..4i+3, columns j, 4+j, 8+j, 12+j, one in each quarter.
    for (int j = 0; j < 4; j++) {
        __m512i even01 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88), odd01 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
        __m512i even23 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
        __m512i odd23 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
        v[j] = _mm512_shuffle_i32x4(even01, even23, 0x88);
        v[4 + j] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
        v[8 + j] = _mm512_shuffle_i32x4(even01, even23, 0xdd);
        v[12 + j] = _mm512_shuffle_i32x4(odd01, odd23, 0xdd);
    }
}

#endif
