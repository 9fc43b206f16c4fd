// Scheme `peak`: a chunk is as good as its best key, compared in a head's slow components (peak.h).
#include <math.h>
#include <string.h>

#include "peak.h"
#include "prefetch.h"
#include "scheme.h"

#define BLOCK_CHUNKS 128 // that one query meets at a time

// x in steps, to `levels` either side of zero; what is no number counts as the least.
static int32_t level_of(float x, float per_step, int32_t levels) {
    float scaled = x * per_step;
    return scaled > (float)-levels ? scaled < (float)levels ? (int32_t)lrintf(scaled) : levels : -levels;
}

// A step that makes `levels` of the largest of n values, and its inverse; 0 and 0 where all are zero.
static float step_of(const float *x, int32_t n, int32_t levels, float *per_step) {
    float top = 0;
    for (int32_t i = 0; i < n; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    bool some = top > LH_PEAK_TINY && top < INFINITY;
    *per_step = some ? (float)levels / top : 0;
    return some ? top / (float)levels : 0;
}

// The slow components of a chunk's keys: out (chunk, dims). key: room for one.
static void load_slow(const lh_attention_kernels *k, const lh_attention *a, int32_t kv_head, int32_t chunk, float *key,
                      float *out) {
    int32_t dims = lh_peak_dims(a->head_dim);
    size_t row = lh_kv_row_size(a->kv_type, a->head_dim);
    const char *keys = lh_cpu_keys(a, kv_head, chunk);
    for (int32_t o = 0; o < a->plan.chunk; o++) {
        k->load(keys + o * row, a->head_dim, a->kv_type, key);
        memcpy(out + (size_t)o * dims, key + a->head_dim - dims, (size_t)dims * sizeof *out);
    }
}

static void summarize(const lh_attention_kernels *k, const lh_attention *a, int32_t s, int32_t chunk, void *out,
                      void *scratch) {
    int32_t dims = lh_peak_dims(a->head_dim), l = a->plan.chunk;
    float *key = scratch, *centre = key + a->head_dim, *slow = centre + dims;
    load_slow(k, a, s, 0, key, slow);
    memset(centre, 0, (size_t)dims * sizeof *centre);
    for (int32_t i = 0; i < l * dims; i++) centre[i % dims] += slow[i] / (float)l;
    load_slow(k, a, s, chunk, key, slow);
    for (int32_t i = 0; i < l * dims; i++) slow[i] -= centre[i % dims];

    float per_step, step = step_of(slow, l * dims, LH_PEAK_LEVELS, &per_step);
    size_t upper = lh_peak_upper(a->head_dim, l), row = 2 * (size_t)lh_peak_keys(l);
    uint8_t *high = out, *low = (uint8_t *)lh_detail_at(a, s, chunk);
    memset(high, 0, upper);
    memset(low, 0, a->detail_size);
    for (int32_t x = 0; x < dims; x++)
        for (int32_t o = 0; o < lh_peak_keys(l); o++) {
            int32_t pair = x / 2, at = 2 * o + x % 2;
            int32_t code = LH_PEAK_ZERO + level_of(slow[(size_t)LH_MIN(o, l - 1) * dims + x], per_step, LH_PEAK_LEVELS);
            high[pair / 2 * row + at] |= (uint8_t)(code >> LH_PEAK_LOW_BITS << pair % 2 * LH_PEAK_HIGH_BITS);
            low[pair / 4 * row + at] |= (uint8_t)((code & LH_PEAK_LOW) << pair % 4 * LH_PEAK_LOW_BITS);
        }
    memcpy(high + upper, &step, sizeof step);
}

static size_t summarize_bytes(const lh_attention *a) {
    return sizeof(float) * ((size_t)a->head_dim + lh_peak_dims(a->head_dim) * ((size_t)a->plan.chunk + 1));
}

// --- score ------------------------------------------------------------------------------------------------------

// Queries in steps. A product is what it is with codes, less `zero`.
typedef struct questions {
    int8_t *levels;         // (rows, stored components)
    int32_t *zero;          // (rows): the product with codes that stand for zero
    int32_t *least, *most;  // (rows): the products with lower bits, at least and at most
    float *step;            // (rows)
    float *rotated;         // (2, head_dim): scratch
} questions;

// Lays n questions out at `memory`; returns the bytes they take.
static size_t lay_out(const lh_attention *a, int32_t n, void *memory, questions *q) {
    lh_layout at = {.memory = memory};
    size_t rows = (size_t)n;
    q->levels = lh_take(&at, rows * lh_peak_stored(a->head_dim), sizeof *q->levels);
    q->zero = lh_take(&at, rows, sizeof *q->zero);
    q->least = lh_take(&at, rows, sizeof *q->least);
    q->most = lh_take(&at, rows, sizeof *q->most);
    q->step = lh_take(&at, rows, sizeof *q->step);
    q->rotated = lh_take(&at, 2 * (size_t)a->head_dim, sizeof *q->rotated);
    return at.used;
}

static size_t prepare_bytes(const lh_attention *a, int32_t n) { return lay_out(a, n, NULL, &(questions){0}); }

// A query as if every chunk lay at the far end of the window, where nearly all of them do.
static void prepare_row(const lh_cpu *c, const lh_attention *a, int32_t token, int32_t head, int32_t row, questions *q) {
    size_t dim = (size_t)a->head_dim;
    int32_t dims = lh_peak_dims(a->head_dim), stored = lh_peak_stored(a->head_dim), n_levels = lh_peak_query_levels(dims);
    float *near = q->rotated, *far = near + dim, *slow = far + dim - dims, per_step;
    int32_t offset = lh_offset_of(a->pos + token, a->plan.chunk);
    c->attention.rotate(a->q + ((size_t)token * a->n_head + head) * dim, 1, 0, a->rope_offset + 2 * dim * offset, 1,
                        a->scale, a->head_dim, near);
    c->attention.rotate(near, 1, 0, a->rope_far, 1, 1, a->head_dim, far);

    q->step[row] = step_of(slow, dims, n_levels, &per_step);
    q->zero[row] = q->least[row] = q->most[row] = 0;
    int8_t *levels = q->levels + (size_t)row * stored;
    memset(levels, 0, (size_t)stored);
    for (int32_t x = 0; x < dims; x++) {
        int32_t level = level_of(slow[x], per_step, n_levels);
        levels[x] = (int8_t)level;
        q->zero[row] += LH_PEAK_ZERO * level;
        *(level < 0 ? &q->least[row] : &q->most[row]) += LH_PEAK_LOW * level;
    }
}

static void prepare(const lh_cpu *c, const lh_attention *a, const lh_queries *from, void *out) {
    questions q;
    lay_out(a, from->n, out, &q);
    for (int32_t i = 0; i < from->n; i++) prepare_row(c, a, from->token + i, from->head, i, &q);
}

static float score_of(const questions *q, int32_t row, int32_t product, float step) {
    return (float)(product - q->zero[row]) * q->step[row] * step;
}

static float step_of_summary(const lh_attention *a, const void *summary) {
    float step;
    memcpy(&step, (const char *)summary + lh_peak_upper(a->head_dim, a->plan.chunk), sizeof step);
    return step;
}

static size_t score_bytes(const lh_cpu *c, const lh_attention *a, const lh_scoring *s) {
    (void)c;
    return (size_t)s->n * sizeof(int32_t) + (size_t)lh_peak_stored(a->head_dim) * lh_peak_keys(a->plan.chunk);
}

// Many queries: a chunk's codes are put together once for all.
static void score_rows(const lh_cpu *c, const lh_attention *a, const lh_scoring *s, const questions *q, void *scratch) {
    int32_t from = s->summary, stored = lh_peak_stored(a->head_dim), n_keys = lh_peak_keys(a->plan.chunk);
    int32_t *best = scratch;
    uint8_t *codes = (uint8_t *)(best + s->n);
    for (int32_t chunk = s->first; chunk < s->end; chunk++) {
        int32_t next = LH_MIN(chunk + LH_FETCH_CHUNKS, s->end - 1);
        lh_prefetch(lh_summary_at(a, from, next), a->summary_size);
        lh_prefetch(lh_detail_at(a, from, next), a->detail_size);
        const char *upper = lh_summary_at(a, from, chunk), *lower = lh_detail_at(a, from, chunk);
        c->attention.peak_codes((const uint8_t *)upper, (const uint8_t *)lower, n_keys, stored, codes);
        c->attention.peak(codes, n_keys, stored, q->levels, s->n, best);
        float step = step_of_summary(a, upper);
        for (int32_t r = 0; r < s->n; r++)
            s->out[r * s->stride + chunk - s->first] = score_of(q, r, best[r], step);
    }
}

// One: memory bounds it. From the upper bits alone what it scores at least and, in s->most, at most.
static void score_one(const lh_cpu *c, const lh_attention *a, const lh_scoring *s, const questions *q) {
    int32_t chunks[BLOCK_CHUNKS], best[BLOCK_CHUNKS], n_chunks = s->only ? s->n_only : s->end - s->first;
    lh_peak_planes planes = {
        .upper = (const uint8_t *)lh_summary_at(a, s->summary, 0),
        .lower = s->most ? NULL : (const uint8_t *)lh_detail_at(a, s->summary, 0),
        .upper_size = a->summary_size, .lower_size = a->detail_size,
        .n_keys = lh_peak_keys(a->plan.chunk), .dims = lh_peak_stored(a->head_dim),
    };
    for (int32_t i = 0; i < n_chunks; i += BLOCK_CHUNKS) {
        int32_t n = LH_MIN(n_chunks - i, BLOCK_CHUNKS);
        for (int32_t j = 0; j < n; j++) chunks[j] = s->only ? s->only[i + j] : s->first + i + j;
        c->attention.peak_one(&planes, chunks, n, q->levels, best);
        for (int32_t j = 0; j < n; j++) {
            int32_t at = chunks[j] - s->first;
            float step = step_of_summary(a, planes.upper + chunks[j] * planes.upper_size);
            s->out[at] = score_of(q, 0, best[j] + (s->most ? q->least[0] : 0), step);
            if (s->most) s->most[at] = score_of(q, 0, best[j] + q->most[0], step);
        }
    }
}

static void score(const lh_cpu *c, const lh_attention *a, const lh_scoring *s, void *scratch) {
    questions q;
    lay_out(a, s->n, s->queries, &q);
    if (s->n == 1) score_one(c, a, s, &q);
    else score_rows(c, a, s, &q, scratch);
}

const lh_cpu_scheme lh_cpu_peak = {
    .summarize = summarize, .summarize_bytes = summarize_bytes, .prepare = prepare, .prepare_bytes = prepare_bytes,
    .score = score, .score_bytes = score_bytes, .two_looks = true,
};
