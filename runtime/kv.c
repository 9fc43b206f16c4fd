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

lh_status lh_kv_init(lh_kv *kv, lh_backend *backend, const lh_kv_shape *shape) {
    *kv = (lh_kv){.shape = *shape, .backend = backend};
    // Pages come only when they are touched, so ask first: running dry later would kill the process, not the call.
    uint64_t need = (uint64_t)(lh_kv_bytes(shape) + lh_summary_bytes(shape)), have = backend->ops->available(backend);
    if (need > have)
        return lh_error(LH_ERR_MEMORY,
                        "a context of %lld tokens needs %.2f GiB for its KV cache, %.2f GiB are free: lower ctx%s",
                        (long long)shape->n_chunk * shape->chunk, (double)need / (1 << 30), (double)have / (1 << 30),
                        shape->type == LH_KV_Q8_0 ? "" : " or use kv_type q8_0");
    // One table of pointers, four columns of it.
    void **table = lh_alloc((size_t)shape->n_layer * 4, sizeof *table);
    if (!table) return LH_ERR_MEMORY;
    kv->k = table;
    kv->v = table + shape->n_layer;
    kv->summary = table + 2 * (size_t)shape->n_layer;
    kv->queries = table + 3 * (size_t)shape->n_layer;
    for (int i = 0; i < shape->n_layer; i++) {
        LH_TRY(backend->ops->alloc(backend, side_bytes(shape), &kv->k[i]));
        LH_TRY(backend->ops->alloc(backend, side_bytes(shape), &kv->v[i]));
        LH_TRY(backend->ops->alloc(backend, layer_summary_bytes(shape), &kv->summary[i]));
        if (shape->keep_queries) LH_TRY(backend->ops->alloc(backend, layer_query_bytes(shape), &kv->queries[i]));
    }
    return LH_OK;
}

void lh_kv_free(lh_kv *kv) {
    if (!kv->k) return;
    for (size_t i = 0; i < 4 * (size_t)kv->shape.n_layer; i++) kv->backend->ops->release(kv->backend, kv->k[i]);
    lh_free(kv->k);
    *kv = (lh_kv){0};
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
