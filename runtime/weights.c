#include "weights.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

// A vector that had to be converted to float. They form a list, w->owned.
typedef struct owned {
    struct owned *next;
    _Alignas(LH_ALIGN) float values[];
} owned;

#define OTHER_MODEL "the file's metadata describe another model; convert it again"

typedef struct loader {
    const lh_gguf *g;
    const lh_config *c;
    lh_weights *w;
} loader;

// --- one tensor, of the shape it must have ---------------------------------------------------------------------

typedef struct name {
    char text[64];
} name;

static name in_layer(int32_t layer, const char *suffix) {
    name n;
    snprintf(n.text, sizeof n.text, "blk.%d.%s", layer, suffix);
    return n;
}

static lh_status missing(const char *tensor) {
    return lh_error(LH_ERR_FORMAT, "the tensor '%s' is missing: the file is not a whole LLaMA model; convert it again",
                    tensor);
}

// GGUF writes a matrix of rows x cols as the dimensions (cols, rows).
static lh_status check_shape(const lh_gguf_tensor *t, int64_t n_cols, int64_t n_rows) {
    if (t->ne[0] == n_cols && t->ne[1] == n_rows && t->ne[2] == 1 && t->ne[3] == 1) return LH_OK;
    char found[96], expected[48];
    int n = 0;
    for (int d = 0; d < t->n_dims; d++)
        n += snprintf(found + n, sizeof found - (size_t)n, "%s%" PRId64, d ? " x " : "", t->ne[d]);
    snprintf(expected, sizeof expected, n_rows == 1 ? "%" PRId64 : "%" PRId64 " x %" PRId64, n_cols, n_rows);
    return lh_error(LH_ERR_FORMAT, "the tensor %s has the shape %s, expected %s: " OTHER_MODEL, lh_quote_name(t->name).text,
                    found, expected);
}

static lh_status load_matrix(const loader *l, const char *tensor, int64_t n_rows, int64_t n_cols, lh_tensor *out) {
    const lh_gguf_tensor *t = lh_gguf_find_tensor(l->g, tensor);
    if (!t) return missing(tensor);
    LH_TRY(check_shape(t, n_cols, n_rows));
    size_t row_size = t->size / (uint64_t)n_rows;  // whole blocks: the parse refuses rows that a block does not divide
    *out = (lh_tensor){.type = t->type, .n_rows = n_rows, .n_cols = n_cols, .data = t->data, .row_size = row_size};
    return LH_OK;
}

// Norms and biases are read as float by every backend; *out stays NULL where an optional one is absent.
static lh_status load_vector(const loader *l, const char *tensor, int64_t n, bool optional, const float **out) {
    const lh_gguf_tensor *t = lh_gguf_find_tensor(l->g, tensor);
    if (!t) return optional ? LH_OK : missing(tensor);
    LH_TRY(check_shape(t, n, 1));
    if (t->type == LH_TYPE_F32) {
        *out = t->data;
        return LH_OK;
    }
    if (t->type != LH_TYPE_F16 && t->type != LH_TYPE_BF16)
        return lh_error(LH_ERR_UNSUPPORTED, "the tensor '%s' is of type %s, expected F32, F16 or BF16 for a vector",
                        tensor, lh_type_name(t->type));
    owned *o = lh_alloc(1, sizeof *o + (size_t)n * sizeof *o->values);
    if (!o) return LH_ERR_MEMORY;
    o->next = l->w->owned;
    l->w->owned = o;
    lh_type_get(t->type)->decode(t->data, o->values, n);
    *out = o->values;
    return LH_OK;
}

// --- the model -------------------------------------------------------------------------------------------------

// Everything a layer has. Sizes by name, since a model gives them.
typedef enum side { ONE, EMBD, FF, Q, KV } side;
static const struct {
    const char *name;
    size_t at;        // in lh_layer
    side rows, cols;  // of a matrix; a vector has ONE column
    bool optional;
} parts[] = {
    {"attn_norm.weight", offsetof(lh_layer, attn_norm), EMBD, ONE, false},
    {"attn_q.weight", offsetof(lh_layer, wq), Q, EMBD, false},
    {"attn_k.weight", offsetof(lh_layer, wk), KV, EMBD, false},
    {"attn_v.weight", offsetof(lh_layer, wv), KV, EMBD, false},
    {"attn_output.weight", offsetof(lh_layer, wo), EMBD, Q, false},
    {"attn_q.bias", offsetof(lh_layer, bq), Q, ONE, true},
    {"attn_k.bias", offsetof(lh_layer, bk), KV, ONE, true},
    {"attn_v.bias", offsetof(lh_layer, bv), KV, ONE, true},
    {"attn_output.bias", offsetof(lh_layer, bo), EMBD, ONE, true},
    {"ffn_norm.weight", offsetof(lh_layer, ffn_norm), EMBD, ONE, false},
    {"ffn_gate.weight", offsetof(lh_layer, gate), FF, EMBD, false},
    {"ffn_up.weight", offsetof(lh_layer, up), FF, EMBD, false},
    {"ffn_down.weight", offsetof(lh_layer, down), EMBD, FF, false},
};
#define N_PARTS ((int32_t)(sizeof parts / sizeof *parts))

static int64_t length_of(side s, const lh_config *c) {
    switch (s) {
        case EMBD: return c->n_embd;
        case FF: return c->n_ff;
        case Q: return (int64_t)c->n_head * c->head_dim;
        case KV: return (int64_t)c->n_head_kv * c->head_dim;
        default: return 1;
    }
}

lh_tensor *lh_layer_matrix(lh_layer *l, int32_t i) {
    for (int32_t p = 0; p < N_PARTS; p++)
        if (parts[p].cols != ONE && i-- == 0) return (lh_tensor *)(void *)((char *)l + parts[p].at);
    return NULL;
}

static lh_status load_layer(const loader *l, int32_t i) {
    for (int32_t p = 0; p < N_PARTS; p++) {
        void *part = (char *)&l->w->layers[i] + parts[p].at;
        int64_t rows = length_of(parts[p].rows, l->c), cols = length_of(parts[p].cols, l->c);
        name n = in_layer(i, parts[p].name);
        if (parts[p].cols == ONE) LH_TRY(load_vector(l, n.text, rows, parts[p].optional, part));
        else LH_TRY(load_matrix(l, n.text, rows, cols, part));
    }
    return LH_OK;
}

static lh_status load_rope_freqs(const loader *l) {
    int64_t n = l->c->rope_dim / 2;
    LH_TRY(load_vector(l, "rope_freqs.weight", n, true, &l->w->rope_freqs));
    if (!l->w->rope_freqs) return LH_OK;
    for (int64_t i = 0; i < n; i++) {
        float f = l->w->rope_freqs[i];
        if (!(f > 0) || !isfinite(f))
            return lh_error(LH_ERR_FORMAT,
                            "the tensor 'rope_freqs.weight' holds %g, expected positive numbers; convert it again",
                            (double)f);
    }
    return LH_OK;
}

static const char *const global_tensors[] = {"token_embd.weight", "output.weight", "output_norm.weight",
                                             "rope_freqs.weight"};
// Rotation frequencies, in files of 2023. They follow from the metadata.
static const char *const left_out_of_layers[] = {"attn_rot_embd", "attn_rot_embd.weight"};

static bool is_one_of(const char *text, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(text, list[i]) == 0) return true;
    return false;
}
#define IS_ONE_OF(text, list) is_one_of(text, list, sizeof list / sizeof *list)

static bool is_of_layer(const char *text) {
    for (int32_t p = 0; p < N_PARTS; p++)
        if (strcmp(text, parts[p].name) == 0) return true;
    return IS_ONE_OF(text, left_out_of_layers);
}

// A tensor that the graph leaves out would change the model silently.
static lh_status check_known(const loader *l, const lh_gguf_tensor *t) {
    if (IS_ONE_OF(t->name, global_tensors)) return LH_OK;
    int layer = 0, used = 0;
    if (sscanf(t->name, "blk.%9d.%n", &layer, &used) == 1 && used > 0 && layer >= 0 &&
        strncmp(t->name, in_layer(layer, "").text, (size_t)used) == 0 && is_of_layer(t->name + used)) {
        if (layer < l->c->n_layer) return LH_OK;
        return lh_error(LH_ERR_FORMAT, "the tensor %s is of a layer past llama.block_count %d: " OTHER_MODEL,
                        lh_quote_name(t->name).text, l->c->n_layer);
    }
    return lh_error(LH_ERR_UNSUPPORTED, "the tensor %s is not part of a dense LLaMA; this variant is not supported",
                    lh_quote_name(t->name).text);
}

static lh_status load(const loader *l) {
    const lh_config *c = l->c;
    lh_weights *w = l->w;
    for (int64_t i = 0; i < lh_gguf_n_tensors(l->g); i++) {
        const lh_gguf_tensor *t = lh_gguf_tensor_at(l->g, i);
        LH_TRY(check_known(l, t));
        w->n_params += t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
        w->bytes += (int64_t)t->size;
    }
    LH_TRY(load_matrix(l, "token_embd.weight", c->n_vocab, c->n_embd, &w->embd));
    w->output = w->embd;
    w->tied = !lh_gguf_find_tensor(l->g, "output.weight");
    if (!w->tied) LH_TRY(load_matrix(l, "output.weight", c->n_vocab, c->n_embd, &w->output));
    LH_TRY(load_vector(l, "output_norm.weight", c->n_embd, false, &w->output_norm));
    LH_TRY(load_rope_freqs(l));
    w->layers = lh_alloc((size_t)c->n_layer, sizeof *w->layers);
    if (!w->layers) return LH_ERR_MEMORY;
    for (int32_t i = 0; i < c->n_layer; i++) LH_TRY(load_layer(l, i));
    return LH_OK;
}

lh_status lh_weights_load(const lh_gguf *g, const lh_config *c, lh_weights *out) {
    *out = (lh_weights){0};
    lh_status s = load(&(loader){g, c, out});
    if (s != LH_OK)
        lh_weights_free(out);
    else
        lh_gguf_prefetch(g);
    return s;
}

void lh_weights_free(lh_weights *w) {
    if (!w) return;
    for (owned *o = w->owned; o;) {
        owned *next = o->next;
        lh_free(o);
        o = next;
    }
    lh_free(w->layers);
    *w = (lh_weights){0};
}
