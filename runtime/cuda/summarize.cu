// Summaries of the chunks that a batch completes: a block each, found from the position on the device. One row of the
// table at the end a scheme.
//   peak    codes of the keys' slow components (peak.h), as they lie from the mean of chunk 0
//   bounds  the largest and the smallest value of each channel of the unrotated keys
//   paper   attention inside the chunk, its mean over the queries, and what that mean attends to
#include <math.h>

#include "kv.cuh"
#include "reduce.cuh"

#define THREADS 128
#define WARPS (THREADS / LH_WARP)

// The chunk that this block summarises, or -1: the grid is for the most that a batch of n tokens can complete, and for
// all KV heads.
static __device__ __forceinline__ int chunk_of_block(const lh_attention_args &x) {
    if (!x.a.heads[(int)blockIdx.y / x.a.n_summary].summary) return -1;
    int position = lh_position(x, 0), chunk = position / x.a.plan.chunk + (int)blockIdx.x;
    return chunk < (position + x.a.n) / x.a.plan.chunk ? chunk : -1;
}

// --- peak ---------------------------------------------------------------------------------------------------------

template <lh_kv_type type>
static __global__ void __launch_bounds__(THREADS) peak_kernel(lh_attention_args x) {
    const lh_attention &a = x.a;
    int s = (int)blockIdx.y, chunk = chunk_of_block(x), l = a.plan.chunk, thread = (int)threadIdx.x;
    if (chunk < 0) return;
    int dims = lh_peak_dims(a.head_dim), from = a.head_dim - dims, row = 2 * lh_peak_keys(l);
    const char *first = lh_kv_chunk(x, LH_KEYS, s, 0), *keys = lh_kv_chunk(x, LH_KEYS, s, chunk);
    char *upper = lh_summary_at(&a, s, chunk), *lower = lh_detail_at(&a, s, chunk);
    float *centre = (float *)lh_shared_memory(), *scratch = centre + dims;

    // One key after the other, as on the CPU: the same sum to the last bit.
    for (int i = thread; i < dims; i += THREADS) {
        float sum = 0;
        for (int o = 0; o < l; o++)
            sum = __fadd_rn(sum, __fdiv_rn(lh_kv_load<type>(first + o * x.row, from + i), (float)l));
        centre[i] = sum;
    }
    __syncthreads();
    float top = 0;
    for (int i = thread; i < l * dims; i += THREADS)
        top = fmaxf(top, fabsf(lh_kv_load<type>(keys + i / dims * x.row, from + i % dims) - centre[i % dims]));
    top = lh_block_max(top, scratch);

    bool some = lh_peak_some(top);
    float per_step = some ? __fdiv_rn(LH_PEAK_LEVELS, top) : 0, step = some ? __fdiv_rn(top, LH_PEAK_LEVELS) : 0;
    // A thread has one component of each of four pairs: three bytes.
    for (int i = thread; i < lh_peak_stored(a.head_dim) / LH_PEAK_GROUP * row; i += THREADS) {
        int group = i / row, at = i % row, o = at / 2;
        const char *key = keys + (o < l ? o : l - 1) * x.row;
        unsigned high = 0, low = 0;
        for (int pair = 0; pair < LH_PEAK_GROUP / 2; pair++) {
            int c = group * LH_PEAK_GROUP + 2 * pair + at % 2;
            if (c >= dims) break;
            int code = LH_PEAK_ZERO +
                       lh_peak_level(lh_kv_load<type>(key, from + c) - centre[c], per_step, LH_PEAK_LEVELS);
            high |= (unsigned)(code >> LH_PEAK_LOW_BITS) << pair * LH_PEAK_HIGH_BITS;
            low |= (unsigned)(code & LH_PEAK_LOW) << pair * LH_PEAK_LOW_BITS;
        }
        upper[2 * group * row + at] = (char)high;
        upper[(2 * group + 1) * row + at] = (char)(high >> 2 * LH_PEAK_HIGH_BITS);
        lower[group * row + at] = (char)low;
    }
    if (thread == 0) *(float *)(upper + lh_peak_upper(a.head_dim, l)) = step;
}

template <lh_kv_type type>
static lh_status run_peak(lh_cuda *c, const lh_attention_args *x, dim3 grid) {
    size_t shared = (lh_peak_dims(x->a.head_dim) + WARPS) * sizeof(float);
    LH_CUDA_RUN(c, peak_kernel<type>, grid, THREADS, shared, *x);
    return LH_OK;
}

// --- schemes whose summaries are vectors --------------------------------------------------------------------------

// made (summary_dim) in shared memory into a summary; all threads.
static __device__ void store_made(const lh_attention &a, const float *made, char *out) {
    __syncthreads();
    int warp = (int)threadIdx.x / LH_WARP, lane = (int)threadIdx.x % LH_WARP;
    for (int at = warp * LH_WARP; at < a.summary_dim; at += THREADS)
        lh_kv_store(out, at, made[at + lane], a.summary_dim, a.summary_type);
}

template <lh_kv_type type>
static __global__ void __launch_bounds__(THREADS) bounds_kernel(lh_attention_args x) {
    const lh_attention &a = x.a;
    int s = (int)blockIdx.y, chunk = chunk_of_block(x), dim = a.head_dim;
    if (chunk < 0) return;
    const char *keys = lh_kv_chunk(x, LH_KEYS, s, chunk);
    float *made = (float *)lh_shared_memory();
    for (int i = 2 * dim + (int)threadIdx.x; i < a.summary_dim; i += THREADS) made[i] = 0;
    for (int i = (int)threadIdx.x; i < dim; i += THREADS) {
        float hi = -INFINITY, lo = INFINITY;
        for (int o = 0; o < a.plan.chunk; o++) {
            const float *table = a.rope_offset + 2 * (size_t)dim * o;
            float same = lh_kv_load<type>(keys + o * x.row, i), other = lh_kv_load<type>(keys + o * x.row, i ^ 1);
            float key = __fsub_rn(__fmul_rn(same, table[i]), __fmul_rn(other, table[dim + i]));
            hi = key > hi ? key : hi;
            lo = key < lo ? key : lo;
        }
        made[i] = hi;
        made[dim + i] = lo;
    }
    store_made(a, made, lh_summary_at(&a, s, chunk));
}

template <lh_kv_type type>
static lh_status run_bounds(lh_cuda *c, const lh_attention_args *x, dim3 grid) {
    LH_CUDA_RUN(c, bounds_kernel<type>, grid, THREADS, (size_t)x->a.summary_dim * sizeof(float), *x);
    return LH_OK;
}

// The query of a head at a position of the batch, or of the unfinished chunk before it.
static __device__ const float *query_at(const lh_attention_args &x, int position, int head) {
    const lh_attention &a = x.a;
    int t = position - lh_position(x, 0);
    const float *base = t >= 0 ? a.q + (size_t)t * a.n_head * a.head_dim
                               : a.queries + (size_t)(position % a.plan.chunk) * a.n_head * a.head_dim;
    return base + (size_t)head * a.head_dim;
}

template <lh_kv_type type>
static __device__ float dot(const float *q, const char *key, int dim) {
    float sum = 0;
    for (int i = 0; i < dim; i++) sum += q[i] * lh_kv_load<type>(key, i);
    return sum;
}

// Warps that work on queries side by side, each with room for the weights of a chunk's keys, twice.
static int paper_warps(int chunk) { return LH_MIN(WARPS, LH_MAX(1, 4096 / chunk)); }

//   A = softmax(Qc Kc^T) V, a = mean of A's rows = (mean of the weights' rows) V, summary = softmax(a Kc^T) Kc
template <lh_kv_type type>
static __global__ void __launch_bounds__(THREADS) paper_kernel(lh_attention_args x, int warps) {
    const lh_attention &a = x.a;
    int head = (int)blockIdx.y, chunk = chunk_of_block(x), l = a.plan.chunk, dim = a.head_dim;
    int thread = (int)threadIdx.x, warp = thread / LH_WARP, lane = thread % LH_WARP;
    if (chunk < 0) return;
    const char *keys = lh_kv_chunk(x, LH_KEYS, head / x.group, chunk),
               *values = lh_kv_chunk(x, LH_VALUES, head / x.group, chunk);
    float *made = (float *)lh_shared_memory();            // (summary_dim)
    float *mean = made + a.summary_dim;                   // (dim)
    float *scratch = mean + dim;                          // (WARPS)
    float *queries = scratch + WARPS;                     // (warps, dim)
    float *scores = queries + (size_t)warps * dim;        // (warps, l)
    float *weights = scores + (size_t)warps * l;          // (warps, l): sums over the warp's queries

    if (warp < warps) {
        float *q = queries + (size_t)warp * dim, *score = scores + (size_t)warp * l,
              *weight = weights + (size_t)warp * l;
        for (int j = lane; j < l; j += LH_WARP) weight[j] = 0;
        for (int o = warp; o < l; o += warps) {
            const float *raw = query_at(x, chunk * l + o, head), *table = a.rope_offset + 2 * (size_t)dim * o;
            __syncwarp();
            for (int i = lane; i < dim; i += LH_WARP) q[i] = lh_rotated(raw, table, 1, a.scale, dim, i);
            __syncwarp();
            float top = -INFINITY, sum = 0;
            for (int j = lane; j < l; j += LH_WARP) {
                score[j] = dot<type>(q, keys + j * x.row, dim);
                top = fmaxf(top, score[j]);
            }
            top = lh_warp_max(top);
            for (int j = lane; j < l; j += LH_WARP) sum += score[j] = expf(score[j] - top);
            sum = lh_warp_sum(sum) * (float)l;
            for (int j = lane; j < l; j += LH_WARP) weight[j] += score[j] / sum;
        }
    }
    __syncthreads();
    for (int j = thread; j < l; j += THREADS)
        for (int w = 1; w < warps; w++) weights[j] += weights[(size_t)w * l + j];
    __syncthreads();
    // The mean lives in value space and is dotted with keys, whose rotated pairs are (2i, 2i + 1); the authors pair it
    // with keys whose pairs are (i, i + pairs).
    int pairs = a.rope_dim / 2;
    for (int i = thread; i < dim; i += THREADS) {
        float sum = 0;
        for (int j = 0; j < l; j++) sum += weights[j] * lh_kv_load<type>(values + j * x.row, i);
        mean[i < pairs ? 2 * i : i < 2 * pairs ? 2 * (i - pairs) + 1 : i] = sum * a.scale;
    }
    __syncthreads();
    float top = -INFINITY, sum = 0;
    for (int j = thread; j < l; j += THREADS) {
        scores[j] = dot<type>(mean, keys + j * x.row, dim);
        top = fmaxf(top, scores[j]);
    }
    top = lh_block_max(top, scratch);
    for (int j = thread; j < l; j += THREADS) sum += scores[j] = expf(scores[j] - top);
    sum = lh_block_sum(sum, scratch);
    for (int i = thread; i < a.summary_dim; i += THREADS) {
        float value = 0;
        for (int j = 0; i < dim && j < l; j++) value += scores[j] * lh_kv_load<type>(keys + j * x.row, i);
        made[i] = value / sum;
    }
    store_made(a, made, lh_summary_at(&a, head, chunk));
}

template <lh_kv_type type>
static lh_status run_paper(lh_cuda *c, const lh_attention_args *x, dim3 grid) {
    const lh_attention *a = &x->a;
    int warps = paper_warps(a->plan.chunk);
    size_t floats =
        (size_t)a->summary_dim + a->head_dim + WARPS + (size_t)warps * (a->head_dim + 2 * (size_t)a->plan.chunk);
    LH_CUDA_RUN(c, paper_kernel<type>, grid, THREADS, floats * sizeof(float), *x, warps);
    return LH_OK;
}

// --- the operation ------------------------------------------------------------------------------------------------

// The queries of the chunk that stays unfinished: a block a token, from the last one on.
static __global__ void keep_queries_kernel(lh_attention_args x) {
    const lh_attention &a = x.a;
    int t = a.n - 1 - (int)blockIdx.x, end = lh_position(x, a.n) / a.plan.chunk, position = lh_position(x, t);
    if (t < 0 || position < end * a.plan.chunk) return;
    int width = a.n_head * a.head_dim;
    const float *from = a.q + (size_t)t * width;
    float *to = a.queries + (size_t)(position % a.plan.chunk) * width;
    for (int i = (int)threadIdx.x; i < width; i += THREADS) to[i] = from[i];
}

lh_status lh_cuda_summarize(lh_cuda *c, const lh_attention *a) {
    lh_attention_args x = lh_attention_args_of(c, a);
    dim3 grid((unsigned)((a->n + a->plan.chunk - 1) / a->plan.chunk), (unsigned)(a->n_head_kv * a->n_summary));
    switch (a->scheme) {
        case LH_SCHEME_BOUNDS: LH_TRY(LH_KV_DISPATCH(a->kv_type, run_bounds, c, &x, grid)); break;
        case LH_SCHEME_PAPER: LH_TRY(LH_KV_DISPATCH(a->kv_type, run_paper, c, &x, grid)); break;
        default: LH_TRY(LH_KV_DISPATCH(a->kv_type, run_peak, c, &x, grid));
    }
    if (!a->queries) return LH_OK;
    LH_CUDA_RUN(c, keep_queries_kernel, LH_MIN(a->n, a->plan.chunk), THREADS, 0, x);
    return LH_OK;
}
