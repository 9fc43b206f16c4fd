// What a device must be able to do: memory, and a small table of coarse operations. The layer loop (forward) and the
// attention (longheads) are written once against this; a backend knows nothing of models, sessions or policy.
//
// Pointers in operations are device memory of the backend (from alloc), unless said otherwise. Shapes are row-major.
// Operations run in order; write and read wait for what was asked before.
#ifndef LH_BACKEND_H
#define LH_BACKEND_H

#include "base.h"
#include "chunk_map.h"
#include "kv_type.h"
#include "quant.h"

typedef struct lh_backend lh_backend;
// Copies, on the device, of chunks of a layer that are at home in memory of the host: those that were attended last.
typedef struct lh_chunk_cache lh_chunk_cache;

// y[i] (=|+=) w[i] . f(x) (+ bias[i]) for n tokens and one to three matrices that read the same input.
// f: RMS norm where norm is set, silu(gate) * x where gate is set, x itself where neither is.
typedef struct lh_project {
    int32_t n;               // tokens
    int32_t n_cols;          // width of x
    const float *x;          // (n, n_cols)
    const float *gate;       // (n, n_cols) or NULL
    const float *norm;       // (n_cols) or NULL; host memory that lives as long as the model
    float norm_eps;
    int32_t n_out;           // 1..3
    const lh_tensor *w[3];   // (w[i]->n_rows, n_cols)
    const float *bias[3];    // (w[i]->n_rows) or NULL; host memory, like norm
    float *y[3];             // (n, w[i]->n_rows)
    int64_t y_stride;        // floats between tokens of y; 0: w[i]->n_rows
    bool add;                // y[0] += ...: the residual stream (n_out is 1 then)
} lh_project;

// Where a KV head of a layer keeps its text. Where that is longer than its room, chunk c lies at lh_slot_of(c, room).
typedef struct lh_kv_head {
    void *k, *v;             // (room, chunk) rows (kv_type.h); keys are rotated by the offset in the chunk
    void *summary;           // (n_summary, n_chunk) summaries, then their details; NULL: it has none, and cannot choose
    int32_t room;            // chunks
    int32_t cached;          // its number among the heads of the layer's lh_chunk_cache; -1: k and v are on the device
} lh_kv_head;

// One layer's attention over n new tokens at positions pos, pos+1, ... All that they attend is in the cache.
typedef struct lh_attention {
    lh_chunk_plan plan;             // of choices that have a leader; where the layer has none, of all
    int32_t near;                   // chunks attended by those that have none: chunk 0 and the last ones
    int32_t n_head, n_head_kv, head_dim;
    int32_t n_chunk;                // of the whole context
    float scale;                    // of q.k
    float score_scale;              // of a chunk's score, so that it is in the units of scaled q.k
    // the cache of this layer
    lh_kv_type kv_type;
    const lh_kv_head *heads;        // (n_head_kv)
    lh_chunk_cache *cache;          // NULL: all is on the device
    lh_scheme scheme;
    int32_t n_summary, summary_dim; // summaries of a chunk and KV head that has them; 0: none has
    lh_kv_type summary_type;        // of schemes whose summaries are vectors, as summary_dim is
    size_t summary_size;            // bytes
    size_t detail_size;             // bytes of what belongs to a summary and is not always looked at
    float *queries;  // (chunk, n_head, head_dim): q of the tokens of the unfinished chunk; NULL: not needed
    // rotations, see rope.h
    const float *rope_offset;       // (chunk, 2, head_dim): by 0, 1, ..., chunk-1 tokens
    const float *rope_chunk;        // (lh_n_distances, 2, head_dim): by 0, 1, ... chunks
    const float *rope_far;          // (2, head_dim): by the most chunks that a window has
    int32_t rope_dim;               // rotated dimensions of a head
    // the batch; q and k are not rotated
    int64_t pos;
    int32_t n;
    const float *q;                 // (n, n_head, head_dim)
    const float *new_k, *new_v;     // (n, n_head_kv, head_dim)
    int32_t n_select;               // n_head, or n_head_kv where a group chooses together
    const int32_t *leader;          // (n_select): the query head that each choice is made for; -1: nothing is chosen,
                                    // here and wherever this KV head's query heads would choose
    int32_t *chosen;                // (n, n_select, plan.k), ascending; not written where nothing is chosen
    float *bias;                    // the same: what is added to q.k of each of these chunks, zero unless taken by score
    float *out;                     // (n, n_head, head_dim)
} lh_attention;

// Distances in chunks that there are: 0, 1, ... See lh_chunk_distance.
LH_SHARED_FN int32_t lh_n_distances(const lh_attention *a) { return LH_MIN(a->plan.window, a->n_chunk); }

// Of one choice.
LH_SHARED_FN lh_chunk_plan lh_plan_of_choice(const lh_attention *a, int32_t chooser) {
    return a->leader[chooser] < 0 ? lh_plan_without_choice(a->plan, a->near) : a->plan;
}

LH_SHARED_FN lh_chunk_plan lh_plan_of_head(const lh_attention *a, int32_t kv_head) {
    return lh_plan_of_choice(a, kv_head * (a->n_select / a->n_head_kv));
}

// Where choice `chooser` for token t of the batch begins: plan.k chunks in chosen, and their biases.
LH_SHARED_FN size_t lh_choice_at(const lh_attention *a, int32_t chooser, int32_t t) {
    return ((size_t)t * a->n_select + chooser) * a->plan.k;
}

// The chunks that it is for a token in chunk c; NULL: nothing is chosen (lh_unchosen).
LH_SHARED_FN const int32_t *lh_choice(const lh_attention *a, int32_t chooser, int32_t t, int32_t c) {
    return lh_chooses(lh_plan_of_choice(a, chooser), c) ? a->chosen + lh_choice_at(a, chooser, t) : NULL;
}

// What is added to q.k of one of these chunks: its score, and the least of the chosen.
LH_SHARED_FN float lh_bias_of(const lh_attention *a, int32_t c, float score, float least) {
    return lh_chosen_bias(a->plan, c, (score - least) * a->score_scale);
}

// Summaries are numbered as if all KV heads had them: (n_head_kv, n_summary). The one that a query head is scored with:
LH_SHARED_FN int32_t lh_summary_of(const lh_attention *a, int32_t head) {
    return head / (a->n_head / (a->n_head_kv * a->n_summary));
}

LH_SHARED_FN char *lh_summary_at(const lh_attention *a, int32_t summary, int32_t chunk) {
    char *of_head = (char *)a->heads[summary / a->n_summary].summary;
    return of_head + ((size_t)(summary % a->n_summary) * a->n_chunk + chunk) * a->summary_size;
}

LH_SHARED_FN char *lh_detail_at(const lh_attention *a, int32_t summary, int32_t chunk) {
    char *of_head = (char *)a->heads[summary / a->n_summary].summary;
    char *details = of_head + (size_t)a->n_summary * a->n_chunk * a->summary_size;
    return details + ((size_t)(summary % a->n_summary) * a->n_chunk + chunk) * a->detail_size;
}

// Keys and values at home in memory of the host, whole texts only. read and write know these addresses, too.
typedef struct lh_offload_ops {
    // Zeroed.
    lh_status (*alloc)(lh_backend *b, size_t bytes, void **out);
    void (*release)(lh_backend *b, void *p);
    // Of n_head KV heads, room for `slots` of their n_chunk chunks, 1 to LH_CACHE_SLOTS; chunk_bytes: of one's keys.
    lh_status (*cache_new)(lh_backend *b, int32_t n_head, int32_t n_chunk, int32_t slots, size_t chunk_bytes,
                           lh_chunk_cache **out);
    void (*cache_free)(lh_backend *b, lh_chunk_cache *cache);
    // Forget all copies: what is at home was written by others than append.
    lh_status (*cache_clear)(lh_backend *b, lh_chunk_cache *cache);
    // Adds how many of the chunks that single tokens attended were found, and how many had to be fetched.
    lh_status (*cache_count)(lh_backend *b, const lh_chunk_cache *cache, int64_t *hits, int64_t *misses);
} lh_offload_ops;

#define LH_CACHE_SLOTS 1024

typedef struct lh_backend_ops {
    void (*free)(lh_backend *b);
    // Zeroed. Fails with LH_ERR_MEMORY and a sentence.
    lh_status (*alloc)(lh_backend *b, size_t bytes, void **out);
    void (*release)(lh_backend *b, void *p);
    lh_status (*write)(lh_backend *b, void *device, const void *host, size_t bytes);
    lh_status (*read)(lh_backend *b, void *host, const void *device, size_t bytes);
    // Bytes alloc can still give.
    uint64_t (*available)(lh_backend *b);
    // So many bytes of weights are about to be uploaded: a backend that could read them where they are mapped may make
    // room for copies. NULL: nothing to do.
    lh_status (*reserve)(lh_backend *b, size_t bytes);
    // Make a matrix of weights reachable, and take it back. A backend that keeps its own copy sets t->device, or t->data
    // where that is memory of the host, and t->spans where it is in another order.
    lh_status (*upload)(lh_backend *b, lh_tensor *t);
    void (*unload)(lh_backend *b, lh_tensor *t);
    // Enter and leave a sequence of operations: sessions on several threads take turns here. Where operations are queued
    // they are done when the sequence is left; elsewhere when they return.
    void (*begin)(lh_backend *b);
    void (*end)(lh_backend *b);
    bool queues;

    // x (n, n_cols) = rows ids of table. ids: host memory, already checked.
    lh_status (*embed)(lh_backend *b, const lh_tensor *table, const int32_t *ids, int32_t n, float *x);
    lh_status (*project)(lh_backend *b, const lh_project *p);
    // Store the batch's keys, rotated by their offsets, and values.
    lh_status (*append)(lh_backend *b, const lh_attention *a);
    // Fill the summaries of chunks [first, end), which are complete once the batch is appended, and keep the queries
    // of the chunk that stays unfinished.
    lh_status (*summarize)(lh_backend *b, const lh_attention *a, int32_t first, int32_t end);
    // Fill chosen and bias for the tokens of the batch that are not dense and the choices that have a leader. Not called
    // where the plan chooses nothing.
    lh_status (*select)(lh_backend *b, const lh_attention *a);
    lh_status (*attend)(lh_backend *b, const lh_attention *a);
    // NULL: all memory is the host's.
    const lh_offload_ops *offload;
    // See lh_model_probe.
    lh_status (*probe)(lh_backend *b, double seconds, lh_ceilings *out);
} lh_backend_ops;

// The head of every backend's own struct.
struct lh_backend {
    const lh_backend_ops *ops;
    char name[64];           // "cpu (avx512+vnni, 2 threads)"
    char note[512];          // why "auto" took no GPU although there is one; mostly empty
    int32_t n_threads;
};

// device as in lh_model_options. Unknown or absent devices are refused by name.
lh_status lh_backend_open(const char *device, int32_t n_threads, lh_backend **out);
void lh_backend_free(lh_backend *b);

lh_status lh_backend_open_cpu(int32_t n_threads, lh_backend **out);

#endif
