// Models: the public functions that are not a session's, a tokenizer's or a sampler's.
#include <math.h>

#include "model.h"
#include "reach.h"

#ifndef LH_VERSION
#define LH_VERSION "0"  // the build sets it
#endif

const char *lh_version(void) { return LH_VERSION; }

typedef lh_status (*visitor)(lh_model *m, lh_tensor *t, void *arg);

static lh_status each_of_layer(lh_model *m, lh_layer *l, visitor visit, void *arg) {
    lh_tensor *t;
    for (int32_t i = 0; (t = lh_layer_matrix(l, i)); i++) LH_TRY(visit(m, t, arg));
    return LH_OK;
}

// Matrices of no layer. output is embd again where they are tied.
static lh_status each_of_none(lh_model *m, visitor visit, void *arg) {
    lh_weights *w = &m->weights;
    LH_TRY(visit(m, &w->embd, arg));
    if (!w->tied) return visit(m, &w->output, arg);
    w->output = w->embd;
    return LH_OK;
}

static lh_status each_matrix(lh_model *m, visitor visit, void *arg) {
    LH_TRY(each_of_none(m, visit, arg));
    for (int32_t i = 0; i < m->config.n_layer; i++) LH_TRY(each_of_layer(m, &m->weights.layers[i], visit, arg));
    return LH_OK;
}

typedef struct loading {
    const lh_progress *progress;
    uint64_t done, total;
} loading;

static lh_status upload(lh_model *m, lh_tensor *t, void *arg) {
    loading *l = arg;
    const void *mapped = t->data;
    size_t bytes = (size_t)t->n_rows * t->row_size;
    LH_TRY(m->backend->ops->upload(m->backend, t));
    // The file's pages are not needed beside a copy.
    if (t->device || t->data != mapped) lh_gguf_forget(mapped, bytes);
    l->done += bytes;
    return lh_report(l->progress, l->done, l->total);
}

static lh_status count(lh_model *m, lh_tensor *t, void *arg) {
    (void)m;
    ((loading *)arg)->total += (uint64_t)t->n_rows * t->row_size;
    return LH_OK;
}

static lh_status unload(lh_model *m, lh_tensor *t, void *arg) {
    (void)arg;
    m->backend->ops->unload(m->backend, t);
    return LH_OK;
}

static lh_status load_weights(lh_model *m, const lh_progress *progress) {
    const lh_config *c = &m->config;
    loading l = {.progress = progress};
    LH_TRY(each_matrix(m, count, &l));
    LH_TRY(each_of_none(m, upload, &l));
    for (int32_t i = 0; i < c->n_layer; i++) {
        // First: no backend has them then.
        LH_TRY(lh_reach(c, &m->weights.layers[i], m->reach + (size_t)i * c->n_head));
        LH_TRY(each_of_layer(m, &m->weights.layers[i], upload, &l));
    }
    return LH_OK;
}

static lh_status open_model(lh_model *m, const char *path, const lh_model_options *o) {
    LH_TRY(lh_gguf_open(path, &m->gguf));
    LH_TRY(lh_config_read(m->gguf, &m->config));
    LH_TRY(lh_weights_load(m->gguf, &m->config, &m->weights));
    LH_TRY(lh_tokenizer_from_gguf(m->gguf, &m->tokenizer));
    LH_TRY(lh_backend_open(o->device, o->n_threads, &m->backend));
    m->reach = lh_alloc((size_t)m->config.n_layer * m->config.n_head, sizeof *m->reach);
    if (!m->reach) return LH_ERR_MEMORY;
    // Of all tensors, and what is between them.
    size_t bytes = (size_t)m->weights.bytes + (size_t)lh_gguf_n_tensors(m->gguf) * LH_ALIGN;
    if (m->backend->ops->reserve && !o->mmap) LH_TRY(m->backend->ops->reserve(m->backend, bytes));
    return load_weights(m, &o->progress);
}

lh_status lh_model_open(const char *path, const lh_model_options *options, lh_model **out) {
    *out = NULL;
    lh_model *m = lh_alloc(1, sizeof *m);
    if (!m) return LH_ERR_MEMORY;
    lh_model_options defaults = {0};
    lh_status status = open_model(m, path, options ? options : &defaults);
    if (status != LH_OK) lh_model_free(m);
    else *out = m;
    return status;
}

void lh_model_free(lh_model *m) {
    if (!m) return;
    if (m->backend && m->weights.layers) each_matrix(m, unload, NULL);
    lh_tokenizer_free(m->tokenizer);
    lh_free(m->reach);
    lh_weights_free(&m->weights);
    lh_gguf_free(m->gguf);
    lh_backend_free(m->backend);
    lh_free(m);
}

void lh_model_get_info(const lh_model *m, lh_model_info *out) {
    const lh_config *c = &m->config;
    const lh_weights *w = &m->weights;
    int64_t idle_rows = w->tied ? 0 : w->embd.n_rows - 1;
    *out = (lh_model_info){
        .n_vocab = c->n_vocab, .n_layer = c->n_layer, .n_head = c->n_head, .n_head_kv = c->n_head_kv,
        .head_dim = c->head_dim, .n_embd = c->n_embd, .n_ff = c->n_ff, .trained_ctx = c->trained_ctx,
        .weight_bytes = w->bytes, .active_bytes = w->bytes - idle_rows * (int64_t)w->embd.row_size,
        .n_params = w->n_params, .n_threads = m->backend->n_threads, .device = m->backend->name,
        .device_note = m->backend->note,
    };
}

int64_t lh_model_n_metadata(const lh_model *m) { return lh_gguf_n_metadata(m->gguf); }

lh_status lh_model_get_metadata(const lh_model *m, int64_t i, lh_metadata *out) {
    if (i < 0 || i >= lh_gguf_n_metadata(m->gguf))
        return lh_error(LH_ERR_ARGUMENT, "metadata entry %lld of %lld", (long long)i,
                        (long long)lh_gguf_n_metadata(m->gguf));
    *out = *lh_gguf_metadata_at(m->gguf, i);
    return LH_OK;
}

const lh_tokenizer *lh_model_tokenizer(const lh_model *m) { return m->tokenizer; }

lh_status lh_model_probe(const lh_model *m, double seconds, lh_ceilings *out) {
    if (!isfinite(seconds)) return lh_error(LH_ERR_ARGUMENT, "%g seconds of measuring would not end", seconds);
    lh_backend *b = m->backend;
    b->ops->begin(b);
    lh_status status = b->ops->probe(b, seconds, out);
    b->ops->end(b);
    return status;
}
