// Vector mathematics with AVX2 and FMA.
#ifndef LH_VEC_AVX2_H
#define LH_VEC_AVX2_H

#include <immintrin.h>

#include "vec_exp.h"

// 2^n, n in -126..127.
static inline __m256 lh_exp2i_avx2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

static inline __m256 lh_exp_ps_avx2(__m256 x) {
    // max and min give their second argument where one is NaN.
    x = _mm256_min_ps(_mm256_set1_ps(LH_EXP_MAX), _mm256_max_ps(_mm256_set1_ps(LH_EXP_MIN), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(LH_EXP_LOG2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LH_EXP_LN2_HI), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LH_EXP_LN2_LO), r);
    __m256 p = _mm256_set1_ps(LH_EXP_P4);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(LH_EXP_P3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(LH_EXP_P2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(LH_EXP_P1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(LH_EXP_P0));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    // n reaches -150 and 128: in two steps.
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, lh_exp2i_avx2(half)), lh_exp2i_avx2(_mm256_sub_epi32(whole, half)));
}

#endif
