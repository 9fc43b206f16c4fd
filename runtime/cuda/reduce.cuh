// Reductions over a block, and the rounding of scheme `peak` that summaries and scores share.
#ifndef LH_CUDA_REDUCE_CUH
#define LH_CUDA_REDUCE_CUH

#include <math.h>

#include "cuda.h"

// Over all threads of a block, in a fixed order, to all of them; a block is whole warps. scratch: a float a warp, in
// shared memory. Ends with a barrier, so scratch may be used again at once.
template <class Fold>
static __device__ inline float lh_block_fold(float of_warp, float *scratch, Fold fold) {
    int warp = (int)threadIdx.x / LH_WARP, warps = (int)blockDim.x / LH_WARP;
    if (threadIdx.x % LH_WARP == 0) scratch[warp] = of_warp;
    __syncthreads();
    float all = scratch[0];
    for (int w = 1; w < warps; w++) all = fold(all, scratch[w]);
    __syncthreads();
    return all;
}

struct lh_fold_max {
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct lh_fold_sum {
    __device__ float operator()(float a, float b) const { return a + b; }
};

static __device__ inline float lh_block_max(float v, float *scratch) {
    return lh_block_fold(lh_warp_max(v), scratch, lh_fold_max());
}
static __device__ inline float lh_block_sum(float v, float *scratch) {
    return lh_block_fold(lh_warp_sum(v), scratch, lh_fold_sum());
}

// x in steps, to `levels` either side of zero; what is no number counts as the least.
static __device__ __forceinline__ int lh_peak_level(float x, float per_step, int levels) {
    float scaled = x * per_step;
    return scaled > (float)-levels ? scaled < (float)levels ? __float2int_rn(scaled) : levels : -levels;
}

// Is there anything to be told in steps, where `top` is the largest of all?
static __device__ __forceinline__ bool lh_peak_some(float top) { return top > LH_PEAK_TINY && top < INFINITY; }

#endif
