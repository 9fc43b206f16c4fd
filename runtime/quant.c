#include "quant.h"

#include <stdio.h>
#include <string.h>

#include "quant_blocks.h"

float lh_f16_to_f32(uint16_t h) { return lh_half(h); }

uint16_t lh_f32_to_f16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));  // NaN stays NaN
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // 65520 and more round to infinity
    if (magnitude >= 0x38800000) {
        // A carry out of the mantissa rightly becomes the next exponent.
        uint32_t odd = magnitude >> 13 & 1;
        return (uint16_t)(sign | ((magnitude - ((127 - 15) << 23) + 0xfff + odd) >> 13));
    }
    if (magnitude < 0x33000000) return (uint16_t)sign;  // less than half of the least subnormal
    uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000, shift = 126 - (magnitude >> 23);
    uint32_t half = 1u << (shift - 1), odd = mantissa >> shift & 1;
    return (uint16_t)(sign | ((mantissa + half - 1 + odd) >> shift));
}

float lh_bf16_to_f32(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static uint16_t load_u16(const void *p, int64_t i) {
    uint16_t h;
    memcpy(&h, (const char *)p + 2 * i, 2);
    return h;
}

static void decode_f32(const void *blocks, float *out, int64_t n) { memcpy(out, blocks, (size_t)n * 4); }

static void decode_f16(const void *blocks, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = lh_half(load_u16(blocks, i));
}

static void decode_bf16(const void *blocks, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = lh_bf16_to_f32(load_u16(blocks, i));
}

LH_QUANT_FORMATS(LH_DEFINE_UNPACK)

// decode_* of every quantised format. The product and the sum are rounded apart (-ffp-contract=off), as the format's
// other implementations do.
#define DEFINE_DECODE(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block)                         \
    static void decode_##suffix(const void *blocks, float *out, int64_t n) {                                   \
        int8_t q[block_len];                                                                                   \
        float scale[(block_len) / (scale_len)], min[(block_len) / (scale_len)];                                \
        const lh_block_##suffix *b = blocks;                                                                   \
        (void)min;                                                                                             \
        for (int64_t i = 0; i < n; i += (block_len), b++) {                                                    \
            unpack_block;                                                                                      \
            for (int j = 0; j < (block_len); j++) {                                                            \
                float w = scale[j / (scale_len)] * (float)q[j];                                                \
                out[i + j] = (has_min) ? w + min[j / (scale_len)] : w;                                         \
            }                                                                                                  \
        }                                                                                                      \
    }
LH_QUANT_FORMATS(DEFINE_DECODE)

#define TRAITS_ROW(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block)                   \
    [LH_TYPE_##TYPE] = {#TYPE, block_len, sizeof(lh_block_##suffix), decode_##suffix, scale_len,      \
                        has_min, bits, unpack_##suffix},
static const lh_type_traits traits[LH_TYPE_COUNT] = {
    [LH_TYPE_F32] = {"F32", 1, 4, decode_f32, 0, false, 0, NULL},
    [LH_TYPE_F16] = {"F16", 1, 2, decode_f16, 0, false, 0, NULL},
    [LH_TYPE_BF16] = {"BF16", 1, 2, decode_bf16, 0, false, 0, NULL},
    LH_QUANT_FORMATS(TRAITS_ROW)
};

const lh_type_traits *lh_type_get(int64_t type) {
    if (type < 0 || type >= LH_TYPE_COUNT || !traits[type].name) return NULL;
    return &traits[type];
}

// All numbers that GGUF has given out, those since withdrawn included.
static const char *const type_names[] = {
    "F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
    "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M",
    "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",
    "NVFP4", "Q1_0",
};

const char *lh_type_name(int64_t type) {
    if (type >= 0 && type < (int64_t)(sizeof type_names / sizeof *type_names)) return type_names[type];
    static _Thread_local char unknown[32];
    snprintf(unknown, sizeof unknown, "type %lld", (long long)type);
    return unknown;
}
