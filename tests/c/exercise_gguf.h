// Everything a program does with a GGUF file before it computes: parse, configuration, weights, vocabulary. Reads every
// byte that they promise, so that a sanitizer sees a promise that is not kept, and checks that what fails says why.
// For the fuzzer and for the driver of hostile files.
#ifndef EXERCISE_GGUF_H
#define EXERCISE_GGUF_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "tokenizer.h"
#include "weights.h"

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

// How far the file came: 0 refused by the parse, 1 parsed, 2 with a configuration, 3 with weights.
typedef struct exercised {
    int level;
    bool tokenizer;
    uint64_t sum;  // over all bytes, so that reading them is not optimised away
} exercised;

static uint64_t sum_bytes(const void *data, uint64_t n) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) sum = sum * 31 + ((const uint8_t *)data)[i];
    return sum;
}

// A failed call leaves a sentence, fit for a terminal.
static bool ok(lh_status s) {
    const char *message = lh_last_error();
    if (s != LH_OK) CHECK(strlen(message) > 10);
    if (s != LH_OK)
        for (const char *p = message; *p; p++) CHECK(*p >= 0x20 && *p < 0x7f);
    lh_error(LH_OK, "%s", "");
    return s == LH_OK;
}

static uint64_t read_containers(const lh_gguf *g) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < lh_gguf_n_metadata(g); i++) {
        const lh_metadata *m = lh_gguf_metadata_at(g, i);
        CHECK(lh_gguf_metadata(g, m->key) == m);
        sum += sum_bytes(m->key, strlen(m->key)) + sum_bytes(m->data, m->size);
        if (m->type == LH_GGUF_ARRAY && m->elem_type == LH_GGUF_STRING) {
            const void *cursor = NULL;
            uint64_t count = 0;
            CHECK(lh_gguf_array(g, m->key, LH_GGUF_STRING, &cursor, &count) == LH_OK && count == m->count);
            for (uint64_t k = 0; k < count; k++) {
                const char *text;
                size_t len;
                lh_gguf_next_string(&cursor, &text, &len);
                sum += sum_bytes(text, len);
            }
            CHECK(cursor == (const char *)m->data + m->size);
        }
        int64_t integer = 7;
        float real = 7;
        bool truth = false;
        const char *text = "";
        size_t len = 0;
        sum += ok(lh_gguf_int(g, m->key, &integer)) + ok(lh_gguf_float(g, m->key, &real));
        sum += ok(lh_gguf_bool(g, m->key, &truth)) + ok(lh_gguf_string(g, m->key, &text, &len));
        sum += (uint64_t)integer + (uint64_t)(real > 0) + truth + sum_bytes(text, len);
    }
    for (int64_t i = 0; i < lh_gguf_n_tensors(g); i++) {
        const lh_gguf_tensor *t = lh_gguf_tensor_at(g, i);
        CHECK(lh_gguf_find_tensor(g, t->name) == t);
        CHECK((uintptr_t)t->data % 8 == 0);
        sum += sum_bytes(t->name, strlen(t->name)) + sum_bytes(t->data, t->size);
    }
    return sum;
}

static uint64_t read_matrix(const lh_tensor *t) { return sum_bytes(t->data, (uint64_t)t->n_rows * t->row_size); }

static uint64_t read_vector(const float *v, int64_t n) { return v ? sum_bytes(v, (uint64_t)n * sizeof *v) : 0; }

static uint64_t read_weights(const lh_weights *w, const lh_config *c) {
    int64_t q = (int64_t)c->n_head * c->head_dim, kv = (int64_t)c->n_head_kv * c->head_dim;
    uint64_t sum = read_matrix(&w->embd) + read_matrix(&w->output) + read_vector(w->output_norm, c->n_embd) +
                   read_vector(w->rope_freqs, c->rope_dim / 2);
    for (int32_t i = 0; i < c->n_layer; i++) {
        const lh_layer *l = &w->layers[i];
        sum += read_vector(l->attn_norm, c->n_embd) + read_vector(l->ffn_norm, c->n_embd);
        sum += read_matrix(&l->wq) + read_matrix(&l->wk) + read_matrix(&l->wv) + read_matrix(&l->wo);
        sum += read_matrix(&l->gate) + read_matrix(&l->up) + read_matrix(&l->down);
        sum += read_vector(l->bq, q) + read_vector(l->bk, kv) + read_vector(l->bv, kv) + read_vector(l->bo, c->n_embd);
    }
    return sum;
}

static uint64_t use_tokenizer(const lh_tokenizer *t) {
    static const char text[] = " Hello  w\xc3\xb6rld\n\t123 \xf0\x9f\x98\x80\xff <s> [INST]";
    int32_t ids[256];
    int64_t n = 0;
    uint64_t sum = 0;
    if (ok(lh_tokenize(t, text, sizeof text - 1, -1, true, ids, 256, &n)))
        for (int64_t i = 0; i < n && i < 256; i++) CHECK(ids[i] >= 0 && ids[i] < lh_tokenizer_n_vocab(t));
    for (int32_t id = 0; id < lh_tokenizer_n_vocab(t); id++) {
        const char *bytes = NULL;
        size_t len = 0;
        if (ok(lh_token_bytes(t, id, &bytes, &len))) sum += sum_bytes(bytes, len);
    }
    // All tokens as text, in an order that breaks characters apart, then back to ids.
    lh_detokenizer *d = NULL;
    CHECK(ok(lh_detokenizer_new(t, true, &d)));
    for (int64_t i = 0; i < 2 * (int64_t)lh_tokenizer_n_vocab(t); i++) {
        const char *piece = NULL;
        size_t len = 0;
        CHECK(ok(lh_detokenizer_push(d, (int32_t)(i * 7 % lh_tokenizer_n_vocab(t)), &piece, &len)));
        sum += sum_bytes(piece, len);
        if (ok(lh_tokenize(t, piece, len, 0, i % 2, ids, 256, &n))) sum += (uint64_t)n;
    }
    lh_detokenizer_free(d);
    return sum;
}

// memory: 8-byte aligned.
static exercised exercise_gguf(const void *memory, size_t size) {
    exercised e = {0};
    lh_gguf *g = NULL;
    if (!ok(lh_gguf_parse(memory, size, &g))) {
        CHECK(!g);
        return e;
    }
    e.level = 1;
    e.sum += read_containers(g);
    lh_config config;
    if (ok(lh_config_read(g, &config))) {
        e.level = 2;
        lh_weights weights;
        if (ok(lh_weights_load(g, &config, &weights))) {
            e.level = 3;
            e.sum += read_weights(&weights, &config);
        }
        lh_weights_free(&weights);
    }
    lh_tokenizer *tokenizer = NULL;
    if (ok(lh_tokenizer_from_gguf(g, &tokenizer))) {
        e.tokenizer = true;
        lh_gguf_free(g);  // the tokenizer has copies of its own
        g = NULL;
        e.sum += use_tokenizer(tokenizer);
    }
    lh_tokenizer_free(tokenizer);
    lh_gguf_free(g);
    return e;
}

#endif
