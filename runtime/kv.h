// The memory of one timeline: keys, values and chunk summaries of every layer, in chunks. No policy.
#ifndef LH_KV_H
#define LH_KV_H

#include "backend.h"

typedef struct lh_kv_shape {
    int32_t n_layer, n_head, n_head_kv, head_dim;
    int32_t chunk, n_chunk;          // tokens a chunk, chunks
    lh_kv_type type;
    int32_t n_summary;               // summaries a chunk and layer
    int32_t summary_dim;             // values of one, where it is a vector
    size_t summary_size;             // bytes of one
    bool keep_queries;               // of the unfinished chunk
    bool offload;                    // keys and values are at home in memory of the host
} lh_kv_shape;

// Device memory, by layer; shapes as in lh_attention.
typedef struct lh_kv {
    lh_kv_shape shape;
    lh_backend *backend;
    int64_t position;                // tokens stored
    void **k, **v;                   // (n_layer) of (n_head_kv, n_chunk, chunk) rows
    void **summary;                  // (n_layer) of (n_summary, n_chunk) summaries
    void **queries;                  // (n_layer) of (chunk, n_head, head_dim) floats, or of NULL
    void **cache;                    // (n_layer) of lh_chunk_cache *, or of NULL
    int32_t slots;                   // of each KV head in a cache
} lh_kv;

int64_t lh_kv_bytes(const lh_kv_shape *s);       // keys and values
int64_t lh_summary_bytes(const lh_kv_shape *s);  // summaries and kept queries

lh_status lh_kv_init(lh_kv *kv, lh_backend *backend, const lh_kv_shape *shape);
void lh_kv_free(lh_kv *kv);

// Keys and values were written without append.
lh_status lh_kv_written(const lh_kv *kv);
// Of the chunks that single tokens attended: found on the device, and fetched to it. Zeros where nothing is offloaded.
lh_status lh_kv_count(const lh_kv *kv, int64_t *hits, int64_t *misses);
// Bytes of the device's copies of chunks.
int64_t lh_kv_cache_bytes(const lh_kv *kv);

// A stretch of the stored state, for saving: calls visit once for every contiguous piece that holds data at
// `position` tokens, in a fixed order. Stops at the first failure.
typedef lh_status (*lh_kv_visit)(void *arg, void *device, size_t bytes);
lh_status lh_kv_each(const lh_kv *kv, int64_t position, lh_kv_visit visit, void *arg);

#endif
