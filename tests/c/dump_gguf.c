// What the loader sees in a GGUF file, as one JSON object: metadata, tensors (with a checksum of their bytes), and the
// configuration and weights of a model, or the error that each of them met. Strings are hexadecimal.
//
//     dump_gguf FILE
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "weights.h"

static void print_hex(const void *data, size_t n) {
    putchar('"');
    for (size_t i = 0; i < n; i++) printf("%02x", ((const uint8_t *)data)[i]);
    putchar('"');
}

// Sum of each byte times its place, counted from 1: NumPy computes it fast too.
static uint64_t checksum(const void *data, size_t n) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += (i + 1) * ((const uint8_t *)data)[i];
    return sum;
}

static void print_error(const char *what, lh_status s) {
    printf(", \"%s\": {\"status\": %d, \"error\": ", what, (int)s);
    print_hex(lh_last_error(), strlen(lh_last_error()));
    printf("}");
}

static void print_matrix(const char *name, const lh_tensor *t) {
    printf("\"%s\": {\"type\": \"%s\", \"n_rows\": %" PRId64 ", \"n_cols\": %" PRId64 ", \"checksum\": %" PRIu64 "}",
           name, lh_type_name(t->type), t->n_rows, t->n_cols, checksum(t->data, (size_t)t->n_rows * t->row_size));
}

static void print_vector(const char *name, const float *v, int64_t n) {
    printf(", \"%s\": ", name);
    if (!v) {
        printf("null");
        return;
    }
    printf("%" PRIu64, checksum(v, (size_t)n * sizeof *v));
}

static void print_containers(const lh_gguf *g) {
    printf("{\"metadata\": [");
    for (int64_t i = 0; i < lh_gguf_n_metadata(g); i++) {
        const lh_metadata *m = lh_gguf_metadata_at(g, i);
        printf("%s{\"key\": ", i ? ", " : "");
        print_hex(m->key, strlen(m->key));
        printf(", \"type\": %d, \"elem_type\": %d, \"count\": %" PRIu64 ", \"data\": ", m->type, m->elem_type,
               m->count);
        print_hex(m->data, m->size);
        printf(", \"found\": %s}", lh_gguf_metadata(g, m->key) == m ? "true" : "false");
    }
    printf("], \"tensors\": [");
    for (int64_t i = 0; i < lh_gguf_n_tensors(g); i++) {
        const lh_gguf_tensor *t = lh_gguf_tensor_at(g, i);
        printf("%s{\"name\": ", i ? ", " : "");
        print_hex(t->name, strlen(t->name));
        printf(", \"type\": \"%s\", \"shape\": [", lh_type_name(t->type));
        for (int d = 0; d < t->n_dims; d++) printf("%s%" PRId64, d ? ", " : "", t->ne[d]);
        printf("], \"size\": %" PRIu64 ", \"checksum\": %" PRIu64 ", \"found\": %s}", t->size,
               checksum(t->data, t->size), lh_gguf_find_tensor(g, t->name) == t ? "true" : "false");
    }
    printf("]");
}

static void print_config(const lh_config *c) {
    printf(
        ", \"config\": {\"n_vocab\": %d, \"n_layer\": %d, \"n_head\": %d, \"n_head_kv\": %d, \"head_dim\": %d, "
        "\"n_embd\": %d, \"n_ff\": %d, \"trained_ctx\": %" PRId64 ", \"norm_eps\": %.9g, \"rope_dim\": %d, ",
        c->n_vocab, c->n_layer, c->n_head, c->n_head_kv, c->head_dim, c->n_embd, c->n_ff, c->trained_ctx,
        (double)c->norm_eps, c->rope_dim);
    printf(
        "\"rope_base\": %.9g, \"rope_scaling\": %d, \"rope_factor\": %.9g, \"rope_original_ctx\": %" PRId64
        ", \"rope_attn_factor\": %.9g, \"yarn_ext_factor\": %.9g, \"yarn_beta_fast\": %.9g, \"yarn_beta_slow\": %.9g}",
        (double)c->rope_base, (int)c->rope_scaling, (double)c->rope_factor, c->rope_original_ctx,
        (double)c->rope_attn_factor, (double)c->yarn_ext_factor, (double)c->yarn_beta_fast, (double)c->yarn_beta_slow);
}

static void print_weights(const lh_weights *w, const lh_config *c) {
    int64_t q = (int64_t)c->n_head * c->head_dim, kv = (int64_t)c->n_head_kv * c->head_dim;
    printf(", \"weights\": {\"n_params\": %" PRId64 ", \"bytes\": %" PRId64 ", \"tied\": %s, ", w->n_params, w->bytes,
           w->output.data == w->embd.data ? "true" : "false");
    print_matrix("token_embd.weight", &w->embd);
    printf(", ");
    print_matrix("output.weight", &w->output);
    print_vector("output_norm.weight", w->output_norm, c->n_embd);
    print_vector("rope_freqs.weight", w->rope_freqs, c->rope_dim / 2);
    printf(", \"layers\": [");
    for (int32_t i = 0; i < c->n_layer; i++) {
        const lh_layer *l = &w->layers[i];
        const struct {
            const char *name;
            const lh_tensor *t;
        } matrices[] = {{"attn_q.weight", &l->wq},      {"attn_k.weight", &l->wk},     {"attn_v.weight", &l->wv},
                        {"attn_output.weight", &l->wo}, {"ffn_gate.weight", &l->gate}, {"ffn_up.weight", &l->up},
                        {"ffn_down.weight", &l->down}};
        printf("%s{", i ? ", " : "");
        for (size_t m = 0; m < sizeof matrices / sizeof *matrices; m++) {
            printf("%s", m ? ", " : "");
            print_matrix(matrices[m].name, matrices[m].t);
        }
        print_vector("attn_norm.weight", l->attn_norm, c->n_embd);
        print_vector("ffn_norm.weight", l->ffn_norm, c->n_embd);
        print_vector("attn_q.bias", l->bq, q);
        print_vector("attn_k.bias", l->bk, kv);
        print_vector("attn_v.bias", l->bv, kv);
        print_vector("attn_output.bias", l->bo, c->n_embd);
        printf("}");
    }
    printf("]}");
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    lh_gguf *g = NULL;
    lh_status s = lh_gguf_open(argv[1], &g);
    if (s != LH_OK) {
        printf("{\"none\": null");
        print_error("open", s);
        printf("}\n");
        return 0;
    }
    print_containers(g);
    lh_config config;
    s = lh_config_read(g, &config);
    if (s == LH_OK) {
        print_config(&config);
        lh_weights weights;
        s = lh_weights_load(g, &config, &weights);
        if (s == LH_OK) {
            print_weights(&weights, &config);
            lh_weights_free(&weights);
        } else {
            print_error("weights", s);
        }
    } else {
        print_error("config", s);
    }
    printf("}\n");
    lh_gguf_free(g);
    return 0;
}
