// Attention of many tokens: tiles of query rows meet the keys of a chunk on tensor cores (halves, sums in floats), with
// an online softmax (Milakov and Gimelshein, arXiv 1805.02867) in registers.
//
// Two kinds of tiles share everything but their rows:
//   near  neighbouring rows and all that they attend without choosing: chunk 0 and the last ones of sparse rows, every
//         chunk of dense ones. The tile runs through these chunks, each row masked where a chunk is not its own to see.
//   far   rows from all over the batch that chose one chunk (attend_lists.cu), and that chunk. Its part of these rows
//         goes to scratch, to be merged (attend.cu). So arithmetic is for chosen pairs alone, however little
//         neighbouring tokens agree, at the price of writing and reading a half for each component of a row and chunk.
// A warp has 16 rows. It rotates them for the chunk at hand into shared memory, which no other warp reads.
#include "attend.cuh"

#define TILE 16  // rows of a warp
#define PAD 8    // halves between rows of shared memory beyond their width: neighbouring rows start in other banks

// Rows, keys and values of a block in shared memory, and its rows' state.
typedef struct tile_shared {
    __half *q;         // (rows, width + PAD): rotated for the chunk
    __half *k;         // (KEYS, width + PAD)
    __half *v;         // (KEYS, VALUES + PAD)
    int *row;          // (rows): number of the row, -1: none
    int *distance;     // (rows): in chunks
    int *limit;        // (rows): keys of the chunk that the row sees
    int *position;     // (rows); of far tiles: the place of the row's part
} tile_shared;

static int32_t tile_keys(int32_t head_dim) { return head_dim > 128 ? 32 : 64; }
static int32_t tile_warps(int32_t head_dim) { return head_dim > 256 ? 2 : 4; }
static int32_t tile_values(int32_t head_dim) { return head_dim > 64 ? 128 : 64; }  // components of a block's results
int32_t lh_cuda_tile_rows(int32_t head_dim) { return tile_warps(head_dim) * TILE; }

static size_t shared_bytes(int32_t head_dim, int32_t width) {
    size_t rows = (size_t)lh_cuda_tile_rows(head_dim), keys = (size_t)tile_keys(head_dim);
    return ((rows + keys) * (width + PAD) + keys * (tile_values(head_dim) + PAD)) * sizeof(__half) +
           4 * rows * sizeof(int);
}

template <int KEYS, int VALUES>
static __device__ __forceinline__ tile_shared carve(int rows, int width) {
    tile_shared s;
    s.q = (__half *)lh_shared_memory();
    s.k = s.q + rows * (width + PAD);
    s.v = s.k + KEYS * (width + PAD);
    s.row = (int *)(s.v + KEYS * (VALUES + PAD));
    s.distance = s.row + rows;
    s.limit = s.distance + rows;
    s.position = s.limit + rows;
    return s;
}

// --- from memory to shared memory ---------------------------------------------------------------------------------

// n_keys rows of keys or values as halves: components from..from + width, zeros beyond the end of a row or of the chunk
// (weights there are zeros, and must not meet what is no number). Halves arrive asynchronously.
template <lh_kv_type type, int KEYS>
static __device__ __forceinline__ void stage(const char *rows, size_t row, int n_keys, int dim, int from, int width,
                                             __half *out) {
    int stride = width + PAD, threads = (int)blockDim.x, pieces = width / 8;
    if (type == LH_KV_F16 && dim % 8 == 0) {
        for (int i = (int)threadIdx.x; i < KEYS * pieces; i += threads) {
            int j = i / pieces, at = from + i % pieces * 8;
            bool valid = j < n_keys && at < dim;
            lh_cp_async16(out + j * stride + at - from, valid ? rows + j * row + at * 2 : rows, valid);
        }
    } else {
        for (int i = (int)threadIdx.x; i < KEYS * width / 2; i += threads) {
            int j = i / (width / 2), at = from + i % (width / 2) * 2;
            bool valid = j < n_keys && at < dim;
            const char *from_row = rows + j * row;
            *(uint32_t *)(out + j * stride + at - from) =
                valid ? lh_pack_half2(lh_kv_load<type>(from_row, at), lh_kv_load<type>(from_row, at + 1)) : 0;
        }
    }
}

template <int KEYS>
static __device__ __forceinline__ void stage_any(const lh_attention_args &x, lh_kv_side side, int kv_head, int chunk,
                                                 int first, int from, int width, __half *out) {
    const char *rows = lh_kv_chunk(x, side, kv_head, chunk) + first * x.row;
    int n_keys = min(KEYS, x.a.plan.chunk - first), dim = x.a.head_dim;
    switch (x.a.kv_type) {
        case LH_KV_F32: stage<LH_KV_F32, KEYS>(rows, x.row, n_keys, dim, from, width, out); break;
        case LH_KV_BF16: stage<LH_KV_BF16, KEYS>(rows, x.row, n_keys, dim, from, width, out); break;
        case LH_KV_Q8_0: stage<LH_KV_Q8_0, KEYS>(rows, x.row, n_keys, dim, from, width, out); break;
        default: stage<LH_KV_F16, KEYS>(rows, x.row, n_keys, dim, from, width, out);
    }
}

// The warp's rows of queries, rotated by their distances. A lane keeps its pairs' cosines and sines as long as rows lie
// at one distance, which neighbours mostly do.
static __device__ __forceinline__ void rotate_rows(const lh_attend_block &b, const tile_shared &s) {
    int lane = (int)threadIdx.x % LH_WARP, base = (int)threadIdx.x / LH_WARP * TILE, pieces = b.width / 8;
    int held = -1;
    float2 turn[4] = {};
    for (int i = lane; i < TILE * pieces; i += LH_WARP) {
        int r = base + i / pieces, piece = i % pieces, row = s.row[r];
        uint4 out = {0, 0, 0, 0};
        if (row >= 0 && s.limit[r] > 0) {
            int at = s.distance[r] * pieces + piece;
            if (at != held) {
                const float4 *from = (const float4 *)(b.turns + (size_t)at * 4);
                float4 low = __ldg(from), high = __ldg(from + 1);
                turn[0] = {low.x, low.y};
                turn[1] = {low.z, low.w};
                turn[2] = {high.x, high.y};
                turn[3] = {high.z, high.w};
                held = at;
            }
            uint4 in = *(const uint4 *)(b.queries + (size_t)row * b.width + piece * 8);
            const uint32_t pairs[4] = {in.x, in.y, in.z, in.w};
            uint32_t turned[4];
#pragma unroll
            for (int p = 0; p < 4; p++) {
                float even = __half2float(__ushort_as_half((unsigned short)(pairs[p] & 0xffff)));
                float odd = __half2float(__ushort_as_half((unsigned short)(pairs[p] >> 16)));
                turned[p] = lh_pack_half2(even * turn[p].x - odd * turn[p].y, odd * turn[p].x + even * turn[p].y);
            }
            out = {turned[0], turned[1], turned[2], turned[3]};
        }
        *(uint4 *)(s.q + r * (b.width + PAD) + piece * 8) = out;
    }
}

// --- one warp's 16 rows and the keys in shared memory -------------------------------------------------------------
// FULL: all keys of a step are there, and all rows see them, which is the case nearly always: nothing is asked then,
// and loads and products can overlap freely.

template <int KEYS, int VALUES>
struct state {
    float scores[KEYS / 8][4];     // of one step; as a multiplication leaves them (device.cuh)
    float sums[VALUES / 8][4];     // weighted sums of values
    float top[2], weight[2];       // of rows g and g + 8: the largest score so far, the sum of weights
};

template <bool FULL, int KEYS, int VALUES>
static __device__ __forceinline__ void multiply_keys(const tile_shared &s, int width, int n_keys,
                                                     state<KEYS, VALUES> &w) {
    int lane = (int)threadIdx.x % LH_WARP, stride = width + PAD;
    const __half *q = s.q + ((int)threadIdx.x / LH_WARP * TILE + lane % 16) * stride + lane / 16 * 8;
    const __half *k = s.k + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) w.scores[j][i] = 0;
#pragma unroll 2
    for (int at = 0; at < width; at += 16) {
        uint32_t a[4], two[4];
        lh_ldmatrix(a, q + at);
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            if (!FULL && 16 * j >= n_keys) break;
            lh_ldmatrix(two, k + 16 * j * stride + at);
            lh_mma_f16(w.scores[2 * j], a, two);
            lh_mma_f16(w.scores[2 * j + 1], a, two + 2);
        }
    }
}

// Scores become weights; what was summed so far shrinks to the new maximum. left: keys that rows g and g + 8 see.
template <bool FULL, int KEYS, int VALUES>
static __device__ __forceinline__ void soften(const int left[2], state<KEYS, VALUES> &w) {
    int column = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int side = 0; side < 2; side++) {
        float top = w.top[side];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &score = w.scores[j][2 * side + i];
                if (!FULL && 8 * j + column + i >= left[side]) score = -INFINITY;
                top = fmaxf(top, score);
            }
        top = fmaxf(top, __shfl_xor_sync(LH_ALL_LANES, top, 1));
        top = fmaxf(top, __shfl_xor_sync(LH_ALL_LANES, top, 2));
        // A row that has seen nothing yet: its weights are zeros, not differences of infinities.
        float level = top == -INFINITY ? 0 : top, shrink = lh_exp2(w.top[side] - level);
        w.top[side] = top;
        float weight = 0;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                weight += w.scores[j][2 * side + i] = lh_exp2(w.scores[j][2 * side + i] - level);
        w.weight[side] = w.weight[side] * shrink + weight;  // of this lane's keys; lanes add up at the end
#pragma unroll
        for (int j = 0; j < VALUES / 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) w.sums[j][2 * side + i] *= shrink;
    }
}

template <bool FULL, int KEYS, int VALUES>
static __device__ __forceinline__ void multiply_values(const tile_shared &s, int n_keys, state<KEYS, VALUES> &w) {
    int lane = (int)threadIdx.x % LH_WARP;
    const __half *v = s.v + lane % 16 * (VALUES + PAD) + lane / 16 * 8;
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
        if (!FULL && 16 * j >= n_keys) break;
        const uint32_t a[4] = {lh_pack_half2(w.scores[2 * j][0], w.scores[2 * j][1]),
                               lh_pack_half2(w.scores[2 * j][2], w.scores[2 * j][3]),
                               lh_pack_half2(w.scores[2 * j + 1][0], w.scores[2 * j + 1][1]),
                               lh_pack_half2(w.scores[2 * j + 1][2], w.scores[2 * j + 1][3])};
#pragma unroll
        for (int d = 0; d < VALUES / 16; d++) {
            uint32_t two[4];
            lh_ldmatrix<true>(two, v + 16 * j * (VALUES + PAD) + 16 * d);
            lh_mma_f16(w.sums[2 * d], a, two);
            lh_mma_f16(w.sums[2 * d + 1], a, two + 2);
        }
    }
}

// --- tiles --------------------------------------------------------------------------------------------------------

// The chunks of a tile: `zero` first where there is one, then [low, end).
typedef struct chunk_run {
    bool zero;
    int low, end;
} chunk_run;

static __device__ __forceinline__ int run_length(const chunk_run &r) { return r.end - r.low + r.zero; }
static __device__ __forceinline__ int chunk_at(const chunk_run &r, int i) {
    return r.zero ? i == 0 ? 0 : r.low + i - 1 : r.low + i;
}

// Do rows attend chunk s without choosing it, at what distance, and how much of it do they see?
static __device__ __forceinline__ void meet(const lh_chunk_plan &plan, int position, int s, int *distance, int *limit) {
    int c = position / plan.chunk;
    bool seen = s <= c && (s == 0 || s >= lh_last_begin(plan, c));
    int rank = s == 0 ? 0 : lh_n_attended(plan, c) - 1 - (c - s);
    *distance = lh_chunk_distance(plan, c, s, rank);
    *limit = !seen ? 0 : s < c ? plan.chunk : position % plan.chunk + 1;
}

// All keys of all chunks of the tile. The keys of a step arrive while the values of the one before are multiplied, the
// values while the scores are computed; the first of both while place_rows fills the rows' part of shared memory.
template <int KEYS, int VALUES, bool FAR, class F>
static __device__ __forceinline__ void run_tile(const lh_attention_args &x, const lh_attend_block &b,
                                                const tile_shared &s, int kv_head, const chunk_run &chunks, int from,
                                                state<KEYS, VALUES> &w, F place_rows) {
    const lh_chunk_plan plan = lh_plan_of_head(&x.a, kv_head);
    int lane = (int)threadIdx.x % LH_WARP, base = (int)threadIdx.x / LH_WARP * TILE;
    int per_chunk = (plan.chunk + KEYS - 1) / KEYS, steps = run_length(chunks) * per_chunk;
#pragma unroll
    for (int j = 0; j < VALUES / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) w.sums[j][i] = 0;
    w.top[0] = w.top[1] = -INFINITY;
    w.weight[0] = w.weight[1] = 0;
    stage_any<KEYS>(x, LH_KEYS, kv_head, chunk_at(chunks, 0), 0, 0, b.width, s.k);
    lh_cp_async_commit();
    stage_any<KEYS>(x, LH_VALUES, kv_head, chunk_at(chunks, 0), 0, from, VALUES, s.v);
    lh_cp_async_commit();
    place_rows();
    __syncthreads();
    int limit[2] = {0, 0};
    for (int step = 0; step < steps; step++) {
        int chunk = chunk_at(chunks, step / per_chunk), first = step % per_chunk * KEYS;
        int next = step + 1 < steps ? chunk_at(chunks, (step + 1) / per_chunk) : -1;
        int next_first = (step + 1) % per_chunk * KEYS;
        if (first == 0) {
            __syncwarp();
            if (!FAR && lane < TILE && s.row[base + lane] >= 0)
                meet(plan, s.position[base + lane], chunk, &s.distance[base + lane], &s.limit[base + lane]);
            __syncwarp();
            rotate_rows(b, s);
            __syncwarp();
            limit[0] = s.limit[base + lane / 4];
            limit[1] = s.limit[base + lane / 4 + 8];
        }
        const int left[2] = {limit[0] - first, limit[1] - first};
        bool any = __any_sync(LH_ALL_LANES, left[0] > 0 || left[1] > 0);
        bool full = __all_sync(LH_ALL_LANES, left[0] >= KEYS && left[1] >= KEYS);
        int n_keys = min(KEYS, plan.chunk - first);
        lh_cp_async_wait<1>();
        __syncthreads();
        if (full) multiply_keys<true>(s, b.width, n_keys, w);
        else if (any) multiply_keys<false>(s, b.width, n_keys, w);
        __syncthreads();
        if (next >= 0) stage_any<KEYS>(x, LH_KEYS, kv_head, next, next_first, 0, b.width, s.k);
        lh_cp_async_commit();
        if (full) soften<true>(left, w);
        else if (any) soften<false>(left, w);
        lh_cp_async_wait<1>();
        __syncthreads();
        if (full) multiply_values<true>(s, n_keys, w);
        else if (any) multiply_values<false>(s, n_keys, w);
        __syncthreads();
        if (next >= 0) stage_any<KEYS>(x, LH_VALUES, kv_head, next, next_first, from, VALUES, s.v);
        lh_cp_async_commit();
    }
#pragma unroll
    for (int side = 0; side < 2; side++) {
        w.weight[side] += __shfl_xor_sync(LH_ALL_LANES, w.weight[side], 1);
        w.weight[side] += __shfl_xor_sync(LH_ALL_LANES, w.weight[side], 2);
    }
}

template <int KEYS, int VALUES>
static __global__ void __launch_bounds__(128) near_kernel(lh_attention_args x, lh_attend_block b) {
    const lh_attention &a = x.a;
    int rows = (int)blockDim.x / LH_WARP * TILE, first = (int)blockIdx.x * rows, from = (int)blockIdx.y * VALUES;
    int kv_head = (int)blockIdx.z, all = b.n * x.group, thread = (int)threadIdx.x;
    tile_shared s = carve<KEYS, VALUES>(rows, b.width);
    int low = lh_position(x, b.token + first / x.group) / a.plan.chunk;
    int high = lh_position(x, b.token + (min(first + rows, all) - 1) / x.group) / a.plan.chunk;
    chunk_run chunks = {true, lh_last_begin(lh_plan_of_head(&a, kv_head), low), high + 1};
    state<KEYS, VALUES> w;
    run_tile<KEYS, VALUES, false>(x, b, s, kv_head, chunks, from, w, [&]() {
        for (int r = thread; r < rows; r += (int)blockDim.x) {
            int t = (first + r) / x.group;
            bool valid = first + r < all;
            s.row[r] = valid ? t * a.n_head + kv_head * x.group + (first + r) % x.group : -1;
            s.position[r] = lh_position(x, b.token + t);
            s.limit[r] = s.distance[r] = 0;
        }
    });

    int lane = thread % LH_WARP;
#pragma unroll
    for (int side = 0; side < 2; side++) {
        int r = thread / LH_WARP * TILE + lane / 4 + 8 * side, row = s.row[r];
        if (row < 0) continue;
        float inverse = 1 / w.weight[side];
        float *out = a.out + ((size_t)b.token * a.n_head + row) * a.head_dim;
#pragma unroll
        for (int j = 0; j < VALUES / 8; j++) {
            int at = from + 8 * j + lane % 4 * 2;
            if (at < a.head_dim)
                *(float2 *)(out + at) = {w.sums[j][2 * side] * inverse, w.sums[j][2 * side + 1] * inverse};
        }
        if (b.middle > 0 && from == 0 && lane % 4 == 0)
            b.logs[(size_t)row * (b.middle + 1) + b.middle] = w.top[side] + log2f(w.weight[side]);
    }
}

template <int KEYS, int VALUES>
static __global__ void __launch_bounds__(128) far_kernel(lh_attention_args x, lh_attend_block b) {
    const lh_attention &a = x.a;
    int kv_head = (int)blockIdx.z, from = (int)blockIdx.y * VALUES, thread = (int)threadIdx.x;
    if ((int)blockIdx.x >= b.n_tiles[kv_head]) return;
    int4 tile = b.tiles[(size_t)kv_head * b.max_tiles + blockIdx.x];
    int rows = (int)blockDim.x / LH_WARP * TILE, chunk = tile.x, choosers = x.group / x.together;
    const int *entries = b.entries + (size_t)kv_head * b.per_head + tile.y;
    tile_shared s = carve<KEYS, VALUES>(rows, b.width);
    state<KEYS, VALUES> w;
    run_tile<KEYS, VALUES, true>(x, b, s, kv_head, {false, chunk, chunk + 1}, from, w, [&]() {
        for (int r = thread; r < rows; r += (int)blockDim.x) {
            s.row[r] = -1;
            s.distance[r] = 0;
            // Rows that fill up a warp's sixteen see all, for nothing, so that the warp is spared the questions.
            s.limit[r] = r < (tile.w + TILE - 1) / TILE * TILE ? a.plan.chunk : 0;
            if (r >= tile.w) continue;
            int entry = entries[(tile.z + r) / x.together], rank = entry % b.middle,
                chooser = entry / b.middle % choosers;
            int t = entry / b.middle / choosers;
            s.row[r] = t * a.n_head + kv_head * x.group + chooser * x.together + (tile.z + r) % x.together;
            s.distance[r] = lh_chunk_distance(a.plan, lh_position(x, b.token + t) / a.plan.chunk, chunk, 1 + rank);
            s.position[r] = rank;
        }
    });

    int lane = thread % LH_WARP;
#pragma unroll
    for (int side = 0; side < 2; side++) {
        int r = thread / LH_WARP * TILE + lane / 4 + 8 * side, row = s.row[r];
        if (row < 0) continue;
        float inverse = 1 / w.weight[side];
        __half *out = b.parts + ((size_t)row * b.middle + s.position[r]) * a.head_dim;
#pragma unroll
        for (int j = 0; j < VALUES / 8; j++) {
            int at = from + 8 * j + lane % 4 * 2;
            if (at < a.head_dim)
                *(uint32_t *)(out + at) =
                    lh_pack_half2(w.sums[j][2 * side] * inverse, w.sums[j][2 * side + 1] * inverse);
        }
        if (from == 0 && lane % 4 == 0) {
            int t = row / a.n_head, rank = s.position[r];
            float bias = a.bias[lh_choice_at(&a, row % a.n_head / x.together, b.token + t) + 1 + rank];
            b.logs[(size_t)row * (b.middle + 1) + rank] = w.top[side] + log2f(w.weight[side]) + bias * LH_LOG2_E;
        }
    }
}

template <int KEYS, int VALUES>
static lh_status run(lh_cuda *c, const lh_attention_args *x, const lh_attend_block *b) {
    const lh_attention *a = &x->a;
    unsigned rows = (unsigned)b->tile_rows, slices = (unsigned)((a->head_dim + VALUES - 1) / VALUES);
    unsigned threads = rows / TILE * LH_WARP, heads = (unsigned)a->n_head_kv;
    size_t shared = shared_bytes(a->head_dim, b->width);
    LH_CUDA_RUN(c, (near_kernel<KEYS, VALUES>), dim3(((unsigned)(b->n * x->group) + rows - 1) / rows, slices, heads),
                threads, shared, *x, *b);
    if (b->middle > 0)
        LH_CUDA_RUN(c, (far_kernel<KEYS, VALUES>), dim3((unsigned)b->max_tiles, slices, heads), threads, shared, *x,
                    *b);
    return LH_OK;
}

lh_status lh_cuda_attend_tiles(lh_cuda *c, const lh_attention_args *x, const lh_attend_block *b) {
    int32_t dim = x->a.head_dim;
    if (tile_values(dim) == 64) return run<64, 64>(c, x, b);
    return tile_keys(dim) == 64 ? run<64, 128>(c, x, b) : run<32, 128>(c, x, b);
}
