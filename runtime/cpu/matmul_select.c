#include "features.h"
#include "matmul_kernels.h"

void lh_matmul_kernels_select(unsigned features, lh_matmul_kernels *out) {
    *out = (lh_matmul_kernels){0};
    lh_matmul_kernels_generic(out);
#if defined(__x86_64__)
    if (features & LH_CPU_AVX2) lh_matmul_kernels_avx2(out);
    if (features & LH_CPU_AVX512) lh_matmul_kernels_avx512(out);
    if (features & LH_CPU_AVX512_VNNI) lh_matmul_kernels_avx512vnni(out);
#ifndef LH_NO_AMX
    if (features & LH_CPU_AMX) lh_matmul_kernels_amx(out);
#endif
#elif defined(__aarch64__)
    if (features & LH_CPU_NEON) lh_matmul_kernels_neon(out);
    if (features & LH_CPU_DOTPROD) lh_matmul_kernels_dotprod(out);
#else
    (void)features;
#endif
}
