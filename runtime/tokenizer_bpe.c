// Byte-level BPE: the text is split into words, the bytes of a word are symbols, and neighbours merge by the rank of
// their merge. Tokens are kept as the bytes they stand for, so the alphabet in which files write bytes as printable
// characters does not occur here.
#include "tokenizer_impl.h"

static bool merge_rule(const lh_tokenizer *t, const char *text, const lh_symbol *left, const lh_symbol *right,
                       uint32_t *rank, int32_t *merged) {
    (void)text;
    const struct lh_merge_slot *m = lh_merge_find(t, left->id, right->id);
    if (!m) return false;
    *rank = m->rank;
    *merged = m->merged;
    return true;
}

static lh_status encode_word(void *arg, const char *word, size_t len) {
    lh_encoder *e = arg;
    if (e->t->ignore_merges) {
        int32_t id = lh_token_find(e->t, word, len);
        if (id >= 0) {
            lh_encoder_put(e, id);
            return LH_OK;
        }
    }
    lh_symbols_clear(e);
    for (size_t i = 0; i < len; i++) LH_TRY(lh_symbols_add(e, i, 1, e->t->byte_ids[(uint8_t)word[i]]));
    LH_TRY(lh_merge_symbols(e, word, merge_rule));
    // A byte that the vocabulary lacks is left out, as everywhere else: there is no id for it.
    for (int32_t i = 0; i >= 0; i = e->symbols[i].next)
        if (e->symbols[i].id >= 0) lh_encoder_put(e, e->symbols[i].id);
    return LH_OK;
}

lh_status lh_bpe_encode(lh_encoder *e, const char *text, size_t len) {
    return lh_pretokenize(e->t->pretokenizer, text, len, encode_word, e);
}
