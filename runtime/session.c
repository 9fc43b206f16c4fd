#include <math.h>
#include <string.h>

#include "model.h"
#include "sampler.h"

static lh_status init_longheads(const lh_model *m, const lh_session_options *o, lh_longheads *out) {
    lh_config config = m->config;
    LH_TRY(lh_config_scale_rope(&config, o->rope_scaling, o->rope_scale));
    lh_rope rope;
    LH_TRY(lh_rope_init(&rope, &config, m->weights.rope_freqs));
    lh_status status = lh_longheads_init(out, m->backend, &config, &rope, m->reach, o);
    lh_rope_free(&rope);
    return status;
}

// KV heads that do not read far attend the last chunks only, and keep little more.
static lh_kv_shape shape_of(const lh_model *m, const lh_session_options *o) {
    bool all = o->keep_all || o->attention == LH_ATTENTION_DENSE;
    return lh_kv_shape_of(&m->config, o, all ? m->config.n_layer * m->config.n_head_kv : o->far_heads);
}

static lh_status init_kv(lh_session *s) {
    lh_kv_shape shape = shape_of(s->model, &s->options);
    size_t n = (size_t)lh_kv_n_heads(&shape);
    bool *whole = lh_alloc(n, sizeof *whole);
    if (!whole) return LH_ERR_MEMORY;
    for (size_t i = 0; i < n; i++) whole[i] = s->options.keep_all || s->longheads.far[i];
    lh_status status = lh_kv_init(&s->kv, s->model->backend, &shape, whole);
    lh_free(whole);
    return status;
}

lh_status lh_session_new(const lh_model *m, const lh_session_options *options, lh_session **out) {
    *out = NULL;
    lh_session_options o = options ? *options : (lh_session_options){0};
    LH_TRY(lh_session_options_resolve(m, &o, NULL, 0));
    lh_session *s = lh_alloc(1, sizeof *s);
    if (!s) return LH_ERR_MEMORY;
    *s = (lh_session){.model = m, .options = o, .busy = ATOMIC_FLAG_INIT};
    s->ids = lh_alloc((size_t)o.ctx, sizeof *s->ids);
    s->logits = lh_alloc((size_t)m->config.n_vocab, sizeof *s->logits);
    s->kept_logits = lh_alloc((size_t)m->config.n_vocab, sizeof *s->kept_logits);
    lh_status status = s->ids && s->logits && s->kept_logits ? LH_OK : LH_ERR_MEMORY;
    m->backend->ops->begin(m->backend);
    // Before all: what else is made for a context is less than this, but may be much where a file claims a huge one.
    lh_kv_shape shape = shape_of(m, &o);
    if (status == LH_OK) status = lh_kv_ask(m->backend, &shape);
    if (status == LH_OK) status = init_longheads(m, &o, &s->longheads);
    if (status == LH_OK) status = lh_forward_init(&s->forward, m->backend, &m->config, &m->weights, o.batch);
    // Last: it asks whether what is left is enough.
    if (status == LH_OK) status = init_kv(s);
    m->backend->ops->end(m->backend);
    if (status != LH_OK) lh_session_free(s);
    else *out = s;
    return status;
}

void lh_session_free(lh_session *s) {
    if (!s) return;
    lh_backend *b = s->model->backend;
    b->ops->begin(b);
    lh_forward_free(&s->forward);
    lh_longheads_free(&s->longheads);
    lh_kv_free(&s->kv);
    b->ops->end(b);
    lh_free(s->rows);
    lh_free(s->kept_logits);
    lh_free(s->logits);
    lh_free(s->ids);
    lh_free(s);
}

lh_status lh_session_enter(lh_session *s) {
    if (atomic_flag_test_and_set_explicit(&s->busy, memory_order_acquire))
        return lh_error(
            LH_ERR_BUSY,
            "the session is in use on another thread: a session serves one call at a time, make one for each thread");
    s->model->backend->ops->begin(s->model->backend);
    return LH_OK;
}

void lh_session_leave(lh_session *s) {
    s->model->backend->ops->end(s->model->backend);
    atomic_flag_clear_explicit(&s->busy, memory_order_release);
}

void lh_session_clear(lh_session *s) {
    lh_kv_clear(&s->kv);
    s->has_logits = false;
    s->kept_at = 0;
    s->longheads.last_position = -1;
}

void lh_session_give_up(lh_session *s, int32_t n) {
    int32_t chunk = s->options.chunk;
    int64_t position = s->kv.position;
    s->has_logits = false;
    s->longheads.last_position = -1;  // layers that came through chose for tokens that were not read
    if (!s->kv.shape.keep_queries || lh_chunk_of(position + n - 1, chunk) == lh_chunk_of(position, chunk)) return;
    // Queries of a later chunk have taken the place of those of the unfinished one, which must be read again.
    lh_kv_rewind(&s->kv, position - lh_offset_of(position, chunk));
    if (s->kept_at > s->kv.position) s->kept_at = 0;
    if (s->kv.position < lh_session_oldest(s)) lh_session_clear(s);
}

void lh_session_keep_logits(lh_session *s) {
    memcpy(s->kept_logits, s->logits, (size_t)s->model->config.n_vocab * sizeof *s->logits);
    s->kept_at = s->kv.position;
}

// Where a text ends its last token is not read again alone, which would round otherwise: who goes back to the end of a
// prompt is to get the same answer.
static void take_kept_logits(lh_session *s) {
    if (s->kept_at > s->kv.position) s->kept_at = 0;
    if (s->kept_at == 0 || s->kept_at < s->kv.position) return;
    memcpy(s->logits, s->kept_logits, (size_t)s->model->config.n_vocab * sizeof *s->logits);
    s->has_logits = true;
}

// KV heads that do not keep the whole text.
static int32_t n_near(const lh_session *s) { return lh_kv_n_heads(&s->kv.shape) - s->kv.shape.n_whole; }

static lh_status check_change(const lh_session *s, const lh_session_options *to) {
    const lh_session_options *now = &s->options;
    const struct {
        const char *name;
        bool same;
    } fixed[] = {
        {"ctx", now->ctx == to->ctx}, {"batch", now->batch == to->batch}, {"chunk", now->chunk == to->chunk},
        {"scheme", now->scheme == to->scheme}, {"kv_type", now->kv_type == to->kv_type},
        {"kv_offload", now->kv_offload == to->kv_offload}, {"keep_all", now->keep_all == to->keep_all},
        {"rope_scaling", now->rope_scaling == to->rope_scaling}, {"rope_scale", now->rope_scale == to->rope_scale},
    };
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (!fixed[i].same)
            return lh_error(LH_ERR_ARGUMENT, "%s shapes what a session stores and cannot change: make another session",
                            fixed[i].name);
    if (to->attention != LH_ATTENTION_DENSE && !s->kv.shape.n_summary)
        return lh_error(LH_ERR_ARGUMENT,
                        "the session was made with dense attention and has nothing to choose chunks by: make it with "
                        "longheads attention, and let it attend densely for as long as you like");
    return LH_OK;
}

lh_status lh_session_set_options(lh_session *s, const lh_session_options *options) {
    lh_session_options o = options ? *options : (lh_session_options){0};
    LH_TRY(lh_session_options_resolve(s->model, &o, NULL, 0));
    LH_TRY(lh_session_enter(s));
    lh_longheads next = {0};
    lh_status status = check_change(s, &o);
    if (status == LH_OK) status = init_longheads(s->model, &o, &next);
    if (status == LH_OK && !(lh_longheads_fits(&next, &s->kv, o.batch) &&
                             s->kv.position >= lh_longheads_oldest(&next, s->kv.lost)))
        status = lh_error(LH_ERR_ARGUMENT,
                          "%d of %d KV heads of this session keep no more of the text than its first options took, "
                          "too little for these: make it with keep_all",
                          n_near(s), lh_kv_n_heads(&s->kv.shape));
    if (status == LH_OK) {
        lh_longheads_free(&s->longheads);
        s->longheads = next;
        s->options = o;
        s->has_logits = false;
        s->kept_at = 0;
    } else {
        lh_longheads_free(&next);
    }
    lh_session_leave(s);
    return status;
}

void lh_session_get_stats(const lh_session *s, lh_session_stats *out) {
    *out = (lh_session_stats){
        .kv_bytes = lh_kv_bytes(&s->kv.shape),
        .summary_bytes = lh_summary_bytes(&s->kv.shape),
        .buffer_bytes = s->forward.bytes,
        .copy_bytes = lh_kv_cache_bytes(&s->kv),
        .chunk_summary_bytes = (int64_t)s->kv.shape.summary_size * s->kv.shape.n_summary,
        .row_bytes = 2 * (int64_t)lh_kv_row_size(s->kv.shape.type, s->kv.shape.head_dim),
    };
    if (!s->kv.slots) return;
    const lh_backend_ops *ops = s->model->backend->ops;
    ops->begin(s->model->backend);
    // A device that failed has nothing to count.
    if (lh_kv_count(&s->kv, &out->cache_hits, &out->cache_misses) != LH_OK) out->cache_hits = out->cache_misses = 0;
    ops->end(s->model->backend);
}

int64_t lh_session_position(const lh_session *s) { return s->kv.position; }

const int32_t *lh_session_ids(const lh_session *s) { return s->ids; }

lh_status lh_session_check_room(const lh_session *s, int64_t n) {
    if (n < 0) return lh_error(LH_ERR_ARGUMENT, "%lld tokens were given, expected 0 or more", (long long)n);
    int64_t left = s->options.ctx - s->kv.position;
    if (n > left)
        return lh_error(
            LH_ERR_CONTEXT,
            "%lld tokens at position %lld exceed the context of %lld by %lld: shorten the text or raise ctx",
            (long long)n, (long long)s->kv.position, (long long)s->options.ctx, (long long)(n - left));
    return LH_OK;
}

static lh_status check_ids(const lh_session *s, const int32_t *ids, int64_t n) {
    int32_t n_vocab = s->model->config.n_vocab;
    LH_TRY(lh_session_check_room(s, n));
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return lh_error(LH_ERR_ARGUMENT, "id %d at index %lld is outside the vocabulary of %d", ids[i],
                            (long long)i, n_vocab);
    return LH_OK;
}

#define TELL_SECONDS 0.1  // between layers

static lh_status tell(lh_reading *r, int64_t done) {
    if (!r->progress || r->total == 0) return LH_OK;
    lh_backend *b = r->session->model->backend;
    b->ops->end(b);
    lh_status status = lh_report(r->progress, (uint64_t)done, (uint64_t)r->total);
    b->ops->begin(b);
    r->told = lh_now();
    return status;
}

lh_status lh_reading_tell(lh_reading *r) { return tell(r, r->done); }

// In a batch, which is through so many layers.
static lh_status tell_in_batch(void *reading, int32_t layers) {
    lh_reading *r = reading;
    if (lh_now() - r->told < TELL_SECONDS) return LH_OK;
    return tell(r, r->done + (int64_t)r->n * layers / r->session->model->config.n_layer);
}

// What is wanted of every token of a text; NULL: nothing.
typedef struct wanted {
    float *logprobs;  // (n): [i] scores ids[i]
    float *logits;    // (n, n_vocab): [i] follow ids[i]
} wanted;

static lh_status score_rows(lh_session *s, const int32_t *ids, int32_t n, float before, float *logprobs) {
    int32_t n_vocab = s->model->config.n_vocab;
    logprobs[0] = before;
    for (int32_t row = 0; row < n - 1; row += LH_LOGITS_ROWS) {
        int32_t rows = LH_MIN(n - 1 - row, LH_LOGITS_ROWS);
        LH_TRY(lh_forward_logits(&s->forward, row, rows, s->rows));
        for (int32_t i = 0; i < rows; i++)
            logprobs[row + i + 1] = lh_log_softmax(s->rows + (size_t)i * n_vocab, n_vocab, ids[row + i + 1]);
    }
    return LH_OK;
}

// One batch, n <= options.batch. r: NULL: nobody is told.
static lh_status run_batch(lh_session *s, const int32_t *ids, int32_t n, bool want_last, wanted w, lh_reading *r) {
    int32_t n_vocab = s->model->config.n_vocab;
    float before = w.logprobs && s->has_logits ? lh_log_softmax(s->logits, n_vocab, ids[0]) : NAN;
    memmove(s->ids + s->kv.position, ids, (size_t)n * sizeof *ids);  // what is read again lies there already
    s->has_logits = false;
    const lh_between between = {tell_in_batch, r};
    lh_status status = lh_forward_layers(&s->forward, &s->longheads, &s->kv, ids, n, w.logprobs || w.logits ? 0 : n - 1,
                                         r ? &between : NULL);
    if (status != LH_OK) lh_session_give_up(s, n);
    LH_TRY(status);
    if (w.logprobs) LH_TRY(score_rows(s, ids, n, before, w.logprobs));
    for (int32_t row = 0; w.logits && row < n; row += LH_LOGITS_ROWS)
        LH_TRY(lh_forward_logits(&s->forward, row, LH_MIN(n - row, LH_LOGITS_ROWS), w.logits + (size_t)row * n_vocab));
    if (!want_last) return LH_OK;
    if (w.logits) memcpy(s->logits, w.logits + (size_t)(n - 1) * n_vocab, (size_t)n_vocab * sizeof *s->logits);
    else LH_TRY(lh_forward_logits(&s->forward, n - 1, 1, s->logits));
    s->has_logits = true;
    return LH_OK;
}

// Where summaries are made from queries, those of an unfinished chunk must be kept. A rewind into an earlier chunk has
// lost them, so the part of that chunk that stays is read again.
static lh_status rewind_to(lh_session *s, int64_t target) {
    int32_t chunk = s->options.chunk;
    if (target == 0) lh_kv_clear(&s->kv);
    bool incomplete = s->kv.shape.keep_queries && lh_chunk_of(target, chunk) != lh_chunk_of(s->kv.position, chunk);
    int32_t again = incomplete ? lh_offset_of(target, chunk) : 0;
    lh_kv_rewind(&s->kv, target - again);
    lh_status status = LH_OK;
    while (status == LH_OK && s->kv.position < target) {
        int32_t rows = (int32_t)LH_MIN(target - s->kv.position, (int64_t)s->options.batch);
        status = run_batch(s, s->ids + s->kv.position, rows, false, (wanted){0}, NULL);
    }
    // Nothing is asked of what was read again: wait for it, so that a failure is this call's.
    if (again && status == LH_OK) status = s->model->backend->ops->read(s->model->backend, NULL, s->forward.x, 0);
    // Half of the way back is no place to go on from.
    if (status != LH_OK) lh_session_clear(s);
    LH_TRY(status);
    s->has_logits = false;
    s->longheads.last_position = -1;
    return LH_OK;
}

// After a rewind or a load the last token is still in the cache, but what it led to is not: it is read again.
static lh_status restore_last(lh_session *s) {
    if (s->kv.position == 0) return LH_OK;
    int32_t last = s->ids[s->kv.position - 1];
    LH_TRY(rewind_to(s, s->kv.position - 1));
    lh_status status = run_batch(s, &last, 1, true, (wanted){0}, NULL);
    if (status != LH_OK) lh_session_clear(s);  // rather than one token short without a word
    take_kept_logits(s);
    return status;
}

static lh_status run(lh_session *s, const int32_t *ids, int64_t n, wanted w, const lh_progress *progress) {
    lh_reading r = {.session = s, .progress = progress, .total = n};
    LH_TRY(check_ids(s, ids, n));
    LH_TRY(lh_reading_tell(&r));
    if (w.logprobs && !s->has_logits) LH_TRY(restore_last(s));
    while (r.done < n) {
        const int32_t *here = ids + r.done;
        r.n = (int32_t)LH_MIN(n - r.done, (int64_t)s->options.batch);
        // Scores of a batch's first id need the logits of the batch before it.
        bool last = r.done + r.n == n;
        wanted now = {
            .logprobs = w.logprobs ? w.logprobs + r.done : NULL,
            .logits = w.logits ? w.logits + (size_t)r.done * (size_t)s->model->config.n_vocab : NULL,
        };
        LH_TRY(run_batch(s, here, r.n, w.logprobs || last, now, progress ? &r : NULL));
        if (last && n > 1) lh_session_keep_logits(s);
        r.done += r.n;
        LH_TRY(lh_reading_tell(&r));
    }
    return LH_OK;
}

lh_status lh_session_feed(lh_session *s, const int32_t *ids, int64_t n, const lh_progress *progress) {
    LH_TRY(lh_session_enter(s));
    lh_status status = run(s, ids, n, (wanted){0}, progress);
    lh_session_leave(s);
    return status;
}

lh_status lh_session_feed_logits(lh_session *s, const int32_t *ids, int64_t n, float *logits, const lh_progress *progress) {
    LH_TRY(lh_session_enter(s));
    lh_status status = run(s, ids, n, (wanted){.logits = logits}, progress);
    lh_session_leave(s);
    return status;
}

lh_status lh_session_score(lh_session *s, const int32_t *ids, int64_t n, float *logprobs, const lh_progress *progress) {
    LH_TRY(lh_session_enter(s));
    lh_status status = LH_OK;
    if (!s->rows) s->rows = lh_alloc((size_t)LH_LOGITS_ROWS * s->model->config.n_vocab, sizeof *s->rows);
    if (!s->rows) status = LH_ERR_MEMORY;
    if (status == LH_OK) status = run(s, ids, n, (wanted){.logprobs = logprobs}, progress);
    lh_session_leave(s);
    return status;
}

lh_status lh_session_logits(lh_session *s, const float **out) {
    LH_TRY(lh_session_enter(s));
    lh_status status = s->has_logits ? LH_OK : restore_last(s);
    if (status == LH_OK && !s->has_logits)
        status = lh_error(LH_ERR_STATE, "there are no logits yet: feed at least one id");
    if (status == LH_OK) *out = s->logits;
    lh_session_leave(s);
    return status;
}

int64_t lh_session_oldest(const lh_session *s) { return lh_longheads_oldest(&s->longheads, s->kv.lost); }

lh_status lh_session_rewind(lh_session *s, int64_t n) {
    LH_TRY(lh_session_enter(s));
    lh_status status = LH_OK;
    int64_t oldest = lh_session_oldest(s);
    if (n < 0 || n > s->kv.position)
        status = lh_error(LH_ERR_ARGUMENT, "cannot forget %lld tokens: expected 0 to %lld, what was read so far",
                          (long long)n, (long long)s->kv.position);
    else if (n < s->kv.position && s->kv.position - n < oldest)
        status = lh_error(LH_ERR_ARGUMENT,
                          "cannot forget %lld of %lld tokens: %d of %d KV heads keep the last ones only, expected 0 "
                          "to %lld or all of them; make the session with keep_all to forget any number",
                          (long long)n, (long long)s->kv.position, n_near(s), lh_kv_n_heads(&s->kv.shape),
                          (long long)LH_MAX(s->kv.position - oldest, 0));
    else if (n > 0) status = rewind_to(s, s->kv.position - n);
    if (status == LH_OK) take_kept_logits(s);
    lh_session_leave(s);
    return status;
}

lh_status lh_session_selected(lh_session *s, int32_t *out, int64_t cap, int32_t *k) {
    LH_TRY(lh_session_enter(s));
    lh_status status = s->longheads.last_position < 0 ? restore_last(s) : LH_OK;
    if (status == LH_OK && s->longheads.last_position < 0)
        status = lh_error(LH_ERR_STATE, "no chunks were selected yet: feed at least one id");
    *k = lh_longheads_width(&s->longheads);
    int64_t count = (int64_t)s->model->config.n_layer * s->model->config.n_head * *k;
    if (status == LH_OK && out && cap < count)
        status = lh_error(LH_ERR_ARGUMENT, "%lld chunks do not fit into room for %lld", (long long)count, (long long)cap);
    if (status == LH_OK && out) status = lh_longheads_selected(&s->longheads, out);
    lh_session_leave(s);
    return status;
}
