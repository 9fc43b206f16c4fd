// Mathematics over the vectors of a simd_*.h, which comes first.
#ifndef LH_SIMD_MATH_H
#define LH_SIMD_MATH_H

#define LOG2_E 0x1.715476p+0f

// e^x to 1 ulp for x up to 88; exactly 0 for what is too small, -inf included. e^x = 2^n e^r with |r| <= ln 2 / 2, and
// e^r = 1 + r + r^2 P(r), P of degree 4 with the least relative error (Remez exchange).
static inline vf vf_exp(vf x) {
    x = vf_max(x, vf_set1(-104));
    vf n = vf_round(vf_mul(x, vf_set1(LOG2_E)));
    // ln 2 in two parts, for two fused steps.
    vf r = vf_fma(n, vf_set1(-0x1.62e43p-1f), x);
    r = vf_fma(n, vf_set1(0x1.05c61p-29f), r);
    vf p = vf_set1(0x1.6a241ap-10f);
    p = vf_fma(p, r, vf_set1(0x1.1239f2p-7f));
    p = vf_fma(p, r, vf_set1(0x1.5558f2p-5f));
    p = vf_fma(p, r, vf_set1(0x1.555492p-3f));
    p = vf_fma(p, r, vf_set1(0x1.fffffcp-2f));
    p = vf_fma(p, r, vf_set1(1));
    return vf_scale(vf_fma(p, r, vf_set1(1)), n);
}

// 2^x for x <= 0, 0 for -infinity: to 8e-5, the relative error of a polynomial of degree 3 (Remez exchange); less than
// what rounding to bfloat16 does. 2^0 is not exactly 1.
static inline vf vf_power_of_two(vf x) {
    x = vf_max(x, vf_set1(-150));
    vf n = vf_round(x), r = vf_sub(x, n);
    vf p = vf_fma(vf_set1(0x1.c3f760p-5f), r, vf_set1(0x1.f0de1ap-3f));
    p = vf_fma(p, r, vf_set1(0x1.62f31ap-1f));
    return vf_scale(vf_fma(p, r, vf_set1(0x1.fff692p-1f)), n);
}

#endif
