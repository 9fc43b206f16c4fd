#include "longheads_impl.h"

#include <stdlib.h>

#include "peak.h"
#include "rank.h"

static const lh_scheme_traits schemes[] = {
    [LH_SCHEME_BOUNDS] = {.vectors = 2},
    [LH_SCHEME_PAPER] = {.vectors = 1, .per_query_head = true, .needs_queries = true},
    [LH_SCHEME_PEAK] = {.scaled = true},
};

const lh_scheme_traits *lh_scheme_get(lh_scheme scheme) {
    return (size_t)scheme < sizeof schemes / sizeof *schemes ? &schemes[scheme] : NULL;
}

static lh_chunk_plan far_plan(const lh_session_options *o) {
    bool dense = o->attention == LH_ATTENTION_DENSE;
    int32_t n_chunk = (int32_t)((o->ctx + o->chunk - 1) / o->chunk);
    return (lh_chunk_plan){
        .chunk = o->chunk,
        .k = o->budget / o->chunk,
        // Dense attention sees true distances however far they are.
        .window = dense ? n_chunk : o->window / o->chunk,
        .local = o->local,
        .dense = dense ? INT32_MAX : o->dense_until / o->chunk,
        .far_bias = LH_MAX(o->far_bias, 0.0f),
    };
}

// Chunks that KV heads which do not read far must have room for: what the first of `batch` tokens attends, up to the last.
static int32_t near_room(lh_chunk_plan plan, int32_t batch) { return plan.dense + batch / plan.chunk + 2; }

// Tokens that can always be forgotten again where KV heads do not keep the whole text, by a session's first options.
#define NEAR_REWIND 4096

lh_kv_shape lh_kv_shape_of(const lh_config *c, const lh_session_options *o, int32_t n_whole) {
    const lh_scheme_traits *scheme = lh_scheme_get(o->scheme);
    lh_kv_shape shape = {
        .n_layer = c->n_layer, .n_head = c->n_head, .n_head_kv = c->n_head_kv, .head_dim = c->head_dim,
        .chunk = o->chunk, .n_chunk = (int32_t)((o->ctx + o->chunk - 1) / o->chunk), .type = o->kv_type,
        .offload = o->kv_offload, .n_whole = n_whole,
    };
    shape.n_near = shape.n_chunk;
    if (n_whole < c->n_layer * c->n_head_kv)
        shape.n_near = LH_MIN(shape.n_chunk, near_room(far_plan(o), o->batch + NEAR_REWIND));
    // Where everything is attended nothing is chosen, and no summary is ever read.
    if (o->attention == LH_ATTENTION_DENSE) return shape;
    shape.n_summary = scheme->per_query_head ? c->n_head / c->n_head_kv : 1;
    shape.summary_dim = LH_ROUND_UP(scheme->vectors * c->head_dim, LH_SUMMARY_BLOCK);
    shape.summary_size = scheme->vectors ? lh_kv_row_size(lh_summary_type(o->kv_type), shape.summary_dim)
                                         : lh_peak_size(c->head_dim, o->chunk);
    shape.detail_size = scheme->vectors ? 0 : lh_peak_detail(c->head_dim, o->chunk);
    shape.keep_queries = scheme->needs_queries;
    return shape;
}

static lh_status to_device(lh_backend *b, const void *host, size_t bytes, void **out) {
    LH_TRY(b->ops->alloc(b, bytes, out));
    return b->ops->write(b, *out, host, bytes);
}

static lh_status rope_table(lh_backend *b, const lh_rope *rope, int64_t first, int64_t step, int64_t n, float **out) {
    size_t count = (size_t)n * 2 * rope->head_dim;
    float *host = lh_alloc(count, sizeof *host);
    if (!host) return LH_ERR_MEMORY;
    lh_rope_table(rope, first, step, n, host);
    lh_status status = to_device(b, host, count * sizeof *host, (void **)out);
    lh_free(host);
    return status;
}

// The first of the n largest.
static int32_t largest(const float *x, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) best = x[i] > x[best] ? i : best;
    return best;
}

// Of n KV heads with `group` query heads each, the n_far whose strongest have the largest reach; the first of equals.
static lh_status choose_far(const float *reach, int32_t n, int32_t group, int32_t n_far, bool *far) {
    lh_ranked *heads = lh_alloc((size_t)n, sizeof *heads);
    if (!heads) return LH_ERR_MEMORY;
    for (int32_t i = 0; i < n; i++) {
        const float *own = reach + (size_t)i * group;
        heads[i] = (lh_ranked){own[largest(own, group)], i};
    }
    qsort(heads, (size_t)n, sizeof *heads, lh_by_rank);
    for (int32_t i = 0; i < n; i++) far[heads[i].index] = i < n_far;
    lh_free(heads);
    return LH_OK;
}

// A KV head's query heads that choose together follow the one of the largest reach: what it looks for is what there is
// to be found.
static lh_status leader_table(lh_longheads *lh, const float *reach) {
    size_t count = (size_t)lh->n_layer * lh->n_select;
    int32_t group = lh->n_head / lh->n_select, per_kv_head = lh->n_select / lh->n_head_kv;
    int32_t *host = lh_alloc(count, sizeof *host);
    if (!host) return LH_ERR_MEMORY;
    for (size_t i = 0; i < count; i++)
        host[i] = lh->far[i / per_kv_head]
                      ? (int32_t)(i % (size_t)lh->n_select) * group + largest(reach + i * (size_t)group, group)
                      : -1;
    lh_status status = to_device(lh->backend, host, count * sizeof *host, (void **)&lh->leader);
    lh_free(host);
    return status;
}

static bool any_far(const lh_longheads *lh, int32_t layer) {
    const bool *far = lh->far + (size_t)layer * lh->n_head_kv;
    for (int32_t h = 0; h < lh->n_head_kv; h++)
        if (far[h]) return true;
    return false;
}

static lh_chunk_plan plan_of(const lh_longheads *lh, bool far) {
    return far ? lh->plan : lh_plan_without_choice(lh->plan, lh->near);
}

lh_status lh_longheads_init(lh_longheads *lh, lh_backend *backend, const lh_config *c, const lh_rope *rope,
                            const float *reach, const lh_session_options *o) {
    *lh = (lh_longheads){
        .backend = backend, .plan = far_plan(o), .near = o->near_budget / o->chunk, .scheme = o->scheme,
        .n_layer = c->n_layer, .n_head = c->n_head, .n_head_kv = c->n_head_kv,
        .n_select = o->select_per == LH_PER_HEAD ? c->n_head : c->n_head_kv,
        .scale = rope->attn_scale, .rope_dim = c->rope_dim, .last_position = -1,
    };
    int32_t n = c->n_layer * c->n_head_kv;
    lh->far = lh_alloc((size_t)n, sizeof *lh->far);
    if (!lh->far) return LH_ERR_MEMORY;
    bool dense = o->attention == LH_ATTENTION_DENSE;
    LH_TRY(choose_far(reach, n, c->n_head / c->n_head_kv, dense ? n : o->far_heads, lh->far));
    LH_TRY(leader_table(lh, reach));
    int64_t l = o->chunk, window = lh->plan.window, n_chunk = (o->ctx + l - 1) / l;
    LH_TRY(rope_table(backend, rope, 0, 1, l, &lh->rope_offset));
    // A file may claim any window: rows are made for distances that the context has, and for the far end.
    LH_TRY(rope_table(backend, rope, 0, l, LH_MIN(window, n_chunk), &lh->rope_chunk));
    LH_TRY(rope_table(backend, rope, (window - 1) * l, l, 1, &lh->rope_far));
    size_t rows = (size_t)o->batch + c->n_layer - 1;
    size_t row = (size_t)lh->n_select * lh->plan.k;
    LH_TRY(backend->ops->alloc(backend, rows * row * sizeof *lh->chosen, (void **)&lh->chosen));
    return backend->ops->alloc(backend, o->batch * row * sizeof *lh->bias, (void **)&lh->bias);
}

void lh_longheads_free(lh_longheads *lh) {
    if (!lh->backend) return;
    lh->backend->ops->release(lh->backend, lh->rope_offset);
    lh->backend->ops->release(lh->backend, lh->rope_chunk);
    lh->backend->ops->release(lh->backend, lh->rope_far);
    lh->backend->ops->release(lh->backend, lh->leader);
    lh->backend->ops->release(lh->backend, lh->chosen);
    lh->backend->ops->release(lh->backend, lh->bias);
    lh_free(lh->far);
    *lh = (lh_longheads){0};
}

// Every layer writes its choices one row before where the layer before it did, so the row of the last token survives
// the layers that follow: after the last layer the choices of all layers for that token lie together, none was copied.
static int32_t *chosen_of(const lh_longheads *lh, int32_t layer, int32_t row) {
    return lh->chosen + (size_t)(lh->n_layer - 1 - layer + row) * lh->n_select * lh->plan.k;
}

static lh_attention attention_of(const lh_longheads *lh, const lh_kv *kv, int32_t layer, int32_t n, const float *q,
                                 const float *k, const float *v) {
    const lh_kv_shape *s = &kv->shape;
    return (lh_attention){
        .plan = plan_of(lh, any_far(lh, layer)),
        .near = lh->near,
        .n_head = s->n_head,
        .n_head_kv = s->n_head_kv,
        .head_dim = s->head_dim,
        .n_chunk = s->n_chunk,
        .scale = lh->scale,
        .score_scale = lh_scheme_get(lh->scheme)->scaled ? 1 : lh->scale,
        .kv_type = s->type,
        .heads = kv->device_heads + (size_t)layer * s->n_head_kv,
        .cache = kv->cache[layer],
        .scheme = lh->scheme,
        .n_summary = kv->summary[layer] ? s->n_summary : 0,
        .summary_dim = s->summary_dim,
        .summary_type = lh_summary_type(s->type),
        .summary_size = s->summary_size,
        .detail_size = s->detail_size,
        .queries = kv->queries[layer],
        .rope_offset = lh->rope_offset,
        .rope_chunk = lh->rope_chunk,
        .rope_far = lh->rope_far,
        .rope_dim = lh->rope_dim,
        .pos = kv->position,
        .n = n,
        .q = q,
        .new_k = k,
        .new_v = v,
        .n_select = lh->n_select,
        .leader = lh->leader + (size_t)layer * lh->n_select,
        .bias = lh->bias,
    };
}

int64_t lh_longheads_oldest(const lh_longheads *lh, int32_t lost) {
    // The last token is read again for its logits: it and all after it find what they attend.
    int64_t chunk = LH_MAX((int64_t)lost + lh->near - 2, lh->plan.dense);
    return lost > 1 ? chunk * lh->plan.chunk + 1 : 0;
}

bool lh_longheads_fits(const lh_longheads *lh, const lh_kv *kv, int32_t batch) {
    for (size_t i = 0; i < (size_t)lh->n_layer * lh->n_head_kv; i++)
        if (lh->far[i] && !kv->whole[i]) return false;
    return kv->shape.n_near == kv->shape.n_chunk || near_room(lh->plan, batch) <= kv->shape.n_near;
}

static lh_status store(const lh_longheads *lh, const lh_attention *a) {
    const lh_backend_ops *ops = lh->backend->ops;
    LH_TRY(ops->append(lh->backend, a));
    if (!a->n_summary) return LH_OK;
    int32_t chunk = lh->plan.chunk;
    return ops->summarize(lh->backend, a, lh_chunk_of(a->pos, chunk), lh_chunk_of(a->pos + a->n, chunk));
}

lh_status lh_longheads_store(const lh_longheads *lh, const lh_kv *kv, int32_t layer, int32_t n, const float *q,
                             const float *k, const float *v) {
    lh_attention a = attention_of(lh, kv, layer, n, q, k, v);
    return store(lh, &a);
}

lh_status lh_longheads_layer(lh_longheads *lh, const lh_kv *kv, int32_t layer, int32_t n, int32_t first, const float *q,
                             const float *k, const float *v, float *out) {
    const lh_kv_shape *s = &kv->shape;
    const lh_backend_ops *ops = lh->backend->ops;
    lh_attention a = attention_of(lh, kv, layer, n, q, k, v);
    LH_TRY(store(lh, &a));
    // Summaries of chunks that the batch completed are in place: later tokens of the same batch may choose them.
    size_t q_row = (size_t)s->n_head * s->head_dim, kv_row = (size_t)s->n_head_kv * s->head_dim;
    a.pos += first;
    a.n -= first;
    a.q += first * q_row;
    a.out = out + first * q_row;
    a.new_k += first * kv_row;
    a.new_v += first * kv_row;
    a.chosen = chosen_of(lh, layer, first);
    if (lh_chooses(a.plan, lh_chunk_of(a.pos + a.n - 1, a.plan.chunk))) LH_TRY(ops->select(lh->backend, &a));
    LH_TRY(ops->attend(lh->backend, &a));
    lh->last_position = a.pos + a.n - 1;
    lh->last_n = n;
    return LH_OK;
}

int32_t lh_longheads_width(const lh_longheads *lh) {
    int32_t c = lh->last_position < 0 ? 0 : lh_chunk_of(lh->last_position, lh->plan.chunk);
    return LH_MAX(LH_MAX(lh->plan.k, lh->near), lh_n_attended(lh->plan, c));
}

lh_status lh_longheads_selected(const lh_longheads *lh, int32_t *out) {
    int32_t width = lh_longheads_width(lh), group = lh->n_head / lh->n_select, of_kv_head = lh->n_head / lh->n_head_kv;
    for (size_t i = 0; i < (size_t)lh->n_layer * lh->n_head * width; i++) out[i] = -1;
    if (lh->last_position < 0) return LH_OK;
    int32_t c = lh_chunk_of(lh->last_position, lh->plan.chunk);
    size_t row = (size_t)lh->n_select * lh->plan.k;
    int32_t *host = lh_alloc(row, sizeof *host);
    if (!host) return LH_ERR_MEMORY;
    lh_status status = LH_OK;
    for (int32_t layer = 0; layer < lh->n_layer && status == LH_OK; layer++) {
        if (lh_chooses(plan_of(lh, any_far(lh, layer)), c))
            status = lh->backend->ops->read(lh->backend, host, chosen_of(lh, layer, lh->last_n - 1), row * sizeof *host);
        for (int32_t h = 0; h < lh->n_head && status == LH_OK; h++, out += width) {
            lh_chunk_plan plan = plan_of(lh, lh->far[(size_t)layer * lh->n_head_kv + h / of_kv_head]);
            const int32_t *chosen = lh_chooses(plan, c) ? host + (size_t)(h / group) * plan.k : NULL;
            int32_t n = lh_n_attended(plan, c);
            for (int32_t r = 0; r < n; r++) out[r] = chosen ? chosen[r] : lh_unchosen(c, n, r);
        }
    }
    lh_free(host);
    return status;
}
