// What the files of the tokenizer share.
//
//   tokenizer          the public calls: text to ids, questions about ids
//   tokenizer_vocab    GGUF metadata to lh_tokenizer; looking tokens and merges up
//   tokenizer_special  control and user-defined tokens written in a text
//   tokenizer_merge    the loop both algorithms are: merge the best pair of neighbours until there is none
//   tokenizer_spm      SentencePiece BPE
//   tokenizer_pre      a text into words, as the model's pre-tokenizer does
//   tokenizer_bpe      byte-level BPE
//   tokenizer_decode   ids to text, one at a time
#ifndef LH_TOKENIZER_IMPL_H
#define LH_TOKENIZER_IMPL_H

#include "tokenizer.h"

// As the file numbers them.
typedef enum lh_token_type {
    LH_TOKEN_UNDEFINED = 0, LH_TOKEN_NORMAL = 1, LH_TOKEN_UNKNOWN = 2, LH_TOKEN_CONTROL = 3, LH_TOKEN_USER_DEFINED = 4,
    LH_TOKEN_UNUSED = 5, LH_TOKEN_BYTE = 6,
} lh_token_type;

typedef enum lh_tokenizer_model { LH_TOKENIZER_SPM, LH_TOKENIZER_BPE } lh_tokenizer_model;

typedef struct lh_pretokenizer lh_pretokenizer;

// Bytes -> id. Open addressing; a power of two of slots, at most half of them full.
typedef struct lh_token_map {
    struct lh_token_slot {
        uint32_t hash;
        int32_t id;              // -1: free
    } *slots;
    uint32_t mask;
} lh_token_map;

// Two neighbours -> the token they merge into. Open addressing, like the map.
typedef struct lh_merge_map {
    struct lh_merge_slot {
        int32_t left, right;     // left -1: free
        int32_t merged;
        uint32_t rank;           // lower is merged earlier
    } *slots;
    uint32_t mask;
} lh_merge_map;

// Tokens recognised in a text before anything else, sorted by their text.
typedef struct lh_special_set {
    struct lh_special {
        const char *text;
        uint32_t len;
        int32_t id;
    } *items;
    int32_t n;
    int32_t first[257];          // items that begin with byte b are [first[b], first[b + 1])
} lh_special_set;

struct lh_tokenizer {
    lh_tokenizer_model model;
    int32_t n_vocab;
    char *bytes;                 // what the tokens stand for, one after the other
    uint32_t *offsets;           // (n_vocab + 1) into bytes
    uint8_t *types;              // (n_vocab) lh_token_type
    bool *ends;                  // (n_vocab) ends a generation
    uint32_t longest;            // bytes of the longest token
    int32_t bos, eos, unknown;   // -1: none
    bool add_bos, add_eos, add_space_prefix;
    char *special_text;          // texts of the special tokens as the file writes them
    lh_special_set special[2];   // user-defined tokens; control and unknown tokens with them
    uint64_t multiplier;         // of the maps' hashes
    lh_token_map map;            // tokens that text may become: all but control, unknown and byte tokens
    // SentencePiece
    uint32_t *ranks;             // (n_vocab) by score, the best is 0
    int32_t byte_ids[256];       // the token of a byte; -1: none. Byte-level BPE: the token of one byte of text
    bool words_are_apart;        // no token has a space after something else
    bool remove_extra_spaces;    // runs become one space, those at either end go
    // byte-level BPE
    const lh_pretokenizer *pretokenizer;
    bool ignore_merges;          // a word that is a token is that token
    lh_merge_map merges;
};

static inline const char *lh_token_start(const lh_tokenizer *t, int32_t id, uint32_t *len) {
    *len = t->offsets[id + 1] - t->offsets[id];
    return t->bytes + t->offsets[id];
}

// The token with these bytes, or -1.
int32_t lh_token_find(const lh_tokenizer *t, const char *bytes, size_t len);
// The merge of two tokens, or NULL.
const struct lh_merge_slot *lh_merge_find(const lh_tokenizer *t, int32_t left, int32_t right);

// --- one call of lh_tokenize ----------------------------------------------------------------------------------------

// A heap, lowest key first.
typedef struct lh_heap {
    struct lh_heap_item {
        uint64_t key;
        uint32_t len;
        int32_t id;
    } *items;
    size_t n, cap;
} lh_heap;

lh_status lh_heap_push(lh_heap *h, struct lh_heap_item item);
struct lh_heap_item lh_heap_pop(lh_heap *h);

// A piece of text that only grows: it absorbs its right neighbour, whose len becomes 0.
typedef struct lh_symbol {
    uint32_t start, len;         // bytes of the text
    int32_t prev, next;          // -1: none
    int32_t id;                  // -1: no token (yet)
} lh_symbol;

typedef struct lh_encoder {
    const lh_tokenizer *t;
    int32_t *ids;                // (cap) of the caller
    int64_t cap, n;              // n counts on past cap
    lh_symbol *symbols;          // (n_symbols)
    size_t n_symbols, cap_symbols;
    lh_heap heap;
    char *text;                  // SentencePiece: the text with its spaces settled
    size_t cap_text;
} lh_encoder;

static inline void lh_encoder_put(lh_encoder *e, int32_t id) {
    if (e->n < e->cap) e->ids[e->n] = id;
    e->n++;
}

// Room for `need` items of `size` bytes at *items, keeping the first `used`.
lh_status lh_reserve(void *items, size_t *cap, size_t need, size_t used, size_t size);

// Start a chain of symbols, and add one to its end.
static inline void lh_symbols_clear(lh_encoder *e) { e->n_symbols = 0; }
lh_status lh_symbols_add(lh_encoder *e, size_t start, size_t len, int32_t id);

// What two neighbours merge into, if they do.
typedef bool (*lh_merge_rule)(const lh_tokenizer *t, const char *text, const lh_symbol *left, const lh_symbol *right,
                              uint32_t *rank, int32_t *merged);
// Merge neighbours, lowest rank first, the leftmost of equals, until no two merge. Follow `next` from symbol 0 for what
// is left. O(n log n).
lh_status lh_merge_symbols(lh_encoder *e, const char *text, lh_merge_rule rule);

// Ids of a stretch of text, len >= 1, that holds no special token and begins the text or follows one.
lh_status lh_spm_encode(lh_encoder *e, const char *text, size_t len);
lh_status lh_bpe_encode(lh_encoder *e, const char *text, size_t len);

// --- special tokens -------------------------------------------------------------------------------------------------

// A special token written at text[start, start + len).
typedef struct lh_special_match {
    size_t start, len;
    int32_t id;
} lh_special_match;

// From all tokens that have a true in `wanted`.
lh_status lh_special_build(lh_special_set *set, const struct lh_special *all, int32_t n, const bool *wanted);
// In order of start; *matches is the caller's to lh_free. The longest tokens are matched first wherever they are, then
// the next longer ones in what is left.
lh_status lh_special_find(const lh_special_set *set, const char *text, size_t len, lh_special_match **matches,
                          size_t *n);

// --- pre-tokenizers -------------------------------------------------------------------------------------------------

// One regular expression of a pre-tokenizer: where the first piece of [p, end), p < end, ends. A piece is a match, or
// what lies before the first match.
typedef const char *(*lh_split_rule)(const char *p, const char *end);

struct lh_pretokenizer {
    const char *name;
    lh_split_rule rules[8];      // each splits the pieces of the one before; NULL ends them
    bool ignore_merges, add_bos; // what else goes by this name
};

// NULL: none has this name.
const lh_pretokenizer *lh_pretokenizer_find(const char *name, size_t len);
// All names, for a message; as many as fit.
void lh_pretokenizer_names(char *out, size_t cap);
// Call `word` for one word after the other; they cover the text.
typedef lh_status (*lh_word_fn)(void *arg, const char *word, size_t len);
lh_status lh_pretokenize(const lh_pretokenizer *p, const char *text, size_t len, lh_word_fn word, void *arg);

#endif
