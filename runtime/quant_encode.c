// Floats to halves and to the formats of one scale for 32 values, and the public functions around all formats.
//
// The formats here round exactly as the Python package gguf does, in float and operation by operation, so that a file
// is the same whoever wrote it.
#include "quant_encode.h"

#include <math.h>
#include <string.h>

#include "include/longheads.h"
#include "quant_blocks.h"

static void encode_f32(const float *x, void *blocks, int64_t n) { memcpy(blocks, x, (size_t)n * 4); }

static void encode_f16(const float *x, void *blocks, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = lh_f32_to_f16(x[i]);
        memcpy((char *)blocks + 2 * i, &h, 2);
    }
}

static void encode_bf16(const float *x, void *blocks, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = lh_bfloat(x[i]);
        memcpy((char *)blocks + 2 * i, &h, 2);
    }
}

// --- 32 values, one scale ------------------------------------------------------------------------------------------

// The first of the values that lie farthest from zero.
static float farthest(const float *x) {
    float far = x[0];
    for (int i = 1; i < 32; i++)
        if (fabsf(x[i]) > fabsf(far)) far = x[i];
    return far;
}

static float inverse_of(float d) { return d == 0 ? 0 : 1 / d; }

// Towards zero into 0..most; 0 where it is no number, as where the inverse of a tiny scale overflows.
static uint8_t level(float v, int most) {
    if (!(v >= 0)) return 0;
    return (uint8_t)(v >= (float)most ? most : (int)v);
}

static void pack_nibbles(const uint8_t *q, uint8_t *qs) {
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t)((q[i] & 15) | (q[16 + i] & 15) << 4);
}

static void pack_fifth_bits(const uint8_t *q, uint8_t *qh) {
    memset(qh, 0, 4);
    for (int i = 0; i < 32; i++) qh[i / 8] |= (uint8_t)((q[i] >> 4) << i % 8);
}

// Levels 0..2 * half - 1 around zero, the value that lies farthest at level 0. Returns the scale.
static uint16_t levels_around_zero(const float *x, int half, uint8_t *q) {
    float d = farthest(x) / (float)-half, inverse = inverse_of(d);
    for (int i = 0; i < 32; i++) q[i] = level(x[i] * inverse + ((float)half + 0.5f), 2 * half - 1);
    return lh_f32_to_f16(d);
}

// Levels 0..most from the least value up. Returns the scale.
static uint16_t levels_from_min(const float *x, int most, uint8_t *q, uint16_t *m) {
    float min = x[0], max = x[0];
    for (int i = 1; i < 32; i++) {
        if (x[i] < min) min = x[i];
        if (x[i] > max) max = x[i];
    }
    float d = (max - min) / (float)most, inverse = inverse_of(d);
    for (int i = 0; i < 32; i++) q[i] = level((x[i] - min) * inverse + 0.5f, most);
    *m = lh_f32_to_f16(min);
    return lh_f32_to_f16(d);
}

static void block_q4_0(const float *x, lh_block_q4_0 *b) {
    uint8_t q[32];
    b->d = levels_around_zero(x, 8, q);
    pack_nibbles(q, b->qs);
}

static void block_q4_1(const float *x, lh_block_q4_1 *b) {
    uint8_t q[32];
    uint16_t m;
    b->d = levels_from_min(x, 15, q, &m);
    b->m = m;
    pack_nibbles(q, b->qs);
}

static void block_q5_0(const float *x, lh_block_q5_0 *b) {
    uint8_t q[32];
    b->d = levels_around_zero(x, 16, q);
    pack_fifth_bits(q, b->qh);
    pack_nibbles(q, b->qs);
}

static void block_q5_1(const float *x, lh_block_q5_1 *b) {
    uint8_t q[32];
    uint16_t m;
    b->d = levels_from_min(x, 31, q, &m);
    b->m = m;
    pack_fifth_bits(q, b->qh);
    pack_nibbles(q, b->qs);
}

static void block_q8_0(const float *x, lh_block_q8_0 *b) {
    float d = fabsf(farthest(x)) / 127, inverse = inverse_of(d);
    b->d = lh_f32_to_f16(d);
    for (int i = 0; i < 32; i++) {
        float v = roundf(x[i] * inverse);  // ties away from zero
        b->qs[i] = (int8_t)(fabsf(v) <= 127 ? v : v < 0 ? -127 : v > 0 ? 127 : 0);
    }
}

#define ENCODE(suffix)                                                           \
    static void encode_##suffix(const float *x, void *blocks, int64_t n) {       \
        lh_block_##suffix *b = blocks;                                           \
        for (int64_t i = 0; i < n; i += 32) block_##suffix(x + i, b++);          \
    }
ENCODE(q4_0)
ENCODE(q4_1)
ENCODE(q5_0)
ENCODE(q5_1)
ENCODE(q8_0)

static const lh_encode_fn encoders[LH_TYPE_COUNT] = {
    [LH_TYPE_F32] = encode_f32, [LH_TYPE_F16] = encode_f16, [LH_TYPE_BF16] = encode_bf16,
    [LH_TYPE_Q4_0] = encode_q4_0, [LH_TYPE_Q4_1] = encode_q4_1, [LH_TYPE_Q5_0] = encode_q5_0,
    [LH_TYPE_Q5_1] = encode_q5_1, [LH_TYPE_Q8_0] = encode_q8_0, [LH_TYPE_Q2_K] = lh_encode_q2_k,
    [LH_TYPE_Q3_K] = lh_encode_q3_k, [LH_TYPE_Q4_K] = lh_encode_q4_k, [LH_TYPE_Q5_K] = lh_encode_q5_k,
    [LH_TYPE_Q6_K] = lh_encode_q6_k, [LH_TYPE_IQ4_NL] = lh_encode_iq4_nl, [LH_TYPE_IQ4_XS] = lh_encode_iq4_xs,
};

lh_encode_fn lh_encode_get(int64_t type) { return type < 0 || type >= LH_TYPE_COUNT ? NULL : encoders[type]; }

// --- public --------------------------------------------------------------------------------------------------------

static lh_status whole_blocks(int32_t type, int64_t n, const lh_type_traits **traits) {
    *traits = lh_type_get(type);
    if (!*traits) return lh_error(LH_ERR_UNSUPPORTED, "the tensor type %s is not supported", lh_type_name(type));
    if (n < 0 || n % (*traits)->block_len != 0)
        return lh_error(LH_ERR_ARGUMENT, "%lld values, expected a multiple of the %d that a block of %s holds",
                        (long long)n, (*traits)->block_len, (*traits)->name);
    return LH_OK;
}

lh_status lh_quantize(int32_t type, const float *values, int64_t n, void *blocks) {
    const lh_type_traits *traits;
    LH_TRY(whole_blocks(type, n, &traits));
    // All types but these two keep a half: a value or its scale.
    float most = type == LH_TYPE_F32 || type == LH_TYPE_BF16 ? 3.3895314e38f : 65504;
    for (int64_t i = 0; i < n; i++) {
        if (fabsf(values[i]) <= most) continue;
        if (!isfinite(values[i]))
            return lh_error(LH_ERR_FORMAT, "it holds %s, expected finite weights",
                            isnan(values[i]) ? "NaN" : "infinity");
        if (type != LH_TYPE_F32)
            return lh_error(LH_ERR_FORMAT, "it holds %g, which is more than %s can keep, %g", (double)values[i],
                            traits->name, (double)most);
    }
    lh_encode_get(type)(values, blocks, n);
    return LH_OK;
}

lh_status lh_dequantize(int32_t type, const void *blocks, int64_t n, float *values) {
    const lh_type_traits *traits;
    LH_TRY(whole_blocks(type, n, &traits));
    traits->decode(blocks, values, n);
    return LH_OK;
}
