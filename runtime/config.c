#include "config.h"

#include <inttypes.h>
#include <string.h>

static bool is_text(const char *text, size_t len, const char *expected) {
    return len == strlen(expected) && memcmp(text, expected, len) == 0;
}

// --- numbers in a range ----------------------------------------------------------------------------------------

static lh_status check_range(const char *key, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high)
        return lh_error(LH_ERR_FORMAT, "%s is %" PRId64 ", expected %" PRId64 " to %" PRId64, key, value, low, high);
    return LH_OK;
}

static lh_status require(const lh_gguf *g, const char *key) {
    if (lh_gguf_metadata(g, key)) return LH_OK;
    return lh_error(LH_ERR_FORMAT, "the key %s is missing, which a LLaMA model must have; convert it again", key);
}

// *out is the default where the key is absent.
static lh_status read_int(const lh_gguf *g, const char *key, int64_t low, int64_t high, int32_t *out) {
    int64_t value = *out;
    LH_TRY(lh_gguf_int(g, key, &value));
    LH_TRY(check_range(key, value, low, high));
    *out = (int32_t)value;
    return LH_OK;
}

static lh_status read_float(const lh_gguf *g, const char *key, float low, float high, float *out) {
    LH_TRY(lh_gguf_float(g, key, out));
    if (!(*out >= low && *out <= high))  // false for NaN too
        return lh_error(LH_ERR_FORMAT, "%s is %g, expected %g to %g", key, (double)*out, (double)low, (double)high);
    return LH_OK;
}

// A number that files may also give layer by layer, as an array of one 32-bit integer a layer; all must be equal.
static lh_status read_int_of_layers(const lh_gguf *g, const char *key, int32_t n_layer, int64_t low, int64_t high,
                                    int32_t *out) {
    const lh_metadata *m = lh_gguf_metadata(g, key);
    if (!m || m->type != LH_GGUF_ARRAY) return read_int(g, key, low, high, out);
    if ((m->elem_type != LH_GGUF_U32 && m->elem_type != LH_GGUF_I32) || m->count != (uint64_t)n_layer)
        return lh_error(LH_ERR_FORMAT,
                        "%s is an array of %" PRIu64 " values, expected an integer or an array of %d 32-bit integers",
                        key, m->count, n_layer);
    int64_t first = 0;
    for (int32_t i = 0; i < n_layer; i++) {
        uint32_t bits;
        memcpy(&bits, (const char *)m->data + (size_t)i * sizeof bits, sizeof bits);
        int64_t value = m->elem_type == LH_GGUF_U32 ? (int64_t)bits : (int32_t)bits;
        if (i == 0) first = value;
        if (value != first)
            return lh_error(LH_ERR_UNSUPPORTED,
                            "%s is %" PRId64 " in layer 0 and %" PRId64 " in layer %d, expected the same", key, first,
                            value, i);
    }
    LH_TRY(check_range(key, first, low, high));
    *out = (int32_t)first;
    return LH_OK;
}

// --- what kind of file -----------------------------------------------------------------------------------------

static lh_status check_kind(const lh_gguf *g) {
    const char *type = "model", *architecture = NULL;
    size_t type_len = strlen(type), len = 0;
    LH_TRY(lh_gguf_string(g, "general.type", &type, &type_len));
    if (is_text(type, type_len, "adapter") || is_text(type, type_len, "mmproj") || is_text(type, type_len, "imatrix"))
        return lh_error(LH_ERR_UNSUPPORTED, "the file is of the type %s, expected a model; give the model's own file",
                        lh_quote(type, type_len).text);
    LH_TRY(lh_gguf_string(g, "general.architecture", &architecture, &len));
    if (!architecture)
        return lh_error(LH_ERR_FORMAT, "the key general.architecture is missing, expected 'llama'; convert it again");
    if (!is_text(architecture, len, "llama"))
        return lh_error(LH_ERR_UNSUPPORTED, "the architecture %s is not supported, expected 'llama'; use a LLaMA model",
                        lh_quote(architecture, len).text);
    if (lh_gguf_n_tensors(g) == 0)
        return lh_error(LH_ERR_UNSUPPORTED, "the file holds no weights, %s; give the file with the weights",
                        lh_gguf_metadata(g, "tokenizer.ggml.tokens") ? "only a vocabulary, which a Tokenizer can open"
                                                                     : "only metadata");
    int64_t n_expert = 0;
    LH_TRY(lh_gguf_int(g, "llama.expert_count", &n_expert));
    if (n_expert != 0)
        return lh_error(LH_ERR_UNSUPPORTED,
                        "llama.expert_count is %" PRId64 ", expected 0: mixtures of experts are not supported",
                        n_expert);
    return LH_OK;
}

// --- the shape -------------------------------------------------------------------------------------------------

// The number of tokens decides, as in llama.cpp: llama.vocab_size is a copy that some files have wrong.
static lh_status read_n_vocab(const lh_gguf *g, int32_t *out) {
    const void *tokens = NULL;
    uint64_t n_tokens = 0;
    LH_TRY(lh_gguf_array(g, "tokenizer.ggml.tokens", LH_GGUF_STRING, &tokens, &n_tokens));
    if (tokens) {
        LH_TRY(check_range("the number of tokens in tokenizer.ggml.tokens", (int64_t)n_tokens, 1, LH_MAX_WIDTH));
        *out = (int32_t)n_tokens;
        return LH_OK;
    }
    const lh_gguf_tensor *embd = lh_gguf_find_tensor(g, "token_embd.weight");
    *out = embd && embd->ne[1] <= LH_MAX_WIDTH ? (int32_t)embd->ne[1] : 0;
    return read_int(g, "llama.vocab_size", 1, LH_MAX_WIDTH, out);
}

static lh_status read_heads(const lh_gguf *g, lh_config *c) {
    const char *head_count = "llama.attention.head_count";
    LH_TRY(require(g, head_count));
    LH_TRY(read_int_of_layers(g, head_count, c->n_layer, 1, LH_MAX_HEADS, &c->n_head));
    c->n_head_kv = c->n_head;
    LH_TRY(read_int_of_layers(g, "llama.attention.head_count_kv", c->n_layer, 1, LH_MAX_HEADS, &c->n_head_kv));
    if (c->n_head % c->n_head_kv != 0)
        return lh_error(LH_ERR_FORMAT,
                        "llama.attention.head_count is %d, expected a multiple of head_count_kv, which is %d",
                        c->n_head, c->n_head_kv);
    bool given = lh_gguf_metadata(g, "llama.attention.key_length") != NULL;
    if (!given && c->n_embd % c->n_head != 0)
        return lh_error(LH_ERR_FORMAT,
                        "llama.embedding_length is %d, expected a multiple of the %d heads, since the key "
                        "llama.attention.key_length is missing",
                        c->n_embd, c->n_head);
    c->head_dim = c->n_embd / c->n_head;
    LH_TRY(read_int(g, "llama.attention.key_length", 1, INT32_MAX, &c->head_dim));
    int32_t value_dim = c->head_dim;
    LH_TRY(read_int(g, "llama.attention.value_length", 1, INT32_MAX, &value_dim));
    if (value_dim != c->head_dim)
        return lh_error(LH_ERR_UNSUPPORTED,
                        "llama.attention.key_length is %d and value_length is %d, expected the same",
                        c->head_dim, value_dim);
    if (c->head_dim % 2 != 0 || c->head_dim < 2 || c->head_dim > LH_MAX_HEAD_DIM)
        return lh_error(LH_ERR_UNSUPPORTED, "heads of %d dimensions, expected an even number from 2 to %d", c->head_dim,
                        LH_MAX_HEAD_DIM);
    return LH_OK;
}

// --- rope ------------------------------------------------------------------------------------------------------

#define MAX_ROPE_FACTOR 65536

static lh_status read_rope_factor(const lh_gguf *g, float *out) {
    const char *key = "llama.rope.scaling.factor";
    if (!lh_gguf_metadata(g, key)) key = "llama.rope.scale_linear";  // its name before 2023-10
    *out = 0;
    LH_TRY(lh_gguf_float(g, key, out));
    if (*out == 0) *out = 1;  // files write 0 for "none"
    if (!(*out >= 1 && *out <= MAX_ROPE_FACTOR))
        return lh_error(LH_ERR_FORMAT, "%s is %g, expected 1 to %d", key, (double)*out, MAX_ROPE_FACTOR);
    return LH_OK;
}

static lh_status check_yarn(const lh_config *c) {
    if (c->rope_dim == c->head_dim) return LH_OK;
    return lh_error(LH_ERR_UNSUPPORTED,
                    "yarn scaling of %d of %d dimensions of a head: only whole heads are supported", c->rope_dim,
                    c->head_dim);
}

static lh_status read_yarn(const lh_gguf *g, lh_config *c) {
    int64_t original = 0;
    LH_TRY(lh_gguf_int(g, "llama.rope.scaling.original_context_length", &original));
    LH_TRY(check_range("llama.rope.scaling.original_context_length", original, 0, LH_MAX_TRAINED_CTX));
    c->rope_original_ctx = original;
    float yarn_attn_factor = 1;
    LH_TRY(read_float(g, "llama.rope.scaling.attn_factor", 0.001f, 1000, &c->rope_attn_factor));
    LH_TRY(read_float(g, "llama.rope.scaling.yarn_attn_factor", 0.001f, 1000, &yarn_attn_factor));
    c->rope_attn_factor *= yarn_attn_factor;
    float ext = -1;
    LH_TRY(lh_gguf_float(g, "llama.rope.scaling.yarn_ext_factor", &ext));
    if (ext < 0) ext = 1;  // llama.cpp writes -1 for "not set"
    if (!(ext <= 1))
        return lh_error(LH_ERR_FORMAT, "llama.rope.scaling.yarn_ext_factor is %g, expected 0 to 1", (double)ext);
    c->yarn_ext_factor = ext;
    LH_TRY(read_float(g, "llama.rope.scaling.yarn_beta_fast", 0.001f, 1e6f, &c->yarn_beta_fast));
    return read_float(g, "llama.rope.scaling.yarn_beta_slow", 0.001f, 1e6f, &c->yarn_beta_slow);
}

static lh_status read_rope(const lh_gguf *g, lh_config *c) {
    c->rope_dim = c->head_dim;
    LH_TRY(read_int(g, "llama.rope.dimension_count", 2, c->head_dim, &c->rope_dim));
    if (c->rope_dim % 2 != 0)
        return lh_error(LH_ERR_FORMAT, "llama.rope.dimension_count is %d, expected an even number", c->rope_dim);
    c->rope_base = 10000;
    LH_TRY(read_float(g, "llama.rope.freq_base", 1.001f, 1e15f, &c->rope_base));

    const char *type = "linear";
    size_t len = strlen(type);
    LH_TRY(lh_gguf_string(g, "llama.rope.scaling.type", &type, &len));
    c->rope_scaling = LH_ROPE_NONE;
    c->rope_factor = c->rope_attn_factor = c->yarn_ext_factor = c->yarn_beta_slow = 1;
    c->yarn_beta_fast = 32;
    if (is_text(type, len, "none")) return LH_OK;
    LH_TRY(read_rope_factor(g, &c->rope_factor));
    if (is_text(type, len, "yarn")) {
        c->rope_scaling = LH_ROPE_YARN;
        LH_TRY(check_yarn(c));
        return read_yarn(g, c);
    }
    if (!is_text(type, len, "linear"))
        return lh_error(LH_ERR_UNSUPPORTED,
                        "llama.rope.scaling.type is %s, expected none, linear or yarn (or the factors of llama3)",
                        lh_quote(type, len).text);
    c->rope_scaling = c->rope_factor == 1 ? LH_ROPE_NONE : LH_ROPE_LINEAR;
    return LH_OK;
}

// Tokens that the model reads at true positions: what scaling starts from.
static int64_t unscaled_ctx(const lh_config *c) {
    if (c->rope_scaling == LH_ROPE_YARN) return c->rope_original_ctx ? c->rope_original_ctx : c->trained_ctx;
    return LH_MAX((int64_t)((double)c->trained_ctx / (double)c->rope_factor), 1);
}

lh_status lh_config_scale_rope(lh_config *c, lh_rope_scaling scaling, float factor) {
    if (scaling < LH_ROPE_FROM_MODEL || scaling > LH_ROPE_YARN)
        return lh_error(LH_ERR_ARGUMENT, "rope_scaling is %d, expected 0 to %d", (int)scaling, LH_ROPE_YARN);
    if (factor != 0 && !(factor >= 1 && factor <= MAX_ROPE_FACTOR))
        return lh_error(LH_ERR_ARGUMENT, "rope_scale is %g, expected 1 to %d", (double)factor, MAX_ROPE_FACTOR);
    if (scaling == LH_ROPE_FROM_MODEL) {
        bool stretch = factor > 1 && c->rope_scaling == LH_ROPE_NONE;
        scaling = stretch ? LH_ROPE_LINEAR : c->rope_scaling;
    }
    if (scaling == LH_ROPE_NONE && factor > 1)
        return lh_error(LH_ERR_ARGUMENT,
                        "rope_scaling is none and rope_scale %g: omit rope_scale, or scale linear or yarn",
                        (double)factor);
    if (scaling != LH_ROPE_NONE && factor == 0 && c->rope_scaling == LH_ROPE_NONE)
        return lh_error(LH_ERR_ARGUMENT,
                        "rope_scaling is %s, but the file does not say by how much: give rope_scale, such as 4",
                        scaling == LH_ROPE_YARN ? "yarn" : "linear");
    if (scaling == LH_ROPE_NONE) factor = 1;
    if (factor == 0) factor = c->rope_factor;
    if (scaling == c->rope_scaling && factor == c->rope_factor) return LH_OK;
    if (scaling == LH_ROPE_YARN) LH_TRY(check_yarn(c));

    int64_t unscaled = unscaled_ctx(c);
    double stretched = (double)unscaled * (double)factor;
    c->rope_scaling = scaling;
    c->rope_factor = factor;
    c->rope_original_ctx = scaling == LH_ROPE_YARN ? unscaled : 0;
    c->trained_ctx = stretched < LH_MAX_TRAINED_CTX ? (int64_t)stretched : LH_MAX_TRAINED_CTX;
    return LH_OK;
}

lh_status lh_config_read(const lh_gguf *g, lh_config *out) {
    lh_config c = {0};
    LH_TRY(check_kind(g));
    static const char *const required[] = {"llama.block_count", "llama.context_length", "llama.embedding_length",
                                           "llama.feed_forward_length", "llama.attention.layer_norm_rms_epsilon"};
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) LH_TRY(require(g, required[i]));
    int32_t trained_ctx = 0;
    LH_TRY(read_int(g, "llama.block_count", 1, LH_MAX_LAYERS, &c.n_layer));
    LH_TRY(read_int(g, "llama.context_length", 1, LH_MAX_TRAINED_CTX, &trained_ctx));
    LH_TRY(read_int(g, "llama.embedding_length", 1, LH_MAX_WIDTH, &c.n_embd));
    LH_TRY(read_int_of_layers(g, "llama.feed_forward_length", c.n_layer, 1, LH_MAX_WIDTH, &c.n_ff));
    LH_TRY(read_float(g, "llama.attention.layer_norm_rms_epsilon", 1e-12f, 1, &c.norm_eps));
    c.trained_ctx = trained_ctx;
    LH_TRY(read_n_vocab(g, &c.n_vocab));
    LH_TRY(read_heads(g, &c));
    LH_TRY(read_rope(g, &c));
    *out = c;
    return LH_OK;
}
