// The model's shape, from GGUF metadata: architecture `llama` or a refusal by name. All validation of numbers is here.
// Keys and defaults are those of llama.cpp.
#ifndef LH_CONFIG_H
#define LH_CONFIG_H

#include "gguf.h"

// Every width of the model (n_vocab, n_embd, n_ff, n_head * head_dim) is at most LH_MAX_WIDTH, so that the product of a
// width and up to 512 fits in an int32_t.
#define LH_MAX_WIDTH (1 << 21)
#define LH_MAX_LAYERS 4096
#define LH_MAX_HEADS 4096
#define LH_MAX_HEAD_DIM 512
#define LH_MAX_TRAINED_CTX (1 << 30)

typedef struct lh_config {
    int32_t n_vocab, n_layer, n_head, n_head_kv, head_dim, n_embd, n_ff;  // n_head % n_head_kv == 0, head_dim even
    int64_t trained_ctx;        // llama.context_length, or what another rope scaling makes of it
    float norm_eps;             // above 0
    // rope; llama3 factors are a tensor (rope_freqs.weight), see weights
    int32_t rope_dim;           // rotated dimensions of a head, even, at most head_dim
    float rope_base;            // above 1
    lh_rope_scaling rope_scaling;  // never LH_ROPE_FROM_MODEL
    float rope_factor;          // 1 where there is no scaling
    int64_t rope_original_ctx;  // yarn: 0 where the file does not say (then trained_ctx)
    float rope_attn_factor;     // yarn: 1
    float yarn_ext_factor, yarn_beta_fast, yarn_beta_slow;  // 1, 32, 1
} lh_config;

// Refuses files without tensors (a vocabulary only): they have no model.
lh_status lh_config_read(const lh_gguf *g, lh_config *out);

// Scale rope otherwise than the file says, as in lh_session_options: trained_ctx follows. Where both are what the file
// says nothing changes.
lh_status lh_config_scale_rope(lh_config *c, lh_rope_scaling scaling, float factor);

#endif
