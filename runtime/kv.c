#include "kv.h"

static size_t side_bytes(const lh_kv_shape *s) {
    return (size_t)s->n_head_kv * s->n_chunk * s->chunk * lh_kv_row_size(s->type, s->head_dim);
}

static size_t layer_summary_bytes(const lh_kv_shape *s) {
    return (size_t)s->n_summary * s->n_chunk * s->summary_size;
}

static size_t layer_query_bytes(const lh_kv_shape *s) {
    return s->keep_queries ? (size_t)s->chunk * s->n_head * s->head_dim * sizeof(float) : 0;
}

int64_t lh_kv_bytes(const lh_kv_shape *s) { return (int64_t)(2 * side_bytes(s) * s->n_layer); }
int64_t lh_summary_bytes(const lh_kv_shape *s) {
    return (int64_t)((layer_summary_bytes(s) + layer_query_bytes(s)) * s->n_layer);
}

static lh_status check_room(const char *what, uint64_t need, uint64_t have, const lh_kv_shape *s) {
    if (need <= have) return LH_OK;
    return lh_error(LH_ERR_MEMORY, "a context of %lld tokens needs %.2f GiB for its %s, %.2f GiB are free: lower ctx%s",
                    (long long)s->n_chunk * s->chunk, (double)need / (1 << 30), what, (double)have / (1 << 30),
                    s->type == LH_KV_Q8_0 ? "" : " or use kv_type q8_0");
}

static size_t chunk_bytes(const lh_kv_shape *s) { return (size_t)s->chunk * lh_kv_row_size(s->type, s->head_dim); }

int64_t lh_kv_cache_bytes(const lh_kv *kv) {
    const lh_kv_shape *s = &kv->shape;
    return (int64_t)(2 * chunk_bytes(s) * (size_t)s->n_head_kv * (size_t)s->n_layer * (size_t)kv->slots);
}

// Of what the device has left beside the summaries the copies of chunks take three quarters: buffers come after them.
static lh_status count_slots(lh_kv *kv, uint64_t have) {
    const lh_kv_shape *s = &kv->shape;
    uint64_t summaries = (uint64_t)lh_summary_bytes(s);
    kv->slots = 1;
    uint64_t one = (uint64_t)lh_kv_cache_bytes(kv);
    LH_TRY(check_room("summaries and a chunk of each head on the device", summaries + one, have, s));
    uint64_t slots = LH_MAX((have - summaries) / 4 * 3 / one, (uint64_t)1);
    kv->slots = (int32_t)LH_MIN(slots, (uint64_t)LH_MIN(s->n_chunk, LH_CACHE_SLOTS));
    return LH_OK;
}

lh_status lh_kv_init(lh_kv *kv, lh_backend *backend, const lh_kv_shape *shape) {
    *kv = (lh_kv){.shape = *shape, .backend = backend};
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
    lh_status (*alloc)(lh_backend *, size_t, void **) = offload ? offload->alloc : ops->alloc;
    for (size_t i = 0; i < n; i++) {
        LH_TRY(alloc(backend, side_bytes(shape), &kv->k[i]));
        LH_TRY(alloc(backend, side_bytes(shape), &kv->v[i]));
        LH_TRY(ops->alloc(backend, layer_summary_bytes(shape), &kv->summary[i]));
        if (shape->keep_queries) LH_TRY(ops->alloc(backend, layer_query_bytes(shape), &kv->queries[i]));
        if (!offload) continue;
        lh_chunk_cache *cache;
        LH_TRY(offload->cache_new(backend, shape->n_head_kv, shape->n_chunk, kv->slots, chunk_bytes(shape), &cache));
        kv->cache[i] = cache;
    }
    return LH_OK;
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

lh_status lh_kv_each(const lh_kv *kv, int64_t position, lh_kv_visit visit, void *arg) {
    const lh_kv_shape *s = &kv->shape;
    size_t row = lh_kv_row_size(s->type, s->head_dim), head = (size_t)s->n_chunk * s->chunk * row;
    size_t summary_head = (size_t)s->n_chunk * s->summary_size;
    size_t complete = (size_t)lh_chunk_of(position, s->chunk), offset = (size_t)lh_offset_of(position, s->chunk);
    for (int i = 0; i < s->n_layer; i++) {
        for (size_t h = 0; h < (size_t)s->n_head_kv; h++) {
            LH_TRY(visit(arg, (char *)kv->k[i] + h * head, (size_t)position * row));
            LH_TRY(visit(arg, (char *)kv->v[i] + h * head, (size_t)position * row));
        }
        for (size_t h = 0; h < (size_t)s->n_summary; h++)
            LH_TRY(visit(arg, (char *)kv->summary[i] + h * summary_head, complete * s->summary_size));
        if (kv->queries[i]) LH_TRY(visit(arg, kv->queries[i], offset * s->n_head * s->head_dim * sizeof(float)));
    }
    return LH_OK;
}
