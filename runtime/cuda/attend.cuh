// Attention over the chosen chunks: what its files share.
//
// Scores are computed as powers of two: the factor log2(e) is in the queries. A part of a row's attention is its mean
// of values and the logarithm (to base 2) of the sum of its weights; parts are merged by these.
#ifndef LH_CUDA_ATTEND_CUH
#define LH_CUDA_ATTEND_CUH

#include "kv.cuh"

#define LH_LOG2_E 1.44269504088896341f

// A block of tokens of a batch, n > 1, and what is worked out for it in scratch. A row is one query head of one token:
// number t * n_head + head.
typedef struct lh_attend_block {
    int32_t token, n;
    int32_t width;          // head_dim in whole steps of 16
    int32_t middle;         // chunks that a row takes by score, where it takes any: one at a time
    __half *queries;        // (n, n_head, width): rotated by the offset, scaled
    float2 *turns;          // (window, width / 2): cosine and sine of each pair, by distance in chunks
    // only where middle > 0
    __half *parts;          // (n, n_head, middle, head_dim): means of values of each chosen chunk
    float *logs;            // (n, n_head, middle + 1): logarithms of their weights; last those of all other chunks
    int32_t *counts;        // (n_head_kv, n_chunk): entries of a chunk; later where the next one goes
    int32_t *entries;       // (n_head_kv, per_head): the rows that chose a chunk, chunk by chunk; see attend_lists.cu
    int4 *tiles;            // (n_head_kv, max_tiles): chunk, first entry, first row of it, rows
    int32_t *n_tiles;       // (n_head_kv)
    int32_t per_head, max_tiles;
    int32_t tile_rows;
} lh_attend_block;

static __device__ __forceinline__ bool lh_row_is_sparse(const lh_attention_args &x, const lh_attend_block &b, int t) {
    return !lh_is_dense(x.a.plan, lh_position(x, b.token + t) / x.a.plan.chunk);
}

// Copies of chunks that the operation is about to read, as far as there is room.
lh_status lh_cuda_fetch(lh_cuda *c, const lh_attention_args *x);                                   // offload.cu
lh_status lh_cuda_attend_one(lh_cuda *c, const lh_attention_args *x);                             // attend_decode.cu
// Chunk -> rows of the choices of a block's sparse tokens.
lh_status lh_cuda_attend_lists(lh_cuda *c, const lh_attention_args *x, const lh_attend_block *b);  // attend_lists.cu
lh_status lh_cuda_attend_tiles(lh_cuda *c, const lh_attention_args *x, const lh_attend_block *b);  // attend_tiles.cu
int32_t lh_cuda_tile_rows(int32_t head_dim);                                                       // attend_tiles.cu

#endif
