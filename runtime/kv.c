#include "kv.h"

#include <string.h>

#include "resources.h"

// A chunk's keys.
static size_t chunk_bytes(const lh_kv_shape *s) { return (size_t)s->chunk * lh_kv_row_size(s->type, s->head_dim); }

// Keys and values of `chunks` chunks of one KV head.
static int64_t chunks_bytes(const lh_kv_shape *s, int64_t chunks) { return 2 * chunks * (int64_t)chunk_bytes(s); }

static size_t head_summary_bytes(const lh_kv_shape *s) {
    return (size_t)s->n_summary * s->n_chunk * (s->summary_size + s->detail_size);
}

static size_t layer_query_bytes(const lh_kv_shape *s) {
    return s->keep_queries ? (size_t)s->chunk * s->n_head * s->head_dim * sizeof(float) : 0;
}

static int64_t whole_bytes(const lh_kv_shape *s) { return chunks_bytes(s, (int64_t)s->n_whole * s->n_chunk); }

static int64_t near_bytes(const lh_kv_shape *s) {
    return chunks_bytes(s, (int64_t)(lh_kv_n_heads(s) - s->n_whole) * s->n_near);
}

int64_t lh_kv_bytes(const lh_kv_shape *s) { return whole_bytes(s) + near_bytes(s); }

int64_t lh_kv_cache_bytes(const lh_kv *kv) {
    return chunks_bytes(&kv->shape, (int64_t)kv->shape.n_whole * kv->slots);
}

// At most: of queries, as if all layers kept them.
int64_t lh_summary_bytes(const lh_kv_shape *s) {
    return (int64_t)head_summary_bytes(s) * s->n_whole + (int64_t)layer_query_bytes(s) * s->n_layer;
}

static lh_status check_room(const char *what, uint64_t need, uint64_t have, const lh_kv_shape *s) {
    if (need <= have) return LH_OK;
    return lh_error(LH_ERR_MEMORY, "a context of %lld tokens needs %.2f GiB for its %s, %.2f GiB are free: lower ctx%s",
                    (long long)s->n_chunk * s->chunk, (double)need / (1 << 30), what, (double)have / (1 << 30),
                    s->type == LH_KV_Q8_0 ? "" : " or use kv_type q8_0");
}

// Of what the device has left beside summaries and last chunks the copies of chunks take three quarters: other sessions
// and scratch come after them.
static lh_status count_slots(lh_kv *kv, uint64_t have) {
    const lh_kv_shape *s = &kv->shape;
    uint64_t others = (uint64_t)(lh_summary_bytes(s) + near_bytes(s)), of_slot = (uint64_t)chunks_bytes(s, s->n_whole);
    LH_TRY(check_room("summaries, last chunks and a chunk of each head on the device", others + of_slot, have, s));
    uint64_t most = of_slot ? (have - others) / 4 * 3 / of_slot : 1;
    kv->slots = (int32_t)LH_MAX(1, LH_MIN(most, (uint64_t)LH_MIN(s->n_chunk, LH_CACHE_SLOTS)));
    return LH_OK;
}

// Memory for those of a layer's KV heads that keep the whole text, or for the others.
static lh_status place(lh_kv *kv, int32_t layer, bool whole) {
    const lh_kv_shape *s = &kv->shape;
    lh_backend *b = kv->backend;
    const lh_offload_ops *offload = whole && s->offload ? b->ops->offload : NULL;
    const bool *is_whole = kv->whole + (size_t)layer * s->n_head_kv;
    lh_kv_head *heads = kv->heads + (size_t)layer * s->n_head_kv;
    int32_t room = whole ? s->n_chunk : s->n_near, n = 0, at = 0;
    for (int32_t h = 0; h < s->n_head_kv; h++) n += is_whole[h] == whole;
    if (n == 0) return LH_OK;
    size_t side = room * chunk_bytes(s);
    void **rows = whole ? &kv->home[layer] : &kv->near[layer];
    LH_TRY((offload ? offload->alloc : b->ops->alloc)(b, 2 * (size_t)n * side, rows));
    if (offload) {
        lh_chunk_cache *cache;
        LH_TRY(offload->cache_new(b, n, room, kv->slots, chunk_bytes(s), &cache));
        kv->cache[layer] = cache;
    }
    if (whole && s->n_summary) {
        LH_TRY(b->ops->alloc(b, (size_t)n * head_summary_bytes(s), &kv->summary[layer]));
        if (s->keep_queries) LH_TRY(b->ops->alloc(b, layer_query_bytes(s), &kv->queries[layer]));
    }
    char *k = *rows, *v = k + n * side, *summary = whole ? kv->summary[layer] : NULL;
    for (int32_t h = 0; h < s->n_head_kv; h++) {
        if (is_whole[h] != whole) continue;
        heads[h] = (lh_kv_head){
            .k = k + at * side, .v = v + at * side, .summary = summary ? summary + at * head_summary_bytes(s) : NULL,
            .room = room, .cached = offload ? at : -1,
        };
        at++;
    }
    return LH_OK;
}

// Pages come only when they are touched: running dry then would kill the process, not the call.
lh_status lh_kv_ask(lh_backend *backend, const lh_kv_shape *shape) {
    if (shape->offload)
        return check_room("KV cache in memory of the host", (uint64_t)whole_bytes(shape), lh_memory_available(), shape);
    return check_room("KV cache", (uint64_t)(lh_kv_bytes(shape) + lh_summary_bytes(shape)),
                      backend->ops->available(backend), shape);
}

lh_status lh_kv_init(lh_kv *kv, lh_backend *backend, const lh_kv_shape *shape, const bool *whole) {
    *kv = (lh_kv){.shape = *shape, .backend = backend, .lost = 1};
    const lh_backend_ops *ops = backend->ops;
    LH_TRY(lh_kv_ask(backend, shape));
    if (shape->offload) LH_TRY(count_slots(kv, ops->available(backend)));
    // One table of pointers, five columns of it.
    size_t n = (size_t)shape->n_layer, heads = (size_t)lh_kv_n_heads(shape);
    void **table = lh_alloc(n * 5, sizeof *table);
    if (!table) return LH_ERR_MEMORY;
    kv->near = table;
    kv->home = table + n;
    kv->summary = table + 2 * n;
    kv->queries = table + 3 * n;
    kv->cache = table + 4 * n;
    kv->whole = lh_alloc(heads, sizeof *kv->whole);
    kv->heads = lh_alloc(heads, sizeof *kv->heads);
    if (!kv->whole || !kv->heads) return LH_ERR_MEMORY;
    memcpy(kv->whole, whole, heads * sizeof *whole);
    for (int32_t i = 0; i < shape->n_layer; i++) {
        LH_TRY(place(kv, i, false));
        LH_TRY(place(kv, i, true));
    }
    LH_TRY(ops->alloc(backend, heads * sizeof *kv->heads, (void **)&kv->device_heads));
    return ops->write(backend, kv->device_heads, kv->heads, heads * sizeof *kv->heads);
}

int32_t lh_kv_lost_at(const lh_kv *kv, int64_t position, int32_t lost) {
    return LH_MAX(lost, lh_chunk_of(position - 1, kv->shape.chunk) - kv->shape.n_near + 2);
}

void lh_kv_begin(lh_kv *kv, int64_t n) { kv->lost = lh_kv_lost_at(kv, kv->position + n, kv->lost); }

void lh_kv_commit(lh_kv *kv, int64_t n) { kv->position += n; }

void lh_kv_rewind(lh_kv *kv, int64_t position) { kv->position = position; }

void lh_kv_clear(lh_kv *kv) {
    kv->position = 0;
    kv->lost = 1;
}

void lh_kv_free(lh_kv *kv) {
    if (!kv->near) return;
    lh_backend *b = kv->backend;
    const lh_offload_ops *offload = kv->shape.offload ? b->ops->offload : NULL;
    for (size_t i = 0; i < (size_t)kv->shape.n_layer; i++) {
        if (offload && kv->cache[i]) offload->cache_free(b, kv->cache[i]);
        (offload ? offload->release : b->ops->release)(b, kv->home[i]);
        b->ops->release(b, kv->near[i]);
        b->ops->release(b, kv->summary[i]);
        b->ops->release(b, kv->queries[i]);
    }
    b->ops->release(b, kv->device_heads);
    lh_free(kv->heads);
    lh_free(kv->whole);
    lh_free(kv->near);
    *kv = (lh_kv){0};
}

lh_status lh_kv_written(const lh_kv *kv) {
    for (int32_t i = 0; i < kv->shape.n_layer; i++)
        if (kv->cache[i]) LH_TRY(kv->backend->ops->offload->cache_clear(kv->backend, kv->cache[i]));
    return LH_OK;
}

lh_status lh_kv_count(const lh_kv *kv, int64_t *hits, int64_t *misses) {
    *hits = *misses = 0;
    for (int32_t i = 0; i < kv->shape.n_layer; i++)
        if (kv->cache[i]) LH_TRY(kv->backend->ops->offload->cache_count(kv->backend, kv->cache[i], hits, misses));
    return LH_OK;
}

// Keys or values of a KV head that does not keep the whole text, chunk by chunk.
static lh_status each_chunk(const lh_kv *kv, int32_t room, char *base, int64_t position, int32_t lost,
                            lh_kv_visit visit, void *arg) {
    const lh_kv_shape *s = &kv->shape;
    size_t row = lh_kv_row_size(s->type, s->head_dim);
    int32_t first = lh_kv_lost_at(kv, position, lost), c = 0;
    while ((int64_t)c * s->chunk < position) {
        bool there = c == 0 || c >= first;
        size_t rows = (size_t)LH_MIN((int64_t)s->chunk, position - (int64_t)c * s->chunk);
        LH_TRY(visit(arg, there ? base + lh_slot_of(c, room) * chunk_bytes(s) : NULL, rows * row));
        c = c == 0 ? lost : c + 1;
    }
    return LH_OK;
}

static lh_status each_of_head(const lh_kv *kv, size_t index, int64_t position, int32_t lost, lh_kv_visit visit,
                              void *arg) {
    const lh_kv_shape *s = &kv->shape;
    const lh_kv_head *head = &kv->heads[index];
    if (!kv->whole[index]) {
        LH_TRY(each_chunk(kv, head->room, head->k, position, lost, visit, arg));
        return each_chunk(kv, head->room, head->v, position, lost, visit, arg);
    }
    size_t bytes = (size_t)position * lh_kv_row_size(s->type, s->head_dim);
    LH_TRY(visit(arg, head->k, bytes));
    LH_TRY(visit(arg, head->v, bytes));
    size_t complete = (size_t)lh_chunk_of(position, s->chunk);
    const size_t sizes[] = {s->summary_size, s->detail_size};
    char *at = head->summary;
    for (int part = 0; part < 2; part++)
        for (int32_t i = 0; i < s->n_summary; i++, at += s->n_chunk * sizes[part])
            LH_TRY(visit(arg, at, complete * sizes[part]));
    return LH_OK;
}

lh_status lh_kv_each(const lh_kv *kv, int64_t position, int32_t lost, lh_kv_visit visit, void *arg) {
    const lh_kv_shape *s = &kv->shape;
    size_t queries = (size_t)lh_offset_of(position, s->chunk) * s->n_head * s->head_dim * sizeof(float);
    for (int32_t i = 0; i < s->n_layer; i++) {
        for (int32_t h = 0; h < s->n_head_kv; h++)
            LH_TRY(each_of_head(kv, (size_t)i * s->n_head_kv + h, position, lost, visit, arg));
        if (kv->queries[i]) LH_TRY(visit(arg, kv->queries[i], queries));
    }
    return LH_OK;
}
