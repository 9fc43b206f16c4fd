// The memory of one timeline: keys, values and chunk summaries of every layer, in chunks. No policy.
#ifndef LH_KV_H
#define LH_KV_H

#include "backend.h"

typedef struct lh_kv_shape {
    int32_t n_layer, n_head, n_head_kv, head_dim;
    int32_t chunk, n_chunk;          // tokens a chunk, chunks
    int32_t n_whole;                 // layers that keep keys and values of the whole text, and summaries
    int32_t n_near;                  // chunks that the others have room for: chunk 0 and the last ones
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
    bool *whole;                     // (n_layer): which layers keep the whole text
    int32_t lost;                    // chunks 1, ..., lost - 1 are gone from the layers that do not; 1: none
    void **k, **v;                   // (n_layer) of (n_head_kv, lh_kv_room, chunk) rows
    void **summary;                  // (n_layer) of (n_summary, n_chunk) summaries, or of NULL
    void **queries;                  // (n_layer) of (chunk, n_head, head_dim) floats, or of NULL
    void **cache;                    // (n_layer) of lh_chunk_cache *, or of NULL
    int32_t slots;                   // of each KV head in a cache
} lh_kv;

int64_t lh_kv_bytes(const lh_kv_shape *s);       // keys and values
int64_t lh_summary_bytes(const lh_kv_shape *s);  // summaries and kept queries

// whole (n_layer): shape->n_whole of them.
lh_status lh_kv_init(lh_kv *kv, lh_backend *backend, const lh_kv_shape *shape, const bool *whole);
void lh_kv_free(lh_kv *kv);

// Chunks that a layer has room for; chunk c lies at lh_slot_of it.
int32_t lh_kv_room(const lh_kv *kv, int32_t layer);
// n tokens are about to be written behind `position`.
void lh_kv_grow(lh_kv *kv, int64_t n);
// The state as it is after reading nothing.
void lh_kv_clear(lh_kv *kv);

// Keys and values were written without append.
lh_status lh_kv_written(const lh_kv *kv);
// Of the chunks that single tokens attended: found on the device, and fetched to it. Zeros where nothing is offloaded.
lh_status lh_kv_count(const lh_kv *kv, int64_t *hits, int64_t *misses);
// Bytes of the device's copies of chunks.
int64_t lh_kv_cache_bytes(const lh_kv *kv);

// The stored state, for saving: calls visit for every piece that holds data at `position` tokens of which chunks 1, ...,
// lost - 1 are gone where the text is not kept whole, in an order that is the same for every cache of this shape but for
// n_chunk and n_near. Pieces that there is no room for are NULL. Stops at the first failure.
typedef lh_status (*lh_kv_visit)(void *arg, void *device, size_t bytes);
lh_status lh_kv_each(const lh_kv *kv, int64_t position, int32_t lost, lh_kv_visit visit, void *arg);
// `lost` of this cache once it was filled so.
int32_t lh_kv_lost_at(const lh_kv *kv, int64_t position, int32_t lost);

#endif
