// LongHeads (arXiv 2402.10685): summarize -> score -> select -> attend, for one layer at a time.
#ifndef LH_LONGHEADS_IMPL_H
#define LH_LONGHEADS_IMPL_H

#include "kv.h"
#include "rope.h"

// One row a scheme: what its summaries look like. How they are filled and scored is a row in each backend's table.
typedef struct lh_scheme_traits {
    bool per_query_head;   // a summary for every query head, else for every KV head
    int32_t vectors;       // vectors of head_dim in a summary; 0: what peak.h says
    bool needs_queries;    // the summary is made from the chunk's queries too
    bool scaled;           // scores are in the units of scaled q . k, else of q . k itself
} lh_scheme_traits;

// NULL for a number that is no scheme.
const lh_scheme_traits *lh_scheme_get(lh_scheme scheme);

// A session's attention: resolved settings and the rotations that go with them.
typedef struct lh_longheads {
    lh_backend *backend;
    lh_chunk_plan plan;    // of the KV heads that read far
    int32_t near;          // chunks that the others attend
    bool *far;             // (n_layer, n_head_kv): which these are; all where attention is dense
    lh_scheme scheme;
    int32_t n_layer, n_head, n_head_kv, n_select;
    float scale;
    float *rope_offset, *rope_chunk, *rope_far;  // device; see lh_attention
    int32_t rope_dim;
    int32_t *leader;       // (n_layer, n_select), device; see lh_attention
    int32_t *chosen;       // (batch + n_layer - 1, n_select, k), device; see chosen_of in longheads.c
    float *bias;           // (batch, n_select, k), device: of the layer at hand
    int64_t last_position; // of the last token that went through, -1: none
    int32_t last_n;        // rows that it was the last of
} lh_longheads;

// options: resolved. What the cache must hold for these options; n_whole: KV heads that keep the whole text.
lh_kv_shape lh_kv_shape_of(const lh_config *c, const lh_session_options *options, int32_t n_whole);

// reach (n_layer, n_head): the KV heads read far whose query heads have most of it, and query heads that share a choice
// follow the one that has most.
lh_status lh_longheads_init(lh_longheads *lh, lh_backend *backend, const lh_config *c, const lh_rope *rope,
                            const float *reach, const lh_session_options *options);
void lh_longheads_free(lh_longheads *lh);

// The lowest position, but 0, at which one can go on over a cache whose lh_kv.lost is `lost`.
int64_t lh_longheads_oldest(const lh_longheads *lh, int32_t lost);
// Can these settings go on over the cache, whatever it has read? batch: tokens at a time.
bool lh_longheads_fits(const lh_longheads *lh, const lh_kv *kv, int32_t batch);

// The first half of lh_longheads_layer: the keys, values and summaries of one layer's n tokens are stored.
lh_status lh_longheads_store(const lh_longheads *lh, const lh_kv *kv, int32_t layer, int32_t n, const float *q,
                             const float *k, const float *v);

// Attention of one layer over n tokens that follow the kv->position stored ones; their keys and values are stored.
//   q (n, n_head, head_dim), k and v (n, n_head_kv, head_dim), not rotated -> out (n, n_head, head_dim)
// Rows before `first` of out are not computed (the last layer needs only the rows whose logits are wanted).
lh_status lh_longheads_layer(lh_longheads *lh, const lh_kv *kv, int32_t layer, int32_t n, int32_t first, const float *q,
                             const float *k, const float *v, float *out);

// Chunks attended by the last token: out (n_layer, n_head, width), host, -1 where unused. width: lh_longheads_width.
int32_t lh_longheads_width(const lh_longheads *lh);
lh_status lh_longheads_selected(const lh_longheads *lh, int32_t *out);

#endif
