// exp for vectors, less than 1 ulp of error: exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln 2 / 2.
// exp(r) is 1 + r + r^2 * P(r), P of degree 4 with the least relative error (Remez exchange).
// Arguments are clamped to where the result is 0 or infinity already, so that infinities come out right; NaN stays NaN.
#ifndef LH_VEC_EXP_H
#define LH_VEC_EXP_H

#define LH_EXP_MIN -104.0f            // exp is less than half of the least subnormal: 0
#define LH_EXP_MAX 89.0f              // more than the largest float: infinity
#define LH_EXP_LOG2E 0x1.715476p+0f
#define LH_EXP_LN2_HI 0x1.62e43p-1f   // ln 2 in two parts, for two fused steps
#define LH_EXP_LN2_LO -0x1.05c61p-29f
#define LH_EXP_P0 0x1.fffffcp-2f
#define LH_EXP_P1 0x1.555492p-3f
#define LH_EXP_P2 0x1.5558f2p-5f
#define LH_EXP_P3 0x1.1239f2p-7f
#define LH_EXP_P4 0x1.6a241ap-10f

#endif
