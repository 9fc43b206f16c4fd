// Scores of chunks, by scheme; select.cu chooses by them.
#ifndef LH_CUDA_SELECT_CUH
#define LH_CUDA_SELECT_CUH

#include "kv.cuh"

// Tokens of the batch whose scores are there at a time.
typedef struct lh_score_block {
    int32_t token, n;
    int32_t candidates;  // chunks 1, ..., candidates are scored: as many as the block's last token may have
    int32_t stride;      // floats between choosers
    float *scores;       // (n, n_select, stride): [s - 1] is that of chunk s
} lh_score_block;

// Is chunk s a candidate of the block's last token? Of n == 1 `candidates` is only what the grid is made for.
static __device__ __forceinline__ int lh_candidates(const lh_attention_args &x, const lh_score_block &b) {
    int c = lh_position(x, b.token + b.n - 1) / x.a.plan.chunk, last = lh_candidates_end(x.a.plan, c) - 1;
    return last < b.candidates ? last : b.candidates;
}

lh_status lh_cuda_score_peak(lh_cuda *c, const lh_attention_args *x, const lh_score_block *b);     // select_peak.cu
// scratch: as many bytes as the next one says.
lh_status lh_cuda_score_product(lh_cuda *c, const lh_attention_args *x, const lh_score_block *b, void *scratch);
size_t lh_cuda_score_product_bytes(const lh_attention_args *x, int32_t n);                        // select_product.cu

#endif
