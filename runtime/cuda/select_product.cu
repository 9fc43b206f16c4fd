// Scores of the schemes whose score is a product of vectors: features of queries with the chunks' summaries, in floats.
#include "select.cuh"

#define TILE 64         // tokens and chunks of a block
#define EDGE 4          // of a thread's part of it
#define THREADS (TILE / EDGE * TILE / EDGE)
#define DEPTH 32        // components at a time: a block of q8_0
#define WARPS 8         // of a block for one token

// features: (n, n_select, summary_dim).
template <lh_scheme scheme>
static __global__ void feature_kernel(lh_attention_args x, lh_score_block block, float *features) {
    const lh_attention &a = x.a;
    int chooser = (int)blockIdx.x, t = (int)blockIdx.y, dim = a.head_dim;
    if (a.leader[chooser] < 0) return;
    const float *q = a.q + ((size_t)(block.token + t) * a.n_head + a.leader[chooser]) * dim;
    float *out = features + ((size_t)t * a.n_select + chooser) * a.summary_dim;
    for (int i = (int)threadIdx.x; i < a.summary_dim; i += (int)blockDim.x) {
        // Bounds: max(q, 0) meets the largest values of a chunk's keys, min(q, 0) the smallest.
        if (scheme == LH_SCHEME_PAPER) out[i] = i < dim ? q[i] : 0;
        else out[i] = i < dim ? fmaxf(q[i], 0) : i < 2 * dim ? fminf(q[i - dim], 0) : 0;
    }
}

static __device__ const char *summary_of(const lh_attention_args &x, int chooser, int chunk) {
    return lh_summary_at(&x.a, lh_summary_of(&x.a, x.a.leader[chooser]), chunk);
}

template <lh_kv_type type>
static __global__ void __launch_bounds__(THREADS) product_kernel(lh_attention_args x, lh_score_block block,
                                                                 const float *features) {
    const lh_attention &a = x.a;
    __shared__ float of_tokens[DEPTH][TILE + EDGE], of_chunks[DEPTH][TILE + EDGE];
    int first = (int)blockIdx.x * TILE, token = (int)blockIdx.y * TILE, chooser = (int)blockIdx.z;
    int candidates = lh_candidates(x, block), thread = (int)threadIdx.x;
    int row = thread / (TILE / EDGE) * EDGE, column = thread % (TILE / EDGE) * EDGE;
    if (a.leader[chooser] < 0 || first >= candidates) return;
    float sum[EDGE][EDGE] = {};
    for (int at = 0; at < a.summary_dim; at += DEPTH) {
        for (int i = thread; i < TILE * DEPTH; i += THREADS) {
            int r = i / DEPTH, d = i % DEPTH;
            const float *feature = features + ((size_t)(token + r) * a.n_select + chooser) * a.summary_dim;
            of_tokens[d][r] = token + r < block.n ? feature[at + d] : 0;
            of_chunks[d][r] =
                first + r < candidates ? lh_kv_load<type>(summary_of(x, chooser, 1 + first + r), at + d) : 0;
        }
        __syncthreads();
#pragma unroll 8
        for (int d = 0; d < DEPTH; d++)
#pragma unroll
            for (int i = 0; i < EDGE; i++)
#pragma unroll
                for (int j = 0; j < EDGE; j++) sum[i][j] += of_tokens[d][row + i] * of_chunks[d][column + j];
        __syncthreads();
    }
    for (int i = 0; i < EDGE; i++)
        for (int j = 0; j < EDGE; j++)
            if (token + row + i < block.n && first + column + j < candidates)
                block.scores[((size_t)(token + row + i) * a.n_select + chooser) * block.stride + first + column + j] =
                    sum[i][j];
}

// One token: a warp a chunk, a lane a component of each block.
template <lh_kv_type type>
static __global__ void __launch_bounds__(WARPS *LH_WARP)
    product_one_kernel(lh_attention_args x, lh_score_block block, const float *features) {
    const lh_attention &a = x.a;
    int s = (int)(blockIdx.x * WARPS + threadIdx.x / LH_WARP), chooser = (int)blockIdx.y;
    int lane = (int)threadIdx.x % LH_WARP;
    if (a.leader[chooser] < 0 || s >= lh_candidates(x, block)) return;
    const char *summary = summary_of(x, chooser, 1 + s);
    const float *feature = features + (size_t)chooser * a.summary_dim;
    float sum = 0;
    for (int i = lane; i < a.summary_dim; i += LH_WARP) sum += feature[i] * lh_kv_load<type>(summary, i);
    sum = lh_warp_sum(sum);
    if (lane == 0) block.scores[(size_t)chooser * block.stride + s] = sum;
}

template <lh_kv_type type>
static lh_status run(lh_cuda *c, const lh_attention_args *x, const lh_score_block *b, float *features) {
    unsigned n_select = (unsigned)x->a.n_select;
    if (b->n == 1) {
        dim3 grid((unsigned)((b->candidates + WARPS - 1) / WARPS), n_select);
        LH_CUDA_RUN(c, product_one_kernel<type>, grid, WARPS * LH_WARP, 0, *x, *b, features);
        return LH_OK;
    }
    dim3 grid((unsigned)((b->candidates + TILE - 1) / TILE), (unsigned)((b->n + TILE - 1) / TILE), n_select);
    LH_CUDA_RUN(c, product_kernel<type>, grid, THREADS, 0, *x, *b, features);
    return LH_OK;
}

size_t lh_cuda_score_product_bytes(const lh_attention_args *x, int32_t n) {
    return (size_t)n * x->a.n_select * x->a.summary_dim * sizeof(float);
}

lh_status lh_cuda_score_product(lh_cuda *c, const lh_attention_args *x, const lh_score_block *b, void *scratch) {
    float *features = (float *)scratch;
    dim3 grid((unsigned)x->a.n_select, (unsigned)b->n);
    if (x->a.scheme == LH_SCHEME_PAPER)
        LH_CUDA_RUN(c, feature_kernel<LH_SCHEME_PAPER>, grid, 128, 0, *x, *b, features);
    else
        LH_CUDA_RUN(c, feature_kernel<LH_SCHEME_BOUNDS>, grid, 128, 0, *x, *b, features);
    return x->a.summary_type == LH_KV_F32 ? run<LH_KV_F32>(c, x, b, features) : run<LH_KV_Q8_0>(c, x, b, features);
}
