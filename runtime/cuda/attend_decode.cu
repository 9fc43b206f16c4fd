// Attention of one token, in floats: the chunks of each chooser are dealt out to blocks, each with a softmax of its
// own, and a second kernel merges these parts in their order.
//
// A block has up to HEADS query heads that attend the same chunks. Keys and values come to shared memory as they lie in
// the cache, asynchronously: keys of the next step while values of this one are summed, and the other way round. A
// thread has a key (scores) or a pair of components (sums).
//
// Nothing here depends on the position but what kernels read from c->params, so that a graph of it can be replayed.
#include <math.h>

#include "attend.cuh"

#define THREADS 128
#define HEADS 4           // of a block
#define TARGET_BLOCKS 512
#define MAX_SPLITS THREADS
#define STAGED_BYTES (72 << 10)  // of keys and values in shared memory, at most: less than any device has

typedef struct one_shape {
    int32_t splits;       // blocks that share a chooser's chunks
    int32_t keys;         // of a step
    int32_t stride;       // bytes between keys in shared memory
    int32_t staged;       // bytes of keys and values in shared memory, or of what lies there at the end
    int32_t width;        // head_dim in whole eights
    float *parts;         // (n_head, splits, head_dim): means of values
    float *logs;          // (n_head, splits): logarithms of weights, -inf: none
} one_shape;

// Eight components of a staged row from `at`, a multiple of 8, on.
template <lh_kv_type type>
static __device__ __forceinline__ void load_eight(const char *row, int at, float out[8]) {
    if (type == LH_KV_F32) {
        float4 low = ((const float4 *)row)[at / 4], high = ((const float4 *)row)[at / 4 + 1];
        out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
        out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
    } else if (type == LH_KV_Q8_0) {
        const char *block = row + at / 32 * (int)sizeof(lh_block_q8_0);
        float scale = lh_half_at(block);
        for (int i = 0; i < 8; i += 2) {
            int two = *(const int16_t *)(block + 2 + at % 32 + i);
            out[i] = scale * (float)(int8_t)(two & 0xff);
            out[i + 1] = scale * (float)(two >> 8);
        }
    } else {
        uint4 all = *(const uint4 *)(row + 2 * at);
        const uint32_t words[4] = {all.x, all.y, all.z, all.w};
        for (int i = 0; i < 4; i++) {
            if (type == LH_KV_BF16) {
                out[2 * i] = __uint_as_float(words[i] << 16);
                out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
            } else {
                out[2 * i] = __half2float(__ushort_as_half((unsigned short)(words[i] & 0xffff)));
                out[2 * i + 1] = __half2float(__ushort_as_half((unsigned short)(words[i] >> 16)));
            }
        }
    }
}

// n_keys rows to shared memory, `stride` apart there; as they are where that is the same.
static __device__ __forceinline__ void stage(const char *from, int row, int stride, int n_keys, char *to) {
    int thread = (int)threadIdx.x;
    if (stride == row) {
        int bytes = n_keys * row, wide = (uintptr_t)from % 16 == 0 ? bytes / 16 * 16 : 0;
        for (int i = 16 * thread; i < wide; i += 16 * THREADS) lh_cp_async16(to + i, from + i);
        for (int i = wide + 2 * thread; i < bytes; i += 2 * THREADS)
            *(uint16_t *)(to + i) = *(const uint16_t *)(from + i);
    } else if (row % 16 == 0) {
        int pieces = row / 16;
        for (int i = thread; i < n_keys * pieces; i += THREADS)
            lh_cp_async16(to + i / pieces * stride + i % pieces * 16, from + (size_t)i * 16);
    } else {
        int words = row / 4;  // a pair of components is no less
        for (int i = thread; i < n_keys * words; i += THREADS)
            *(uint32_t *)(to + i / words * stride + i % words * 4) = *(const uint32_t *)(from + (size_t)i * 4);
    }
}

// Everything in shared memory, in this order.
typedef struct one_shared {
    char *k, *v;             // (keys) rows
    float *query, *rotated;  // (HEADS, width): by the offset; for the chunk at hand
    float *weights;          // (keys, HEADS): scores, then weights
    float *shrink;           // (HEADS)
    float *top;              // (HEADS, 2): at the end, the largest score and the sum of weights
} one_shared;

static size_t one_shared_bytes(const one_shape &s) {
    return (size_t)s.staged + sizeof(float) * (2 * HEADS * (size_t)s.width + HEADS * (size_t)s.keys + 3 * HEADS);
}

static __device__ __forceinline__ one_shared carve(const one_shape &s) {
    one_shared m;
    m.k = (char *)lh_shared_memory();
    m.v = m.k + s.keys * s.stride;  // keys is a multiple of 16, so this is one, too
    m.query = (float *)(m.k + s.staged);
    m.rotated = m.query + HEADS * s.width;
    m.weights = m.rotated + HEADS * s.width;
    m.shrink = m.weights + HEADS * s.keys;
    m.top = m.shrink + HEADS;
    return m;
}

// What a thread keeps from step to step.
typedef struct one_state {
    int pairs;                     // of components that threads share; THREADS / pairs of them share the keys
    float sums[2][HEADS][2];
    float top, weight;             // of head number `warp`, in all its lanes: the largest score, the sum of weights
} one_state;

static __device__ __forceinline__ one_state one_begin(int dim) {
    one_state w = {};
    w.pairs = 1;
    while (w.pairs < dim / 2 && w.pairs < THREADS) w.pairs *= 2;
    w.top = -INFINITY;
    return w;
}

// Queries of `heads` heads from `head` on, rotated by the offset and scaled; zeros for those that are missing.
static __device__ __forceinline__ void rotate_queries(const lh_attention &a, int head, int heads, int offset, int width,
                                                      const one_shared &m) {
    int dim = a.head_dim;
    const float *table = a.rope_offset + 2 * (size_t)dim * offset;
    for (int i = (int)threadIdx.x; i < HEADS * width; i += THREADS) {
        int h = i / width, at = i % width;
        bool valid = h < heads && at < dim;
        m.query[i] = valid ? lh_rotated(a.q + (size_t)(head + h) * dim, table, 1, a.scale * LH_LOG2_E, dim, at) : 0;
        m.rotated[i] = 0;
    }
}

// Scores of a step's keys: a thread has a key and two heads.
template <lh_kv_type type>
static __device__ __forceinline__ void score_keys(const one_shape &s, const one_shared &m, int n_keys, float bias) {
    int key = (int)threadIdx.x % s.keys, groups = THREADS / s.keys;
    for (int h = (int)threadIdx.x / s.keys * 2; h < HEADS && key < n_keys; h += groups * 2) {
        const float *q = m.rotated + h * s.width;
        float score[2] = {bias, bias};
        for (int at = 0; at < s.width; at += 8) {
            float k[8];
            load_eight<type>(m.k + key * s.stride, at, k);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                score[0] += q[at + i] * k[i];
                score[1] += q[s.width + at + i] * k[i];
            }
        }
        m.weights[key * HEADS + h] = score[0];
        m.weights[key * HEADS + h + 1] = score[1];
    }
}

// From scores to weights: a warp has a head.
static __device__ __forceinline__ void weigh_keys(const one_shared &m, int n_keys, one_state &w) {
    int h = (int)threadIdx.x / LH_WARP, lane = (int)threadIdx.x % LH_WARP;
    float most = w.top, sum = 0;
    for (int j = lane; j < n_keys; j += LH_WARP) most = fmaxf(most, m.weights[j * HEADS + h]);
    most = lh_warp_max(most);
    float shrink = exp2f(w.top - most);
    for (int j = lane; j < n_keys; j += LH_WARP)
        sum += m.weights[j * HEADS + h] = exp2f(m.weights[j * HEADS + h] - most);
    w.weight = w.weight * shrink + lh_warp_sum(sum);
    w.top = most;
    if (lane == 0) m.shrink[h] = shrink;
}

template <lh_kv_type type>
static __device__ __forceinline__ void add_values(const one_shape &s, const one_shared &m, int n_keys, int dim,
                                                  one_state &w) {
    float4 shrink = *(const float4 *)m.shrink;
    const float by[HEADS] = {shrink.x, shrink.y, shrink.z, shrink.w};
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int g = 0; g < HEADS; g++) {
            w.sums[i][g][0] *= by[g];
            w.sums[i][g][1] *= by[g];
        }
    int pair = (int)threadIdx.x & (w.pairs - 1);
    for (int j = (int)threadIdx.x / w.pairs; j < n_keys; j += THREADS / w.pairs) {
        const char *value = m.v + j * s.stride;
        float4 weights = *(const float4 *)(m.weights + j * HEADS);
        const float of[HEADS] = {weights.x, weights.y, weights.z, weights.w};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int at = 2 * (pair + i * w.pairs);
            if (at >= dim) break;
            float even = lh_kv_load<type>(value, at), odd = lh_kv_load<type>(value, at + 1);
#pragma unroll
            for (int g = 0; g < HEADS; g++) {
                w.sums[i][g][0] += of[g] * even;
                w.sums[i][g][1] += of[g] * odd;
            }
        }
    }
}

// The block's part of the result: shares of the keys, added up in order where keys and values were (parts, HEADS, dim).
static __device__ __forceinline__ void write_part(const one_shape &s, const one_shared &m, int head, int heads, int dim,
                                                  bool any, const one_state &w) {
    int thread = (int)threadIdx.x, split = (int)blockIdx.y;
    int pair = thread % w.pairs, part = thread / w.pairs, parts = THREADS / w.pairs;
    float *shared = (float *)m.k;
    for (int i = 0; i < 2; i++) {
        int at = 2 * (pair + i * w.pairs);
        for (int g = 0; g < HEADS && at < dim; g++)
            *(float2 *)(shared + (size_t)(part * HEADS + g) * dim + at) = {w.sums[i][g][0], w.sums[i][g][1]};
    }
    if (thread % LH_WARP == 0) {
        m.top[2 * (thread / LH_WARP)] = w.top;
        m.top[2 * (thread / LH_WARP) + 1] = w.weight;
    }
    __syncthreads();
    for (int i = thread; i < heads * dim; i += THREADS) {
        int h = i / dim;
        float sum = 0;
        for (int p = 0; p < parts; p++) sum += shared[(size_t)p * HEADS * dim + i];
        s.parts[((size_t)(head + h) * s.splits + split) * dim + i % dim] = any ? sum / m.top[2 * h + 1] : 0;
    }
    if (thread < heads)
        s.logs[(size_t)(head + thread) * s.splits + split] =
            any ? m.top[2 * thread] + log2f(m.top[2 * thread + 1]) : -INFINITY;
}

template <lh_kv_type type>
static __global__ void __launch_bounds__(THREADS) one_kernel(lh_attention_args x, one_shape shape) {
    const lh_attention &a = x.a;
    const lh_chunk_plan plan = lh_plan_of_choice(&a, (int)blockIdx.x);
    int chooser = (int)blockIdx.x, split = (int)blockIdx.y, thread = (int)threadIdx.x;
    int head = chooser * x.together + (int)blockIdx.z * HEADS, heads = min(HEADS, (chooser + 1) * x.together - head);
    int kv_head = head / x.group, dim = a.head_dim, width = shape.width, position = lh_position(x, 0);
    int own = position / plan.chunk, offset = position % plan.chunk, attended = lh_n_attended(plan, own);
    const int *chosen = lh_choice(&a, chooser, 0, own);
    const float *biases = a.bias + lh_choice_at(&a, chooser, 0);
    int per_chunk = (plan.chunk + shape.keys - 1) / shape.keys, row = (int)x.row;
    int steps = split < attended ? (attended - split + shape.splits - 1) / shape.splits * per_chunk : 0;
    one_shared m = carve(shape);
    one_state w = one_begin(dim);

    // Rows end before their stride does: what lies behind is multiplied by zeros, and must be numbers.
    for (int i = thread; i < 2 * shape.keys; i += THREADS)
        for (int at = row; at < shape.stride; at += 2) *(uint16_t *)(m.k + i * shape.stride + at) = 0;
    rotate_queries(a, head, heads, offset, width, m);

    // What a step is about: its chunk, its first key, and how many there are to see.
    auto rank_of = [&](int step) { return split + step / per_chunk * shape.splits; };
    auto chunk_of = [&](int step) {
        int r = rank_of(step);
        return chosen ? chosen[r] : lh_unchosen(own, attended, r);
    };
    auto stage_step = [&](lh_kv_side side, int step, char *to) {
        if (step < steps) {
            int first = step % per_chunk * shape.keys;
            stage(lh_kv_chunk(x, side, kv_head, chunk_of(step)) + (size_t)first * row, row, shape.stride,
                  min(shape.keys, plan.chunk - first), to);
        }
        lh_cp_async_commit();
    };
    __syncthreads();  // the zeros behind rows
    stage_step(LH_KEYS, 0, m.k);
    stage_step(LH_VALUES, 0, m.v);
    for (int step = 0; step < steps; step++) {
        int chunk = chunk_of(step), first = step % per_chunk * shape.keys;
        int n_keys = min(shape.keys, (chunk == own ? offset + 1 : plan.chunk) - first);
        if (first == 0) {
            int distance = lh_chunk_distance(plan, own, chunk, rank_of(step));
            const float *turn = a.rope_chunk + 2 * (size_t)dim * distance;
            for (int i = thread; i < HEADS * dim; i += THREADS)
                m.rotated[i / dim * width + i % dim] = lh_rotated(m.query + i / dim * width, turn, 1, 1, dim, i % dim);
        }
        lh_cp_async_wait<1>();
        __syncthreads();
        score_keys<type>(shape, m, n_keys, chosen ? biases[rank_of(step)] * LH_LOG2_E : 0);
        __syncthreads();
        stage_step(LH_KEYS, step + 1, m.k);
        if (n_keys > 0) weigh_keys(m, n_keys, w);
        lh_cp_async_wait<1>();
        __syncthreads();
        if (n_keys > 0) add_values<type>(shape, m, n_keys, dim, w);
        __syncthreads();
        stage_step(LH_VALUES, step + 1, m.v);
    }
    lh_cp_async_wait<0>();
    __syncthreads();
    write_part(shape, m, head, heads, dim, steps > 0, w);
}

// A block a head: a thread has a component and every MERGE_SIDES-th part.
#define MERGE_SIDES 4

static __global__ void __launch_bounds__(MERGE_SIDES * THREADS) one_merge_kernel(lh_attention_args x, one_shape shape) {
    __shared__ float weights[MAX_SPLITS], sums[MERGE_SIDES][THREADS];
    int head = (int)blockIdx.x, dim = x.a.head_dim, thread = (int)threadIdx.x % THREADS,
        side = (int)threadIdx.x / THREADS;
    const float *logs = shape.logs + (size_t)head * shape.splits,
                *parts = shape.parts + (size_t)head * shape.splits * dim;
    if (side == 0) weights[thread] = thread < shape.splits ? logs[thread] : -INFINITY;
    __syncthreads();
    float top = -INFINITY, weight = 0;
    for (int s = 0; s < shape.splits; s++) top = fmaxf(top, weights[s]);
    for (int s = 0; s < shape.splits; s++) weight += exp2f(weights[s] - top);
    for (int first = 0; first < dim; first += THREADS) {
        int i = first + thread;
        float sum = 0;
#pragma unroll 8
        for (int s = side; s < shape.splits; s += MERGE_SIDES)
            sum += i < dim ? exp2f(weights[s] - top) * parts[(size_t)s * dim + i] : 0;
        sums[side][thread] = sum;
        __syncthreads();
        if (side == 0 && i < dim) {
            for (int other = 1; other < MERGE_SIDES; other++) sum += sums[other][thread];
            x.a.out[(size_t)head * dim + i] = sum / weight;
        }
        __syncthreads();
    }
}

template <lh_kv_type type>
static lh_status run(lh_cuda *c, const lh_attention_args *x, const one_shape *s) {
    const lh_attention *a = &x->a;
    dim3 grid((unsigned)a->n_select, (unsigned)s->splits, (unsigned)((x->together + HEADS - 1) / HEADS));
    LH_CUDA_RUN(c, one_kernel<type>, grid, THREADS, one_shared_bytes(*s), *x, *s);
    LH_CUDA_RUN(c, one_merge_kernel, (unsigned)a->n_head, MERGE_SIDES * THREADS, 0, *x, *s);
    return LH_OK;
}

// Lays the parts out at `memory`; returns the bytes they take.
static size_t lay_out(const lh_attention *a, void *memory, one_shape *s) {
    lh_layout at = {(char *)memory, 0};
    size_t parts = (size_t)a->n_head * s->splits;
    s->parts = (float *)lh_take(&at, parts * a->head_dim, sizeof *s->parts);
    s->logs = (float *)lh_take(&at, parts, sizeof *s->logs);
    return at.used;
}

lh_status lh_cuda_attend_one(lh_cuda *c, const lh_attention_args *x) {
    const lh_attention *a = &x->a;
    one_shape s = {};
    void *scratch = NULL;
    s.width = LH_ROUND_UP(a->head_dim, 8);
    // Rows are read in whole eights. An odd number of sixteens, so that threads with neighbouring keys read other banks;
    // blocks of q8_0 lie at even addresses anyway, and stay as they are.
    size_t read = lh_kv_row_size(a->kv_type, s.width);
    s.stride = a->kv_type == LH_KV_Q8_0 ? (int32_t)x->row : (int32_t)(((read + 15) / 16) | 1) * 16;
    s.keys = 64;
    while (s.keys > 16 && 2 * s.keys * s.stride > STAGED_BYTES) s.keys /= 2;
    // At the end HEADS times two components of each thread, twice that of the longest heads.
    s.staged = LH_MAX(2 * s.keys * s.stride,
                      THREADS * HEADS * 2 * (int32_t)sizeof(float) * (a->head_dim > 2 * THREADS ? 2 : 1));
    // The number of parts is one of shapes, not of the device: so are results.
    int32_t most = LH_MAX(LH_MAX(a->plan.k, a->near), LH_MIN(a->plan.dense, a->n_chunk)),
            blocks = a->n_select * ((x->together + HEADS - 1) / HEADS);
    s.splits = LH_MAX(1, LH_MIN(LH_MIN(most, MAX_SPLITS), TARGET_BLOCKS / blocks));
    LH_TRY(lh_cuda_scratch(c, LH_CUDA_ATTEND, lay_out(a, NULL, &s), &scratch));
    lay_out(a, scratch, &s);
    return LH_KV_DISPATCH(a->kv_type, run, c, x, &s);
}
