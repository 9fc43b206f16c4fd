#include "kv.h"

#include <string.h>

// A chunk's keys.
static size_t chunk_bytes(const lh_kv_shape *s) { return (size_t)s->chunk * lh_kv_row_size(s->type, s->head_dim); }

static size_t side_bytes(const lh_kv_shape *s, int32_t room) { return (size_t)s->n_head_kv * room * chunk_bytes(s); }

static size_t layer_summary_bytes(const lh_kv_shape *s) {
    return (size_t)s->n_summary * s->n_chunk * s->summary_size;
}

static size_t layer_query_bytes(const lh_kv_shape *s) {
    return s->keep_queries ? (size_t)s->chunk * s->n_head * s->head_dim * sizeof(float) : 0;
}

// Chunks of all layers, where a layer has room for `most` at most.
static int64_t all_chunks(const lh_kv_shape *s, int32_t most) {
    return (int64_t)s->n_whole * LH_MIN(s->n_chunk, most) +
           (int64_t)(s->n_layer - s->n_whole) * LH_MIN(s->n_near, most);
}

static int64_t bytes_of(const lh_kv_shape *s, int32_t most) {
    return 2 * (int64_t)side_bytes(s, 1) * all_chunks(s, most);
}

int64_t lh_kv_bytes(const lh_kv_shape *s) { return bytes_of(s, s->n_chunk); }
int64_t lh_kv_cache_bytes(const lh_kv *kv) { return bytes_of(&kv->shape, kv->slots); }
int64_t lh_summary_bytes(const lh_kv_shape *s) {
    return (int64_t)(layer_summary_bytes(s) + layer_query_bytes(s)) * s->n_whole;
}

static lh_status check_room(const char *what, uint64_t need, uint64_t have, const lh_kv_shape *s) {
    if (need <= have) return LH_OK;
    return lh_error(LH_ERR_MEMORY, "a context of %lld tokens needs %.2f GiB for its %s, %.2f GiB are free: lower ctx%s",
                    (long long)s->n_chunk * s->chunk, (double)need / (1 << 30), what, (double)have / (1 << 30),
                    s->type == LH_KV_Q8_0 ? "" : " or use kv_type q8_0");
}

// Of what the device has left beside the summaries the copies of chunks take three quarters: buffers come after them.
static lh_status count_slots(lh_kv *kv, uint64_t have) {
    const lh_kv_shape *s = &kv->shape;
    uint64_t summaries = (uint64_t)lh_summary_bytes(s), least = (uint64_t)bytes_of(s, 1);
    LH_TRY(check_room("summaries and a chunk of each head on the device", summaries + least, have, s));
    uint64_t room = LH_MAX((have - summaries) / 4 * 3, least);
    // Layers that hold less leave their share to the others: the largest number that fits.
    int32_t low = 1, high = LH_MIN(s->n_chunk, LH_CACHE_SLOTS);
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        if ((uint64_t)bytes_of(s, middle) <= room) low = middle;
        else high = middle - 1;
    }
    kv->slots = low;
    return LH_OK;
}

lh_status lh_kv_init(lh_kv *kv, lh_backend *backend, const lh_kv_shape *shape, const bool *whole) {
    *kv = (lh_kv){.shape = *shape, .backend = backend, .lost = 1};
    const lh_backend_ops *ops = backend->ops;
    const lh_offload_ops *offload = shape->offload ? ops->offload : NULL;
    // Pages come only when they are touched, so ask first: running dry later would kill the process, not the call.
    uint64_t stored = (uint64_t)lh_kv_bytes(shape), have = ops->available(backend);
    if (offload) {
        LH_TRY(check_room("KV cache in memory of the host", stored, lh_memory_available(), shape));
        LH_TRY(count_slots(kv, have));
    } else {
        LH_TRY(check_room("KV cache", stored + (uint64_t)lh_summary_bytes(shape), have, shape));
    }
    // One table of pointers, five columns of it.
    size_t n = (size_t)shape->n_layer;
    void **table = lh_alloc(n * 5, sizeof *table);
    if (!table) return LH_ERR_MEMORY;
    kv->k = table;
    kv->v = table + n;
    kv->summary = table + 2 * n;
    kv->queries = table + 3 * n;
    kv->cache = table + 4 * n;
    kv->whole = lh_alloc(n, sizeof *kv->whole);
    if (!kv->whole) return LH_ERR_MEMORY;
    memcpy(kv->whole, whole, n * sizeof *whole);
    lh_status (*alloc)(lh_backend *, size_t, void **) = offload ? offload->alloc : ops->alloc;
    for (int32_t i = 0; i < shape->n_layer; i++) {
        int32_t room = lh_kv_room(kv, i);
        LH_TRY(alloc(backend, side_bytes(shape, room), &kv->k[i]));
        LH_TRY(alloc(backend, side_bytes(shape, room), &kv->v[i]));
        if (kv->whole[i]) {
            LH_TRY(ops->alloc(backend, layer_summary_bytes(shape), &kv->summary[i]));
            if (shape->keep_queries) LH_TRY(ops->alloc(backend, layer_query_bytes(shape), &kv->queries[i]));
        }
        if (!offload) continue;
        lh_chunk_cache *cache;
        LH_TRY(offload->cache_new(backend, shape->n_head_kv, room, LH_MIN(kv->slots, room), chunk_bytes(shape), &cache));
        kv->cache[i] = cache;
    }
    return LH_OK;
}

int32_t lh_kv_room(const lh_kv *kv, int32_t layer) {
    return kv->whole[layer] ? kv->shape.n_chunk : kv->shape.n_near;
}

int32_t lh_kv_lost_at(const lh_kv *kv, int64_t position, int32_t lost) {
    return LH_MAX(lost, lh_chunk_of(position - 1, kv->shape.chunk) - kv->shape.n_near + 2);
}

void lh_kv_grow(lh_kv *kv, int64_t n) { kv->lost = lh_kv_lost_at(kv, kv->position + n, kv->lost); }

void lh_kv_clear(lh_kv *kv) {
    kv->position = 0;
    kv->lost = 1;
}

void lh_kv_free(lh_kv *kv) {
    if (!kv->k) return;
    lh_backend *b = kv->backend;
    const lh_offload_ops *offload = kv->shape.offload ? b->ops->offload : NULL;
    for (size_t i = 0; i < (size_t)kv->shape.n_layer; i++) {
        if (offload && kv->cache[i]) offload->cache_free(b, kv->cache[i]);
        (offload ? offload->release : b->ops->release)(b, kv->k[i]);
        (offload ? offload->release : b->ops->release)(b, kv->v[i]);
        b->ops->release(b, kv->summary[i]);
        b->ops->release(b, kv->queries[i]);
    }
    lh_free(kv->whole);
    lh_free(kv->k);
    *kv = (lh_kv){0};
}

lh_status lh_kv_written(const lh_kv *kv) {
    for (int32_t i = 0; kv->slots && i < kv->shape.n_layer; i++)
        LH_TRY(kv->backend->ops->offload->cache_clear(kv->backend, kv->cache[i]));
    return LH_OK;
}

lh_status lh_kv_count(const lh_kv *kv, int64_t *hits, int64_t *misses) {
    *hits = *misses = 0;
    for (int32_t i = 0; kv->slots && i < kv->shape.n_layer; i++)
        LH_TRY(kv->backend->ops->offload->cache_count(kv->backend, kv->cache[i], hits, misses));
    return LH_OK;
}

// One KV head's keys or values of one layer, which lie at `base`: as one piece, or chunk by chunk.
static lh_status each_row(const lh_kv *kv, int32_t layer, char *base, int64_t position, int32_t lost, lh_kv_visit visit,
                          void *arg) {
    const lh_kv_shape *s = &kv->shape;
    size_t row = lh_kv_row_size(s->type, s->head_dim);
    if (kv->whole[layer]) return visit(arg, base, (size_t)position * row);
    int32_t room = lh_kv_room(kv, layer), first = lh_kv_lost_at(kv, position, lost), c = 0;
    while ((int64_t)c * s->chunk < position) {
        bool there = c == 0 || c >= first;
        size_t rows = (size_t)LH_MIN((int64_t)s->chunk, position - (int64_t)c * s->chunk);
        LH_TRY(visit(arg, there ? base + lh_slot_of(c, room) * chunk_bytes(s) : NULL, rows * row));
        c = c == 0 ? lost : c + 1;
    }
    return LH_OK;
}

lh_status lh_kv_each(const lh_kv *kv, int64_t position, int32_t lost, lh_kv_visit visit, void *arg) {
    const lh_kv_shape *s = &kv->shape;
    size_t summary_head = (size_t)s->n_chunk * s->summary_size;
    size_t complete = (size_t)lh_chunk_of(position, s->chunk), offset = (size_t)lh_offset_of(position, s->chunk);
    for (int32_t i = 0; i < s->n_layer; i++) {
        size_t head = (size_t)lh_kv_room(kv, i) * chunk_bytes(s);
        for (size_t h = 0; h < (size_t)s->n_head_kv; h++) {
            LH_TRY(each_row(kv, i, (char *)kv->k[i] + h * head, position, lost, visit, arg));
            LH_TRY(each_row(kv, i, (char *)kv->v[i] + h * head, position, lost, visit, arg));
        }
        for (size_t h = 0; kv->summary[i] && h < (size_t)s->n_summary; h++)
            LH_TRY(visit(arg, (char *)kv->summary[i] + h * summary_head, complete * s->summary_size));
        if (kv->queries[i]) LH_TRY(visit(arg, kv->queries[i], offset * s->n_head * s->head_dim * sizeof(float)));
    }
    return LH_OK;
}
