// Ids to text, never half a character.
#include <string.h>

#include "tokenizer_impl.h"
#include "unicode.h"

struct lh_detokenizer {
    const lh_tokenizer *t;
    bool special;
    bool at_start;               // no text yet, so a space may be the prefix that tokenizing puts there
    char *bytes;                 // what is not yet a character, at most 3 bytes, and room for the longest token
    size_t n_bytes;
    char *text;                  // what the last call gave; each of its bytes may have become a U+FFFD
};

lh_status lh_detokenizer_new(const lh_tokenizer *t, bool special, lh_detokenizer **out) {
    *out = NULL;
    lh_detokenizer *d = lh_alloc(1, sizeof *d);
    if (!d) return LH_ERR_MEMORY;
    *d = (lh_detokenizer){.t = t, .special = special, .at_start = t->add_space_prefix};
    size_t room = (size_t)t->longest + 3;
    d->bytes = lh_alloc(room, 1);
    d->text = lh_alloc(room, 3);
    if (!d->bytes || !d->text) {
        lh_detokenizer_free(d);
        return LH_ERR_MEMORY;
    }
    *out = d;
    return LH_OK;
}

void lh_detokenizer_free(lh_detokenizer *d) {
    if (!d) return;
    lh_free(d->bytes);
    lh_free(d->text);
    lh_free(d);
}

// Move whole characters from bytes to text; what cannot become one moves as U+FFFD. last: nothing follows.
static size_t give(lh_detokenizer *d, bool last) {
    size_t n = 0, i = 0;
    while (i < d->n_bytes) {
        int32_t code_point;
        size_t len = lh_utf8_decode(d->bytes + i, d->n_bytes - i, &code_point);
        if (code_point == LH_UTF8_TRUNCATED && !last) break;
        const char *character = code_point < 0 ? "\xEF\xBF\xBD" : d->bytes + i;
        size_t size = code_point < 0 ? 3 : len;
        memcpy(d->text + n, character, size);
        n += size;
        i += len;
    }
    d->n_bytes -= i;
    memmove(d->bytes, d->bytes + i, d->n_bytes);
    return n;
}

lh_status lh_detokenizer_push(lh_detokenizer *d, int32_t id, const char **text, size_t *len) {
    const char *bytes;
    size_t n;
    LH_TRY(lh_token_bytes(d->t, id, &bytes, &n));
    lh_token_type type = d->t->types[id];
    bool hidden = !d->special && (type == LH_TOKEN_CONTROL || type == LH_TOKEN_UNKNOWN);
    if (!hidden && n > 0) {
        bool prefix = d->at_start && bytes[0] == ' ';
        memcpy(d->bytes + d->n_bytes, bytes + prefix, n - prefix);
        d->n_bytes += n - prefix;
        d->at_start = false;
    }
    *text = d->text;
    *len = hidden ? 0 : give(d, false);
    return LH_OK;
}

lh_status lh_detokenizer_flush(lh_detokenizer *d, const char **text, size_t *len) {
    *text = d->text;
    *len = give(d, true);
    d->at_start = d->t->add_space_prefix;
    return LH_OK;
}
