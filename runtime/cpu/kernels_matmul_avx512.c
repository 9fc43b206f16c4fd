// AVX-512 (F, BW, DQ, VL), but for the products of quantised weights: without VNNI those are AVX2's.
#include "simd_avx512.h"
// The vectors come first: the kernels are written in them.
#include "matmul_float_simd.h"

void lh_matmul_kernels_avx512(lh_matmul_kernels *k) {
    k->name = "avx512";
    set_float_kernels(k);
}
