#include "tokenizer_impl.h"

lh_status lh_tokenizer_open(const char *path, lh_tokenizer **out) {
    if (!path || !out) return lh_error(LH_ERR_ARGUMENT, "lh_tokenizer_open needs a path and a place for the tokenizer");
    *out = NULL;
    lh_gguf *g;
    LH_TRY(lh_gguf_open(path, &g));
    lh_status status = lh_tokenizer_from_gguf(g, out);
    lh_gguf_free(g);
    return status == LH_OK ? LH_OK : lh_error_context(status, "%s", path);
}

int32_t lh_tokenizer_n_vocab(const lh_tokenizer *t) { return t->n_vocab; }
int32_t lh_tokenizer_bos(const lh_tokenizer *t) { return t->bos; }
int32_t lh_tokenizer_eos(const lh_tokenizer *t) { return t->eos; }
bool lh_tokenizer_adds_bos(const lh_tokenizer *t) { return t->add_bos; }

bool lh_tokenizer_is_end(const lh_tokenizer *t, int32_t id) { return id >= 0 && id < t->n_vocab && t->ends[id]; }

bool lh_tokenizer_is_control(const lh_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_vocab && t->types[id] == LH_TOKEN_CONTROL;
}

lh_status lh_token_bytes(const lh_tokenizer *t, int32_t id, const char **bytes, size_t *len) {
    if (id < 0 || id >= t->n_vocab)
        return lh_error(LH_ERR_ARGUMENT, "token %d does not exist: ids lie in [0, %d)", id, t->n_vocab);
    uint32_t n;
    *bytes = lh_token_start(t, id, &n);
    *len = n;
    return LH_OK;
}

// A stretch without special tokens: the text begins with it, or it follows one.
static lh_status encode_plain(lh_encoder *e, const char *text, size_t len) {
    if (len == 0) return LH_OK;
    return e->t->model == LH_TOKENIZER_SPM ? lh_spm_encode(e, text, len) : lh_bpe_encode(e, text, len);
}

static lh_status encode(lh_encoder *e, const char *text, size_t len, bool special) {
    lh_special_match *matches;
    size_t n, done = 0;
    LH_TRY(lh_special_find(&e->t->special[special], text, len, &matches, &n));
    lh_status status = LH_OK;
    for (size_t i = 0; i < n && status == LH_OK; i++) {
        status = encode_plain(e, text + done, matches[i].start - done);
        lh_encoder_put(e, matches[i].id);
        done = matches[i].start + matches[i].len;
    }
    if (status == LH_OK) status = encode_plain(e, text + done, len - done);
    lh_free(matches);
    return status;
}

lh_status lh_tokenize(const lh_tokenizer *t, const char *text, size_t len, int bos, bool special, int32_t *ids,
                      int64_t cap, int64_t *n) {
    if (!t || !n || (!text && len > 0) || (!ids && cap > 0) || bos < -1 || bos > 1)
        return lh_error(LH_ERR_ARGUMENT, "lh_tokenize needs a tokenizer, a text, room for ids, and bos in -1..1");
    *n = 0;
    // Positions are 32-bit numbers.
    if (len >= INT32_MAX)
        return lh_error(LH_ERR_ARGUMENT, "a text of %zu bytes is too long, at most %d: tokenize it in parts", len,
                        INT32_MAX - 1);
    if (bos == 1 && t->bos < 0)
        return lh_error(LH_ERR_ARGUMENT, "this vocabulary has no token that begins a text (BOS): tokenize without it");
    lh_encoder e = {.t = t, .ids = ids, .cap = cap};
    if (bos == 1 || (bos == -1 && t->add_bos)) lh_encoder_put(&e, t->bos);
    lh_status status = text ? encode(&e, text, len, special) : LH_OK;
    if (bos == -1 && t->add_eos) lh_encoder_put(&e, t->eos);
    lh_free(e.symbols);
    lh_free(e.heap.items);
    lh_free(e.text);
    if (status == LH_OK) *n = e.n;
    return status;
}
