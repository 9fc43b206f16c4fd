#include "simd_neon.h"
// The vectors come first: the kernels are written in them.
#include "attention_simd.h"

const lh_attention_kernels lh_attention_kernels_neon = {
    .rotate = rotate_simd,
    .store = store_simd,
    .load = load_simd,
    .attend = attend_simd,
    .top = top_simd,
};
