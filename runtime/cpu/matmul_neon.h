// Both kinds of NEON kernels: with sdot where the file is compiled for it, else with what sdot is made of.
#include "simd_neon.h"

typedef int32x4_t vi;
#define Q_TOKENS 6
#define Q_SHIFT(bits, has_min) -1
#define Q_STEPS(bits) 8

static inline vi dot_bytes(vi sum, int8x16_t w, int8x16_t a) {
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, w, a);
#else
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(a)));
    int32x4_t high = vpaddlq_s16(vmull_high_s8(w, a));
    return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}

static inline vi vi_load(const void *p) { return vreinterpretq_s32_s8(vld1q_s8(p)); }
static inline vi vi_set1(int32_t a) { return vdupq_n_s32(a); }
static inline vi vi_dot(int bits, vi sum, vi w, vi a) {
    (void)bits;
    return dot_bytes(sum, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(a));
}
static inline vi vi_finish(vi sum) { return sum; }
static inline vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
static inline vi vi_less(vi sum, vi a, int shift) { return vsubq_s32(sum, vshlq_s32(a, vdupq_n_s32(shift))); }
static inline vi vi_dot16(vi sum, const int8_t *w, const int8_t *a) { return dot_bytes(sum, vld1q_s8(w), vld1q_s8(a)); }
static inline vf vi_float(vi a) { return vcvtq_f32_s32(a); }
static inline vf weight_words(const int8_t *q, int more) {
    return vreinterpretq_f32_s8(vaddq_s8(vld1q_s8(q), vdupq_n_s8((int8_t)more)));
}

// The vectors come first: the kernels are written in them.
#include "matmul_float_simd.h"
#include "matmul_quant_simd.h"
#include "dot_quant_simd.h"
