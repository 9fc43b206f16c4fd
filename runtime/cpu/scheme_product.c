// Schemes whose score is a product of vectors: `bounds` and `paper`. All chunks are scored by one matrix product.
#include <math.h>
#include <string.h>

#include "scheme.h"

#define TILE_ROWS 64  // queries of a chunk that are run at once when it is summarised

// The query of a head at a position of the batch, or of the unfinished chunk before it.
static const float *query_at(const lh_attention *a, int64_t position, int32_t head) {
    const float *base = position >= a->pos
                            ? a->q + (size_t)(position - a->pos) * a->n_head * a->head_dim
                            : a->queries + (size_t)lh_offset_of(position, a->plan.chunk) * a->n_head * a->head_dim;
    return base + (size_t)head * a->head_dim;
}

// Bounds (after Quest, arXiv 2406.10774): the largest and the smallest value of every channel of the unrotated keys.
// q . key <= sum_i max(q_i hi_i, q_i lo_i) = max(q, 0) . hi + min(q, 0) . lo.
static void summarize_bounds(const lh_attention_kernels *k, const lh_attention *a, int32_t s, int32_t chunk, void *out,
                             void *scratch) {
    int32_t dim = a->head_dim;
    float *made = scratch, *hi = made, *lo = made + dim, *stored = made + a->summary_dim, *key = stored + dim;
    memset(made, 0, (size_t)a->summary_dim * sizeof *made);
    const char *keys = lh_cpu_keys(a, s, chunk);
    for (int32_t i = 0; i < dim; i++) {
        hi[i] = -INFINITY;
        lo[i] = INFINITY;
    }
    for (int32_t o = 0; o < a->plan.chunk; o++) {
        k->load(keys + o * lh_kv_row_size(a->kv_type, a->head_dim), dim, a->kv_type, stored);
        k->rotate(stored, 1, 0, a->rope_offset + 2 * (size_t)dim * o, -1, 1, dim, key);
        for (int32_t i = 0; i < dim; i++) {
            hi[i] = key[i] > hi[i] ? key[i] : hi[i];
            lo[i] = key[i] < lo[i] ? key[i] : lo[i];
        }
    }
    k->store(made, a->summary_dim, a->summary_type, out);
}

static size_t bounds_bytes(const lh_attention *a) {
    return ((size_t)a->summary_dim + 2 * (size_t)a->head_dim) * sizeof(float);
}

// One softmax state for `rows` queries, run over all keys of a chunk against `values`.
static void run_rows(const lh_attention_kernels *k, const lh_attention *a, const char *keys, const char *values,
                     lh_tile *t, float *scratch) {
    for (int32_t i = 0; i < t->rows; i++) {
        t->top[i] = -INFINITY;
        t->sum[i] = 0;
    }
    memset(t->acc, 0, (size_t)t->rows * t->stride * sizeof *t->acc);
    for (int32_t first = 0; first < a->plan.chunk; first += LH_TILE_KEYS) {
        t->n_keys = LH_MIN(LH_TILE_KEYS, a->plan.chunk - first);
        t->k = keys + first * lh_kv_row_size(a->kv_type, a->head_dim);
        t->v = values + first * lh_kv_row_size(a->kv_type, a->head_dim);
        k->attend(t, scratch);
    }
}

// The paper (section 3.2): attention inside the chunk, its mean over the queries, and what that mean attends to.
//   A = softmax(Qc Kc^T) V, a = mean of A's rows, summary = softmax(a Kc^T) Kc
static void summarize_paper(const lh_attention_kernels *k, const lh_attention *a, int32_t s, int32_t chunk, void *out,
                            void *scratch) {
    int32_t dim = a->head_dim, stride = LH_ROUND_UP(dim, LH_PAD), l = a->plan.chunk, head = s;
    float *q = scratch, *acc = q + (size_t)TILE_ROWS * stride, *top = acc + (size_t)TILE_ROWS * stride;
    float *sum = top + TILE_ROWS, *mean = sum + TILE_ROWS, *made = mean + stride;
    float *tile_scratch = made + LH_ROUND_UP(a->summary_dim, LH_PAD);
    int32_t row[TILE_ROWS];
    for (int32_t i = 0; i < TILE_ROWS; i++) row[i] = i;
    const char *keys = lh_cpu_keys(a, head / (a->n_head / a->n_head_kv), chunk);
    const char *values = lh_cpu_values(a, head / (a->n_head / a->n_head_kv), chunk);
    lh_tile t = {
        .dim = dim, .stride = stride, .type = a->kv_type, .q = q, .row = row, .top = top, .sum = sum, .acc = acc};

    memset(q, 0, (size_t)TILE_ROWS * stride * sizeof *q);
    memset(mean, 0, (size_t)stride * sizeof *mean);
    for (int32_t first = 0; first < l; first += TILE_ROWS) {
        t.rows = LH_MIN(TILE_ROWS, l - first);
        for (int32_t i = 0; i < t.rows; i++)
            k->rotate(query_at(a, (int64_t)chunk * l + first + i, head), 1, 0,
                      a->rope_offset + 2 * (size_t)dim * (first + i), 1, a->scale, dim, q + (size_t)i * stride);
        run_rows(k, a, keys, values, &t, tile_scratch);
        for (int32_t i = 0; i < t.rows; i++)
            for (int32_t x = 0; x < dim; x++) mean[x] += acc[(size_t)i * stride + x] / (sum[i] * (float)l);
    }
    // `mean` lives in value space and is dotted with keys, so it must be in their order of components. The authors pair
    // it with keys whose rotated pairs are (i, i + half); here they are (2i, 2i + 1).
    int32_t half = a->rope_dim / 2;
    for (int32_t x = 0; x < dim; x++) {
        int32_t at = x < half ? 2 * x : x < 2 * half ? 2 * (x - half) + 1 : x;
        q[at] = mean[x] * a->scale;
    }
    t.rows = 1;
    run_rows(k, a, keys, keys, &t, tile_scratch);
    memset(made, 0, (size_t)a->summary_dim * sizeof *made);
    for (int32_t x = 0; x < dim; x++) made[x] = acc[x] / sum[0];
    k->store(made, a->summary_dim, a->summary_type, out);
}

static size_t paper_bytes(const lh_attention *a) {
    size_t stride = LH_ROUND_UP((size_t)a->head_dim, LH_PAD);
    return sizeof(float) * (TILE_ROWS * (2 * stride + 2) + stride + LH_ROUND_UP((size_t)a->summary_dim, LH_PAD) +
                            lh_tile_scratch(TILE_ROWS, (int32_t)stride));
}

// --- score ------------------------------------------------------------------------------------------------------

static size_t features_bytes(const lh_attention *a, int32_t n) { return (size_t)n * a->summary_dim * sizeof(float); }

static const float *query_of(const lh_attention *a, const lh_queries *q, int32_t i) {
    return query_at(a, a->pos + q->token + i, q->head);
}

// What of queries is multiplied with summaries: (n, summary_dim), zeros where nothing is.
static void prepare_bounds(const lh_cpu *c, const lh_attention *a, const lh_queries *q, void *out) {
    (void)c;
    float *to = memset(out, 0, features_bytes(a, q->n));
    for (int32_t i = 0; i < q->n; i++, to += a->summary_dim) {
        const float *x = query_of(a, q, i);
        for (int32_t j = 0; j < a->head_dim; j++) {
            to[j] = x[j] > 0 ? x[j] : 0;
            to[a->head_dim + j] = x[j] < 0 ? x[j] : 0;
        }
    }
}

static void prepare_paper(const lh_cpu *c, const lh_attention *a, const lh_queries *q, void *out) {
    (void)c;
    float *to = memset(out, 0, features_bytes(a, q->n));
    for (int32_t i = 0; i < q->n; i++, to += a->summary_dim)
        memcpy(to, query_of(a, q, i), (size_t)a->head_dim * sizeof *to);
}

// The product of features with the summaries of a scoring's chunks; w: where to describe these.
static lh_project product_of(const lh_attention *a, const lh_scoring *s, lh_tensor *w) {
    *w = (lh_tensor){
        .type = lh_kv_formats[a->summary_type].type, .n_rows = s->end - s->first, .n_cols = a->summary_dim,
        .row_size = a->summary_size,
    };
    return (lh_project){
        .n = s->n, .n_cols = a->summary_dim, .x = s->queries, .n_out = 1, .w = {w}, .y = {s->out}, .y_stride = s->stride,
    };
}

static size_t score_bytes(const lh_cpu *c, const lh_attention *a, const lh_scoring *s) {
    lh_tensor w;
    lh_project p = product_of(a, s, &w);
    return lh_cpu_multiply_size(c, &p);
}

static void score(const lh_cpu *c, const lh_attention *a, const lh_scoring *s, void *scratch) {
    lh_tensor w;
    lh_project p = product_of(a, s, &w);
    w.data = lh_summary_at(a, s->summary, s->first);
    lh_cpu_multiply(c, &p, scratch);
}

const lh_cpu_scheme lh_cpu_bounds = {
    .summarize = summarize_bounds, .summarize_bytes = bounds_bytes, .prepare = prepare_bounds,
    .prepare_bytes = features_bytes, .score = score, .score_bytes = score_bytes,
};
const lh_cpu_scheme lh_cpu_paper = {
    .summarize = summarize_paper, .summarize_bytes = paper_bytes, .prepare = prepare_paper,
    .prepare_bytes = features_bytes, .score = score, .score_bytes = score_bytes,
};
