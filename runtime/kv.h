// The memory of one timeline: keys, values and chunk summaries of every layer, in chunks. No policy.
#ifndef LH_KV_H
#define LH_KV_H

#include "backend.h"

typedef struct lh_kv_shape {
    int32_t n_layer, n_head, n_head_kv, head_dim;
    int32_t chunk, n_chunk;          // tokens a chunk, chunks
    int32_t n_whole;                 // KV heads, of all layers, that keep the whole text, and summaries
    int32_t n_near;                  // chunks that the others have room for: chunk 0 and the last ones
    lh_kv_type type;
    int32_t n_summary;               // summaries of a chunk and KV head
    int32_t summary_dim;             // values of one, where it is a vector
    size_t summary_size, detail_size;  // bytes of one (backend.h)
    bool keep_queries;               // of the unfinished chunk
    bool offload;                    // whole texts are at home in memory of the host
} lh_kv_shape;

// KV heads of all layers.
static inline int32_t lh_kv_n_heads(const lh_kv_shape *s) { return s->n_layer * s->n_head_kv; }

typedef struct lh_kv {
    lh_kv_shape shape;
    lh_backend *backend;
    int64_t position;                // tokens stored
    bool *whole;                     // (n_layer, n_head_kv): who keeps the whole text
    int32_t lost;                    // chunks 1, ..., lost - 1 are gone from those that do not; 1: none
    lh_kv_head *heads;               // (n_layer, n_head_kv)
    lh_kv_head *device_heads;        // the same, device
    // (n_layer) each, NULL where a layer needs none; on the device, but for what is said
    void **near, **home;             // keys, then values: of KV heads that keep the last chunks, and of those that keep
                                     // the whole text, which is in memory of the host where it is offloaded
    void **summary;                  // of the latter, see lh_kv_head
    void **queries;                  // (chunk, n_head, head_dim) floats
    void **cache;                    // lh_chunk_cache *, host
    int32_t slots;                   // of a KV head in a cache
} lh_kv;

int64_t lh_kv_bytes(const lh_kv_shape *s);       // keys and values
int64_t lh_summary_bytes(const lh_kv_shape *s);  // summaries and kept queries

// Would it fit? Asked before anything is set aside for a session.
lh_status lh_kv_ask(lh_backend *backend, const lh_kv_shape *shape);
// whole (n_layer, n_head_kv): shape->n_whole of them.
lh_status lh_kv_init(lh_kv *kv, lh_backend *backend, const lh_kv_shape *shape, const bool *whole);
void lh_kv_free(lh_kv *kv);

// n tokens are about to be written behind `position`: what they lie over is lost from now on. Then: they were written.
void lh_kv_begin(lh_kv *kv, int64_t n);
void lh_kv_commit(lh_kv *kv, int64_t n);
// Back to a position that is there.
void lh_kv_rewind(lh_kv *kv, int64_t position);
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
