// Quantised activations of a tile of Q_TOKENS tokens, which whoever includes this defines first: what products of whole
// numbers read, 32 columns behind the other.
#ifndef LH_MATMUL_ACT_BLOCK_H
#define LH_MATMUL_ACT_BLOCK_H

#include <string.h>

#include "matmul_kernels.h"
#include "matmul_tile.h"

#define Q_WORDS (LH_ACT_BLOCK / 4)

// 32 activations of each token; words hold four columns.
typedef struct act_block {
    int32_t words[Q_WORDS][Q_TOKENS];
    float scale[Q_TOKENS];
    int32_t q_sum32[Q_TOKENS], q_sum16[2][Q_TOKENS];  // sums of q
    float sum32[Q_TOKENS], sum16[2][Q_TOKENS];        // times the scale
} act_block;

static void pack_tokens_quant_simd(const lh_act_row *row, int64_t n_cols, int32_t t, void *tile) {
    act_block *to = tile;
    for (int64_t b = 0; b < n_cols / LH_ACT_BLOCK; b++, to++) {
        int32_t words[Q_WORDS] = {0}, sum[2] = {0, 0};
        if (row) {
            memcpy(words, row->q + b * LH_ACT_BLOCK, sizeof words);
            memcpy(sum, row->q_sum + 2 * b, sizeof sum);
        }
        LH_UNROLL for (int i = 0; i < Q_WORDS; i++) to->words[i][t] = words[i];
        to->scale[t] = row ? row->scale[b] : 0;
        to->q_sum32[t] = sum[0] + sum[1];
        to->sum32[t] = row ? row->sum32[b] : 0;
        for (int h = 0; h < 2; h++) {
            to->q_sum16[h][t] = sum[h];
            to->sum16[h][t] = row ? row->sum16[2 * b + h] : 0;
        }
    }
}

#endif
