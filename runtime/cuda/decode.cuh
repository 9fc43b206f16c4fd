// Decoding weights on the device: eight consecutive values of a row of blocks, for every type of quant.h. One struct a
// type; the layouts are those of quant_layout.h, whose blocks all begin at even addresses, so two bytes are the widest
// load. Small integers become floats by being the low bits of 2^23: a byte is put there by one permutation.
#ifndef LH_CUDA_DECODE_CUH
#define LH_CUDA_DECODE_CUH

#include <stddef.h>

#include "cuda.h"

#define LH_DEVICE static __device__ __forceinline__

LH_DEVICE uint32_t lh_load16(const unsigned char *p) { return *(const unsigned short *)p; }
LH_DEVICE uint32_t lh_load32(const unsigned char *p) { return lh_load16(p) | lh_load16(p + 2) << 16; }
LH_DEVICE float lh_load_half(const unsigned char *p) {
    return __half2float(__ushort_as_half(*(const unsigned short *)p));
}

// out[j] = scale * (byte j of lo and hi, less zero) + min
LH_DEVICE void lh_bytes_to_floats(uint32_t lo, uint32_t hi, float zero, float scale, float min, float out[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++) {
        uint32_t bits = __byte_perm(j < 4 ? lo : hi, 0x4b000000u, 0x7440u + (unsigned)(j % 4));
        out[j] = scale * (__uint_as_float(bits) - (8388608.0f + zero)) + min;
    }
}

// Four nibbles, a byte each, as the bytes that lh_iq4_values has for them, plus 128.
LH_DEVICE uint32_t lh_iq4_bytes(uint32_t v) {
    // The table plus 128, four entries a word.
    const uint32_t t0 = 0x3f2d1801u, t1 = 0x766a5d4fu, t2 = 0xa6998d81u, t3 = 0xf1d9c5b5u;
    uint32_t pairs = (v | v >> 4) & 0x00ff00ffu, nibbles = (pairs | pairs >> 8) & 0x7777u;
    uint32_t upper = (v >> 3 & 0x01010101u) * 255u;  // all ones where the index is 8 or more
    return (__byte_perm(t0, t1, nibbles) & ~upper) | (__byte_perm(t2, t3, nibbles) & upper);
}

// The i-th to (i+7)-th values of a block of 32 in nibbles: low ones first.
LH_DEVICE void lh_nibbles(const unsigned char *qs, int i, uint32_t *lo, uint32_t *hi) {
    int shift = i / 16 * 4;
    *lo = lh_load32(qs + i % 16) >> shift & 0x0f0f0f0fu;
    *hi = lh_load32(qs + i % 16 + 4) >> shift & 0x0f0f0f0fu;
}

// Four bits as bytes that are 0 or 16.
LH_DEVICE uint32_t lh_fifth_bits(uint32_t bits) {
    return (bits << 4 & 0x10u) | (bits << 11 & 0x1000u) | (bits << 18 & 0x100000u) | (bits << 25 & 0x10000000u);
}

template <int type>
struct lh_decoder;  // len, size: a block's values and bytes; eight(block, i, out): values i..i+7, i a multiple of 8

template <>
struct lh_decoder<LH_TYPE_Q4_0> {
    enum { len = 32, size = sizeof(lh_block_q4_0) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        uint32_t lo, hi;
        lh_nibbles(b + offsetof(lh_block_q4_0, qs), i, &lo, &hi);
        lh_bytes_to_floats(lo, hi, 8, lh_load_half(b), 0, out);
    }
};

template <>
struct lh_decoder<LH_TYPE_Q4_1> {
    enum { len = 32, size = sizeof(lh_block_q4_1) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        uint32_t lo, hi;
        lh_nibbles(b + offsetof(lh_block_q4_1, qs), i, &lo, &hi);
        lh_bytes_to_floats(lo, hi, 0, lh_load_half(b), lh_load_half(b + 2), out);
    }
};

template <>
struct lh_decoder<LH_TYPE_Q5_0> {
    enum { len = 32, size = sizeof(lh_block_q5_0) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        uint32_t lo, hi, fifth = lh_load32(b + offsetof(lh_block_q5_0, qh)) >> i;
        lh_nibbles(b + offsetof(lh_block_q5_0, qs), i, &lo, &hi);
        lh_bytes_to_floats(lo | lh_fifth_bits(fifth), hi | lh_fifth_bits(fifth >> 4), 16, lh_load_half(b), 0, out);
    }
};

template <>
struct lh_decoder<LH_TYPE_Q5_1> {
    enum { len = 32, size = sizeof(lh_block_q5_1) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        uint32_t lo, hi, fifth = lh_load32(b + offsetof(lh_block_q5_1, qh)) >> i;
        lh_nibbles(b + offsetof(lh_block_q5_1, qs), i, &lo, &hi);
        lh_bytes_to_floats(lo | lh_fifth_bits(fifth), hi | lh_fifth_bits(fifth >> 4), 0, lh_load_half(b),
                           lh_load_half(b + 2), out);
    }
};

template <>
struct lh_decoder<LH_TYPE_Q8_0> {
    enum { len = 32, size = sizeof(lh_block_q8_0) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        const unsigned char *q = b + offsetof(lh_block_q8_0, qs) + i;
        lh_bytes_to_floats(lh_load32(q) ^ 0x80808080u, lh_load32(q + 4) ^ 0x80808080u, 128, lh_load_half(b), 0, out);
    }
};

template <>
struct lh_decoder<LH_TYPE_IQ4_NL> {
    enum { len = 32, size = sizeof(lh_block_iq4_nl) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        uint32_t lo, hi;
        lh_nibbles(b + offsetof(lh_block_iq4_nl, qs), i, &lo, &hi);
        lh_bytes_to_floats(lh_iq4_bytes(lo), lh_iq4_bytes(hi), 128, lh_load_half(b), 0, out);
    }
};

template <>
struct lh_decoder<LH_TYPE_IQ4_XS> {
    enum { len = 256, size = sizeof(lh_block_iq4_xs) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        int run = i / 32;
        uint32_t low = b[offsetof(lh_block_iq4_xs, scales_l) + run / 2] >> (run % 2 * 4) & 15u;
        uint32_t high = lh_load16(b + offsetof(lh_block_iq4_xs, scales_h)) >> (2 * run) & 3u, lo, hi;
        float scale = lh_load_half(b) * (float)((int)(low | high << 4) - 32);
        lh_nibbles(b + offsetof(lh_block_iq4_xs, qs) + 16 * run, i % 32, &lo, &hi);
        lh_bytes_to_floats(lh_iq4_bytes(lo), lh_iq4_bytes(hi), 128, scale, 0, out);
    }
};

template <>
struct lh_decoder<LH_TYPE_Q2_K> {
    enum { len = 256, size = sizeof(lh_block_q2_k) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        const unsigned char *q = b + offsetof(lh_block_q2_k, qs) + i / 128 * 32 + i % 32;
        uint32_t shift = (uint32_t)(i % 128 / 32 * 2), s = b[i / 16];
        float scale = lh_load_half(b + offsetof(lh_block_q2_k, d)) * (float)(s & 15);
        float min = lh_load_half(b + offsetof(lh_block_q2_k, dmin)) * (float)(s >> 4);
        lh_bytes_to_floats(lh_load32(q) >> shift & 0x03030303u, lh_load32(q + 4) >> shift & 0x03030303u, 0, scale, -min,
                           out);
    }
};

template <>
struct lh_decoder<LH_TYPE_Q3_K> {
    enum { len = 256, size = sizeof(lh_block_q3_k) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        const unsigned char *q = b + offsetof(lh_block_q3_k, qs) + i / 128 * 32 + i % 32, *mask = b + i % 32;
        const unsigned char *scales = b + offsetof(lh_block_q3_k, scales);
        int j = i / 16, shift = i % 128 / 32 * 2, bit = i / 32;
        int six = (scales[j % 8] >> (j / 8 * 4) & 15) | (scales[8 + j % 4] >> (j / 4 * 2) & 3) << 4;
        uint32_t lo = lh_load32(q) >> shift & 0x03030303u, hi = lh_load32(q + 4) >> shift & 0x03030303u;
        lo |= (lh_load32(mask) >> bit & 0x01010101u) << 2;
        hi |= (lh_load32(mask + 4) >> bit & 0x01010101u) << 2;
        lh_bytes_to_floats(lo, hi, 4, lh_load_half(b + offsetof(lh_block_q3_k, d)) * (float)(six - 32), 0, out);
    }
};

// Scale and min number j of Q4_K and Q5_K, 6 bits each.
LH_DEVICE void lh_scale_min_k(const unsigned char *p, int j, float d, float dmin, float *scale, float *min) {
    int s = j < 4 ? p[j] & 63 : (p[j + 4] & 15) | p[j - 4] >> 6 << 4;
    int m = j < 4 ? p[j + 4] & 63 : p[j + 4] >> 4 | p[j] >> 6 << 4;
    *scale = d * (float)s;
    *min = -(dmin * (float)m);
}

template <>
struct lh_decoder<LH_TYPE_Q4_K> {
    enum { len = 256, size = sizeof(lh_block_q4_k) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        const unsigned char *q = b + offsetof(lh_block_q4_k, qs) + i / 64 * 32 + i % 32;
        int shift = i % 64 / 32 * 4;
        float scale, min;
        lh_scale_min_k(b + offsetof(lh_block_q4_k, scales), i / 32, lh_load_half(b), lh_load_half(b + 2), &scale, &min);
        lh_bytes_to_floats(lh_load32(q) >> shift & 0x0f0f0f0fu, lh_load32(q + 4) >> shift & 0x0f0f0f0fu, 0, scale, min,
                           out);
    }
};

template <>
struct lh_decoder<LH_TYPE_Q5_K> {
    enum { len = 256, size = sizeof(lh_block_q5_k) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        const unsigned char *q = b + offsetof(lh_block_q5_k, qs) + i / 64 * 32 + i % 32;
        const unsigned char *h = b + offsetof(lh_block_q5_k, qh) + i % 32;
        int shift = i % 64 / 32 * 4, bit = i / 32;
        float scale, min;
        lh_scale_min_k(b + offsetof(lh_block_q5_k, scales), i / 32, lh_load_half(b), lh_load_half(b + 2), &scale, &min);
        uint32_t lo = lh_load32(q) >> shift & 0x0f0f0f0fu, hi = lh_load32(q + 4) >> shift & 0x0f0f0f0fu;
        lo |= (lh_load32(h) >> bit & 0x01010101u) << 4;
        hi |= (lh_load32(h + 4) >> bit & 0x01010101u) << 4;
        lh_bytes_to_floats(lo, hi, 0, scale, min, out);
    }
};

template <>
struct lh_decoder<LH_TYPE_Q6_K> {
    enum { len = 256, size = sizeof(lh_block_q6_k) };
    LH_DEVICE void eight(const unsigned char *b, int i, float out[8]) {
        int quarter = i % 128 / 32;
        const unsigned char *l = b + i / 128 * 64 + quarter % 2 * 32 + i % 32;
        const unsigned char *h = b + offsetof(lh_block_q6_k, qh) + i / 128 * 32 + i % 32;
        int s = *(const signed char *)(b + offsetof(lh_block_q6_k, scales) + i / 16);
        uint32_t lo = lh_load32(l) >> (quarter / 2 * 4) & 0x0f0f0f0fu;
        uint32_t hi = lh_load32(l + 4) >> (quarter / 2 * 4) & 0x0f0f0f0fu;
        lo |= (lh_load32(h) >> (2 * quarter) & 0x03030303u) << 4;
        hi |= (lh_load32(h + 4) >> (2 * quarter) & 0x03030303u) << 4;
        lh_bytes_to_floats(lo, hi, 32, lh_load_half(b + offsetof(lh_block_q6_k, d)) * (float)s, 0, out);
    }
};

// Floats: blocks of one value, and rows that may end anywhere. whole: eight of them at a multiple of 16 bytes.
template <>
struct lh_decoder<LH_TYPE_F32> {
    enum { len = 1, size = 4 };
    LH_DEVICE float one(const unsigned char *p) { return *(const float *)p; }
    LH_DEVICE void whole(const unsigned char *p, float out[8]) {
        float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
        out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    }
};

// Two bytes each, by what one of them means.
template <class D>
LH_DEVICE void lh_whole16(const unsigned char *p, float out[8]) {
    uint4 v = *(const uint4 *)p;
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 8; j++) out[j] = D::from_bits(words[j / 2] >> (16 * (j % 2)) & 0xffffu);
}

template <>
struct lh_decoder<LH_TYPE_F16> {
    enum { len = 1, size = 2 };
    LH_DEVICE float from_bits(uint32_t bits) { return __half2float(__ushort_as_half((unsigned short)bits)); }
    LH_DEVICE float one(const unsigned char *p) { return from_bits(lh_load16(p)); }
    LH_DEVICE void whole(const unsigned char *p, float out[8]) { lh_whole16<lh_decoder>(p, out); }
};

template <>
struct lh_decoder<LH_TYPE_BF16> {
    enum { len = 1, size = 2 };
    LH_DEVICE float from_bits(uint32_t bits) { return __uint_as_float(bits << 16); }
    LH_DEVICE float one(const unsigned char *p) { return from_bits(lh_load16(p)); }
    LH_DEVICE void whole(const unsigned char *p, float out[8]) { lh_whole16<lh_decoder>(p, out); }
};

// Values k..k+7 of a row, k a multiple of 8; zeros from n_cols on. row: where value 0 lies, or would lie.
template <int type>
LH_DEVICE void lh_decode8(const unsigned char *row, int k, int n_cols, float out[8]) {
    typedef lh_decoder<type> D;
    if constexpr (D::len == 1) {
        const unsigned char *p = row + (ptrdiff_t)k * D::size;
        if (k + 8 <= n_cols && (uintptr_t)p % 16 == 0) {
            D::whole(p, out);
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++) out[j] = k + j < n_cols ? D::one(p + j * D::size) : 0.0f;
        }
    } else {
        D::eight(row + (ptrdiff_t)(k / D::len) * D::size, k % D::len, out);
    }
}

// run(std::integral_constant<int, type>) for the type of a tensor: every format has an instance.
template <class F>
static lh_status lh_for_type(lh_type type, F run) {
    switch (type) {
#define LH_CASE(name) case LH_TYPE_##name: return run(std::integral_constant<int, LH_TYPE_##name>())
        LH_CASE(F32);
        LH_CASE(F16);
        LH_CASE(BF16);
        LH_CASE(Q4_0);
        LH_CASE(Q4_1);
        LH_CASE(Q5_0);
        LH_CASE(Q5_1);
        LH_CASE(Q8_0);
        LH_CASE(Q2_K);
        LH_CASE(Q3_K);
        LH_CASE(Q4_K);
        LH_CASE(Q5_K);
        LH_CASE(Q6_K);
        LH_CASE(IQ4_NL);
        LH_CASE(IQ4_XS);
#undef LH_CASE
        case LH_TYPE_COUNT: break;
    }
    return lh_error(LH_ERR_UNSUPPORTED, "weights of %s cannot be used on a GPU: convert them to q8_0",
                    lh_type_name(type));
}

#endif
