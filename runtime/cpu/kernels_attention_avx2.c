#include "simd_avx2.h"
// The vectors come first: the kernels are written in them.
#include "attention_simd.h"

const lh_attention_kernels lh_attention_kernels_avx2 = {
    .rotate = rotate_simd,
    .store = store_simd,
    .load = load_simd,
    .attend = attend_simd,
    .top = top_simd,
};
