#include "forward.h"

lh_status lh_forward_init(lh_forward *f, lh_backend *backend, const lh_config *c, const lh_weights *w, int32_t batch) {
    *f = (lh_forward){.backend = backend, .config = c, .weights = w, .batch = batch};
    int64_t q_dim = (int64_t)c->n_head * c->head_dim, kv_dim = (int64_t)c->n_head_kv * c->head_dim;
    const struct {
        float **buffer;
        int64_t rows, cols;
    } wanted[] = {
        {&f->x, batch, c->n_embd}, {&f->q, batch, q_dim}, {&f->att, batch, q_dim}, {&f->k, batch, kv_dim},
        {&f->v, batch, kv_dim}, {&f->gate, batch, c->n_ff}, {&f->up, batch, c->n_ff},
        {&f->logits, LH_LOGITS_ROWS, c->n_vocab},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        int64_t bytes = wanted[i].rows * wanted[i].cols * (int64_t)sizeof(float);
        LH_TRY(backend->ops->alloc(backend, (size_t)bytes, (void **)wanted[i].buffer));
        f->bytes += bytes;
    }
    return LH_OK;
}

void lh_forward_free(lh_forward *f) {
    if (!f->backend) return;
    float *buffers[] = {f->x, f->q, f->att, f->k, f->v, f->gate, f->up, f->logits};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) f->backend->ops->release(f->backend, buffers[i]);
    *f = (lh_forward){0};
}

static lh_status run_layer(lh_forward *f, lh_longheads *lh, lh_kv *kv, int32_t i, int32_t n, int32_t first) {
    const lh_config *c = f->config;
    const lh_layer *w = &f->weights->layers[i];
    lh_backend *b = f->backend;
    int32_t q_dim = c->n_head * c->head_dim, rest = n - first;

    lh_project qkv = {
        .n = n, .n_cols = c->n_embd, .x = f->x, .norm = w->attn_norm, .norm_eps = c->norm_eps, .n_out = 3,
        .w = {&w->wq, &w->wk, &w->wv}, .bias = {w->bq, w->bk, w->bv}, .y = {f->q, f->k, f->v},
    };
    LH_TRY(b->ops->project(b, &qkv));
    LH_TRY(lh_longheads_layer(lh, kv, i, n, first, f->q, f->k, f->v, f->att));

    float *x = f->x + (size_t)first * c->n_embd;
    lh_project output = {
        .n = rest, .n_cols = q_dim, .x = f->att + (size_t)first * q_dim, .n_out = 1, .w = {&w->wo}, .bias = {w->bo},
        .y = {x}, .add = true,
    };
    LH_TRY(b->ops->project(b, &output));
    lh_project gate_up = {
        .n = rest, .n_cols = c->n_embd, .x = x, .norm = w->ffn_norm, .norm_eps = c->norm_eps, .n_out = 2,
        .w = {&w->gate, &w->up}, .y = {f->gate, f->up},
    };
    LH_TRY(b->ops->project(b, &gate_up));
    lh_project down = {
        .n = rest, .n_cols = c->n_ff, .x = f->up, .gate = f->gate, .n_out = 1, .w = {&w->down}, .y = {x}, .add = true,
    };
    return b->ops->project(b, &down);
}

lh_status lh_forward_layers(lh_forward *f, lh_longheads *lh, lh_kv *kv, const int32_t *ids, int32_t n, int32_t first,
                            const lh_between *between) {
    lh_kv_begin(kv, n);
    LH_TRY(f->backend->ops->embed(f->backend, &f->weights->embd, ids, n, f->x));
    int32_t last = f->config->n_layer - 1;
    for (int32_t i = 0; i <= last; i++) {
        LH_TRY(run_layer(f, lh, kv, i, n, i == last ? first : 0));
        if (between && i < last && !f->backend->ops->queues) LH_TRY(between->layers(between->arg, i + 1));
    }
    lh_kv_commit(kv, n);
    return LH_OK;
}

lh_status lh_forward_logits(lh_forward *f, int32_t row, int32_t n, float *out) {
    const lh_config *c = f->config;
    lh_project p = {
        .n = n, .n_cols = c->n_embd, .x = f->x + (size_t)row * c->n_embd, .norm = f->weights->output_norm,
        .norm_eps = c->norm_eps, .n_out = 1, .w = {&f->weights->output}, .y = {f->logits},
    };
    LH_TRY(f->backend->ops->project(f->backend, &p));
    return f->backend->ops->read(f->backend, out, f->logits, (size_t)n * c->n_vocab * sizeof *out);
}
