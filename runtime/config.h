// The model's shape, from GGUF metadata: architecture `llama` or a refusal by name. All validation of numbers is here.
#ifndef LH_CONFIG_H
#define LH_CONFIG_H

#include "gguf.h"

typedef enum lh_rope_scaling { LH_ROPE_NONE, LH_ROPE_LINEAR, LH_ROPE_YARN } lh_rope_scaling;

typedef struct lh_config {
    int32_t n_vocab, n_layer, n_head, n_head_kv, head_dim, n_embd, n_ff;
    int64_t trained_ctx;        // llama.context_length
    float norm_eps;
    // rope; llama3 factors are a tensor (rope_freqs.weight), see weights
    int32_t rope_dim;           // rotated dimensions of a head, even, at most head_dim
    float rope_base;
    lh_rope_scaling rope_scaling;
    float rope_factor;          // 1 where there is no scaling
    int64_t rope_original_ctx;  // yarn: 0 where the file does not say (then trained_ctx)
    float rope_attn_factor;     // yarn: 1
    float yarn_ext_factor, yarn_beta_fast, yarn_beta_slow;  // 1, 32, 1
} lh_config;

lh_status lh_config_read(const lh_gguf *g, lh_config *out);

#endif
