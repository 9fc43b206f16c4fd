// Synthetic depth: random keys and values where reading would take minutes. The cost of a token depends on how many
// tokens lie before it, not on what they say.
#include <string.h>

#include "model.h"

static uint32_t mix32(uint32_t x) {
    x = (x ^ x >> 16) * 0x21f0aaadu;
    x = (x ^ x >> 15) * 0x735a2d97u;
    return x ^ x >> 15;
}

// Row `row` (a position) of stream `stream`: the same values in whatever pieces rows are asked for. The sum of four
// bytes of a hash is close enough to a normal distribution, here one of mean 0 and deviation 1.
static void random_row(uint64_t seed, uint32_t stream, int64_t row, size_t n, float *out) {
    uint32_t key = mix32((uint32_t)seed ^ mix32((uint32_t)(seed >> 32) ^ mix32(stream ^ mix32((uint32_t)row))));
    for (size_t i = 0; i < n; i++) {
        uint32_t x = mix32(key + (uint32_t)i * 0x9e3779b9u);
        int32_t sum = (int32_t)((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24));
        out[i] = (float)(sum - 510) * (1 / 147.8f);
    }
}

typedef struct column {
    float *device;
    size_t n;  // floats a token
} column;

// n <= options.batch tokens; host: room for one column of them.
static lh_status fill_layers(lh_session *s, int32_t n, uint64_t seed, float *host) {
    const lh_kv_shape *shape = &s->kv.shape;
    lh_backend *b = s->model->backend;
    size_t q_row = (size_t)shape->n_head * shape->head_dim, kv_row = (size_t)shape->n_head_kv * shape->head_dim;
    // Queries are read only where summaries are made from them.
    const column columns[] = {{s->forward.k, kv_row}, {s->forward.v, kv_row}, {s->forward.q, q_row}};
    const uint32_t n_columns = shape->keep_queries ? 3 : 2;
    lh_kv_begin(&s->kv, n);
    for (int32_t layer = 0; layer < shape->n_layer; layer++) {
        for (uint32_t c = 0; c < n_columns; c++) {
            for (int32_t t = 0; t < n; t++)
                random_row(seed, (uint32_t)layer * 3 + c, s->kv.position + t, columns[c].n, host + t * columns[c].n);
            LH_TRY(b->ops->write(b, columns[c].device, host, n * columns[c].n * sizeof *host));
        }
        LH_TRY(lh_longheads_store(&s->longheads, &s->kv, layer, n, s->forward.q, s->forward.k, s->forward.v));
    }
    return LH_OK;
}

static lh_status fill_batch(lh_session *s, int32_t n, uint64_t seed, float *host) {
    lh_status status = fill_layers(s, n, seed, host);
    if (status != LH_OK) lh_session_give_up(s, n);
    LH_TRY(status);
    memset(s->ids + s->kv.position, 0, (size_t)n * sizeof *s->ids);
    lh_kv_commit(&s->kv, n);
    return LH_OK;
}

static lh_status fill(lh_session *s, int64_t n, uint64_t seed, const lh_progress *progress) {
    lh_reading r = {.session = s, .progress = progress, .total = n};
    LH_TRY(lh_session_check_room(s, n));
    LH_TRY(lh_reading_tell(&r));
    if (n == 0) return LH_OK;
    const lh_kv_shape *shape = &s->kv.shape;
    int32_t batch = s->options.batch;
    size_t row = (size_t)(shape->keep_queries ? shape->n_head : shape->n_head_kv) * shape->head_dim;
    float *host = lh_alloc((size_t)batch * row, sizeof *host);
    if (!host) return LH_ERR_MEMORY;
    s->has_logits = false;
    s->longheads.last_position = -1;
    lh_status status = LH_OK;
    while (status == LH_OK && r.done < n) {
        r.n = (int32_t)LH_MIN(n - r.done, (int64_t)batch);
        status = fill_batch(s, r.n, seed, host);
        r.done += r.n;
        if (status == LH_OK) status = lh_reading_tell(&r);
    }
    lh_free(host);
    return status;
}

lh_status lh_session_fill(lh_session *s, int64_t n, uint64_t seed, const lh_progress *progress) {
    LH_TRY(lh_session_enter(s));
    lh_status status = fill(s, n, seed, progress);
    lh_session_leave(s);
    return status;
}
