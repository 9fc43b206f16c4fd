// How one head's key or value of one token lies in the cache: a row of whole blocks, in a format that quant.h has, too.
// Header-only: backends share it.
#ifndef LH_KV_TYPE_H
#define LH_KV_TYPE_H

#include "base.h"
#include "quant_blocks.h"

typedef struct lh_kv_format {
    const char *name;
    int32_t block_len;   // values in a block
    int32_t block_size;  // bytes of a block
} lh_kv_format;

// By lh_kv_type.
static const lh_kv_format lh_kv_formats[] = {
    [LH_KV_F16] = {"f16", 1, 2},
    [LH_KV_F32] = {"f32", 1, 4},
    [LH_KV_BF16] = {"bf16", 1, 2},
    [LH_KV_Q8_0] = {"q8_0", 32, sizeof(lh_block_q8_0)},
};
#define LH_KV_TYPES ((int32_t)(sizeof lh_kv_formats / sizeof *lh_kv_formats))

// Bytes of a row; the last block is filled up with zeros.
static inline size_t lh_kv_row_size(lh_kv_type type, int32_t head_dim) {
    const lh_kv_format *f = &lh_kv_formats[type];
    return (size_t)((head_dim + f->block_len - 1) / f->block_len) * (size_t)f->block_size;
}

#endif
