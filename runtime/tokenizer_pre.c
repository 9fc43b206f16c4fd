// Pre-tokenizers: how a text is split into words before byte-level BPE. Files name them; what the names mean are the
// regular expressions that the models were published with, written here as code that reads each character once or
// twice. Several expressions in a row split each other's pieces.
//
// A character that is no UTF-8 counts as U+FFFD, a symbol, byte by byte.
#include <stdio.h>
#include <string.h>

#include "tokenizer_impl.h"
#include "unicode.h"

typedef struct {
    int32_t code_point;
    uint8_t class;
    uint8_t len;                 // 0: there is none, the text ends here
} character;

static inline character at(const char *p, const char *end) {
    if (p == end) return (character){-1, 0, 0};
    if ((uint8_t)*p < 0x80) return (character){*p, lh_unicode_ascii[(uint8_t)*p], 1};
    int32_t code_point;
    size_t len = lh_utf8_decode(p, (size_t)(end - p), &code_point);
    if (code_point < 0) return (character){0xFFFD, LH_SYMBOL, 1};
    return (character){code_point, lh_unicode_class((uint32_t)code_point), (uint8_t)len};
}

static inline bool is(const char *p, const char *end, int classes) { return at(p, end).class & classes; }

// Past all characters of these classes; past all that exist and are of none of them.
static inline const char *skip(const char *p, const char *end, int classes) {
    for (character c; (c = at(p, end)).class & classes;) p += c.len;
    return p;
}
static inline const char *skip_not(const char *p, const char *end, int classes) {
    for (character c; (c = at(p, end)).len && !(c.class & classes);) p += c.len;
    return p;
}

static inline bool is_newline(int32_t code_point) { return code_point == '\r' || code_point == '\n'; }

// --- parts that many expressions share ------------------------------------------------------------------------------

// 's|'t|'re|'ve|'m|'ll|'d at p; folded: in any case, which for s includes U+017F. NULL: not here.
static const char *contraction(const char *p, const char *end, bool folded) {
    if (*p != '\'') return NULL;
    char letters[2] = {0, 0};
    const char *q = p + 1, *ends[2] = {p, p};
    for (int i = 0; i < 2; i++) {
        character c = at(q, end);
        if (folded && c.code_point == 0x17F) c.code_point = 's';
        if (folded && c.code_point >= 'A' && c.code_point <= 'Z') c.code_point += 'a' - 'A';
        if (c.code_point < 'a' || c.code_point > 'z') break;
        letters[i] = (char)c.code_point;
        ends[i] = q += c.len;
    }
    if (letters[0] && strchr("stmd", letters[0])) return ends[0];
    if (letters[1] == 'e' && (letters[0] == 'r' || letters[0] == 'v')) return ends[1];
    if (letters[1] == 'l' && letters[0] == 'l') return ends[1];
    return NULL;
}

// \s+(?!\S)|\s+ at a space: all spaces, less the last one where something follows that it may belong to.
static const char *spaces(const char *p, const char *end) {
    const char *q = p, *last = p;
    for (character c; (c = at(q, end)).class & LH_SPACE; q += c.len) last = q;
    return q == end || last == p ? q : last;
}

// \s*[\r\n]+|\s+(?!\S)|\s+ at a space: up to the last line break of the run, if there is one.
static const char *lines_or_spaces(const char *p, const char *end) {
    const char *lines = NULL;
    for (const char *q = p; is(q, end, LH_SPACE); q += at(q, end).len)
        if (is_newline(at(q, end).code_point)) lines = q + 1;
    return lines ? lines : spaces(p, end);
}

//  ?[^\s\p{L}\p{N}]+ and then any of the bytes in `tail`. NULL: not here.
static const char *other(const char *p, const char *end, const char *tail) {
    const char *q = p + (*p == ' ');
    const char *r = skip_not(q, end, LH_SPACE | LH_LETTER | LH_NUMBER);
    if (r == q) return NULL;
    while (r < end && *r && strchr(tail, *r)) r++;
    return r;
}

// \p{N}{1,most} at a number.
static const char *numbers(const char *p, const char *end, int most) {
    for (int i = 0; i < most && is(p, end, LH_NUMBER); i++) p += at(p, end).len;
    return p;
}

// [^\r\n\p{L}\p{N}] at p?
static bool is_lead(const char *p, const char *end) {
    character c = at(p, end);
    return c.len && !(c.class & (LH_LETTER | LH_NUMBER)) && !is_newline(c.code_point);
}

// --- GPT-2 ----------------------------------------------------------------------------------------------------------

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
static const char *gpt2(const char *p, const char *end) {
    const char *q = contraction(p, end, false);
    if (q) return q;
    q = p + (*p == ' ');
    character c = at(q, end);
    if (c.class & LH_LETTER) return skip(q, end, LH_LETTER);
    if (c.class & LH_NUMBER) return skip(q, end, LH_NUMBER);
    if (c.len && !(c.class & LH_SPACE)) return skip_not(q, end, LH_SPACE | LH_LETTER | LH_NUMBER);
    return spaces(p, end);
}

// --- Llama 3 and its kin --------------------------------------------------------------------------------------------

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,most}| ?[^\s\p{L}\p{N}]+[tail]*|
// \s*[\r\n]+|\s+(?!\S)|\s+
static inline const char *cl100k(const char *p, const char *end, int most, const char *tail) {
    const char *q = contraction(p, end, true);
    if (q) return q;
    q = is_lead(p, end) ? p + at(p, end).len : p;
    if (is(q, end, LH_LETTER)) return skip(q, end, LH_LETTER);
    if (is(p, end, LH_NUMBER)) return numbers(p, end, most);
    if ((q = other(p, end, tail))) return q;
    return lines_or_spaces(p, end);
}

static const char *llama3(const char *p, const char *end) { return cl100k(p, end, 3, "\r\n"); }
static const char *qwen2(const char *p, const char *end) { return cl100k(p, end, 1, "\r\n"); }
static const char *seed_coder(const char *p, const char *end) { return cl100k(p, end, 1, ""); }
static const char *minicpm5(const char *p, const char *end) { return cl100k(p, end, INT32_MAX, "\r\n"); }

// --- Tekken, GPT-4o -------------------------------------------------------------------------------------------------

enum {
    UPPERS = LH_UPPER | LH_CASELESS | LH_MARK,  // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
    LOWERS = LH_LOWER | LH_CASELESS | LH_MARK,  // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
};

// UPPERS*LOWERS+ at p, NULL: not here. Where a run of UPPERS has no LOWERS behind it, the expression gives characters
// of the run back until the last of them that is in both classes.
static const char *capitalised(const char *p, const char *end) {
    const char *both = NULL;
    for (character c; (c = at(p, end)).class & UPPERS;) {
        p += c.len;
        if (c.class & LOWERS) both = p;
    }
    return is(p, end, LOWERS) ? skip(p, end, LOWERS) : both;
}

// UPPERS+LOWERS* at p, NULL: not here.
static const char *upper_case(const char *p, const char *end) {
    const char *q = skip(p, end, UPPERS);
    return q == p ? NULL : skip(q, end, LOWERS);
}

// [^\r\n\p{L}\p{N}]?(capitalised)|[^\r\n\p{L}\p{N}]?(upper_case), NULL: not here.
static const char *cased_word(const char *p, const char *end) {
    // A mark is a lead, too, and part of a word where it cannot be one.
    const char *after = is_lead(p, end) ? p + at(p, end).len : NULL, *q = NULL;
    if (after) q = capitalised(after, end);
    if (!q) q = capitalised(p, end);
    if (!q && after) q = upper_case(after, end);
    return q ? q : upper_case(p, end);
}

// cased_word|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
static const char *tekken(const char *p, const char *end) {
    const char *q = cased_word(p, end);
    if (q) return q;
    if (is(p, end, LH_NUMBER)) return numbers(p, end, 1);
    if ((q = other(p, end, "\r\n/"))) return q;
    return lines_or_spaces(p, end);
}

// As Tekken; words end with their contraction, and numbers are \p{N}{1,3}.
static const char *gpt4o(const char *p, const char *end) {
    const char *q = cased_word(p, end);
    if (q) {
        const char *r = q < end ? contraction(q, end, true) : NULL;
        return r ? r : q;
    }
    if (is(p, end, LH_NUMBER)) return numbers(p, end, 3);
    if ((q = other(p, end, "\r\n/"))) return q;
    return lines_or_spaces(p, end);
}

// --- single classes -------------------------------------------------------------------------------------------------
// Expressions that match one class of characters; what they leave is a piece, too.

typedef bool (*character_set)(character c);

// [set]+
static inline const char *run(const char *p, const char *end, character_set set) {
    bool inside = set(at(p, end));
    for (character c; (c = at(p, end)).len && set(c) == inside;) p += c.len;
    return p;
}

// [lead]?[set]+
static inline const char *led_run(const char *p, const char *end, character_set lead, character_set set) {
    const char *start = p;
    for (character c; (c = at(p, end)).len; p += c.len) {
        const char *q = p;
        if (lead(c) && set(at(p + c.len, end))) q = p + c.len;
        if (!set(at(q, end))) continue;
        if (p > start) return p;  // what lies before the match
        for (; (c = at(q, end)).len && set(c);) q += c.len;
        return q;
    }
    return p;
}

static bool is_number(character c) { return c.class & LH_NUMBER; }
static bool is_letter(character c) { return c.class & LH_LETTER; }
static bool is_punctuation(character c) { return c.class & LH_PUNCTUATION; }
static bool is_space(character c) { return c.class & LH_SPACE; }
static bool is_blank(character c) { return c.code_point == ' '; }
static bool is_ascii_in(character c, const char *set) {
    return c.code_point > 0 && c.code_point < 128 && strchr(set, c.code_point);
}
// [\p{P}\$\+<=>\^~\|`]
static bool is_falcon_mark(character c) { return is_punctuation(c) || is_ascii_in(c, "$+<=>^~|`"); }
// [\p{P}\$\+<=>\^~\|]
static bool is_default_mark(character c) { return is_punctuation(c) || is_ascii_in(c, "$+<=>^~|"); }

// \p{N}
static const char *each_number(const char *p, const char *end) {
    return is_number(at(p, end)) ? p + at(p, end).len : run(p, end, is_number);
}
// \p{N}{1,3}
static const char *three_numbers(const char *p, const char *end) {
    return is_number(at(p, end)) ? numbers(p, end, 3) : run(p, end, is_number);
}
// \p{N}+
static const char *all_numbers(const char *p, const char *end) { return run(p, end, is_number); }
static const char *falcon_marks(const char *p, const char *end) { return run(p, end, is_falcon_mark); }
static const char *default_marks(const char *p, const char *end) { return run(p, end, is_default_mark); }

// [0-9][0-9][0-9]
static const char *three_digits(const char *p, const char *end) {
    const char *start = p;
    for (int digits = 0; p < end;) {
        digits = *p >= '0' && *p <= '9' ? digits + 1 : 0;
        p++;
        if (digits == 3) return p - start == 3 ? p : p - 3;
    }
    return p;
}

// --- DeepSeek -------------------------------------------------------------------------------------------------------

typedef struct {
    int32_t first, last;
} code_points;

// The letters that its expression spells out: those with case, as far as they were known then.
static const code_points deepseek_letters[] = {
    {0x41, 0x5A}, {0x61, 0x7A}, {0xB5, 0xB5}, {0xC0, 0xD6}, {0xD8, 0xF6}, {0xF8, 0x1BA}, {0x1BC, 0x1BF}, {0x1C4, 0x293},
    {0x295, 0x2AF}, {0x370, 0x373}, {0x376, 0x377}, {0x37B, 0x37D}, {0x37F, 0x37F}, {0x386, 0x386}, {0x388, 0x38A},
    {0x38C, 0x38C}, {0x38E, 0x3A1}, {0x3A3, 0x3F5}, {0x3F7, 0x481}, {0x48A, 0x52F}, {0x531, 0x556}, {0x10A0, 0x10C5},
    {0x13A0, 0x13F5}, {0x13F8, 0x13FD}, {0x1C90, 0x1CBA}, {0x1CBD, 0x1CBF}, {0x1D00, 0x1D2B}, {0x1D6B, 0x1D77},
    {0x1D79, 0x1D9A}, {0x1E00, 0x1F15}, {0x1F18, 0x1F1D}, {0x1F20, 0x1F45}, {0x1F48, 0x1F4D}, {0x1F50, 0x1F57},
    {0x1F59, 0x1F59}, {0x1F5B, 0x1F5B}, {0x1F5D, 0x1F5D}, {0x1F5F, 0x1F7D}, {0x1F80, 0x1FB4}, {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE}, {0x1FC2, 0x1FC4}, {0x1FC6, 0x1FCC}, {0x1FD0, 0x1FD3}, {0x1FD6, 0x1FDB}, {0x1FE0, 0x1FEC},
    {0x1FF2, 0x1FF4}, {0x1FF6, 0x1FFC}, {0x2102, 0x2102}, {0x2107, 0x2107}, {0x210A, 0x2113}, {0x2115, 0x2115},
    {0x2119, 0x211D}, {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128}, {0x212A, 0x212D}, {0x212F, 0x2134},
    {0x2139, 0x2139}, {0x213C, 0x213F}, {0x2145, 0x2149}, {0x214E, 0x214E}, {0x2183, 0x2184}, {0x2C00, 0x2C7B},
    {0x2C7E, 0x2CE4}, {0x2CEB, 0x2CEE}, {0x2CF2, 0x2CF3}, {0xA640, 0xA66D}, {0xA680, 0xA69B}, {0xA722, 0xA76F},
    {0xA771, 0xA787}, {0xA78B, 0xA78E}, {0xAB70, 0xABBF}, {0xFB00, 0xFB06}, {0xFB13, 0xFB17}, {0xFF21, 0xFF3A},
    {0xFF41, 0xFF5A}, {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB}, {0x10C80, 0x10CB2},
    {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
};

static bool is_one_of(int32_t code_point, const code_points *ranges, size_t n) {
    for (size_t low = 0; low < n;) {
        size_t middle = low + (n - low) / 2;
        if (code_point < ranges[middle].first)
            n = middle;
        else if (code_point > ranges[middle].last)
            low = middle + 1;
        else
            return true;
    }
    return false;
}

#define IS_ONE_OF(code_point, ranges) is_one_of(code_point, ranges, sizeof ranges / sizeof *ranges)

static bool is_deepseek_letter(character c) { return IS_ONE_OF(c.code_point, deepseek_letters); }

// [!-/:-~！-／：-～‘-‟　-。]
static bool is_deepseek_mark(character c) {
    static const code_points ranges[] = {{'!', '/'},       {':', '~'},       {0x2018, 0x201F},
                                         {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
    return IS_ONE_OF(c.code_point, ranges);
}
// [一-龥ࠀ-一가-퟿]
static bool is_deepseek_cjk(character c) {
    static const code_points ranges[] = {{0x0800, 0x9FA5}, {0xAC00, 0xD7FF}};
    return IS_ONE_OF(c.code_point, ranges);
}

// [\r\n]
static const char *each_newline(const char *p, const char *end) {
    if (is_newline(*p)) return p + 1;
    while (p < end && !is_newline(*p)) p++;
    return p;
}
// \s?[letters]+
static const char *deepseek_words(const char *p, const char *end) {
    return led_run(p, end, is_space, is_deepseek_letter);
}
// \s?[marks]+
static const char *deepseek_marks(const char *p, const char *end) {
    return led_run(p, end, is_space, is_deepseek_mark);
}
// \s+$
static const char *trailing_spaces(const char *p, const char *end) {
    const char *q = p, *last = end;
    for (character c; (c = at(q, end)).len; q += c.len) {
        if (!is_space(c))
            last = end;
        else if (last == end)
            last = q;
    }
    return last == p ? end : last;
}
static const char *deepseek_cjk(const char *p, const char *end) { return run(p, end, is_deepseek_cjk); }
// \s?\p{L}+
static const char *coder_words(const char *p, const char *end) { return led_run(p, end, is_space, is_letter); }
// \s?\p{P}+
static const char *coder_marks(const char *p, const char *end) { return led_run(p, end, is_space, is_punctuation); }

// --- Viking, Poro ---------------------------------------------------------------------------------------------------

// [^(\s|.,!?…。，、।۔،)]
static bool is_viking_word(character c) {
    static const code_points marks[] = {{0x060C, 0x060C}, {0x06D4, 0x06D4}, {0x0964, 0x0964}, {0x2026, 0x2026},
                                        {0x3001, 0x3002}, {0xFF0C, 0xFF0C}};
    return c.len && !is_space(c) && !is_ascii_in(c, "(|.,!?)") && !IS_ONE_OF(c.code_point, marks);
}
//  ?[word]+
static const char *viking(const char *p, const char *end) { return led_run(p, end, is_blank, is_viking_word); }

// --- names ----------------------------------------------------------------------------------------------------------

static const lh_pretokenizer pretokenizers[] = {
    {"default", {default_marks, gpt2, all_numbers, three_digits}, false, false},
    {"llama-bpe", {llama3}, true, true},
    {"llama3", {llama3}, true, true},
    {"llama-v3", {llama3}, true, true},
    {"falcon3", {llama3}, true, true},
    {"pixtral", {llama3}, true, true},
    {"lfm2", {llama3}, true, true},
    {"smaug-bpe", {llama3}, false, false},
    {"dbrx", {llama3}, false, false},
    {"glm4", {llama3}, false, false},
    {"chatglm-bpe", {llama3}, false, false},
    {"gpt-2", {gpt2}, false, false},
    {"phi-2", {gpt2}, false, false},
    {"olmo", {gpt2}, false, false},
    {"mpt", {gpt2}, false, false},
    {"jais", {gpt2}, false, false},
    {"gigachat", {gpt2}, false, false},
    {"mellum", {gpt2}, false, false},
    {"trillion", {gpt2}, false, false},
    {"exaone4", {gpt2}, false, false},
    {"smollm", {each_number, gpt2}, false, false},
    {"starcoder", {each_number, gpt2}, false, false},
    {"refact", {each_number, gpt2}, false, false},
    {"command-r", {each_number, gpt2}, false, false},
    {"codeshell", {each_number, gpt2}, false, false},
    {"exaone", {each_number, gpt2}, false, false},
    {"minerva-7b", {each_number, gpt2}, false, false},
    {"qwen2", {qwen2}, false, false},
    {"deepseek-r1-qwen", {qwen2}, false, false},
    {"megrez", {qwen2}, false, false},
    {"stablelm2", {qwen2}, false, false},
    {"hunyuan", {qwen2}, false, false},
    {"seed-coder", {seed_coder}, false, false},
    {"minicpm5", {three_numbers, minicpm5}, true, false},
    {"tekken", {tekken}, true, true},
    {"gpt-4o", {gpt4o}, false, false},
    {"llama4", {gpt4o}, false, false},
    {"falcon", {falcon_marks, gpt2, three_digits}, false, false},
    {"deepseek-llm",
     {each_newline, deepseek_words, deepseek_marks, trailing_spaces, deepseek_cjk, each_number}, false, false},
    {"deepseek-coder", {each_newline, coder_words, coder_marks, deepseek_cjk, each_number}, false, false},
    {"viking", {viking, each_number}, false, false},
    {"poro-chat", {viking}, false, false},
};

enum { N_PRETOKENIZERS = sizeof pretokenizers / sizeof *pretokenizers };

const lh_pretokenizer *lh_pretokenizer_find(const char *name, size_t len) {
    for (const lh_pretokenizer *p = pretokenizers; p < pretokenizers + N_PRETOKENIZERS; p++)
        if (strlen(p->name) == len && memcmp(p->name, name, len) == 0) return p;
    return NULL;
}

void lh_pretokenizer_names(char *out, size_t cap) {
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < N_PRETOKENIZERS && used < cap; i++)
        used += (size_t)snprintf(out + used, cap - used, "%s%s", i ? ", " : "", pretokenizers[i].name);
}

static lh_status split(const lh_split_rule *rule, const char *p, const char *end, lh_word_fn word, void *arg) {
    if (!*rule) return word(arg, p, (size_t)(end - p));
    for (const char *next; p < end; p = next) {
        next = (*rule)(p, end);
        LH_TRY(split(rule + 1, p, next, word, arg));
    }
    return LH_OK;
}

lh_status lh_pretokenize(const lh_pretokenizer *p, const char *text, size_t len, lh_word_fn word, void *arg) {
    return split(p->rules, text, text + len, word, arg);
}
