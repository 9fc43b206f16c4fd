// libFuzzer target: a vocabulary and a text, both from the input. Whatever they are, encoding gives ids that exist, no
// control token out of a text that is not to have any, and decoding gives back the text, in whole characters.
//
//     clang -std=c11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Iruntime -o fuzz_tokenizer
//         tests/c/fuzz_tokenizer.c runtime/{base,quant,gguf*,tokenizer*,unicode*}.c -lm
//     ./fuzz_tokenizer -max_len=600
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer_impl.h"
#include "unicode.h"

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// --- input ----------------------------------------------------------------------------------------------------------

typedef struct {
    const uint8_t *data;
    size_t size;
} input;

static uint8_t take(input *in) {
    if (in->size == 0) return 0;
    in->size--;
    return *in->data++;
}

// --- a GGUF file of metadata ----------------------------------------------------------------------------------------

typedef struct {
    char data[1 << 16];
    size_t n;
} buffer;

static void put(buffer *b, const void *data, size_t n) {
    CHECK(b->n + n <= sizeof b->data);
    if (n) memcpy(b->data + b->n, data, n);
    b->n += n;
}
static void put_u32(buffer *b, uint32_t value) { put(b, &value, sizeof value); }
static void put_u64(buffer *b, uint64_t value) { put(b, &value, sizeof value); }
static void put_string(buffer *b, const char *text, size_t len) {
    put_u64(b, len);
    put(b, text, len);
}
static void put_key(buffer *b, const char *key, uint32_t type) {
    put_string(b, key, strlen(key));
    put_u32(b, type);
}
static void put_array(buffer *b, const char *key, uint32_t type, uint64_t count) {
    put_key(b, key, LH_GGUF_ARRAY);
    put_u32(b, type);
    put_u64(b, count);
}

// A byte as byte-level BPE writes it.
static size_t spell(uint8_t byte, char out[2]) {
    int c = byte;
    if (byte <= 0x20) c = 256 + byte;
    if (byte >= 0x7F && byte <= 0xA0) c = 256 + 33 + byte - 0x7F;
    if (byte == 0xAD) c = 256 + 67;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3F));
    return 2;
}

enum { MAX_FUZZ_TOKENS = 32, MAX_FUZZ_BYTES = 12 };

typedef struct {
    bool spm, special, space_prefix, extra_spaces;
    int bos;
    struct {
        char text[2 * MAX_FUZZ_BYTES];
        size_t len;
        int32_t type;
    } tokens[MAX_FUZZ_TOKENS];
    int n_tokens, n_merges;
    uint8_t merges[MAX_FUZZ_TOKENS][2];
    uint8_t pre;
} vocabulary;

static void read_vocabulary(input *in, vocabulary *v) {
    uint8_t flags = take(in);
    v->spm = flags & 1;
    v->special = flags & 2;
    v->space_prefix = flags & 4;
    v->extra_spaces = flags & 8;
    v->bos = flags >> 4 & 1 ? -1 : flags >> 5 & 1;
    v->pre = take(in);
    v->n_tokens = take(in) % MAX_FUZZ_TOKENS;
    for (int i = 0; i < v->n_tokens; i++) {
        static const int32_t types[] = {LH_TOKEN_NORMAL, LH_TOKEN_NORMAL, LH_TOKEN_NORMAL, LH_TOKEN_CONTROL,
                                        LH_TOKEN_USER_DEFINED, LH_TOKEN_UNUSED, LH_TOKEN_UNDEFINED, LH_TOKEN_UNKNOWN};
        uint8_t kind = take(in);
        size_t n = kind / 8 % MAX_FUZZ_BYTES;
        v->tokens[i].type = types[kind % 8];
        for (size_t k = 0; k < n; k++) {
            uint8_t byte = take(in);
            char *end = v->tokens[i].text + v->tokens[i].len;
            if (!v->spm && v->tokens[i].type == LH_TOKEN_NORMAL)
                v->tokens[i].len += spell(byte, end);
            else
                *end = (char)byte, v->tokens[i].len++;
        }
    }
    v->n_merges = take(in) % MAX_FUZZ_TOKENS;
    for (int i = 0; i < v->n_merges; i++)
        for (int k = 0; k < 2; k++) v->merges[i][k] = take(in);
}

static void put_pretokenizer(buffer *b, uint8_t which) {
    char names[1000];
    lh_pretokenizer_names(names, sizeof names);
    int n = 1;
    for (const char *p = names; (p = strchr(p, ',')); p++) n++;
    const char *name = names;
    for (int i = which % n; i > 0; i--) name = strchr(name, ',') + 2;
    put_key(b, "tokenizer.ggml.pre", LH_GGUF_STRING);
    put_string(b, name, strcspn(name, ","));
}

// Ids: <unk>, <s>, </s>, the bytes, the tokens.
enum { FIRST_TOKEN = 259 };

// One side of a merge: a byte or a token.
static size_t merge_side(const vocabulary *v, uint8_t which, char *out) {
    if (v->n_tokens == 0 || which < 128) return spell(which, out);
    size_t len = v->tokens[which % v->n_tokens].len;
    memcpy(out, v->tokens[which % v->n_tokens].text, len);
    return len;
}

static void write_gguf(buffer *b, const vocabulary *v) {
    uint64_t n = FIRST_TOKEN + (uint64_t)v->n_tokens;
    put(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, 0);
    put_u64(b, 7);  // keys, of either kind
    put_key(b, "tokenizer.ggml.model", LH_GGUF_STRING);
    put_string(b, v->spm ? "llama" : "gpt2", v->spm ? 5 : 4);
    put_array(b, "tokenizer.ggml.tokens", LH_GGUF_STRING, n);
    put_string(b, "<unk>", 5);
    put_string(b, "<s>", 3);
    put_string(b, "</s>", 4);
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        size_t len = v->spm ? (size_t)snprintf(name, sizeof name, "<0x%02X>", byte) : spell((uint8_t)byte, name);
        put_string(b, name, len);
    }
    for (int i = 0; i < v->n_tokens; i++) put_string(b, v->tokens[i].text, v->tokens[i].len);
    put_array(b, "tokenizer.ggml.token_type", LH_GGUF_I32, n);
    put_u32(b, LH_TOKEN_UNKNOWN);
    put_u32(b, LH_TOKEN_CONTROL);
    put_u32(b, LH_TOKEN_CONTROL);
    for (int byte = 0; byte < 256; byte++) put_u32(b, v->spm ? LH_TOKEN_BYTE : LH_TOKEN_NORMAL);
    for (int i = 0; i < v->n_tokens; i++) put_u32(b, (uint32_t)v->tokens[i].type);
    put_key(b, "tokenizer.ggml.bos_token_id", LH_GGUF_U32);
    put_u32(b, 1);
    if (v->spm) {
        put_array(b, "tokenizer.ggml.scores", LH_GGUF_F32, n);
        for (uint64_t i = 0; i < n; i++) {
            // Any order will do, with equal scores among them; the merges' bytes give it.
            float score = i < FIRST_TOKEN ? 0 : (float)(v->merges[i - FIRST_TOKEN][0] % 8);
            put(b, &score, sizeof score);
        }
        put_key(b, "tokenizer.ggml.add_space_prefix", LH_GGUF_BOOL);
        put(b, &v->space_prefix, 1);
        put_key(b, "tokenizer.ggml.remove_extra_whitespaces", LH_GGUF_BOOL);
        put(b, &v->extra_spaces, 1);
    } else {
        put_array(b, "tokenizer.ggml.merges", LH_GGUF_STRING, (uint64_t)v->n_merges);
        for (int i = 0; i < v->n_merges; i++) {
            char merge[4 * MAX_FUZZ_BYTES + 1];
            size_t len = merge_side(v, v->merges[i][0], merge);
            merge[len++] = ' ';
            len += merge_side(v, v->merges[i][1], merge + len);
            put_string(b, merge, len);
        }
        put_pretokenizer(b, v->pre);
        put_key(b, "tokenizer.ggml.eos_token_id", LH_GGUF_U32);
        put_u32(b, 2);
    }
}

// --- promises -------------------------------------------------------------------------------------------------------

static size_t unmark(char *text, size_t len) {
    size_t n = 0;
    for (size_t i = 0; i < len; n++) {
        bool mark = len - i >= 3 && memcmp(text + i, "▁", 3) == 0;
        text[n] = mark ? ' ' : text[i];
        i += mark ? 3 : 1;
    }
    return n;
}

static void check_text(const lh_tokenizer *t, const vocabulary *v, const char *text, size_t len) {
    int64_t n, again;
    CHECK(lh_tokenize(t, text, len, v->bos, v->special, NULL, 0, &n) == LH_OK);
    int32_t *ids = malloc(sizeof *ids * (size_t)(n + 1));
    CHECK(ids && lh_tokenize(t, text, len, v->bos, v->special, ids, n, &again) == LH_OK && again == n);
    CHECK(n <= (int64_t)len * 2 + 4);
    bool adds = v->bos == 1 || (v->bos == -1 && lh_tokenizer_adds_bos(t));
    CHECK(!adds || (n > 0 && ids[0] == 1));

    // The bytes of all tokens are the text.
    char *whole = calloc(len * 2 + 64, 1), *expected = malloc(len + 1);
    size_t n_whole = 0;
    CHECK(whole && expected);
    for (int64_t i = adds; i < n; i++) {
        CHECK(ids[i] >= 0 && ids[i] < lh_tokenizer_n_vocab(t));
        CHECK(v->special || (!lh_tokenizer_is_control(t, ids[i]) && ids[i] != 0));
        const char *bytes;
        size_t n_bytes;
        CHECK(lh_token_bytes(t, ids[i], &bytes, &n_bytes) == LH_OK && n_whole + n_bytes <= len * 2 + 64);
        memcpy(whole + n_whole, bytes, n_bytes);
        n_whole += n_bytes;
    }
    size_t n_expected = len;
    if (len) memcpy(expected, text, len);
    if (v->spm) n_expected = unmark(expected, n_expected), n_whole = unmark(whole, n_whole);
    if (!v->spm || (!v->space_prefix && !v->extra_spaces))
        CHECK(n_whole == n_expected && memcmp(whole, expected, n_whole) == 0);

    // Whole characters, whatever the order of the tokens.
    lh_detokenizer *d;
    CHECK(lh_detokenizer_new(t, v->special, &d) == LH_OK);
    for (int64_t i = n; i >= 0; i--) {
        const char *out;
        size_t n_out;
        lh_status s = i > 0 ? lh_detokenizer_push(d, ids[i - 1], &out, &n_out) : lh_detokenizer_flush(d, &out, &n_out);
        CHECK(s == LH_OK);
        for (size_t k = 0; k < n_out;) {
            int32_t code_point;
            k += lh_utf8_decode(out + k, n_out - k, &code_point);
            CHECK(code_point >= 0);
        }
    }
    lh_detokenizer_free(d);
    free(expected);
    free(whole);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    vocabulary v = {0};
    read_vocabulary(&in, &v);
    buffer *b = calloc(1, sizeof *b);
    CHECK(b);
    write_gguf(b, &v);
    lh_gguf *g;
    CHECK(lh_gguf_parse(b->data, b->n, &g) == LH_OK);
    lh_tokenizer *t;
    lh_status status = lh_tokenizer_from_gguf(g, &t);
    lh_gguf_free(g);
    free(b);  // the tokenizer has copies
    if (status == LH_OK) {
        // Allocated to the byte, so that a read past the end is seen.
        char *text = malloc(in.size ? in.size : 1);
        CHECK(text);
        if (in.size) memcpy(text, in.data, in.size);
        check_text(t, &v, text, in.size);
        free(text);
    } else {
        CHECK(strlen(lh_last_error()) > 10);
    }
    lh_tokenizer_free(t);
    return 0;
}
