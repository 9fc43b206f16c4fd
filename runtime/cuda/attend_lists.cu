// (token, chooser) -> chunks turned into chunk -> rows, so that tiles of rows meet a chunk together.
//
// An entry is one choice: (t * choosers + chooser) * middle + r, chooser within the KV head, r the rank among the
// chosen chunks; it stands for `together` rows. Entries of a chunk come in no fixed order, and need none: a row of a
// tile is computed the same wherever it stands in it.
#include "attend.cuh"

#define THREADS 256
#define SCAN_THREADS 1024

// f(KV head, chunk, entry) for the entry of this thread.
template <class F>
static __device__ __forceinline__ void with_entry(const lh_attention_args &x, const lh_attend_block &b, F f) {
    const lh_attention &a = x.a;
    int item = (int)(blockIdx.x * THREADS + threadIdx.x), choosers = x.group / x.together;
    if (item >= b.n * a.n_select * b.middle) return;
    int r = item % b.middle, chooser = item / b.middle % a.n_select, t = item / b.middle / a.n_select;
    if (a.leader[chooser] < 0 || !lh_row_is_sparse(x, b, t)) return;
    int chunk = a.chosen[lh_choice_at(&a, chooser, b.token + t) + 1 + r];
    f(chooser / choosers, chunk, (t * choosers + chooser % choosers) * b.middle + r);
}

static __global__ void count_kernel(lh_attention_args x, lh_attend_block b) {
    with_entry(x, b,
               [&](int kv_head, int chunk, int) { atomicAdd(&b.counts[(size_t)kv_head * x.a.n_chunk + chunk], 1); });
}

static __global__ void fill_kernel(lh_attention_args x, lh_attend_block b) {
    with_entry(x, b, [&](int kv_head, int chunk, int entry) {
        int at = atomicAdd(&b.counts[(size_t)kv_head * x.a.n_chunk + chunk], 1);
        b.entries[(size_t)kv_head * b.per_head + at] = entry;
    });
}

// Of a block: the sum over all threads before this one; total: over all.
static __device__ int2 sum_before(int2 v, int2 *scratch, int2 *total) {
    int lane = (int)threadIdx.x % LH_WARP, warp = (int)threadIdx.x / LH_WARP;
    int2 sum = v;
    for (int by = 1; by < LH_WARP; by *= 2) {
        int x = __shfl_up_sync(LH_ALL_LANES, sum.x, (unsigned)by),
            y = __shfl_up_sync(LH_ALL_LANES, sum.y, (unsigned)by);
        if (lane >= by) {
            sum.x += x;
            sum.y += y;
        }
    }
    if (lane == LH_WARP - 1) scratch[warp] = sum;
    __syncthreads();
    int2 before = {sum.x - v.x, sum.y - v.y};
    *total = {0, 0};
    for (int w = 0; w < SCAN_THREADS / LH_WARP; w++) {
        if (w < warp) {
            before.x += scratch[w].x;
            before.y += scratch[w].y;
        }
        total->x += scratch[w].x;
        total->y += scratch[w].y;
    }
    __syncthreads();
    return before;
}

// A block a KV head: counts become the places of chunks' entries, and the tiles are written down.
static __global__ void __launch_bounds__(SCAN_THREADS) tiles_kernel(lh_attention_args x, lh_attend_block b) {
    __shared__ int2 scratch[SCAN_THREADS / LH_WARP];
    int kv_head = (int)blockIdx.x, thread = (int)threadIdx.x;
    int *counts = b.counts + (size_t)kv_head * x.a.n_chunk;
    int4 *tiles = b.tiles + (size_t)kv_head * b.max_tiles;
    int end = lh_position(x, b.token + b.n - 1) / x.a.plan.chunk, entries = 0, n_tiles = 0;
    for (int first = 0; first < end; first += SCAN_THREADS) {
        int chunk = first + thread, count = chunk < end ? counts[chunk] : 0, rows = count * x.together;
        int2 mine = {count, (rows + b.tile_rows - 1) / b.tile_rows}, total;
        int2 before = sum_before(mine, scratch, &total);
        if (chunk < end) counts[chunk] = entries + before.x;
        for (int i = 0; i < mine.y; i++)
            tiles[n_tiles + before.y + i] = {chunk, entries + before.x, i * b.tile_rows,
                                             min(b.tile_rows, rows - i * b.tile_rows)};
        entries += total.x;
        n_tiles += total.y;
    }
    if (thread == 0) b.n_tiles[kv_head] = n_tiles;
}

lh_status lh_cuda_attend_lists(lh_cuda *c, const lh_attention_args *x, const lh_attend_block *b) {
    const lh_attention *a = &x->a;
    LH_CUDA_TRY(c, "clearing counts",
                cudaMemsetAsync(b->counts, 0, (size_t)a->n_head_kv * a->n_chunk * sizeof *b->counts, c->stream));
    unsigned grid = (unsigned)((b->n * a->n_select * b->middle + THREADS - 1) / THREADS);
    LH_CUDA_RUN(c, count_kernel, grid, THREADS, 0, *x, *b);
    LH_CUDA_RUN(c, tiles_kernel, (unsigned)a->n_head_kv, SCAN_THREADS, 0, *x, *b);
    LH_CUDA_RUN(c, fill_kernel, grid, THREADS, 0, *x, *b);
    return LH_OK;
}
