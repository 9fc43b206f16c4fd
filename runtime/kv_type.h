// How a head's key, value or summary lies in the cache: a row of whole blocks in a format of quant.h. Header-only:
// backends share it.
#ifndef LH_KV_TYPE_H
#define LH_KV_TYPE_H

#include "quant.h"
#include "quant_layout.h"

typedef struct lh_kv_format {
    const char *name;
    lh_type type;
    int32_t block_len;   // values in a block
    int32_t block_size;  // bytes of a block
} lh_kv_format;

// By lh_kv_type: F16, F32, BF16, Q8_0. In order and without designators, which C++ does not have.
static const lh_kv_format lh_kv_formats[] = {
    {"f16", LH_TYPE_F16, 1, 2},
    {"f32", LH_TYPE_F32, 1, 4},
    {"bf16", LH_TYPE_BF16, 1, 2},
    {"q8_0", LH_TYPE_Q8_0, 32, sizeof(lh_block_q8_0)},
};
#define LH_KV_TYPES ((int32_t)(sizeof lh_kv_formats / sizeof *lh_kv_formats))

// Bytes of a row of dim values; the last block is filled up with zeros.
static inline size_t lh_kv_row_size(lh_kv_type type, int32_t dim) {
    const lh_kv_format *f = &lh_kv_formats[type];
    return (size_t)((dim + f->block_len - 1) / f->block_len) * (size_t)f->block_size;
}

// Of the summaries beside such keys. Scores grow with the text, so they have to be cheap to compute; a choice among
// chunks bears the rounding that keys and values bear, too.
LH_SHARED_FN lh_kv_type lh_summary_type(lh_kv_type type) { return type == LH_KV_F32 ? LH_KV_F32 : LH_KV_Q8_0; }

// Values of a summary are whole blocks of any format, zeros behind those that mean something.
#define LH_SUMMARY_BLOCK 32

#endif
