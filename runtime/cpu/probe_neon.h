// Both kinds of NEON: with sdot where the file is compiled for it, else with what sdot is made of.
#include "simd_neon.h"

typedef int32x4_t vi;
#define VI_REGISTER "w"

static inline vi vi_set1(int32_t a) { return vdupq_n_s32(a); }
static inline vi vi_bytes(vi sum, vi w, vi a) {
    int8x16_t x = vreinterpretq_s8_s32(w), y = vreinterpretq_s8_s32(a);
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, x, y);
#else
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)));
    return vaddq_s32(sum, vpaddq_s32(low, vpaddlq_s16(vmull_high_s8(x, y))));
#endif
}

// The vectors come first: the loops are written in them.
#include "probe_float_simd.h"
#include "probe_int8_simd.h"
