// What project does to activations before they meet weights: RMS norm, or SwiGLU, or nothing.
#ifndef LH_CUDA_PROLOGUE_CUH
#define LH_CUDA_PROLOGUE_CUH

#include "reduce.cuh"

typedef struct lh_prologue {
    const float *x, *gate;     // (n, n_cols); gate may be NULL
    const float *norm;         // (n_cols) or NULL
    float norm_eps;
    int32_t n_cols;
} lh_prologue;

static inline lh_status lh_prologue_of(lh_cuda *c, const lh_project *p, lh_prologue *out) {
    *out = {p->x, p->gate, NULL, p->norm_eps, p->n_cols};
    return lh_cuda_constant(c, p->norm, p->n_cols, &out->norm);
}

#define LH_PROLOGUE_THREADS 256

// What token t is multiplied by, for lh_prologue_value. Called by all threads of a block; scratch: see lh_block_sum.
// The first LH_PROLOGUE_THREADS add up, so that larger blocks have the same sum to the last bit.
static __device__ __forceinline__ float lh_prologue_factor(const lh_prologue &p, int t, float *scratch) {
    if (!p.norm) return 1;
    const float *x = p.x + (int64_t)t * p.n_cols;
    float sum = 0;
    if (threadIdx.x < LH_PROLOGUE_THREADS)
        for (int i = (int)threadIdx.x; i < p.n_cols; i += LH_PROLOGUE_THREADS) sum += x[i] * x[i];
    return 1.0f / sqrtf(lh_block_sum(sum, scratch) / (float)p.n_cols + p.norm_eps);
}

// Value i of token t; zero from n_cols on.
static __device__ __forceinline__ float lh_prologue_value(const lh_prologue &p, int t, float factor, int i) {
    if (i >= p.n_cols) return 0;
    int64_t at = (int64_t)t * p.n_cols + i;
    float v = p.x[at];
    if (p.norm) return v * factor * p.norm[i];
    if (!p.gate) return v;
    float gate = p.gate[at];
    return v * gate / (1.0f + expf(-gate));
}

#endif
