// Keys and values of KV heads that keep the whole text, at home in pinned memory of the host, and copies on the device
// of the chunks that were attended last.
//
// append writes home, and into the copy where a chunk has one; so a copy says what home says, and who reads a chunk
// takes the copy or goes home for it, over the bus. Ahead of attention one block for each KV head looks up what is
// about to be read, and gives the missing chunks the slots of those that nobody asked for the longest time; then all
// are copied at once. Which chunk gets which slot bears on speed alone. The host takes no part in it.
//   single tokens   all chunks that the choosers of the KV head attend
//   many tokens     chunks that neighbours share: chunk 0 and the last ones, or all of dense tokens. What rows choose
//                   beyond them is as good as the whole text: it is read from home where it has no copy.
#include "attend.cuh"

#define THREADS 256
#define COPY_BLOCKS 16   // for each KV head
#define AHEAD 4          // pieces that a thread has under way

// Item i of what is about to be read, of n items; a chunk may come twice.
typedef struct wanted {
    const int32_t *chosen;   // NULL: the chunks below
    int32_t n, low;          // chunk 0 and those from low on
} wanted;

static __device__ __forceinline__ wanted wanted_of(const lh_attention_args &x, int kv_head) {
    const lh_attention &a = x.a;
    const lh_chunk_plan plan = lh_plan_of_head(&a, kv_head);
    int first = lh_position(x, 0) / a.plan.chunk, last = lh_position(x, a.n - 1) / a.plan.chunk;
    int choosers = x.group / x.together;
    wanted w;
    w.chosen = a.n == 1 ? lh_choice(&a, kv_head * choosers, 0, first) : NULL;
    w.low = lh_last_begin(plan, first);
    w.n = w.chosen ? choosers * plan.k : last - w.low + 2;
    return w;
}

static __device__ __forceinline__ int chunk_of(const wanted &w, int i) {
    return w.chosen ? w.chosen[i] : i == 0 ? 0 : w.low + i - 1;
}

// A block a KV head, and nothing to do for those that are on the device. slot_of of a chunk that is being claimed is
// CLAIMED.
#define CLAIMED (-2)

static __global__ void __launch_bounds__(THREADS) fetch_kernel(lh_attention_args x) {
    const lh_cache_view &cache = x.cache;
    int kv_head = (int)blockIdx.x, thread = (int)threadIdx.x, slots = cache.slots, cached = x.a.heads[kv_head].cached;
    if (cached < 0) return;
    int *slot_of = cache.slot_of + (size_t)cached * x.a.n_chunk, *chunks = cache.chunk_of + (size_t)cached * slots;
    int *used = cache.used + (size_t)cached * slots;
    int2 *fetch = cache.fetch + (size_t)cached * slots;
    int *missing = (int *)lh_shared_memory(), *when = missing + slots;  // (slots) each
    __shared__ int n_missing, n_free, n_hits;
    if (thread == 0) n_missing = n_free = n_hits = 0;
    int now = cache.clock[cached] + 1;
    wanted w = wanted_of(x, kv_head);
    __syncthreads();
    for (int i = thread; i < w.n; i += THREADS) {
        int chunk = chunk_of(w, i), slot = slot_of[chunk];
        if (slot >= 0) {
            used[slot] = now;
            atomicAdd(&n_hits, 1);
        } else if (slot == -1 && atomicCAS(&slot_of[chunk], -1, CLAIMED) == -1) {
            int at = atomicAdd(&n_missing, 1);
            if (at < slots) missing[at] = chunk;
            else atomicExch(&slot_of[chunk], -1);  // more than could ever be held
        }
    }
    __syncthreads();
    int n = min(n_missing, slots);
    for (int i = thread; i < slots; i += THREADS) {
        when[i] = used[i];
        if (when[i] < now) atomicAdd(&n_free, 1);
    }
    __syncthreads();
    // Slots in the order of their last use; the first ones go to what is missing.
    for (int i = thread; n > 0 && i < slots; i += THREADS) {
        if (when[i] == now) continue;
        int rank = 0;
        for (int j = 0; j < slots && rank < n; j++) rank += when[j] < when[i] || (when[j] == when[i] && j < i);
        if (rank >= n) continue;
        if (chunks[i] >= 0) slot_of[chunks[i]] = -1;
        chunks[i] = missing[rank];
        slot_of[missing[rank]] = i;
        used[i] = now;
        fetch[rank] = {missing[rank], i};
    }
    for (int i = n_free + thread; i < n; i += THREADS) slot_of[missing[i]] = -1;
    if (thread != 0) return;
    cache.clock[cached] = now;
    cache.n_fetch[cached] = min(n, n_free);
    if (x.a.n > 1) return;
    cache.counts[2 * cached] += (unsigned long long)n_hits;
    cache.counts[2 * cached + 1] += (unsigned long long)n_missing;
}

template <class Piece>
static __device__ __forceinline__ void copy_chunk(const char *from, char *to, size_t bytes) {
    const Piece *in = (const Piece *)from;
    Piece *out = (Piece *)to;
    int n = (int)(bytes / sizeof(Piece));
    for (int i = (int)threadIdx.x; i < n; i += AHEAD * THREADS) {
        Piece held[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            if (i + j * THREADS < n) held[j] = in[i + j * THREADS];
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            if (i + j * THREADS < n) out[i + j * THREADS] = held[j];
    }
}

static __global__ void __launch_bounds__(THREADS) copy_kernel(lh_attention_args x) {
    const lh_cache_view &cache = x.cache;
    int kv_head = (int)blockIdx.x, cached = x.a.heads[kv_head].cached;
    if (cached < 0) return;
    for (int i = (int)blockIdx.y; i < 2 * cache.n_fetch[cached]; i += COPY_BLOCKS) {
        int2 pair = cache.fetch[(size_t)cached * cache.slots + i / 2];
        const char *from = lh_kv_home(x, i % 2 ? LH_VALUES : LH_KEYS, kv_head, pair.x);
        char *to = (i % 2 ? cache.v : cache.k) + ((size_t)cached * cache.slots + pair.y) * cache.chunk_bytes;
        if (cache.chunk_bytes % sizeof(uint4) == 0) copy_chunk<uint4>(from, to, cache.chunk_bytes);
        else copy_chunk<uint16_t>(from, to, cache.chunk_bytes);
    }
}

lh_status lh_cuda_fetch(lh_cuda *c, const lh_attention_args *x) {
    unsigned heads = (unsigned)x->a.n_head_kv;
    LH_CUDA_RUN(c, fetch_kernel, heads, THREADS, 2 * (size_t)x->cache.slots * sizeof(int), *x);
    LH_CUDA_RUN(c, copy_kernel, dim3(heads, COPY_BLOCKS), THREADS, 0, *x);
    return LH_OK;
}

// --- memory -------------------------------------------------------------------------------------------------------

static lh_status home_alloc(lh_backend *b, size_t bytes, void **out) {
    lh_cuda *c = (lh_cuda *)b;
    *out = NULL;
    if (c->lost) return lh_cuda_check(c, cudaSuccess, "");
    cudaError_t error = cudaSetDevice(c->index);
    if (error == cudaSuccess) error = cudaMallocHost(out, LH_MAX(bytes, (size_t)1));
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        *out = NULL;
        return lh_error(LH_ERR_MEMORY,
                        "%.2f GiB of the host's memory cannot be pinned for the KV cache: lower ctx, use "
                        "kv_type q8_0, or raise the limit of locked memory",
                        (double)bytes / (1 << 30));
    }
    LH_TRY(lh_cuda_check(c, error, "pinning memory of the host"));
    memset(*out, 0, bytes);
    return LH_OK;
}

static void home_release(lh_backend *b, void *p) {
    lh_cuda *c = (lh_cuda *)b;
    if (!p) return;
    cudaSetDevice(c->index);
    cudaStreamSynchronize(c->stream);
    cudaFreeHost(p);
    cudaGetLastError();
}

// Lays out at `memory` what a cache keeps beside the copies; returns the bytes that takes.
static size_t lay_out(lh_cache_view *view, size_t heads, size_t n_chunk, void *memory) {
    lh_layout at = {(char *)memory, 0};
    size_t slots = (size_t)view->slots;
    view->counts = (unsigned long long *)lh_take(&at, 2 * heads, sizeof *view->counts);
    view->fetch = (int2 *)lh_take(&at, heads * slots, sizeof *view->fetch);
    view->slot_of = (int32_t *)lh_take(&at, heads * n_chunk, sizeof *view->slot_of);
    view->chunk_of = (int32_t *)lh_take(&at, heads * slots, sizeof *view->chunk_of);
    view->used = (int32_t *)lh_take(&at, heads * slots, sizeof *view->used);
    view->clock = (int32_t *)lh_take(&at, heads, sizeof *view->clock);
    view->n_fetch = (int32_t *)lh_take(&at, heads, sizeof *view->n_fetch);
    return at.used;
}

static void cache_free(lh_backend *b, lh_chunk_cache *cache) {
    if (!cache) return;
    b->ops->release(b, cache->view.k);
    b->ops->release(b, cache->view.v);
    b->ops->release(b, cache->memory);
    lh_free(cache);
}

static lh_status cache_clear(lh_backend *b, lh_chunk_cache *cache) {
    lh_cuda *c = (lh_cuda *)b;
    lh_cache_view *v = &cache->view;
    // From slot_of to chunk_of, the whole of both.
    size_t bytes = (size_t)((char *)v->used - (char *)v->slot_of);
    LH_CUDA_TRY(c, "forgetting copies", cudaSetDevice(c->index));
    return lh_cuda_check(c, cudaMemsetAsync(v->slot_of, 0xff, bytes, c->stream), "forgetting copies");
}

static lh_status cache_new(lh_backend *b, int32_t n_head, int32_t n_chunk, int32_t slots, size_t chunk_bytes,
                           lh_chunk_cache **out) {
    *out = NULL;
    lh_chunk_cache *cache = (lh_chunk_cache *)lh_alloc(1, sizeof *cache);
    if (!cache) return LH_ERR_MEMORY;
    lh_cache_view *v = &cache->view;
    cache->n = n_head;
    v->slots = slots;
    v->chunk_bytes = chunk_bytes;
    size_t heads = (size_t)n_head, side = heads * (size_t)slots * chunk_bytes;
    lh_status status = b->ops->alloc(b, lay_out(v, heads, (size_t)n_chunk, NULL), &cache->memory);
    if (status == LH_OK) status = b->ops->alloc(b, side, (void **)&v->k);
    if (status == LH_OK) status = b->ops->alloc(b, side, (void **)&v->v);
    if (status == LH_OK) {
        lay_out(v, heads, (size_t)n_chunk, cache->memory);
        status = cache_clear(b, cache);
    }
    if (status == LH_OK) *out = cache;
    else cache_free(b, cache);
    return status;
}

static lh_status cache_count(lh_backend *b, const lh_chunk_cache *cache, int64_t *hits, int64_t *misses) {
    size_t bytes = 2 * (size_t)cache->n * sizeof *cache->view.counts;
    unsigned long long *counts = (unsigned long long *)lh_alloc(bytes, 1);
    if (!counts) return LH_ERR_MEMORY;
    lh_status status = b->ops->read(b, counts, cache->view.counts, bytes);
    for (size_t i = 0; status == LH_OK && i < bytes / sizeof *counts; i += 2) {
        *hits += (int64_t)counts[i];
        *misses += (int64_t)counts[i + 1];
    }
    lh_free(counts);
    return status;
}

const lh_offload_ops *lh_cuda_offload() {
    static const lh_offload_ops ops = {home_alloc, home_release, cache_new, cache_free, cache_clear, cache_count};
    return &ops;
}
