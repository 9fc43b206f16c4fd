// The layer loop of a LLaMA model, written once against backend.h.
#ifndef LH_FORWARD_H
#define LH_FORWARD_H

#include "longheads_impl.h"
#include "weights.h"

// Rows of logits that are computed at once.
#define LH_LOGITS_ROWS 64

typedef struct lh_forward {
    lh_backend *backend;
    const lh_config *config;
    const lh_weights *weights;
    int32_t batch;
    // device buffers of one batch
    float *x;           // (batch, n_embd): the residual stream
    float *q, *att;     // (batch, n_head * head_dim)
    float *k, *v;       // (batch, n_head_kv * head_dim)
    float *gate, *up;   // (batch, n_ff)
    float *logits;      // (LH_LOGITS_ROWS, n_vocab)
    int64_t bytes;      // of all of these
} lh_forward;

lh_status lh_forward_init(lh_forward *f, lh_backend *backend, const lh_config *c, const lh_weights *w, int32_t batch);
void lh_forward_free(lh_forward *f);

// Asked between layers, of which so many are done: other than LH_OK ends the batch.
typedef struct lh_between {
    lh_status (*layers)(void *arg, int32_t done);
    void *arg;
} lh_between;

// Run n <= batch ids through all layers and move kv on. Rows [first, n) of the residual stream are kept for
// lh_forward_logits; the earlier ones are not finished. between: NULL, or asked where operations do not outlast their calls.
lh_status lh_forward_layers(lh_forward *f, lh_longheads *lh, lh_kv *kv, const int32_t *ids, int32_t n, int32_t first,
                            const lh_between *between);
// Logits that follow rows [row, row + n) of the last batch, n <= LH_LOGITS_ROWS: out (n, n_vocab), host.
lh_status lh_forward_logits(lh_forward *f, int32_t row, int32_t n, float *out);

#endif
