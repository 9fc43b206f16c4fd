// Rows of the cache on the device: where they lie, and how values get in and out of each type (kv_type.h).
#ifndef LH_CUDA_KV_CUH
#define LH_CUDA_KV_CUH

#include "cuda.h"

// Copies on the device of chunks of a layer that are at home in memory of the host (offload.cu).
typedef struct lh_cache_view {
    int32_t slots;         // of each KV head that has any (lh_kv_head.cached), of which there are n
    size_t chunk_bytes;    // of the keys of a chunk
    char *k, *v;           // (n, slots) chunks
    int32_t *slot_of;      // (n, n_chunk): of a chunk, -1: none
    int32_t *chunk_of;     // (n, slots): of a slot, -1: none
    int32_t *used;         // (n, slots): when last
    int32_t *clock;        // (n): operations of attention
    int2 *fetch;           // (n, slots): chunk and slot of copies to be made
    int32_t *n_fetch;      // (n)
    unsigned long long *counts;  // (n, 2): hits and misses of single tokens
} lh_cache_view;

struct lh_chunk_cache {
    lh_cache_view view;
    int32_t n;             // KV heads that have slots
    void *memory;          // of all but k and v
};

// What attention kernels get: the operation, and what the host works out for them.
typedef struct lh_attention_args {
    lh_attention a;
    const lh_cuda_params *params;  // a.pos is not to be read by kernels: it is params->pos + first
    int32_t first;
    int32_t group;                 // query heads of a KV head
    int32_t together;              // query heads that choose together: group or 1
    size_t row;                    // bytes of a key or a value
    lh_cache_view cache;
} lh_attention_args;

static inline lh_attention_args lh_attention_args_of(const lh_cuda *c, const lh_attention *a) {
    return {*a, c->params, lh_cuda_first(c, a), a->n_head / a->n_head_kv, a->n_head / a->n_select,
            lh_kv_row_size(a->kv_type, a->head_dim), a->cache ? a->cache->view : lh_cache_view()};
}

// Positions fit 31 bits (the longest context has 2^28 tokens), which divide much faster than 64.
static __device__ __forceinline__ int lh_position(const lh_attention_args &x, int t) {
    return (int)x.params->pos + x.first + t;
}

enum lh_kv_side { LH_KEYS, LH_VALUES };

// Keys or values of one chunk, (chunk, head_dim): where they are at home, and the copy of them or NULL.
static __device__ __forceinline__ char *lh_kv_home(const lh_attention_args &x, lh_kv_side side, int kv_head,
                                                   int chunk) {
    const lh_kv_head &head = x.a.heads[kv_head];
    char *home = (char *)(side == LH_KEYS ? head.k : head.v);
    return home + (size_t)lh_slot_of(chunk, head.room) * x.a.plan.chunk * x.row;
}

static __device__ __forceinline__ char *lh_kv_copy(const lh_attention_args &x, lh_kv_side side, int kv_head,
                                                   int chunk) {
    int cached = x.a.heads[kv_head].cached;
    if (cached < 0) return NULL;
    int slot = x.cache.slot_of[(size_t)cached * x.a.n_chunk + chunk];
    char *copies = side == LH_KEYS ? x.cache.k : x.cache.v;
    return slot < 0 ? NULL : copies + ((size_t)cached * x.cache.slots + slot) * x.cache.chunk_bytes;
}

// Where to read them. Everything that reads the cache asks here.
static __device__ __forceinline__ const char *lh_kv_chunk(const lh_attention_args &x, lh_kv_side side, int kv_head,
                                                          int chunk) {
    const char *copy = lh_kv_copy(x, side, kv_head, chunk);
    return copy ? copy : lh_kv_home(x, side, kv_head, chunk);
}

static __device__ __forceinline__ float lh_half_at(const void *p) { return __half2float(*(const __half *)p); }

// Value i of a row.
template <lh_kv_type type>
static __device__ __forceinline__ float lh_kv_load(const void *row, int i) {
    if (type == LH_KV_F32) return ((const float *)row)[i];
    if (type == LH_KV_BF16) return __bfloat162float(((const __nv_bfloat16 *)row)[i]);
    if (type == LH_KV_F16) return lh_half_at((const __half *)row + i);
    const char *block = (const char *)row + (size_t)(i / 32) * sizeof(lh_block_q8_0);
    return __fmul_rn(lh_half_at(block), (float)((const int8_t *)block)[2 + i % 32]);
}

// Calls f, a function template over the type.
#define LH_KV_DISPATCH(kv_type, f, ...)                       \
    ((kv_type) == LH_KV_F32    ? f<LH_KV_F32>(__VA_ARGS__)    \
     : (kv_type) == LH_KV_BF16 ? f<LH_KV_BF16>(__VA_ARGS__)   \
     : (kv_type) == LH_KV_Q8_0 ? f<LH_KV_Q8_0>(__VA_ARGS__)   \
                               : f<LH_KV_F16>(__VA_ARGS__))

static __device__ __forceinline__ float lh_clamped(float x, float most) { return fminf(fmaxf(x, -most), most); }

// A warp stores 32 values of a row of dim values: lane i the one at `at` + i. at: a multiple of 32. Rounded as on the
// CPU, bit for bit.
static __device__ inline void lh_kv_store(void *row, int at, float x, int dim, lh_kv_type type) {
    const float most_half = 65504.0f;
    int lane = (int)threadIdx.x % LH_WARP, i = at + lane;
    if (type == LH_KV_Q8_0) {
        if (i >= dim) x = 0;
        char *block = (char *)row + (size_t)(at / 32) * sizeof(lh_block_q8_0);
        __half d = __float2half_rn(fminf(__fdiv_rn(lh_warp_max(fabsf(x)), 127), most_half));
        float scale = __half2float(d), inverse = scale > 0 ? __fdiv_rn(1, scale) : 0;
        if (lane == 0) *(__half *)block = d;
        ((int8_t *)block)[2 + lane] = (int8_t)rintf(lh_clamped(__fmul_rn(x, inverse), 127));
    } else if (i < dim) {
        if (type == LH_KV_F32) ((float *)row)[i] = x;
        else if (type == LH_KV_BF16) ((__nv_bfloat16 *)row)[i] = __float2bfloat16_rn(x);
        else ((__half *)row)[i] = __float2half_rn(lh_clamped(x, most_half));
    }
}

// Component i of x rotated, see rope.h. Every step is rounded as on the CPU: codes of keys and choices of chunks hang
// on it, and must be the same.
static __device__ __forceinline__ float lh_rotated(const float *x, const float *table, float sign, float scale, int dim,
                                                   int i) {
    return __fmul_rn(scale, __fadd_rn(__fmul_rn(x[i], table[i]), __fmul_rn(sign * x[i ^ 1], table[dim + i])));
}

#endif
