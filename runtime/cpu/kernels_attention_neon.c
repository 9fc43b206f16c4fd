#include "simd_neon.h"
// The vectors come first: the kernels are written in them.
#include "attention_simd.h"

typedef int16x8_t vs;
static inline vs vs_load(const void *p) { return vreinterpretq_s16_u8(vld1q_u8(p)); }
static inline vs vs_set1(int16_t a) { return vdupq_n_s16(a); }
static inline vs vs_set1_pair(int32_t twice) { return vreinterpretq_s16_s32(vdupq_n_s32(twice)); }
static inline vs vs_dot(vs codes, vs q) {
    int8x16_t a = vreinterpretq_s8_s16(codes), b = vreinterpretq_s8_s16(q);
    return vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
}
static inline vs vs_bits(vs a, int from, int n) {
    uint8x16_t shifted = vshlq_u8(vreinterpretq_u8_s16(a), vdupq_n_s8((int8_t)-from));
    return vreinterpretq_s16_u8(vandq_u8(shifted, vdupq_n_u8((uint8_t)((1 << n) - 1))));
}
static inline vs vs_times(vs a, int bits) { return vshlq_s16(a, vdupq_n_s16((int16_t)bits)); }
static inline vs vs_add(vs a, vs b) { return vaddq_s16(a, b); }
static inline vs vs_max(vs a, vs b) { return vmaxq_s16(a, b); }
static inline int32_t vs_top(vs a) { return vmaxvq_s16(a); }
#include "peak_simd.h"

const lh_attention_kernels lh_attention_kernels_neon = {
    .rotate = rotate_simd,
    .store = store_simd,
    .load = load_simd,
    .attend = attend_simd,
    .top = top_simd,
    .peak_codes = peak_codes_simd,
    .peak = peak_simd,
    .peak_one = peak_one_simd,
};
