// Attention: one token goes its own way (attend_decode.cu); many are cut into blocks of tokens, whose queries are
// rotated by their offsets, run as tiles (attend_tiles.cu), and whose parts are merged here.
#include <math.h>

#include "attend.cuh"

#define THREADS 128
#define WARPS (THREADS / LH_WARP)
#define PARTS_BYTES ((size_t)256 << 20)  // of scratch, about: what tokens are cut into blocks for

// --- before the tiles ---------------------------------------------------------------------------------------------

// A warp a row. Each pair is rotated once here, and once for each chunk from what this leaves.
static __global__ void queries_kernel(lh_attention_args x, lh_attend_block b) {
    const lh_attention &a = x.a;
    int row = (int)(blockIdx.x * WARPS + threadIdx.x / LH_WARP), dim = a.head_dim;
    if (row >= b.n * a.n_head) return;
    int t = b.token + row / a.n_head, offset = lh_position(x, t) % a.plan.chunk;
    const float *q = a.q + ((size_t)t * a.n_head + row % a.n_head) * dim,
                *table = a.rope_offset + 2 * (size_t)dim * offset;
    float scale = a.scale * LH_LOG2_E;
    for (int at = 2 * ((int)threadIdx.x % LH_WARP); at < b.width; at += 2 * LH_WARP)
        *(uint32_t *)(b.queries + (size_t)row * b.width + at) =
            at < dim
                ? lh_pack_half2(lh_rotated(q, table, 1, scale, dim, at), lh_rotated(q, table, 1, scale, dim, at + 1))
                : 0;
}

// Rotations by whole chunks, half as long as in rope.h: the tiles read them for every row and chunk.
static __global__ void turns_kernel(lh_attention_args x, int width, float2 *turns) {
    int dim = x.a.head_dim;
    const float *table = x.a.rope_chunk + 2 * (size_t)dim * blockIdx.x;
    for (int pair = (int)threadIdx.x; pair < width / 2; pair += (int)blockDim.x) {
        float2 turn = {1, 0};
        if (2 * pair < dim) turn = {table[2 * pair], table[dim + 2 * pair + 1]};
        turns[(size_t)blockIdx.x * (width / 2) + pair] = turn;
    }
}

// --- after them ---------------------------------------------------------------------------------------------------

// Components at..at + N of a row: what its near tile left in out, and its parts, by their weights.
template <int N>
static __device__ __forceinline__ void merge(const float *logs, const __half *parts, int middle, int dim, float top,
                                             float inverse, int at, float *out) {
    float sum[N], near = exp2f(logs[middle] - top) * inverse;
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] = out[at + i] * near;
#pragma unroll 8
    for (int r = 0; r < middle; r++) {
        float w = exp2f(logs[r] - top) * inverse;
        const uint32_t *from = (const uint32_t *)(parts + (size_t)r * dim + at);
        uint2 two = N == 4 ? *(const uint2 *)from : make_uint2(*from, 0);
        const uint32_t pair[2] = {two.x, two.y};
#pragma unroll
        for (int i = 0; i < N; i++)
            sum[i] += w * __half2float(__ushort_as_half((unsigned short)(pair[i / 2] >> (16 * (i % 2)))));
    }
#pragma unroll
    for (int i = 0; i < N; i++) out[at + i] = sum[i];
}

// A warp a row that chose.
static __global__ void merge_kernel(lh_attention_args x, lh_attend_block b) {
    const lh_attention &a = x.a;
    int row = (int)(blockIdx.x * WARPS + threadIdx.x / LH_WARP), lane = (int)threadIdx.x % LH_WARP, dim = a.head_dim;
    if (row >= b.n * a.n_head || !lh_row_is_sparse(x, b, row / a.n_head)) return;
    if (a.leader[row % a.n_head / x.together] < 0) return;
    const float *logs = b.logs + (size_t)row * (b.middle + 1);
    const __half *parts = b.parts + (size_t)row * b.middle * dim;
    float *out = a.out + ((size_t)b.token * a.n_head + row) * dim;
    float top = -INFINITY, weight = 0;
    for (int r = lane; r <= b.middle; r += LH_WARP) top = fmaxf(top, logs[r]);
    top = lh_warp_max(top);
    for (int r = lane; r <= b.middle; r += LH_WARP) weight += exp2f(logs[r] - top);
    float inverse = 1 / lh_warp_sum(weight);
    if (dim % 4 == 0)
        for (int at = 4 * lane; at < dim; at += 4 * LH_WARP)
            merge<4>(logs, parts, b.middle, dim, top, inverse, at, out);
    else
        for (int at = 2 * lane; at < dim; at += 2 * LH_WARP)
            merge<2>(logs, parts, b.middle, dim, top, inverse, at, out);
}

// --- the operation ------------------------------------------------------------------------------------------------

// Lays the block's arrays out at `memory`; returns the bytes they take.
static size_t lay_out(const lh_attention *a, void *memory, lh_attend_block *b) {
    lh_layout at = {(char *)memory, 0};
    size_t rows = (size_t)b->n * a->n_head, heads = (size_t)a->n_head_kv, pairs = (size_t)b->width / 2;
    b->queries = (__half *)lh_take(&at, rows * b->width, sizeof *b->queries);
    b->turns = (float2 *)lh_take(&at, (size_t)lh_n_distances(a) * pairs, sizeof *b->turns);
    b->parts = (__half *)lh_take(&at, rows * b->middle * a->head_dim, sizeof *b->parts);
    b->logs = (float *)lh_take(&at, b->middle ? rows * (b->middle + 1) : 0, sizeof *b->logs);
    b->counts = (int32_t *)lh_take(&at, b->middle ? heads * a->n_chunk : 0, sizeof *b->counts);
    b->entries = (int32_t *)lh_take(&at, heads * b->per_head, sizeof *b->entries);
    b->tiles = (int4 *)lh_take(&at, heads * b->max_tiles, sizeof *b->tiles);
    b->n_tiles = (int32_t *)lh_take(&at, heads, sizeof *b->n_tiles);
    return at.used;
}

lh_status lh_cuda_attend(lh_cuda *c, const lh_attention *a) {
    lh_attention_args x = lh_attention_args_of(c, a);
    if (a->cache) LH_TRY(lh_cuda_fetch(c, &x));
    if (a->n == 1) return lh_cuda_attend_one(c, &x);
    int32_t l = a->plan.chunk;
    bool sparse = !lh_is_dense(a->plan, lh_chunk_of(a->pos + a->n - 1, l));
    lh_attend_block b = {};
    b.width = LH_ROUND_UP(a->head_dim, 16);
    b.middle = sparse ? lh_n_chosen(a->plan) : 0;
    b.tile_rows = lh_cuda_tile_rows(a->head_dim);
    size_t token_bytes = (size_t)a->n_head * ((size_t)b.middle * (a->head_dim * sizeof(__half) + 8) + b.width * 2);
    int32_t blocks = (int32_t)((token_bytes * a->n + PARTS_BYTES - 1) / PARTS_BYTES);
    int32_t tokens = (a->n + blocks - 1) / blocks;
    b.n = tokens;
    b.per_head = tokens * (a->n_select / a->n_head_kv) * b.middle;
    // Whole tiles, and one that is not full for each chunk that anyone chose.
    if (b.middle) b.max_tiles = b.per_head * x.together / b.tile_rows + LH_MIN(a->n_chunk, b.per_head) + 1;
    void *scratch = NULL;
    LH_TRY(lh_cuda_scratch(c, LH_CUDA_ATTEND, lay_out(a, NULL, &b), &scratch));
    lay_out(a, scratch, &b);
    LH_CUDA_RUN(c, turns_kernel, (unsigned)lh_n_distances(a), THREADS, 0, x, b.width, b.turns);
    for (b.token = 0; b.token < a->n; b.token += tokens) {
        b.n = LH_MIN(tokens, a->n - b.token);
        unsigned rows = (unsigned)(b.n * a->n_head);
        LH_CUDA_RUN(c, queries_kernel, (rows + WARPS - 1) / WARPS, THREADS, 0, x, b);
        if (b.middle) LH_TRY(lh_cuda_attend_lists(c, &x, &b));
        LH_TRY(lh_cuda_attend_tiles(c, &x, &b));
        if (b.middle) LH_CUDA_RUN(c, merge_kernel, (rows + WARPS - 1) / WARPS, THREADS, 0, x, b);
    }
    return LH_OK;
}
