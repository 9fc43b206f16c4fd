// Halves: arithmetic in float, rounded to nearest even, as the device does.
#ifndef LH_EMULATOR_CUDA_FP16_H
#define LH_EMULATOR_CUDA_FP16_H

#include "cuda_runtime.h"

float lh_emulator_half_to_float(uint16_t h);
uint16_t lh_emulator_float_to_half(float f);

struct __half {
    uint16_t bits;
    __half() = default;
    __half(float f) : bits(lh_emulator_float_to_half(f)) {}
    operator float() const { return lh_emulator_half_to_float(bits); }
};
typedef __half half;
struct __attribute__((aligned(4))) __half2 {
    __half x, y;
};
typedef __half2 half2;

inline __half __float2half(float f) { return __half(f); }
inline __half __float2half_rn(float f) { return __half(f); }
inline float __half2float(__half h) { return (float)h; }
inline __half __ushort_as_half(unsigned short bits) { return lh_emulator_bits<__half>((uint16_t)bits); }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline float2 __half22float2(__half2 h) { return {(float)h.x, (float)h.y}; }
inline float __low2float(__half2 h) { return (float)h.x; }
inline float __high2float(__half2 h) { return (float)h.y; }
inline __half __low2half(__half2 h) { return h.x; }
inline __half __high2half(__half2 h) { return h.y; }
inline __half2 __hmul2(__half2 a, __half2 b) {
    return {__half((float)a.x * (float)b.x), __half((float)a.y * (float)b.y)};
}
inline __half2 __hadd2(__half2 a, __half2 b) {
    return {__half((float)a.x + (float)b.x), __half((float)a.y + (float)b.y)};
}
inline __half2 __hsub2(__half2 a, __half2 b) {
    return {__half((float)a.x - (float)b.x), __half((float)a.y - (float)b.y)};
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
    return {__half(fmaf(a.x, b.x, c.x)), __half(fmaf(a.y, b.y, c.y))};
}
inline __half2 __hmax2(__half2 a, __half2 b) {
    return {__half(fmaxf(a.x, b.x)), __half(fmaxf(a.y, b.y))};
}
inline __half2 __hmin2(__half2 a, __half2 b) {
    return {__half(fminf(a.x, b.x)), __half(fminf(a.y, b.y))};
}

#endif
