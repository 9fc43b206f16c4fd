// Device functions of CUDA that kernels use; included by cuda_runtime.h.
#ifndef LH_EMULATOR_DEVICE_FUNCTIONS_H
#define LH_EMULATOR_DEVICE_FUNCTIONS_H

// --- barriers and warp operations --------------------------------------------------------------------------------

static inline void __syncthreads() { lh_emulator_block(0); }
static inline int __syncthreads_count(int value) { return lh_emulator_block(value != 0); }
static inline int __syncthreads_or(int value) { return lh_emulator_block(value != 0) != 0; }
static inline int __syncthreads_and(int value) { return lh_emulator_block(value == 0) == 0; }
static inline void __threadfence_block() {}
static inline void __threadfence() {}
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    lh_emulator_warp(mask, [](void **) {}, &mask);
}

template <class T>
struct lh_shuffle {
    T value, result;
    int from;  // lane
};

template <class T>
inline void lh_emulator_shuffle(void *args[32]) {
    for (int i = 0; i < 32; i++) {
        auto *to = (lh_shuffle<T> *)args[i];
        if (!to) continue;
        auto *from = (lh_shuffle<T> *)args[to->from];
        if (!from) lh_emulator_fail("lane %d reads lane %d, which takes no part in the shuffle", i, to->from);
        to->result = from->value;
    }
}

template <class T>
inline T lh_emulator_shuffle_from(unsigned mask, T value, int from) {
    lh_shuffle<T> s = {value, value, from};
    lh_emulator_warp(mask, lh_emulator_shuffle<T>, &s);
    return s.result;
}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    int base = lh_emulated->lane / width * width;
    return lh_emulator_shuffle_from(mask, value, base + (lane & (width - 1)));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int to = lh_emulated->lane ^ bits, base = lh_emulated->lane / width * width;
    return lh_emulator_shuffle_from(mask, value, to < base + width ? to : lh_emulated->lane);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    int to = lh_emulated->lane - (int)by, base = lh_emulated->lane / width * width;
    return lh_emulator_shuffle_from(mask, value, to >= base ? to : lh_emulated->lane);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    int to = lh_emulated->lane + (int)by, base = lh_emulated->lane / width * width;
    return lh_emulator_shuffle_from(mask, value, to < base + width ? to : lh_emulated->lane);
}

struct lh_vote {
    unsigned value, bits, sum, least, most;
};

inline void lh_emulator_vote(void *args[32]) {
    lh_vote all = {0, 0, 0, 0xffffffffu, 0};
    for (int i = 0; i < 32; i++) {
        auto *v = (lh_vote *)args[i];
        if (!v) continue;
        all.bits |= (unsigned)(v->value != 0) << i;
        all.sum += v->value;
        all.least = v->value < all.least ? v->value : all.least;
        all.most = v->value > all.most ? v->value : all.most;
    }
    for (int i = 0; i < 32; i++) {
        auto *v = (lh_vote *)args[i];
        if (v) v->bits = all.bits, v->sum = all.sum, v->least = all.least, v->most = all.most;
    }
}

inline lh_vote lh_emulator_voted(unsigned mask, unsigned value) {
    lh_vote v = {value, 0, 0, 0, 0};
    lh_emulator_warp(mask, lh_emulator_vote, &v);
    return v;
}

inline unsigned __ballot_sync(unsigned mask, int value) { return lh_emulator_voted(mask, value != 0).bits; }
inline int __any_sync(unsigned mask, int value) { return lh_emulator_voted(mask, value != 0).bits != 0; }
inline int __all_sync(unsigned mask, int value) { return lh_emulator_voted(mask, value == 0).bits == 0; }
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) { return lh_emulator_voted(mask, value).sum; }
inline int __reduce_add_sync(unsigned mask, int value) { return (int)lh_emulator_voted(mask, (unsigned)value).sum; }
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) { return lh_emulator_voted(mask, value).most; }
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) { return lh_emulator_voted(mask, value).least; }
inline int __reduce_max_sync(unsigned mask, int value) {
    return (int)(lh_emulator_voted(mask, (unsigned)value ^ 0x80000000u).most ^ 0x80000000u);
}
inline int __reduce_min_sync(unsigned mask, int value) {
    return (int)(lh_emulator_voted(mask, (unsigned)value ^ 0x80000000u).least ^ 0x80000000u);
}

// --- arithmetic --------------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline int __float2int_rz(float x) { return (int)x; }
inline float __int2float_rn(int x) { return (float)x; }
template <class To, class From>
inline To lh_emulator_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &x, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return lh_emulator_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return lh_emulator_bits<unsigned>(x); }
inline float __int_as_float(int x) { return lh_emulator_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return lh_emulator_bits<float>(x); }

inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t both = (uint64_t)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> (4 * i) & 15, byte = (unsigned)(both >> (8 * (s & 7))) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        out |= byte << (8 * i);
    }
    return out;
}
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> (8 * i)) * (int)(int8_t)(b >> (8 * i));
    return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 4; i++) c += (a >> (8 * i) & 255) * (b >> (8 * i) & 255);
    return c;
}
inline unsigned __vsubss4(unsigned a, unsigned b) {
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        int d = (int)(int8_t)(a >> (8 * i)) - (int)(int8_t)(b >> (8 * i));
        out |= ((unsigned)(d < -128 ? -128 : d > 127 ? 127 : d) & 255) << (8 * i);
    }
    return out;
}
inline unsigned __vsub4(unsigned a, unsigned b) {
    unsigned out = 0;
    for (int i = 0; i < 4; i++) out |= (((a >> (8 * i)) - (b >> (8 * i))) & 255) << (8 * i);
    return out;
}

// One thread runs at a time.
template <class T>
inline T atomicAdd(T *at, T by) {
    T old = *at;
    *at = old + by;
    return old;
}
template <class T>
inline T atomicMax(T *at, T with) {
    T old = *at;
    if (with > old) *at = with;
    return old;
}
template <class T>
inline T atomicMin(T *at, T with) {
    T old = *at;
    if (with < old) *at = with;
    return old;
}
template <class T>
inline T atomicOr(T *at, T with) {
    T old = *at;
    *at = old | with;
    return old;
}
template <class T>
inline T atomicExch(T *at, T with) {
    T old = *at;
    *at = with;
    return old;
}
template <class T>
inline T atomicCAS(T *at, T expected, T with) {
    T old = *at;
    if (old == expected) *at = with;
    return old;
}

template <class T>
inline T __ldg(const T *p) { return *p; }
template <class T>
inline T __ldcs(const T *p) { return *p; }
template <class T>
inline T __ldcg(const T *p) { return *p; }
inline unsigned __cvta_generic_to_shared(const void *) { return 0; }

// CUDA has these in the global namespace.
template <class T>
inline T min(T a, T b) { return a < b ? a : b; }
template <class T>
inline T max(T a, T b) { return a > b ? a : b; }

#endif
