#include "reach.h"

#include <math.h>

#include "peak.h"

#define LANES 16

static float dot(const float *a, const float *b, int64_t n) {
    float lanes[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] += a[i + l] * b[i + l];
    for (; i < n; i++) sum += a[i] * b[i];
    for (int l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}

// The products of the last `dims` rows of a head with each other: out (dims, dims). rows: scratch (dims, n_embd).
static void products(const lh_tensor *t, const float *norm, int64_t head, int64_t head_dim, int32_t dims, float *rows,
                     float *out) {
    int64_t n = t->n_cols, first = (head + 1) * head_dim - dims;
    for (int32_t i = 0; i < dims; i++) {
        float *row = rows + i * n;
        lh_type_get(t->type)->decode((const char *)t->data + (size_t)(first + i) * t->row_size, row, n);
        for (int64_t x = 0; x < n; x++) row[x] *= norm[x];
        for (int32_t j = 0; j <= i; j++) out[i * dims + j] = out[j * dims + i] = dot(row, rows + j * n, n);
    }
}

lh_status lh_reach(const lh_config *c, const lh_weights *w, float *out) {
    int32_t dims = lh_peak_dims(c->head_dim), group = c->n_head / c->n_head_kv;
    size_t square = (size_t)dims * dims;
    float *rows = lh_alloc((size_t)dims * c->n_embd + 2 * square, sizeof *rows);
    if (!rows) return LH_ERR_MEMORY;
    float *of_q = rows + (size_t)dims * c->n_embd, *of_k = of_q + square;
    for (int32_t i = 0; i < c->n_layer; i++) {
        const lh_layer *layer = &w->layers[i];
        double most = 0;
        for (int32_t h = 0; h < c->n_head; h++) {
            if (h % group == 0) products(&layer->wk, layer->attn_norm, h / group, c->head_dim, dims, rows, of_k);
            products(&layer->wq, layer->attn_norm, h, c->head_dim, dims, rows, of_q);
            // |A B^T|^2 is the sum of (A A^T) * (B B^T), which are small.
            double sum = 0;
            for (size_t x = 0; x < square; x++) sum += (double)of_q[x] * of_k[x];
            most = fmax(most, sum);
        }
        out[i] = (float)sqrt(most / c->head_dim);
    }
    lh_free(rows);
    return LH_OK;
}
