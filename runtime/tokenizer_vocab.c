// From GGUF metadata to a tokenizer. Every id, length and count of the file is checked here.
#define _DEFAULT_SOURCE
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tokenizer_impl.h"
#include "unicode.h"

// Far more than any vocabulary has.
enum { MAX_TOKENS = 1 << 24, MAX_MERGES = 1 << 26 };

// Tokens that end a generation whatever the file says about them: ends of a turn, of a message, of a text, and marks
// that code models put between files. Many files give their type wrong, so they are control tokens by their text.
static const char *const end_texts[] = {
    "</s>", "<eos>", "[EOS]", "<EOT>", "_<EOT>", "[EOT]", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>",
    "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
};

// Tokens that begin a turn or name its speaker. Files that call them user-defined would have every document that quotes
// them speak as whoever it likes: they are control tokens.
static const char *const turn_texts[] = {
    "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<|start|>", "<|message|>",
    "<|channel|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "[INST]", "[/INST]",
    "<｜User｜>", "<｜Assistant｜>",
};

// --- look-up --------------------------------------------------------------------------------------------------------

// What hashes multiply by: odd, and drawn anew for every tokenizer, so that no file can be built for all its tokens to
// meet in one slot.
static uint64_t draw_multiplier(void) {
    uint64_t drawn;
    if (getentropy(&drawn, sizeof drawn) != 0) drawn = (uint64_t)(uintptr_t)&drawn * 0x9E3779B97F4A7C15u;
    return drawn | 1;
}

static uint32_t hash_bytes(const lh_tokenizer *t, const char *bytes, size_t len) {
    uint64_t h = len;
    for (size_t i = 0; i < len; i++) h = (h ^ h >> 32 ^ (uint8_t)bytes[i]) * t->multiplier;
    return (uint32_t)(h >> 32);
}

// The slot that has these bytes, or the free one where they belong.
static struct lh_token_slot *token_slot(const lh_tokenizer *t, const char *bytes, size_t len, uint32_t hash) {
    for (uint32_t i = hash & t->map.mask;; i = (i + 1) & t->map.mask) {
        struct lh_token_slot *s = &t->map.slots[i];
        if (s->id < 0) return s;
        if (s->hash != hash) continue;
        uint32_t n;
        const char *other = lh_token_start(t, s->id, &n);
        if (n == len && memcmp(other, bytes, len) == 0) return s;
    }
}

int32_t lh_token_find(const lh_tokenizer *t, const char *bytes, size_t len) {
    return token_slot(t, bytes, len, hash_bytes(t, bytes, len))->id;
}

static struct lh_merge_slot *merge_slot(const lh_tokenizer *t, int32_t left, int32_t right) {
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * t->multiplier;
    for (uint32_t i = (uint32_t)(hash >> 32) & t->merges.mask;; i = (i + 1) & t->merges.mask) {
        struct lh_merge_slot *s = &t->merges.slots[i];
        if (s->left < 0 || (s->left == left && s->right == right)) return s;
    }
}

const struct lh_merge_slot *lh_merge_find(const lh_tokenizer *t, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return NULL;
    const struct lh_merge_slot *s = merge_slot(t, left, right);
    return s->left < 0 ? NULL : s;
}

// Slots for n entries.
static uint32_t slots_for(uint64_t n) {
    uint32_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

// --- reading --------------------------------------------------------------------------------------------------------

// The file's side of the vocabulary, while it is being read.
typedef struct {
    const lh_gguf *g;
    struct {
        const char *text;
        size_t len;
    } *tokens;                   // (n_vocab)
    const void *types;           // (n_vocab) int32, unaligned; NULL: the file has none
    const void *scores;          // (n_vocab) float, unaligned
} source;

static lh_status read_model(lh_tokenizer *t, source *s) {
    const char *name = NULL;
    size_t len = 0;
    LH_TRY(lh_gguf_string(s->g, "tokenizer.ggml.model", &name, &len));
    if (!name)
        return lh_error(LH_ERR_FORMAT, "tokenizer.ggml.model is missing: the file has no vocabulary, convert the model "
                                       "again");
    if (len == 5 && memcmp(name, "llama", 5) == 0)
        t->model = LH_TOKENIZER_SPM;
    else if (len == 4 && memcmp(name, "gpt2", 4) == 0)
        t->model = LH_TOKENIZER_BPE;
    else
        return lh_error(LH_ERR_UNSUPPORTED, "the tokenizer is %s, expected 'llama' (SentencePiece BPE) or 'gpt2' "
                                            "(byte-level BPE)", lh_quote(name, len).text);
    return LH_OK;
}

// An array that has to be as long as the vocabulary; NULL if the file lacks it.
static lh_status read_parallel(const lh_tokenizer *t, const source *s, const char *key, lh_gguf_type type,
                               const void **data) {
    uint64_t count = 0;
    LH_TRY(lh_gguf_array(s->g, key, type, data, &count));
    if (*data && count != (uint64_t)t->n_vocab)
        return lh_error(LH_ERR_FORMAT, "%s has %" PRIu64 " entries, expected one for each of the %d tokens", key, count,
                        t->n_vocab);
    return LH_OK;
}

static lh_status read_tokens(lh_tokenizer *t, source *s) {
    const void *cursor = NULL;
    uint64_t count = 0, total = 0;
    LH_TRY(lh_gguf_array(s->g, "tokenizer.ggml.tokens", LH_GGUF_STRING, &cursor, &count));
    if (count == 0 || count > MAX_TOKENS)
        return lh_error(LH_ERR_FORMAT, "tokenizer.ggml.tokens has %" PRIu64 " tokens, expected 1 to %d", count,
                        MAX_TOKENS);
    t->n_vocab = (int32_t)count;
    s->tokens = lh_alloc(count, sizeof *s->tokens);
    if (!s->tokens) return LH_ERR_MEMORY;
    for (uint64_t i = 0; i < count; i++) {
        lh_gguf_next_string(&cursor, &s->tokens[i].text, &s->tokens[i].len);
        total += s->tokens[i].len;
    }
    if (total > INT32_MAX)
        return lh_error(LH_ERR_FORMAT, "the tokens take %" PRIu64 " bytes, expected less than 2 GiB", total);
    LH_TRY(read_parallel(t, s, "tokenizer.ggml.token_type", LH_GGUF_I32, &s->types));
    LH_TRY(read_parallel(t, s, "tokenizer.ggml.scores", LH_GGUF_F32, &s->scores));
    if (t->model == LH_TOKENIZER_SPM && !s->scores)
        return lh_error(LH_ERR_FORMAT, "tokenizer.ggml.scores is missing, and a 'llama' tokenizer needs it");
    t->bytes = lh_alloc((size_t)total, 1);
    t->offsets = lh_alloc(count + 1, sizeof *t->offsets);
    t->types = lh_alloc(count, sizeof *t->types);
    t->ends = lh_alloc(count, sizeof *t->ends);
    return t->bytes && t->offsets && t->types && t->ends ? LH_OK : LH_ERR_MEMORY;
}

// The id that `key` gives, `otherwise` where there is no such key; -1 for none, which some files write as 2^32 - 1.
static lh_status read_id(const lh_tokenizer *t, const source *s, const char *key, int32_t otherwise, int32_t *id) {
    int64_t value = otherwise < t->n_vocab ? otherwise : -1;
    LH_TRY(lh_gguf_int(s->g, key, &value));
    if (value == UINT32_MAX) value = -1;
    if (value < -1 || value >= t->n_vocab)
        return lh_error(LH_ERR_FORMAT, "%s is %" PRId64 ", expected a token id below %d", key, value, t->n_vocab);
    *id = (int32_t)value;
    return LH_OK;
}

// Whether to put a token around a text: the file's word, else the tokenizer's custom as far as there is such a token.
static lh_status read_add(const source *s, const char *key, bool custom, int32_t id, const char *id_key, bool *add) {
    bool asked = false;
    LH_TRY(lh_gguf_bool(s->g, key, &asked));
    if (asked && id < 0) return lh_error(LH_ERR_FORMAT, "%s is true, but %s names no token", key, id_key);
    *add = asked || (!lh_gguf_metadata(s->g, key) && custom && id >= 0);
    return LH_OK;
}

static lh_status read_options(lh_tokenizer *t, source *s) {
    bool spm = t->model == LH_TOKENIZER_SPM;
    int32_t more_ends[2] = {-1, -1};
    LH_TRY(read_id(t, s, "tokenizer.ggml.bos_token_id", spm ? 1 : -1, &t->bos));
    LH_TRY(read_id(t, s, "tokenizer.ggml.eos_token_id", spm ? 2 : -1, &t->eos));
    LH_TRY(read_id(t, s, "tokenizer.ggml.unknown_token_id", spm ? 0 : -1, &t->unknown));
    LH_TRY(read_id(t, s, "tokenizer.ggml.eot_token_id", -1, &more_ends[0]));
    LH_TRY(read_id(t, s, "tokenizer.ggml.eom_token_id", -1, &more_ends[1]));
    if (t->eos >= 0) t->ends[t->eos] = true;
    for (int i = 0; i < 2; i++)
        if (more_ends[i] >= 0) t->ends[more_ends[i]] = true;

    if (!spm) {
        const char *name = "default";
        size_t len = strlen(name);
        LH_TRY(lh_gguf_string(s->g, "tokenizer.ggml.pre", &name, &len));
        t->pretokenizer = lh_pretokenizer_find(name, len);
        if (!t->pretokenizer) {
            char known[800];
            lh_pretokenizer_names(known, sizeof known);
            return lh_error(LH_ERR_UNSUPPORTED, "the pre-tokenizer is %s, expected one of: %s",
                            lh_quote(name, len).text, known);
        }
        t->ignore_merges = t->pretokenizer->ignore_merges;
    }
    bool adds_bos = spm || t->pretokenizer->add_bos;
    LH_TRY(read_add(s, "tokenizer.ggml.add_bos_token", adds_bos, t->bos, "tokenizer.ggml.bos_token_id", &t->add_bos));
    LH_TRY(read_add(s, "tokenizer.ggml.add_eos_token", false, t->eos, "tokenizer.ggml.eos_token_id", &t->add_eos));
    t->add_space_prefix = spm;
    if (!spm) return LH_OK;
    LH_TRY(lh_gguf_bool(s->g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix));
    return lh_gguf_bool(s->g, "tokenizer.ggml.remove_extra_whitespaces", &t->remove_extra_spaces);
}

// "<0x0A>" -> 10; -1 if it is not of this form.
static int byte_of_name(const char *text, size_t len) {
    static const char digits[] = "0123456789ABCDEF";
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>' || !text[3] || !text[4]) return -1;
    const char *high = strchr(digits, text[3]), *low = strchr(digits, text[4]);
    return high && low ? (int)(high - digits) * 16 + (int)(low - digits) : -1;
}

static bool is_one_of(const char *const *names, size_t n_names, const char *text, size_t len) {
    if (len == 0 || !memchr("<[_", text[0], 3)) return false;  // almost all are done here
    for (size_t i = 0; i < n_names; i++)
        if (len == strlen(names[i]) && memcmp(text, names[i], len) == 0) return true;
    return false;
}

static lh_status settle_types(lh_tokenizer *t, const source *s) {
    for (int32_t id = 0; id < t->n_vocab; id++) {
        const char *text = s->tokens[id].text;
        size_t len = s->tokens[id].len;
        int32_t type = LH_TOKEN_NORMAL;
        if (s->types)
            memcpy(&type, (const char *)s->types + 4 * (size_t)id, sizeof type);
        else if (id == t->bos || id == t->eos)
            type = LH_TOKEN_CONTROL;
        else if (id == t->unknown)
            type = LH_TOKEN_UNKNOWN;
        else if (t->model == LH_TOKENIZER_SPM && byte_of_name(text, len) >= 0)
            type = LH_TOKEN_BYTE;
        if (type < LH_TOKEN_UNDEFINED || type > LH_TOKEN_BYTE)
            return lh_error(LH_ERR_FORMAT, "token %d has type %d, expected 1 to 6", id, type);
        if (type == LH_TOKEN_BYTE && byte_of_name(text, len) < 0)
            return lh_error(LH_ERR_FORMAT, "token %d is a byte token named %s, expected '<0x00>' to '<0xFF>'", id,
                            lh_quote(text, len).text);
        bool end = is_one_of(end_texts, sizeof end_texts / sizeof *end_texts, text, len);
        bool turn = type == LH_TOKEN_USER_DEFINED &&
                    is_one_of(turn_texts, sizeof turn_texts / sizeof *turn_texts, text, len);
        if (end || turn) type = LH_TOKEN_CONTROL;
        if (end) t->ends[id] = true;
        t->types[id] = (uint8_t)type;
    }
    return LH_OK;
}

// --- what tokens stand for ------------------------------------------------------------------------------------------

// Byte-level BPE writes bytes as printable characters: most as the character of that number, the others, in order, as
// those from 256 on. -1: no byte is written so.
static int byte_of_character(int32_t c) {
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xFF && c != 0xAD)) return c;
    int n = c - 256;
    if (n < 0 || n > 67) return -1;
    return n <= 0x20 ? n : n < 67 ? n - 0x21 + 0x7F : 0xAD;
}

// Bytes that a text in that alphabet stands for, into out, which may be the text's own length; -1 if it is in another.
static int64_t decode_bytes(const char *text, size_t len, char *out) {
    int64_t n = 0;
    for (size_t i = 0; i < len;) {
        int32_t c;
        i += lh_utf8_decode(text + i, len - i, &c);
        int byte = byte_of_character(c);
        if (byte < 0) return -1;
        out[n++] = (char)byte;
    }
    return n;
}

static size_t unmark_spaces(const char *text, size_t len, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        bool mark = len - i >= 3 && memcmp(text + i, "▁", 3) == 0;
        out[n++] = mark ? ' ' : text[i];
        i += mark ? 3 : 1;
    }
    return n;
}

// Fill bytes and offsets, and the map with all that text may become.
static lh_status settle_bytes(lh_tokenizer *t, const source *s) {
    uint32_t slots = slots_for((uint64_t)t->n_vocab);
    t->map.slots = lh_alloc(slots, sizeof *t->map.slots);
    if (!t->map.slots) return LH_ERR_MEMORY;
    t->map.mask = slots - 1;
    for (uint32_t i = 0; i < slots; i++) t->map.slots[i].id = -1;

    for (int32_t id = 0; id < t->n_vocab; id++) {
        const char *text = s->tokens[id].text;
        size_t len = s->tokens[id].len, n = len;
        char *out = t->bytes + t->offsets[id];
        lh_token_type type = t->types[id];
        bool mapped = len > 0 && type != LH_TOKEN_CONTROL && type != LH_TOKEN_UNKNOWN && type != LH_TOKEN_BYTE;
        memcpy(out, text, len);
        if (type == LH_TOKEN_BYTE) {
            out[0] = (char)byte_of_name(text, len);
            n = 1;
        } else if (t->model == LH_TOKENIZER_SPM && mapped) {
            n = unmark_spaces(text, len, out);
            // SentencePiece's text has only marks; nothing in it becomes a token with a true space.
            mapped = !memchr(text, ' ', len);
        } else if (mapped) {
            int64_t decoded = decode_bytes(text, len, out);
            mapped = decoded >= 0 && (type != LH_TOKEN_USER_DEFINED || (size_t)decoded == len);
            // A user-defined token is its text; the alphabet is for the others.
            if (mapped)
                n = (size_t)decoded;
            else
                memcpy(out, text, len);
        }
        t->offsets[id + 1] = t->offsets[id] + (uint32_t)n;
        t->longest = LH_MAX(t->longest, (uint32_t)n);
        if (!mapped) continue;
        uint32_t hash = hash_bytes(t, out, n);
        struct lh_token_slot *slot = token_slot(t, out, n, hash);
        if (slot->id < 0) *slot = (struct lh_token_slot){hash, id};  // of equal tokens the first counts
    }
    return LH_OK;
}

static bool is_special(const lh_tokenizer *t, const source *s, int32_t id) {
    lh_token_type type = t->types[id];
    return s->tokens[id].len > 0 &&
           (type == LH_TOKEN_CONTROL || type == LH_TOKEN_UNKNOWN || type == LH_TOKEN_USER_DEFINED);
}

static lh_status settle_special(lh_tokenizer *t, const source *s) {
    int32_t n = 0;
    size_t total = 0;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        if (!is_special(t, s, id)) continue;
        n++;
        total += s->tokens[id].len;
    }
    t->special_text = lh_alloc(total, 1);
    struct lh_special *all = lh_alloc((size_t)n, sizeof *all);
    bool *wanted = lh_alloc((size_t)n, sizeof *wanted);
    lh_status status = t->special_text && all && wanted ? LH_OK : LH_ERR_MEMORY;
    n = 0;
    char *text = t->special_text;
    for (int32_t id = 0; id < t->n_vocab && status == LH_OK; id++) {
        if (!is_special(t, s, id)) continue;
        size_t len = s->tokens[id].len;
        memcpy(text, s->tokens[id].text, len);
        wanted[n] = t->types[id] == LH_TOKEN_USER_DEFINED;
        all[n++] = (struct lh_special){text, (uint32_t)len, id};
        text += len;
    }
    if (status == LH_OK) status = lh_special_build(&t->special[0], all, n, wanted);
    for (int32_t i = 0; i < n; i++) wanted[i] = true;
    if (status == LH_OK) status = lh_special_build(&t->special[1], all, n, wanted);
    lh_free(all);
    lh_free(wanted);
    return status;
}

// --- SentencePiece --------------------------------------------------------------------------------------------------

typedef struct {
    float score;
    int32_t id;
} scored;

static int compare_scored(const void *a, const void *b) {
    float x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return (x < y) - (x > y);
}

static lh_status settle_spm(lh_tokenizer *t, const source *s) {
    t->ranks = lh_alloc((size_t)t->n_vocab, sizeof *t->ranks);
    scored *order = lh_alloc((size_t)t->n_vocab, sizeof *order);
    if (!t->ranks || !order) {
        lh_free(order);
        return LH_ERR_MEMORY;
    }
    for (int32_t id = 0; id < t->n_vocab; id++) {
        memcpy(&order[id].score, (const char *)s->scores + 4 * (size_t)id, sizeof order[id].score);
        if (isnan(order[id].score)) order[id].score = -INFINITY;
        order[id].id = id;
    }
    qsort(order, (size_t)t->n_vocab, sizeof *order, compare_scored);
    // Equal scores are equal ranks: among those the leftmost pair merges first.
    for (int32_t i = 0; i < t->n_vocab; i++) {
        bool equal = i > 0 && order[i].score == order[i - 1].score;
        t->ranks[order[i].id] = equal ? t->ranks[order[i - 1].id] : (uint32_t)i;
    }
    lh_free(order);

    for (int b = 0; b < 256; b++) t->byte_ids[b] = -1;
    int n_bytes = 0;
    t->words_are_apart = true;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        uint32_t len;
        const char *bytes = lh_token_start(t, id, &len);
        if (t->types[id] == LH_TOKEN_BYTE) {
            int32_t *byte_id = &t->byte_ids[(uint8_t)bytes[0]];
            n_bytes += *byte_id < 0;
            if (*byte_id < 0) *byte_id = id;
        } else if (t->types[id] != LH_TOKEN_CONTROL && t->types[id] != LH_TOKEN_UNKNOWN) {
            for (uint32_t i = 1; i < len; i++)
                if (bytes[i] == ' ' && bytes[i - 1] != ' ') t->words_are_apart = false;
        }
    }
    if (n_bytes < 256 && t->unknown < 0)
        return lh_error(LH_ERR_FORMAT, "the vocabulary has %d of 256 byte tokens and no unknown token: text could be "
                                       "lost", n_bytes);
    return LH_OK;
}

// --- byte-level BPE -------------------------------------------------------------------------------------------------

// Put one "left right" into the map. merged: scratch, as long as the text.
static lh_status add_merge(lh_tokenizer *t, const char *text, size_t len, uint64_t rank, char *merged) {
    const char *space = len > 1 ? memchr(text + 1, ' ', len - 1) : NULL;
    if (!space)
        return lh_error(LH_ERR_FORMAT, "merge %" PRIu64 " is %s, expected two tokens with a space between", rank,
                        lh_quote(text, len).text);
    int64_t n_left = decode_bytes(text, (size_t)(space - text), merged);
    int64_t n_right = n_left < 0 ? -1 : decode_bytes(space + 1, (size_t)(text + len - space - 1), merged + n_left);
    if (n_right < 0) return LH_OK;
    // Of what the vocabulary lacks there is no id, and so no merge; that it could lead on to what has one is left out.
    int32_t left = lh_token_find(t, merged, (size_t)n_left);
    int32_t right = lh_token_find(t, merged + n_left, (size_t)n_right);
    int32_t both = lh_token_find(t, merged, (size_t)(n_left + n_right));
    if (left < 0 || right < 0 || both < 0) return LH_OK;
    struct lh_merge_slot *slot = merge_slot(t, left, right);
    if (slot->left < 0) *slot = (struct lh_merge_slot){left, right, both, (uint32_t)rank};
    return LH_OK;
}

static lh_status settle_bpe(lh_tokenizer *t, const source *s) {
    int n_bytes = 0;
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->byte_ids[b] = lh_token_find(t, &byte, 1);
        n_bytes += t->byte_ids[b] >= 0;
    }
    if (n_bytes == 0)
        return lh_error(LH_ERR_FORMAT, "the vocabulary has no token of a single byte: nothing could be encoded");

    const void *cursor = NULL;
    uint64_t count = 0;
    LH_TRY(lh_gguf_array(s->g, "tokenizer.ggml.merges", LH_GGUF_STRING, &cursor, &count));
    if (!cursor)
        return lh_error(LH_ERR_FORMAT, "tokenizer.ggml.merges is missing, and a 'gpt2' tokenizer needs it");
    if (count > MAX_MERGES)
        return lh_error(LH_ERR_FORMAT, "tokenizer.ggml.merges has %" PRIu64 " merges, expected at most %d", count,
                        MAX_MERGES);
    uint32_t slots = slots_for(count);
    t->merges.slots = lh_alloc(slots, sizeof *t->merges.slots);
    if (!t->merges.slots) return LH_ERR_MEMORY;
    t->merges.mask = slots - 1;
    for (uint32_t i = 0; i < slots; i++) t->merges.slots[i].left = -1;

    char *merged = NULL;
    size_t cap = 0;
    lh_status status = LH_OK;
    for (uint64_t rank = 0; rank < count && status == LH_OK; rank++) {
        const char *text;
        size_t len;
        lh_gguf_next_string(&cursor, &text, &len);
        status = lh_reserve(&merged, &cap, len, 0, 1);
        if (status == LH_OK) status = add_merge(t, text, len, rank, merged);
    }
    lh_free(merged);
    return status;
}

// --- all of it ------------------------------------------------------------------------------------------------------

static lh_status load(lh_tokenizer *t, source *s) {
    LH_TRY(read_model(t, s));
    LH_TRY(read_tokens(t, s));
    LH_TRY(read_options(t, s));
    LH_TRY(settle_types(t, s));
    LH_TRY(settle_bytes(t, s));
    LH_TRY(settle_special(t, s));
    return t->model == LH_TOKENIZER_SPM ? settle_spm(t, s) : settle_bpe(t, s);
}

lh_status lh_tokenizer_from_gguf(const lh_gguf *g, lh_tokenizer **out) {
    *out = NULL;
    lh_tokenizer *t = lh_alloc(1, sizeof *t);
    if (!t) return LH_ERR_MEMORY;
    t->multiplier = draw_multiplier();
    source s = {.g = g};
    lh_status status = load(t, &s);
    lh_free(s.tokens);
    if (status == LH_OK)
        *out = t;
    else
        lh_tokenizer_free(t);
    return status;
}

void lh_tokenizer_free(lh_tokenizer *t) {
    if (!t) return;
    lh_free(t->bytes);
    lh_free(t->offsets);
    lh_free(t->types);
    lh_free(t->ends);
    lh_free(t->special_text);
    for (int i = 0; i < 2; i++) lh_free(t->special[i].items);
    lh_free(t->map.slots);
    lh_free(t->ranks);
    lh_free(t->merges.slots);
    lh_free(t);
}
