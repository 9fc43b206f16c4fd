#include "features.h"
#include "matmul_kernels.h"

void lh_matmul_kernels_select(unsigned features, lh_matmul_kernels *out) {
    *out = (lh_matmul_kernels){0};
    lh_matmul_kernels_generic(out);
#if defined(__x86_64__)
    if (features & LH_CPU_AVX512) lh_matmul_kernels_avx512(out);
    if (features & LH_CPU_AVX512_VNNI) lh_matmul_kernels_avx512vnni(out);
#else
    (void)features;
#endif
}
