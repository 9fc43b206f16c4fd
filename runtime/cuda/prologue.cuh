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

// The quick forms of exp and division: relative errors near 1e-6, and 0 where the exponential is no longer a float.
static __device__ __forceinline__ float lh_swiglu(float v, float gate) {
    return __fdividef(v * gate, 1.0f + __expf(-gate));
}

// Value i of token t; zero from n_cols on.
static __device__ __forceinline__ float lh_prologue_value(const lh_prologue &p, int t, float factor, int i) {
    if (i >= p.n_cols) return 0;
    int64_t at = (int64_t)t * p.n_cols + i;
    float v = p.x[at];
    if (p.norm) return v * factor * p.norm[i];
    if (!p.gate) return v;
    return lh_swiglu(v, p.gate[at]);
}

// Values i, i + step, ...: all reads come first.
template <int count>
static __device__ __forceinline__ void lh_prologue_values(const lh_prologue &p, int t, float factor, int i, int step,
                                                          float (&out)[count]) {
    int64_t row = (int64_t)t * p.n_cols;
    const float *x = p.x + row, *other = p.norm ? p.norm : p.gate ? p.gate + row : NULL;
    float with[count];
#pragma unroll
    for (int j = 0; j < count; j++) out[j] = i + j * step < p.n_cols ? x[i + j * step] : 0;
    if (!other) return;
#pragma unroll
    for (int j = 0; j < count; j++) with[j] = i + j * step < p.n_cols ? other[i + j * step] : 0;
#pragma unroll
    for (int j = 0; j < count; j++) out[j] = p.norm ? out[j] * factor * with[j] : lh_swiglu(out[j], with[j]);
}

#endif
