// Session options: what 0 stands for, what is capped with a note, what is refused.
#include <stdarg.h>
#include <stdio.h>

#include "model.h"

#define DEFAULT_CHUNK 64
#define DEFAULT_BUDGET 2048
#define NEAR_PART 2           // of the budget: what heads that choose nothing attend
#define DEFAULT_CHOSEN 3      // chunks taken by score, where the budget leaves as many local ones
#define LEAST_WINDOW 10       // chunks, by which the default of chunk goes
#define DEFAULT_FAR_BIAS 0.5f
#define DEFAULT_BATCH 1024
#define MAX_CTX ((int64_t)1 << 28)
#define MAX_CHUNK 4096
#define MAX_BATCH 8192
#define MAX_FAR_BIAS 100

typedef struct notes {
    char *text;
    size_t cap, used;
} notes;

__attribute__((format(printf, 2, 3))) static void note(notes *n, const char *format, ...) {
    if (n->used + 1 >= n->cap) return;
    va_list args;
    va_start(args, format);
    int written = vsnprintf(n->text + n->used, n->cap - n->used, format, args);
    va_end(args);
    if (written > 0) n->used = LH_MIN(n->used + (size_t)written, n->cap - 1);
}

// A length in tokens that must be whole chunks.
static lh_status whole_chunks(const char *name, int32_t tokens, int32_t chunk) {
    if (tokens % chunk == 0) return LH_OK;
    int32_t below = tokens / chunk * chunk;
    return lh_error(LH_ERR_ARGUMENT, "%s is %d, which is not a multiple of the chunk size %d: use %d or %lld", name, tokens,
                    chunk, below, (long long)below + chunk);
}

static lh_status in_range(const char *name, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return LH_OK;
    return lh_error(LH_ERR_ARGUMENT, "%s is %lld, expected %lld to %lld", name, (long long)value, (long long)low,
                    (long long)high);
}

static lh_status resolve_chunk(lh_session_options *o, int32_t trained) {
    if (o->chunk == 0) {
        // A model trained on little still gets a window of several chunks.
        o->chunk = DEFAULT_CHUNK;
        while (o->chunk > 1 && trained / 4 * 3 / o->chunk < LEAST_WINDOW) o->chunk /= 2;
    }
    return in_range("chunk", o->chunk, 1, LH_MIN(MAX_CHUNK, LH_MAX(trained / 2, 1)));
}

static lh_status resolve_window(lh_session_options *o, int32_t trained, notes *n) {
    if (o->window == 0) {
        o->window = LH_MAX(trained / 4 * 3 / o->chunk, 2) * o->chunk;
        return LH_OK;
    }
    LH_TRY(in_range("window", o->window, 2 * o->chunk, INT32_MAX));
    if (o->window > LH_MAX(trained, 2 * o->chunk)) {
        int32_t capped = LH_MAX(trained / o->chunk, 2) * o->chunk;
        note(n, "window is capped to %d tokens: the model was trained on %d, not %d\n", capped, trained, o->window);
        o->window = capped;
    }
    return whole_chunks("window", o->window, o->chunk);
}

// otherwise: what 0 stands for, once it is cut to whole chunks.
static lh_status resolve_length(const char *name, int32_t *tokens, int32_t otherwise, const lh_session_options *o,
                                notes *n) {
    bool chosen = *tokens != 0;
    if (!chosen) *tokens = LH_MAX(otherwise / o->chunk, 2) * o->chunk;
    LH_TRY(in_range(name, *tokens, 2 * (int64_t)o->chunk, INT32_MAX));
    if (*tokens > o->window) {
        if (chosen) note(n, "%s is capped to the window of %d tokens (asked for: %d)\n", name, o->window, *tokens);
        *tokens = o->window;
    }
    return whole_chunks(name, *tokens, o->chunk);
}

static lh_status resolve_budgets(lh_session_options *o, notes *n) {
    // Where the window is small, a third of it stays free, for far chunks to keep their distance from near ones.
    LH_TRY(resolve_length("budget", &o->budget, LH_MIN(DEFAULT_BUDGET, o->window / 3 * 2), o, n));
    return resolve_length("near_budget", &o->near_budget, o->budget / NEAR_PART, o, n);
}

static lh_status resolve_local(lh_session_options *o, notes *n) {
    int32_t k = o->budget / o->chunk;
    if (o->local == 0) o->local = LH_MAX(k / 2, k - 1 - DEFAULT_CHOSEN);
    LH_TRY(in_range("local", o->local, 1, INT32_MAX));
    if (o->local > k - 1) {
        int32_t capped = LH_MAX(1, k - 1);
        note(n,
             "local is capped to %d chunks: a budget of %d chunks must hold the first one and the local ones (asked "
             "for: %d)\n",
             capped, k, o->local);
        o->local = capped;
    }
    return LH_OK;
}

// n_head_kv: of all layers.
static lh_status resolve_dense_until(lh_session_options *o, int32_t n_head_kv, notes *n) {
    int32_t least = o->far_heads < n_head_kv ? LH_MAX(o->budget, o->near_budget) : o->budget;
    if (o->dense_until == 0) o->dense_until = least;
    LH_TRY(in_range("dense_until", o->dense_until, o->chunk, INT32_MAX));
    LH_TRY(whole_chunks("dense_until", o->dense_until, o->chunk));
    int32_t fitting = LH_MIN(LH_MAX(o->dense_until, least), o->window);
    if (fitting != o->dense_until)
        note(n,
             "dense_until is set to %d tokens: it lies between the larger budget of %d and the window of %d (asked for: "
             "%d)\n",
             fitting, least, o->window, o->dense_until);
    o->dense_until = fitting;
    return LH_OK;
}

// Measured for `peak` alone (docs/selection.md); the others stay what their papers say.
static lh_status resolve_far_bias(lh_session_options *o) {
    if (o->far_bias == 0) o->far_bias = o->scheme == LH_SCHEME_PEAK ? DEFAULT_FAR_BIAS : -1;
    if (!(o->far_bias <= MAX_FAR_BIAS))
        return lh_error(LH_ERR_ARGUMENT, "far_bias is %g, expected 0 to %d", (double)o->far_bias, MAX_FAR_BIAS);
    if (o->far_bias < 0) o->far_bias = -1;
    return LH_OK;
}

// n: KV heads of all layers.
static lh_status resolve_far_heads(lh_session_options *o, int32_t n) {
    if (o->far_heads == 0) o->far_heads = o->scheme == LH_SCHEME_PEAK ? (n + 3) / 4 : n;
    LH_TRY(in_range("far_heads", o->far_heads, 1, INT32_MAX));
    o->far_heads = LH_MIN(o->far_heads, n);
    return LH_OK;
}

lh_status lh_session_options_resolve(const lh_model *m, lh_session_options *inout, char *text, size_t cap) {
    notes n = {text, text ? cap : 0, 0};
    if (n.cap) *text = '\0';
    lh_session_options o = *inout;
    lh_config c = m->config;
    LH_TRY(lh_config_scale_rope(&c, o.rope_scaling, o.rope_scale));
    o.rope_scaling = c.rope_scaling;
    o.rope_scale = c.rope_factor;
    int32_t trained = (int32_t)LH_MIN(c.trained_ctx, INT32_MAX);
    if (!lh_scheme_get(o.scheme)) return lh_error(LH_ERR_ARGUMENT, "scheme %d is not known", (int)o.scheme);
    LH_TRY(in_range("select_per", o.select_per, LH_PER_KV_HEAD, LH_PER_HEAD));
    LH_TRY(in_range("attention", o.attention, LH_ATTENTION_LONGHEADS, LH_ATTENTION_DENSE));
    LH_TRY(in_range("kv_type", o.kv_type, 0, LH_KV_TYPES - 1));
    if (o.ctx == 0) o.ctx = LH_MIN(c.trained_ctx, MAX_CTX);
    if (o.batch == 0) o.batch = DEFAULT_BATCH;
    LH_TRY(in_range("ctx", o.ctx, 1, MAX_CTX));
    LH_TRY(in_range("batch", o.batch, 1, MAX_BATCH));
    o.batch = (int32_t)LH_MIN((int64_t)o.batch, o.ctx);
    LH_TRY(resolve_chunk(&o, trained));
    LH_TRY(resolve_window(&o, trained, &n));
    LH_TRY(resolve_budgets(&o, &n));
    LH_TRY(resolve_local(&o, &n));
    LH_TRY(resolve_far_heads(&o, c.n_layer * c.n_head_kv));
    LH_TRY(resolve_dense_until(&o, c.n_layer * c.n_head_kv, &n));
    LH_TRY(resolve_far_bias(&o));
    if (o.kv_offload && !m->backend->ops->offload) {
        note(&n, "kv_offload has no effect on %s: there all memory is the host's\n", m->backend->name);
        o.kv_offload = false;
    }
    if (o.attention == LH_ATTENTION_DENSE && o.ctx > c.trained_ctx)
        note(&n, "dense attention past the trained context of %d tokens: expect nonsense there\n", trained);
    *inout = o;
    return LH_OK;
}
