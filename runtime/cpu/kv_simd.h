// A row of the KV cache as vectors of a simd_*.h, which comes first.
#ifndef LH_KV_SIMD_H
#define LH_KV_SIMD_H

#include "kv_type.h"
#include "quant_blocks.h"

// Values x, x + 1, ... of a row; x is a multiple of VN.
LH_INLINE vf load_vector(const void *row, size_t x, lh_kv_type type) {
    switch (type) {
        case LH_KV_F32: return vf_load((const float *)row + x);
        case LH_KV_BF16: return vf_load_bf16((const uint16_t *)row + x);
        case LH_KV_Q8_0: {
            const lh_block_q8_0 *b = (const lh_block_q8_0 *)row + x / 32;
            return vf_mul(vf_load_i8(b->qs + x % 32), vf_set1(lh_half(b->d)));
        }
        default: return vf_load_f16((const uint16_t *)row + x);
    }
}

LH_INLINE float load_one(const void *row, size_t x, lh_kv_type type) {
    switch (type) {
        case LH_KV_F32: return ((const float *)row)[x];
        case LH_KV_BF16: return lh_bf16_to_f32(((const uint16_t *)row)[x]);
        case LH_KV_Q8_0: {
            const lh_block_q8_0 *b = (const lh_block_q8_0 *)row + x / 32;
            return lh_half(b->d) * (float)b->qs[x % 32];
        }
        default: return lh_half(((const uint16_t *)row)[x]);
    }
}

// A call of LH_INLINE functions in which TYPE, the value of `type`, is a constant.
#define WITH_TYPE(name, call)            \
    case name: {                         \
        const lh_kv_type TYPE = name;    \
        call;                            \
        break;                           \
    }
#define BY_TYPE(type, call)              \
    switch (type) {                      \
        WITH_TYPE(LH_KV_F16, call)       \
        WITH_TYPE(LH_KV_F32, call)       \
        WITH_TYPE(LH_KV_BF16, call)      \
        WITH_TYPE(LH_KV_Q8_0, call)      \
    }

#endif
