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

#endif
