// Which chunks a query attends: scores of all candidates, and the exact best of them in the total order of chunk_map.h.
//
// A choice is a block's work. Scores become integers of the same order; digit by digit, from the first in which they
// differ, counts of each digit tell which prefix the last chosen score has. Then all above it are taken, and of those
// that share it as many as are missing, from the lowest index on.
#include "select.cuh"

#define THREADS 256
#define WARPS (THREADS / LH_WARP)
#define DIGIT 8                       // bits
#define SCORES_BYTES ((size_t)64 << 20)  // of scratch, about: what tokens are cut into blocks for
#define MAX_TOKENS 512                // of a block
#define MOST_SHARED 8192              // keys that are kept in shared memory

// Larger keys rank first; equal scores have equal keys, whatever the sign of their zeros.
static __device__ __forceinline__ uint32_t key_of(float score) {
    uint32_t bits = __float_as_uint(score + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// What separates the chosen from the others: keys >> bits above prefix are taken, and `equal` of those that are equal.
typedef struct cut {
    uint32_t prefix;
    int bits, equal;
} cut;

// (key >> bits), for 0 <= bits <= 32.
static __device__ __forceinline__ uint32_t top_bits(uint32_t key, int bits) { return bits < 32 ? key >> bits : 0; }

// The candidates' keys, n of them: from shared memory where they fit, else made of the scores each time they are read.
typedef struct ranking {
    const float *scores;
    uint32_t *keys;          // NULL: they do not fit
    int n;
} ranking;

static __device__ __forceinline__ uint32_t key_at(const ranking &r, int i) {
    return r.keys ? r.keys[i] : key_of(r.scores[i]);
}

static __device__ cut find_cut(const ranking &r, int k, int *counts, int *shared) {
    int thread = (int)threadIdx.x, lane = thread % LH_WARP, warp = thread / LH_WARP;
    uint32_t least = 0xffffffffu, most = 0;
    for (int i = thread; i < r.n; i += THREADS) {
        uint32_t key = key_of(r.scores[i]);
        if (r.keys) r.keys[i] = key;
        least = min(least, key);
        most = max(most, key);
    }
    least = __reduce_min_sync(LH_ALL_LANES, least);
    most = __reduce_max_sync(LH_ALL_LANES, most);
    if (lane == 0) {
        counts[2 * warp] = (int)least;
        counts[2 * warp + 1] = (int)most;
    }
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        least = min(least, (uint32_t)counts[2 * w]);
        most = max(most, (uint32_t)counts[2 * w + 1]);
    }
    cut c;
    c.bits = LH_WARP - __clz((int)(least ^ most));
    c.prefix = top_bits(most, c.bits);
    c.equal = k;
    while (c.bits > 0) {
        int digit = min(c.bits, DIGIT), low = c.bits - digit;
        __syncthreads();
        counts[thread] = 0;
        __syncthreads();
        for (int i = thread; i < r.n; i += THREADS) {
            uint32_t key = key_at(r, i);
            if (top_bits(key, c.bits) == c.prefix) atomicAdd(&counts[(key >> low) & ((1u << digit) - 1)], 1);
        }
        __syncthreads();
        // From the largest digit down, a warp finds the one at which enough are counted: eight digits a lane.
        if (warp == 0) {
            int mine[THREADS / LH_WARP], sum = 0;
            for (int i = 0; i < THREADS / LH_WARP; i++)
                sum += mine[i] = counts[THREADS - 1 - (lane * (THREADS / LH_WARP) + i)];
            int before = sum;
            for (int by = 1; by < LH_WARP; by *= 2) {
                int other = __shfl_up_sync(LH_ALL_LANES, before, (unsigned)by);
                if (lane >= by) before += other;
            }
            before -= sum;
            if (before < c.equal && before + sum >= c.equal) {
                int i = 0;
                while (before + mine[i] < c.equal) before += mine[i++];
                shared[0] = THREADS - 1 - (lane * (THREADS / LH_WARP) + i);
                shared[1] = c.equal - before;
                shared[2] = mine[i];
            }
        }
        __syncthreads();
        c.prefix = (c.bits < 32 ? c.prefix << digit : 0) | (uint32_t)shared[0];
        c.bits = low;
        c.equal = shared[1];
        if (shared[2] == c.equal) break;  // all that share this prefix are in
    }
    return c;
}

// Indices of what is taken, ascending. A warp has a stretch of them all; what came before it is counted first.
static __device__ void write_chosen(const ranking &r, cut c, int *counts, int *out) {
    int lane = (int)threadIdx.x % LH_WARP, warp = (int)threadIdx.x / LH_WARP;
    int stretch = (r.n + THREADS - 1) / THREADS * LH_WARP, from = warp * stretch, to = min(r.n, from + stretch);
    int above = 0, equal = 0;
    for (int i = from + lane; i < to; i += LH_WARP) {
        uint32_t top = top_bits(key_at(r, i), c.bits);
        above += top > c.prefix;
        equal += top == c.prefix;
    }
    above = __reduce_add_sync(LH_ALL_LANES, above);
    equal = __reduce_add_sync(LH_ALL_LANES, equal);
    __syncthreads();
    if (lane == 0) {
        counts[2 * warp] = above;
        counts[2 * warp + 1] = equal;
    }
    __syncthreads();
    int written = 0, seen = 0;  // in all stretches before: taken, and equal ones
    for (int w = 0; w < warp; w++) {
        written += counts[2 * w] + min(counts[2 * w + 1], max(c.equal - seen, 0));
        seen += counts[2 * w + 1];
    }
    uint32_t lower = (1u << lane) - 1;
    for (int at = from; at < to; at += LH_WARP) {
        int i = at + lane;
        uint32_t top = i < to ? top_bits(key_at(r, i), c.bits) : 0;
        uint32_t same = __ballot_sync(LH_ALL_LANES, i < to && top == c.prefix);
        bool taken = i < to && (top > c.prefix || (top == c.prefix && seen + __popc(same & lower) < c.equal));
        uint32_t all = __ballot_sync(LH_ALL_LANES, taken);
        if (taken) out[written + __popc(all & lower)] = 1 + i;
        written += __popc(all);
        seen += __popc(same);
    }
}

// What is added to q . k of the chunks in `chosen`, for a query of chunk c: by a warp.
static __device__ void weigh(const lh_attention &a, int c, const float *scores, const int *chosen, float *bias) {
    int n = lh_n_chosen(a.plan), lane = (int)threadIdx.x;
    float least = INFINITY;
    for (int r = 1 + lane; r <= n; r += LH_WARP) least = fminf(least, scores[chosen[r] - 1]);
    least = -lh_warp_max(-least);
    for (int r = lane; r < a.plan.k; r += LH_WARP)
        bias[r] = r > 0 && r <= n ? lh_bias_of(&a, c, scores[chosen[r] - 1], least) : 0;
}

static __global__ void __launch_bounds__(THREADS) choose_kernel(lh_attention_args x, lh_score_block block) {
    const lh_attention &a = x.a;
    __shared__ int counts[THREADS], shared[3];
    const lh_chunk_plan plan = a.plan;
    int chooser = (int)blockIdx.x, t = (int)blockIdx.y, own = lh_position(x, block.token + t) / plan.chunk;
    if (a.leader[chooser] < 0 || lh_is_dense(plan, own)) return;
    int end = lh_candidates_end(plan, own), k = lh_n_chosen(plan);
    size_t at = lh_choice_at(&a, chooser, block.token + t);
    int32_t *out = a.chosen + at;
    if (threadIdx.x == 0) out[0] = 0;
    for (int i = (int)threadIdx.x; i < plan.local; i += THREADS) out[1 + k + i] = end + i;
    ranking r = {block.scores + ((size_t)t * a.n_select + chooser) * block.stride,
                 block.candidates <= MOST_SHARED ? (uint32_t *)lh_shared_memory() : NULL, end - 1};
    cut c = find_cut(r, k, counts, shared);
    write_chosen(r, c, counts, out + 1);
    __syncthreads();
    if (threadIdx.x < LH_WARP) weigh(a, own, r.scores, out, a.bias + at);
}

lh_status lh_cuda_select(lh_cuda *c, const lh_attention *a) {
    lh_attention_args x = lh_attention_args_of(c, a);
    int32_t l = a->plan.chunk, first = 0;
    lh_score_block b = {};
    // One token's grid is for any position, and so is the scratch of all: growing with the text it would be reserved
    // anew time and again.
    int32_t most = LH_MAX(1, a->n_chunk - a->plan.local);
    size_t longest = (size_t)a->n_select * LH_ROUND_UP((size_t)most, (size_t)32) * sizeof(float);
    if (a->n == 1) {
        b.candidates = most;
    } else {
        first = (int32_t)LH_MIN(LH_MAX((int64_t)a->plan.dense * l - a->pos, 0), a->n);
        b.candidates = lh_candidates_end(a->plan, lh_chunk_of(a->pos + a->n - 1, l)) - 1;
    }
    if (first == a->n) return LH_OK;
    b.stride = LH_ROUND_UP(b.candidates, 32);
    size_t row = (size_t)a->n_select * (size_t)b.stride * sizeof(float);
    int32_t tokens = (int32_t)LH_MIN((size_t)LH_MIN(MAX_TOKENS, a->n - first), LH_MAX((size_t)1, SCORES_BYTES / row));
    bool product = a->scheme != LH_SCHEME_PEAK;
    void *features = NULL, *scratch = NULL;
    auto lay_out = [&](void *memory) {
        lh_layout at = {(char *)memory, 0};
        b.scores = (float *)lh_take(&at, LH_MIN(MAX_TOKENS * longest, LH_MAX(SCORES_BYTES, longest)), 1);
        features = lh_take(&at, product ? lh_cuda_score_product_bytes(&x, tokens) : 0, 1);
        return at.used;
    };
    LH_TRY(lh_cuda_scratch(c, LH_CUDA_SELECT, lay_out(NULL), &scratch));
    lay_out(scratch);
    for (b.token = first; b.token < a->n; b.token += tokens) {
        b.n = LH_MIN(tokens, a->n - b.token);
        LH_TRY(product ? lh_cuda_score_product(c, &x, &b, features) : lh_cuda_score_peak(c, &x, &b));
        size_t keys = b.candidates <= MOST_SHARED ? b.candidates * sizeof(uint32_t) : 0;
        LH_CUDA_RUN(c, choose_kernel, dim3((unsigned)a->n_select, (unsigned)b.n), THREADS, keys, x, b);
    }
    return LH_OK;
}
