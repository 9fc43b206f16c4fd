// Floats, in the vectors of simd_*.h, which the file that includes this has included.
#include "probe_kernels.h"

static float fma_simd(int64_t rounds) {
    vf sum[LH_PROBE_SUMS], a = vf_set1(0.5f), b = vf_set1(0.25f);
    for (int i = 0; i < LH_PROBE_SUMS; i++) sum[i] = vf_set1((float)i);
    do {
        for (int i = 0; i < LH_PROBE_SUMS; i++) sum[i] = vf_fma(a, b, sum[i]);
    } while (--rounds > 0);
    for (int i = 1; i < LH_PROBE_SUMS; i++) sum[0] = vf_add(sum[0], sum[i]);
    return vf_sum(sum[0]);
}

static float read_simd(const float *x, int64_t n) {
    enum { SUMS = 8 };
    vf sum[SUMS];
    for (int i = 0; i < SUMS; i++) sum[i] = vf_set1(0);
    for (const float *end = x + n; x < end; x += SUMS * VN)
        for (int i = 0; i < SUMS; i++) sum[i] = vf_add(sum[i], vf_load(x + i * VN));
    for (int i = 1; i < SUMS; i++) sum[0] = vf_add(sum[0], sum[i]);
    return vf_sum(sum[0]);
}

static void set_float_probes(lh_probe_kernels *k) {
    k->fma_ops = LH_PROBE_SUMS * VN * 2;
    k->fma = fma_simd;
    k->read = read_simd;
}
