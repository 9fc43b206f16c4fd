// Scheme `peak`: a chunk is as good as its best key, compared in a head's slow components (peak.h).
#include <math.h>
#include <string.h>

#include "peak.h"
#include "prefetch.h"
#include "scheme.h"

#define FETCH_CHUNKS 4  // ahead

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
    int32_t dims = lh_peak_dims(a->head_dim), l = a->plan.chunk, n_keys = lh_peak_keys(l);
    float *key = scratch, *centre = key + a->head_dim, *slow = centre + dims;
    load_slow(k, a, s, 0, key, slow);
    memset(centre, 0, (size_t)dims * sizeof *centre);
    for (int32_t i = 0; i < l * dims; i++) centre[i % dims] += slow[i] / (float)l;
    load_slow(k, a, s, chunk, key, slow);
    for (int32_t i = 0; i < l * dims; i++) slow[i] -= centre[i % dims];

    float per_step, step = step_of(slow, l * dims, LH_PEAK_LEVELS, &per_step);
    uint8_t *codes = out;
    for (int32_t x = 0; x < dims; x++)
        for (int32_t o = 0; o < n_keys; o++)
            codes[((size_t)(x / 2) * n_keys + o) * 2 + x % 2] = (uint8_t)(
                LH_PEAK_ZERO + level_of(slow[(size_t)LH_MIN(o, l - 1) * dims + x], per_step, LH_PEAK_LEVELS));
    memcpy(codes + lh_peak_codes(a->head_dim, l), &step, sizeof step);
}

static size_t summarize_bytes(const lh_attention *a) {
    return sizeof(float) * ((size_t)a->head_dim + lh_peak_dims(a->head_dim) * ((size_t)a->plan.chunk + 1));
}

// --- score ------------------------------------------------------------------------------------------------------

// Queries as the kernel wants them; a row is a token.
typedef struct bench {
    int32_t *words;   // (rows, dims / 2): a pair of components, twice
    int32_t *zero;    // (rows): the product with codes that stand for zero
    float *step;      // (rows)
    int32_t *best;    // (rows): largest product with a chunk
    float *rotated;   // (2, head_dim)
} bench;

static size_t carve(const lh_attention *a, const lh_scoring *s, char *memory, bench *out) {
    size_t rows = (size_t)s->n, used = 0;
    bench b;
#define CARVE(field, count)             \
    b.field = (void *)(memory + used);  \
    used += LH_ROUND_UP((size_t)(count) * sizeof *b.field, (size_t)LH_ALIGN)
    CARVE(words, rows * lh_peak_dims(a->head_dim) / 2);
    CARVE(zero, rows);
    CARVE(step, rows);
    CARVE(best, rows);
    CARVE(rotated, 2 * (size_t)a->head_dim);
#undef CARVE
    if (out) *out = b;
    return used;
}

static size_t score_bytes(const lh_cpu *c, const lh_attention *a, const lh_scoring *s) {
    (void)c;
    return carve(a, s, NULL, NULL);
}

// A query as if every chunk lay at the far end of the window, where nearly all of them do.
static void prepare_row(const lh_cpu *c, const lh_attention *a, int32_t token, int32_t head, int32_t row,
                        const bench *b) {
    size_t dim = (size_t)a->head_dim;
    int32_t dims = lh_peak_dims(a->head_dim), levels = lh_peak_query_levels(dims);
    float *near = b->rotated, *far = near + dim, *slow = far + dim - dims, per_step;
    int32_t offset = lh_offset_of(a->pos + token, a->plan.chunk);
    c->attention.rotate(a->q + ((size_t)token * a->n_head + head) * dim, a->rope_offset + 2 * dim * offset, 1, a->scale,
                        a->head_dim, near);
    c->attention.rotate(near, a->rope_chunk + 2 * dim * (a->plan.window - 1), 1, 1, a->head_dim, far);

    b->step[row] = step_of(slow, dims, levels, &per_step);
    b->zero[row] = 0;
    for (int32_t x = 0; x < dims; x += 2) {
        int32_t pair[2] = {level_of(slow[x], per_step, levels), level_of(slow[x + 1], per_step, levels)};
        b->zero[row] += LH_PEAK_ZERO * (pair[0] + pair[1]);
        uint32_t both = (uint32_t)(uint8_t)pair[0] | (uint32_t)(uint8_t)pair[1] << 8;
        b->words[(row * dims + x) / 2] = (int32_t)(both | both << 16);
    }
}

static void score(const lh_cpu *c, const lh_attention *a, const lh_scoring *s, void *scratch) {
    int32_t head = a->leader[s->chooser], summary_of_head = lh_summary_of(a, head);
    int32_t dims = lh_peak_dims(a->head_dim);
    size_t codes = lh_peak_codes(a->head_dim, a->plan.chunk);
    bench b;
    carve(a, s, scratch, &b);
    for (int32_t i = 0; i < s->n; i++) prepare_row(c, a, s->token + i, head, i, &b);
    for (int32_t chunk = s->first; chunk < s->end; chunk++) {
        const char *summary = lh_summary_at(a, summary_of_head, chunk);
        lh_prefetch(summary + FETCH_CHUNKS * a->summary_size, a->summary_size);
        float step;
        memcpy(&step, summary + codes, sizeof step);
        c->attention.peak((const uint8_t *)summary, lh_peak_keys(a->plan.chunk), dims, b.words, s->n, b.best);
        for (int32_t i = 0; i < s->n; i++)
            s->out[i * s->stride + chunk - s->first] = (float)(b.best[i] - b.zero[i]) * b.step[i] * step;
    }
}

const lh_cpu_scheme lh_cpu_peak = {summarize, summarize_bytes, score, score_bytes};
