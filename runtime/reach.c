#include "reach.h"

#include <math.h>

#include "peak.h"

#define COLUMNS 1024  // a multiple of every block
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

// A head's rows: the products of the last `dims` with each other, out (dims, dims); returns the sum of squares of all.
// rows: scratch (dims, n).
static double products(const lh_tensor *t, const float *norm, int64_t head, int32_t head_dim, int32_t dims, float *rows,
                       int64_t n, float *out) {
    double squares = 0;
    for (int32_t r = 0; r < head_dim; r++) {
        int32_t i = r - (head_dim - dims);
        float *row = rows + LH_MAX(i, 0) * n;
        lh_type_get(t->type)->decode((const char *)t->data + (size_t)(head * head_dim + r) * t->row_size, row, n);
        for (int64_t x = 0; x < n; x++) row[x] *= norm[x];
        squares += dot(row, row, n);
        for (int32_t j = 0; j <= i; j++) out[i * dims + j] = out[j * dims + i] = dot(row, rows + j * n, n);
    }
    return squares;
}

lh_status lh_reach(const lh_config *c, const lh_layer *layer, float *out) {
    int32_t dims = lh_peak_dims(c->head_dim), group = c->n_head / c->n_head_kv;
    size_t square = (size_t)dims * dims, n = (size_t)LH_MIN(c->n_embd, COLUMNS);
    float *rows = lh_alloc(dims * n + 2 * square, sizeof *rows);
    if (!rows) return LH_ERR_MEMORY;
    float *of_q = rows + dims * n, *of_k = of_q + square;
    double squares_of_k = 0;
    for (int32_t h = 0; h < c->n_head; h++) {
        if (h % group == 0)
            squares_of_k = products(&layer->wk, layer->attn_norm, h / group, c->head_dim, dims, rows, n, of_k);
        double squares_of_q = products(&layer->wq, layer->attn_norm, h, c->head_dim, dims, rows, n, of_q);
        // |A B^T|^2 is the sum of (A A^T) * (B B^T), which are small.
        double sum = 0;
        for (size_t x = 0; x < square; x++) sum += (double)of_q[x] * of_k[x];
        double norms = sqrt(squares_of_q * squares_of_k);
        float reach = (float)(norms > 0 ? sum / norms / sqrt(c->head_dim) : 0);
        out[h] = isfinite(reach) ? reach : 0;  // heads are ordered by it
    }
    lh_free(rows);
    return LH_OK;
}
