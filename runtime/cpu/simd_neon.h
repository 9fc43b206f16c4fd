// The vectors that attention_simd.h is written in, as NEON (AArch64); see simd_avx512.h.
#ifndef LH_SIMD_NEON_H
#define LH_SIMD_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

typedef float32x4_t vf;
#define VN 4
#define BLOCK_ROWS 6  // 6 x 4 accumulators and 5 operands of 32 registers
#define BLOCK_VECS 4
#define FEW_ROWS 3    // up to so many a panel costs attention more than it saves
// As with AVX2; not measured.
#define FETCH_AHEAD 4096
#define FETCH lh_prefetch

static inline vf vf_load(const float *p) { return vld1q_f32(p); }
static inline void vf_store(float *p, vf a) { vst1q_f32(p, a); }
static inline vf vf_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline void vf_store_f16(uint16_t *p, vf a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a))); }
static inline vf vf_load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
static inline vf vf_load_i8(const int8_t *p) {
    int32_t bytes;
    memcpy(&bytes, p, 4);
    int16x8_t words = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
}
// Rounded to whole numbers within -128..127.
static inline void vf_store_i8(int8_t *p, vf a) {
    int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(a));
    vst1_lane_s32((int32_t *)(void *)p, vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(words, words))), 0);
}
static inline vf vf_set1(float x) { return vdupq_n_f32(x); }
static inline vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
static inline vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf vf_min(vf a, vf b) { return vminq_f32(a, b); }
static inline vf vf_max(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf vf_swap_pairs(vf a) { return vrev64q_f32(a); }
static inline float vf_sum(vf a) { return vaddvq_f32(a); }
static inline float vf_top(vf a) { return vmaxvq_f32(a); }

// Two halves of the power, because 2^n itself is no normal number below n = -126.
static inline vf vf_scale(vf p, vf n) {
    int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1), bias = vdupq_n_s32(127);
    vf a = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    vf b = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(whole, half), bias), 23));
    return vmulq_f32(vmulq_f32(p, a), b);
}
static inline vf vf_round(vf a) { return vrndnq_f32(a); }

static inline void vf_transpose(vf r[VN]) {
    float32x4x2_t ab = vtrnq_f32(r[0], r[1]), cd = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
    r[1] = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
    r[2] = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
    r[3] = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
}

// Lane i: the sum of v[i].
static inline vf vf_sums(vf v[VN]) { return vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])); }

#endif
