// The tensors of a LLaMA model, asked for by name with the type and shape they must have.
#ifndef LH_WEIGHTS_H
#define LH_WEIGHTS_H

#include "config.h"

typedef struct lh_layer {
    const float *attn_norm, *ffn_norm;           // (n_embd)
    lh_tensor wq;                                // (n_head * head_dim, n_embd)
    lh_tensor wk, wv;                            // (n_head_kv * head_dim, n_embd)
    lh_tensor wo;                                // (n_embd, n_head * head_dim)
    lh_tensor gate, up;                          // (n_ff, n_embd)
    lh_tensor down;                              // (n_embd, n_ff)
    const float *bq, *bk, *bv, *bo;              // biases, NULL where the model has none
} lh_layer;

// The i-th matrix of a layer, in the order of the graph; NULL past the last.
lh_tensor *lh_layer_matrix(lh_layer *l, int32_t i);

typedef struct lh_weights {
    lh_tensor embd;                              // (n_vocab, n_embd)
    lh_tensor output;                            // (n_vocab, n_embd); embd again where tied
    bool tied;                                   // the file has no output of its own
    const float *output_norm;                    // (n_embd)
    const float *rope_freqs;                     // (rope_dim / 2) divisors of llama3 scaling, or NULL
    lh_layer *layers;                            // (n_layer)
    int64_t n_params, bytes;                     // over all tensors of the file
    // what lh_weights_free must free: small tensors converted to float
    void *owned;
} lh_weights;

// g must outlive out. Small vectors (norms, biases, rope_freqs) of F16/BF16 files are converted to float.
// Tensors of the file that the graph would ignore (an expert router, a bias of the FFN, ...) are refused by name.
lh_status lh_weights_load(const lh_gguf *g, const lh_config *c, lh_weights *out);
void lh_weights_free(lh_weights *w);

#endif
