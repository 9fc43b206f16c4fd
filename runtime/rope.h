// RoPE: frequencies of every scaling variant, and tables of rotations that the backends use.
//
// GGUF `llama` files store q and k rows so that a pair is two neighbours (2i, 2i+1).
#ifndef LH_ROPE_H
#define LH_ROPE_H

#include "config.h"

typedef struct lh_rope {
    int32_t head_dim;
    double *inv_freq;   // (head_dim / 2), radians a token; 0 for pairs that are not rotated
    float attn_scale;   // factor of q.k: 1/sqrt(head_dim), times yarn's mscale squared
} lh_rope;

// freqs: llama3 divisors (rope_dim / 2) or NULL.
lh_status lh_rope_init(lh_rope *r, const lh_config *c, const float *freqs);
void lh_rope_free(lh_rope *r);

// Fill n rows for positions first, first + step, first + 2*step, ...: cos and sin of each pair, doubled, as a row-wise
// multiply wants them.
//   table (n, 2, head_dim): [i][0] = c0 c0 c1 c1 ..., [i][1] = -s0 s0 -s1 s1 ...
// so that rotated[j] = x[j] * table[0][j] + x[j ^ 1] * table[1][j].
void lh_rope_table(const lh_rope *r, int64_t first, int64_t step, int64_t n, float *table);

#endif
