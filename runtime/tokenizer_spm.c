// SentencePiece BPE: neighbours merge into the token of the best score; what is no token falls back to its bytes.
//
// Spaces stand for themselves here. SentencePiece writes them as U+2581, in tokens and in text, so that mark and a
// space are the same thing to it; tokens had theirs replaced when they were loaded, text has it done below.
#include <string.h>

#include "tokenizer_impl.h"
#include "unicode.h"

static bool merge_rule(const lh_tokenizer *t, const char *text, const lh_symbol *left, const lh_symbol *right,
                       uint32_t *rank, int32_t *merged) {
    uint32_t len = left->len + right->len;
    if (len > t->longest) return false;
    *merged = lh_token_find(t, text + left->start, len);
    if (*merged < 0) return false;
    *rank = t->ranks[*merged];
    return true;
}

static void put_symbol(lh_encoder *e, const char *text, const lh_symbol *s) {
    if (s->id >= 0) {
        lh_encoder_put(e, s->id);
        return;
    }
    bool bytes = true;
    for (uint32_t i = 0; i < s->len; i++) bytes &= e->t->byte_ids[(uint8_t)text[s->start + i]] >= 0;
    if (bytes)
        for (uint32_t i = 0; i < s->len; i++) lh_encoder_put(e, e->t->byte_ids[(uint8_t)text[s->start + i]]);
    else if (e->t->unknown >= 0)
        lh_encoder_put(e, e->t->unknown);
}

static lh_status encode_word(lh_encoder *e, const char *word, size_t len) {
    lh_symbols_clear(e);
    for (size_t i = 0; i < len;) {
        int32_t code_point;
        // Bytes that are no UTF-8 are symbols of their own, so that the byte tokens keep them.
        size_t n = lh_utf8_decode(word + i, len - i, &code_point);
        if (code_point < 0) n = 1;
        LH_TRY(lh_symbols_add(e, i, n, lh_token_find(e->t, word + i, n)));
        i += n;
    }
    LH_TRY(lh_merge_symbols(e, word, merge_rule));
    for (int32_t i = 0; i >= 0; i = e->symbols[i].next) put_symbol(e, word, &e->symbols[i]);
    return LH_OK;
}

// Where the word at text[0, len) ends: no merge can cross from a character to a space behind it.
static size_t word_length(const lh_tokenizer *t, const char *text, size_t len) {
    if (!t->words_are_apart) return len;
    for (size_t i = 1; i < len; i++)
        if (text[i] == ' ' && text[i - 1] != ' ') return i;
    return len;
}

lh_status lh_spm_encode(lh_encoder *e, const char *text, size_t len) {
    const lh_tokenizer *t = e->t;
    LH_TRY(lh_reserve(&e->text, &e->cap_text, len + 1, 0, 1));
    size_t n = 0;
    if (t->add_space_prefix) e->text[n++] = ' ';
    for (size_t i = 0; i < len;) {
        bool mark = len - i >= 3 && memcmp(text + i, "▁", 3) == 0, space = mark || text[i] == ' ';
        bool extra = t->remove_extra_spaces && space && (n == 0 || e->text[n - 1] == ' ');
        if (!extra) e->text[n++] = space ? ' ' : text[i];
        i += mark ? 3 : 1;
    }
    if (t->remove_extra_spaces && n > 0 && e->text[n - 1] == ' ') n--;
    for (size_t i = 0, word; i < n; i += word) {
        word = word_length(t, e->text + i, n - i);
        LH_TRY(encode_word(e, e->text + i, word));
    }
    return LH_OK;
}
