// Scores of the schemes whose score is a product of vectors: features of queries with the chunks' summaries, in floats.
//
// Heads that choose together add up: those that share a summary before the product, as features, the others by lying
// behind one another in one longer vector. So a score is one dot product, whatever the scheme and the sharing.
#include "select.cuh"

#define TILE 64         // tokens and chunks of a block
#define EDGE 4          // of a thread's part of it
#define THREADS (TILE / EDGE * TILE / EDGE)
#define DEPTH 32        // components at a time: a block of q8_0
#define WARPS 8         // of a block for one token

// How features lie: (n, n_select, parts, summary_dim).
typedef struct product_shape {
    int32_t step;       // heads added up
    int32_t parts;      // summaries that a chooser is compared with
    int32_t sharing;    // heads of a summary
} product_shape;

static product_shape shape_of(const lh_attention_args *x) {
    int32_t sharing = x->a.n_head / x->a.n_summary, step = LH_MIN(x->together, sharing);
    return {step, x->together / step, sharing};
}

template <lh_scheme scheme>
static __global__ void feature_kernel(lh_attention_args x, lh_score_block block, product_shape shape, float *features) {
    const lh_attention &a = x.a;
    int part = (int)blockIdx.x, t = (int)blockIdx.y, dim = a.head_dim;
    const float *q = a.q + ((size_t)(block.token + t) * a.n_head + (size_t)part * shape.step) * dim;
    float *out = features + ((size_t)t * gridDim.x + part) * a.summary_dim;
    for (int i = (int)threadIdx.x; i < a.summary_dim; i += (int)blockDim.x) {
        float sum = 0;
        for (int h = 0; h < shape.step; h++) {
            // Bounds: max(q, 0) meets the largest values of a chunk's keys, min(q, 0) the smallest.
            if (scheme == LH_SCHEME_PAPER) sum += i < dim ? q[h * dim + i] : 0;
            else if (i < dim) sum += fmaxf(q[h * dim + i], 0);
            else if (i < 2 * dim) sum += fminf(q[h * dim + i - dim], 0);
        }
        out[i] = sum;
    }
}

static __device__ const char *summary_of(const lh_attention_args &x, const product_shape &shape, int chooser, int part,
                                         int chunk) {
    return lh_cuda_summary(x, (chooser * x.together + part * shape.step) / shape.sharing, chunk);
}

template <lh_kv_type type>
static __global__ void __launch_bounds__(THREADS) product_kernel(lh_attention_args x, lh_score_block block,
                                                                 product_shape shape, const float *features) {
    const lh_attention &a = x.a;
    __shared__ float of_tokens[DEPTH][TILE + EDGE], of_chunks[DEPTH][TILE + EDGE];
    int first = (int)blockIdx.x * TILE, token = (int)blockIdx.y * TILE, chooser = (int)blockIdx.z;
    int candidates = lh_candidates(x, block), thread = (int)threadIdx.x;
    int row = thread / (TILE / EDGE) * EDGE, column = thread % (TILE / EDGE) * EDGE;
    if (first >= candidates) return;
    float sum[EDGE][EDGE] = {};
    for (int part = 0; part < shape.parts; part++) {
        for (int at = 0; at < a.summary_dim; at += DEPTH) {
            for (int i = thread; i < TILE * DEPTH; i += THREADS) {
                int r = i / DEPTH, d = i % DEPTH;
                const float *feature =
                    features + (((size_t)(token + r) * a.n_select + chooser) * shape.parts + part) * a.summary_dim;
                of_tokens[d][r] = token + r < block.n ? feature[at + d] : 0;
                of_chunks[d][r] = first + r < candidates
                                      ? lh_kv_load<type>(summary_of(x, shape, chooser, part, 1 + first + r), at + d)
                                      : 0;
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
    product_one_kernel(lh_attention_args x, lh_score_block block, product_shape shape, const float *features) {
    const lh_attention &a = x.a;
    int s = (int)(blockIdx.x * WARPS + threadIdx.x / LH_WARP), chooser = (int)blockIdx.y;
    int lane = (int)threadIdx.x % LH_WARP;
    if (s >= lh_candidates(x, block)) return;
    float sum = 0;
    for (int part = 0; part < shape.parts; part++) {
        const char *summary = summary_of(x, shape, chooser, part, 1 + s);
        const float *feature = features + ((size_t)chooser * shape.parts + part) * a.summary_dim;
        for (int i = lane; i < a.summary_dim; i += LH_WARP) sum += feature[i] * lh_kv_load<type>(summary, i);
    }
    sum = lh_warp_sum(sum);
    if (lane == 0) block.scores[(size_t)chooser * block.stride + s] = sum;
}

template <lh_kv_type type>
static lh_status run(lh_cuda *c, const lh_attention_args *x, const lh_score_block *b, product_shape shape,
                     float *features) {
    unsigned n_select = (unsigned)x->a.n_select;
    if (b->n == 1) {
        dim3 grid((unsigned)((b->candidates + WARPS - 1) / WARPS), n_select);
        LH_CUDA_RUN(c, product_one_kernel<type>, grid, WARPS * LH_WARP, 0, *x, *b, shape, features);
        return LH_OK;
    }
    dim3 grid((unsigned)((b->candidates + TILE - 1) / TILE), (unsigned)((b->n + TILE - 1) / TILE), n_select);
    LH_CUDA_RUN(c, product_kernel<type>, grid, THREADS, 0, *x, *b, shape, features);
    return LH_OK;
}

size_t lh_cuda_score_product_bytes(const lh_attention_args *x, int32_t n) {
    return (size_t)n * x->a.n_select * shape_of(x).parts * x->a.summary_dim * sizeof(float);
}

lh_status lh_cuda_score_product(lh_cuda *c, const lh_attention_args *x, const lh_score_block *b, void *scratch) {
    product_shape shape = shape_of(x);
    float *features = (float *)scratch;
    dim3 grid((unsigned)(x->a.n_select * shape.parts), (unsigned)b->n);
    if (x->a.scheme == LH_SCHEME_PAPER)
        LH_CUDA_RUN(c, feature_kernel<LH_SCHEME_PAPER>, grid, 128, 0, *x, *b, shape, features);
    else
        LH_CUDA_RUN(c, feature_kernel<LH_SCHEME_BOUNDS>, grid, 128, 0, *x, *b, shape, features);
    return x->a.summary_type == LH_KV_F32 ? run<LH_KV_F32>(c, x, b, shape, features)
                                          : run<LH_KV_Q8_0>(c, x, b, shape, features);
}
