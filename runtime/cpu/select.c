// Which chunks a query attends: summaries of complete chunks, scores against them, and the choice.
#include <math.h>
#include <string.h>

#include "cpu.h"

#define BLOCK_TOKENS 64  // tokens whose scores are one product
#define TILE_ROWS 64     // queries of a chunk that are run at once when it is summarised

// The query of a head at a position of the batch, or of the unfinished chunk before it.
static const float *query_at(const lh_attention *a, int64_t position, int32_t head) {
    const float *base = position >= a->pos
                            ? a->q + (size_t)(position - a->pos) * a->n_head * a->head_dim
                            : a->queries + (size_t)lh_offset_of(position, a->plan.chunk) * a->n_head * a->head_dim;
    return base + (size_t)head * a->head_dim;
}

static char *summary_at(const lh_attention *a, int32_t s, int32_t chunk) {
    size_t row = lh_kv_row_size(a->summary_type, a->summary_dim);
    return (char *)a->summary + ((size_t)s * a->n_chunk + chunk) * row;
}

// --- schemes: how a summary is made, and what of a query it is multiplied with --------------------------------------

typedef struct scheme {
    // Summary number `s` of a complete chunk into out (summary_dim). scratch: scratch_floats.
    void (*summarize)(const lh_attention_kernels *k, const lh_attention *a, int32_t s, int32_t chunk, float *out,
                      float *scratch);
    // score = feature(q) . summary: feature(q) is added to out (summary_dim).
    void (*feature)(const float *q, int32_t dim, float *out);
    size_t (*scratch_floats)(const lh_attention *a);
} scheme;

// Bounds (after Quest, arXiv 2406.10774): the largest and the smallest value of every channel of the unrotated keys.
// q . key <= sum_i max(q_i hi_i, q_i lo_i) = max(q, 0) . hi + min(q, 0) . lo.
static void summarize_bounds(const lh_attention_kernels *k, const lh_attention *a, int32_t s, int32_t chunk, float *out,
                             float *scratch) {
    int32_t dim = a->head_dim;
    float *hi = out, *lo = out + dim, *stored = scratch, *key = scratch + dim;
    const char *keys = lh_cpu_chunk(a, a->k, s, chunk);
    for (int32_t i = 0; i < dim; i++) {
        hi[i] = -INFINITY;
        lo[i] = INFINITY;
    }
    for (int32_t o = 0; o < a->plan.chunk; o++) {
        k->load(keys + o * lh_kv_row_size(a->kv_type, a->head_dim), dim, a->kv_type, stored);
        k->rotate(stored, a->rope_offset + 2 * (size_t)dim * o, -1, 1, dim, key);
        for (int32_t i = 0; i < dim; i++) {
            hi[i] = key[i] > hi[i] ? key[i] : hi[i];
            lo[i] = key[i] < lo[i] ? key[i] : lo[i];
        }
    }
}

static void feature_bounds(const float *q, int32_t dim, float *out) {
    for (int32_t i = 0; i < dim; i++) {
        out[i] += q[i] > 0 ? q[i] : 0;
        out[dim + i] += q[i] < 0 ? q[i] : 0;
    }
}

static size_t scratch_bounds(const lh_attention *a) { return 2 * (size_t)a->head_dim; }

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
static void summarize_paper(const lh_attention_kernels *k, const lh_attention *a, int32_t s, int32_t chunk, float *out,
                            float *scratch) {
    int32_t dim = a->head_dim, stride = LH_ROUND_UP(dim, LH_PAD), l = a->plan.chunk, head = s;
    float *q = scratch, *acc = q + (size_t)TILE_ROWS * stride, *top = acc + (size_t)TILE_ROWS * stride;
    float *sum = top + TILE_ROWS, *mean = sum + TILE_ROWS, *tile_scratch = mean + stride;
    int32_t row[TILE_ROWS];
    for (int32_t i = 0; i < TILE_ROWS; i++) row[i] = i;
    const char *keys = lh_cpu_chunk(a, a->k, head / (a->n_head / a->n_head_kv), chunk);
    const char *values = lh_cpu_chunk(a, a->v, head / (a->n_head / a->n_head_kv), chunk);
    lh_tile t = {
        .dim = dim, .stride = stride, .type = a->kv_type, .q = q, .row = row, .top = top, .sum = sum, .acc = acc};

    memset(q, 0, (size_t)TILE_ROWS * stride * sizeof *q);
    memset(mean, 0, (size_t)stride * sizeof *mean);
    for (int32_t first = 0; first < l; first += TILE_ROWS) {
        t.rows = LH_MIN(TILE_ROWS, l - first);
        for (int32_t i = 0; i < t.rows; i++)
            k->rotate(query_at(a, (int64_t)chunk * l + first + i, head), a->rope_offset + 2 * (size_t)dim * (first + i),
                      1, a->scale, dim, q + (size_t)i * stride);
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
    for (int32_t x = 0; x < dim; x++) out[x] = acc[x] / sum[0];
}

static void feature_paper(const float *q, int32_t dim, float *out) {
    for (int32_t i = 0; i < dim; i++) out[i] += q[i];
}

static size_t scratch_paper(const lh_attention *a) {
    size_t stride = LH_ROUND_UP((size_t)a->head_dim, LH_PAD);
    return TILE_ROWS * (2 * stride + 2) + stride + lh_tile_scratch(TILE_ROWS, (int32_t)stride);
}

static const scheme schemes[] = {
    [LH_SCHEME_BOUNDS] = {summarize_bounds, feature_bounds, scratch_bounds},
    [LH_SCHEME_PAPER] = {summarize_paper, feature_paper, scratch_paper},
};

// --- summarize --------------------------------------------------------------------------------------------------

typedef struct summarize_job {
    lh_cpu *cpu;
    const lh_attention *a;
    int32_t first, n_chunks;
} summarize_job;

static void summarize_task(void *arg, int64_t piece, int thread) {
    const summarize_job *j = arg;
    const lh_attention *a = j->a;
    int32_t s = (int32_t)(piece / j->n_chunks), chunk = j->first + (int32_t)(piece % j->n_chunks);
    float *made = lh_cpu_scratch_of(j->cpu, thread), *scratch = made + LH_ROUND_UP(a->summary_dim, LH_PAD);
    memset(made, 0, (size_t)a->summary_dim * sizeof *made);
    schemes[a->scheme].summarize(&j->cpu->attention, a, s, chunk, made, scratch);
    j->cpu->attention.store(made, a->summary_dim, a->summary_type, summary_at(a, s, chunk));
}

lh_status lh_cpu_summarize(lh_backend *b, const lh_attention *a, int32_t first, int32_t end) {
    summarize_job j = {.cpu = (lh_cpu *)b, .a = a, .first = first, .n_chunks = end - first};
    if (j.n_chunks > 0) {
        size_t floats = LH_ROUND_UP((size_t)a->summary_dim, LH_PAD) + schemes[a->scheme].scratch_floats(a);
        LH_TRY(lh_cpu_scratch_threads(j.cpu, floats * sizeof(float)));
        lh_threads_for(j.cpu->threads, (int64_t)a->n_summary * j.n_chunks, summarize_task, &j);
    }
    if (a->queries) {
        int64_t from = LH_MAX(a->pos, (int64_t)end * a->plan.chunk), to = a->pos + a->n;
        size_t row = (size_t)a->n_head * a->head_dim;
        if (from < to)
            memcpy(a->queries + lh_offset_of(from, a->plan.chunk) * row, query_at(a, from, 0),
                   (size_t)(to - from) * row * sizeof(float));
    }
    return LH_OK;
}

// --- select -----------------------------------------------------------------------------------------------------

typedef struct select_job {
    lh_cpu *cpu;
    const lh_attention *a;
    int32_t first;       // token of the batch; the ones before it are dense
    int32_t n_blocks;
    int32_t candidates;  // of the last token: the most there are
} select_job;

// What one thread works in.
typedef struct bench {
    float *scores;    // (BLOCK_TOKENS, candidates)
    float *features;  // (BLOCK_TOKENS, summary_dim)
    int32_t *top;     // scratch of the kernel
    void *product;    // of the product
} bench;

// The product of features with the summaries of all candidates; w: where to describe these.
static lh_project product_of(const select_job *j, int32_t summary, int32_t n, const bench *b, lh_tensor *w) {
    const lh_attention *a = j->a;
    *w = (lh_tensor){
        .type = lh_kv_formats[a->summary_type].type, .n_rows = j->candidates, .n_cols = a->summary_dim,
        .data = summary_at(a, summary, 1), .row_size = lh_kv_row_size(a->summary_type, a->summary_dim),
    };
    return (lh_project){.n = n, .n_cols = a->summary_dim, .x = b->features, .n_out = 1, .w = {w}, .y = {b->scores}};
}

static size_t carve(const select_job *j, char *memory, bench *out) {
    bench b = {0};
    lh_tensor w;
    lh_project p = product_of(j, 0, LH_MIN(BLOCK_TOKENS, j->a->n - j->first), &b, &w);
    size_t used = 0;
#define CARVE(field, bytes)               \
    b.field = (void *)(memory + used);    \
    used += LH_ROUND_UP((size_t)(bytes), (size_t)LH_ALIGN)
    CARVE(scores, sizeof(float) * BLOCK_TOKENS * (size_t)j->candidates);
    CARVE(features, sizeof(float) * BLOCK_TOKENS * (size_t)j->a->summary_dim);
    CARVE(top, 2 * sizeof(int32_t) * (size_t)j->candidates);
    CARVE(product, lh_cpu_multiply_size(j->cpu, &p));
#undef CARVE
    if (out) *out = b;
    return used;
}

// Scores of n tokens from t on against all candidates, summed over the query heads that choose together.
static void score(const select_job *j, int32_t chooser, int32_t t, int32_t n, const bench *b) {
    const lh_attention *a = j->a;
    int32_t together = a->n_head / a->n_select, sharing = a->n_head / a->n_summary;
    // Query heads that share a summary are added up before the product, not after.
    int32_t step = LH_MIN(together, sharing);
    for (int32_t head = chooser * together; head < (chooser + 1) * together; head += step) {
        memset(b->features, 0, (size_t)n * a->summary_dim * sizeof *b->features);
        for (int32_t i = 0; i < n * step; i++)
            schemes[a->scheme].feature(a->q + ((size_t)(t + i / step) * a->n_head + head + i % step) * a->head_dim,
                                       a->head_dim, b->features + (size_t)(i / step) * a->summary_dim);
        lh_tensor w;
        lh_project p = product_of(j, head / sharing, n, b, &w);
        p.add = head != chooser * together;
        lh_cpu_multiply(j->cpu, &p, b->product);
    }
}

static void select_task(void *arg, int64_t piece, int thread) {
    const select_job *j = arg;
    const lh_attention *a = j->a;
    const lh_chunk_plan plan = a->plan;
    bench b;
    carve(j, lh_cpu_scratch_of(j->cpu, thread), &b);
    int32_t chooser = (int32_t)(piece / j->n_blocks), from = j->first + (int32_t)(piece % j->n_blocks) * BLOCK_TOKENS;
    int32_t n = LH_MIN(BLOCK_TOKENS, a->n - from);
    if (lh_n_chosen(plan) > 0) score(j, chooser, from, n, &b);
    for (int32_t t = 0; t < n; t++) {
        int32_t c = lh_chunk_of(a->pos + from + t, plan.chunk), end = lh_candidates_end(plan, c);
        int32_t *out = a->chosen + ((size_t)(from + t) * a->n_select + chooser) * plan.k;
        out[0] = 0;
        if (lh_n_chosen(plan) > 0)
            j->cpu->attention.top(b.scores + (size_t)t * j->candidates, end - 1, lh_n_chosen(plan), 1, out + 1, b.top);
        for (int32_t r = 0; r < plan.local; r++) out[1 + lh_n_chosen(plan) + r] = end + r;
    }
}

lh_status lh_cpu_select(lh_backend *b, const lh_attention *a) {
    int64_t dense = (int64_t)a->plan.dense * a->plan.chunk - a->pos;
    select_job j = {.cpu = (lh_cpu *)b, .a = a, .first = (int32_t)LH_MIN(LH_MAX(dense, 0), a->n)};
    j.n_blocks = (a->n - j.first + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    j.candidates = lh_candidates_end(a->plan, lh_chunk_of(a->pos + a->n - 1, a->plan.chunk)) - 1;
    LH_TRY(lh_cpu_scratch_threads(j.cpu, carve(&j, NULL, NULL)));
    lh_threads_for(j.cpu->threads, (int64_t)a->n_select * j.n_blocks, select_task, &j);
    return LH_OK;
}
