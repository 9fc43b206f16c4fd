// Parsing one GGUF container in memory. Nothing of the file is believed before it was compared with the bytes that are
// there, and no work is more than n log n in the size of the file, whatever it claims.
#include "gguf_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAMAGED "the file is damaged; download or copy it again"
#define TRUNCATED "the file is truncated or damaged; download or copy it again"

// --- names -----------------------------------------------------------------------------------------------------

#define NAME_MAX_BYTES 65535  // of a key or a tensor's name; the format's own limit for keys

typedef struct lh_name_block {
    struct lh_name_block *next;
    size_t used, size;
    char text[];
} lh_name_block;

// A NUL-terminated copy that lives as long as g; NULL if there is no memory.
static char *copy_name(lh_gguf *g, const char *text, size_t len) {
    if (!g->names || g->names->size - g->names->used < len + 1) {
        size_t size = LH_MAX(len + 1, (size_t)16384 - sizeof(lh_name_block));
        lh_name_block *block = lh_alloc(1, sizeof *block + size);
        if (!block) return NULL;
        *block = (lh_name_block){.next = g->names, .size = size};
        g->names = block;
    }
    char *copy = g->names->text + g->names->used;
    memcpy(copy, text, len);
    copy[len] = 0;
    g->names->used += len + 1;
    return copy;
}

lh_quoted lh_quote(const char *text, size_t len) {
    lh_quoted q;
    const size_t room = sizeof q.text - sizeof "'...'";
    size_t n = 0, i = 0;
    q.text[n++] = '\'';
    for (; i < len && n + 4 <= room; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c < 0x7f && c != '\\')
            q.text[n++] = (char)c;
        else
            n += (size_t)snprintf(q.text + n, 5, "\\x%02x", c);
    }
    snprintf(q.text + n, sizeof q.text - n, i < len ? "...'" : "'");
    return q;
}

lh_quoted lh_quote_name(const char *name) { return lh_quote(name, strlen(name)); }

// --- reading bytes ---------------------------------------------------------------------------------------------

typedef struct cursor {
    const uint8_t *start, *p, *end;
} cursor;

static uint64_t remaining(const cursor *c) { return (uint64_t)(c->end - c->p); }

// The next size bytes, or NULL (lh_error is set).
static const void *take(cursor *c, uint64_t size, const char *what) {
    if (size > remaining(c)) {
        lh_error(LH_ERR_FORMAT, "%s at byte %zu takes %" PRIu64 " bytes, but only %" PRIu64 " are left: " TRUNCATED,
                 what, (size_t)(c->p - c->start), size, remaining(c));
        return NULL;
    }
    const void *p = c->p;
    c->p += size;
    return p;
}

static lh_status take_u32(cursor *c, const char *what, uint32_t *out) {
    const void *p = take(c, sizeof *out, what);
    if (!p) return LH_ERR_FORMAT;
    memcpy(out, p, sizeof *out);
    return LH_OK;
}

static lh_status take_u64(cursor *c, const char *what, uint64_t *out) {
    const void *p = take(c, sizeof *out, what);
    if (!p) return LH_ERR_FORMAT;
    memcpy(out, p, sizeof *out);
    return LH_OK;
}

static lh_status take_string(cursor *c, const char *what, const char **text, uint64_t *len) {
    LH_TRY(take_u64(c, "the length of a string", len));
    *text = take(c, *len, what);
    return *text ? LH_OK : LH_ERR_FORMAT;
}

static lh_status take_name(lh_gguf *g, cursor *c, const char *what, const char **out) {
    const char *text;
    uint64_t len;
    LH_TRY(take_string(c, what, &text, &len));
    if (len == 0 || len > NAME_MAX_BYTES)
        return lh_error(LH_ERR_FORMAT, "%s has %" PRIu64 " bytes, expected 1 to %d: " DAMAGED, what, len,
                        NAME_MAX_BYTES);
    if (memchr(text, 0, len))
        return lh_error(LH_ERR_FORMAT, "%s %s holds a NUL byte: " DAMAGED, what, lh_quote(text, len).text);
    *out = copy_name(g, text, len);
    return *out ? LH_OK : LH_ERR_MEMORY;
}

// --- look-up ---------------------------------------------------------------------------------------------------

// Sorted, not hashed: the cost of a look-up does not depend on how well a hostile file knows the hash.

static int compare_metadata(const void *a, const void *b) {
    return strcmp((*(const lh_metadata *const *)a)->key, (*(const lh_metadata *const *)b)->key);
}

static int compare_tensors(const void *a, const void *b) {
    return strcmp((*(const lh_gguf_tensor *const *)a)->name, (*(const lh_gguf_tensor *const *)b)->name);
}

static lh_status index_metadata(lh_gguf *g) {
    const lh_metadata **sorted = g->metadata_by_key = lh_alloc((size_t)g->n_metadata, sizeof *sorted);
    if (!sorted) return LH_ERR_MEMORY;
    for (int64_t i = 0; i < g->n_metadata; i++) sorted[i] = &g->metadata[i];
    qsort(sorted, (size_t)g->n_metadata, sizeof *sorted, compare_metadata);
    for (int64_t i = 1; i < g->n_metadata; i++)
        if (strcmp(sorted[i - 1]->key, sorted[i]->key) == 0)
            return lh_error(LH_ERR_FORMAT, "the key %s occurs twice: " DAMAGED, lh_quote_name(sorted[i]->key).text);
    return LH_OK;
}

static lh_status index_tensors(lh_gguf *g) {
    const lh_gguf_tensor **sorted = g->tensors_by_name = lh_alloc((size_t)g->n_tensors, sizeof *sorted);
    if (!sorted) return LH_ERR_MEMORY;
    for (int64_t i = 0; i < g->n_tensors; i++) sorted[i] = &g->tensors[i];
    qsort(sorted, (size_t)g->n_tensors, sizeof *sorted, compare_tensors);
    for (int64_t i = 1; i < g->n_tensors; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            return lh_error(LH_ERR_FORMAT, "the tensor %s occurs twice: " DAMAGED, lh_quote_name(sorted[i]->name).text);
    return LH_OK;
}

const lh_metadata *lh_gguf_metadata(const lh_gguf *g, const char *key) {
    const lh_metadata wanted = {.key = key}, *p = &wanted;
    const lh_metadata **found = bsearch(&p, g->metadata_by_key, (size_t)g->n_metadata, sizeof p, compare_metadata);
    return found ? *found : NULL;
}

const lh_gguf_tensor *lh_gguf_find_tensor(const lh_gguf *g, const char *name) {
    const lh_gguf_tensor wanted = {.name = name}, *p = &wanted;
    const lh_gguf_tensor **found = bsearch(&p, g->tensors_by_name, (size_t)g->n_tensors, sizeof p, compare_tensors);
    return found ? *found : NULL;
}

int64_t lh_gguf_n_metadata(const lh_gguf *g) { return g->n_metadata; }
const lh_metadata *lh_gguf_metadata_at(const lh_gguf *g, int64_t i) { return &g->metadata[i]; }
int64_t lh_gguf_n_tensors(const lh_gguf *g) { return g->n_tensors; }
const lh_gguf_tensor *lh_gguf_tensor_at(const lh_gguf *g, int64_t i) { return &g->tensors[i]; }

// --- metadata --------------------------------------------------------------------------------------------------

static const struct value_type {
    const char *name;
    uint64_t size;  // bytes of a value; 0: it varies
} value_types[] = {
    [LH_GGUF_U8] = {"u8", 1},       [LH_GGUF_I8] = {"i8", 1},     [LH_GGUF_U16] = {"u16", 2},
    [LH_GGUF_I16] = {"i16", 2},     [LH_GGUF_U32] = {"u32", 4},   [LH_GGUF_I32] = {"i32", 4},
    [LH_GGUF_F32] = {"f32", 4},     [LH_GGUF_BOOL] = {"bool", 1}, [LH_GGUF_U64] = {"u64", 8},
    [LH_GGUF_I64] = {"i64", 8},     [LH_GGUF_F64] = {"f64", 8},   [LH_GGUF_STRING] = {"string", 0},
    [LH_GGUF_ARRAY] = {"array", 0},
};
#define N_VALUE_TYPES (sizeof value_types / sizeof *value_types)

const char *lh_gguf_type_name(int32_t type) { return value_types[type].name; }

static lh_status take_type(cursor *c, int32_t *out) {
    uint32_t type;
    LH_TRY(take_u32(c, "the type of a value", &type));
    if (type >= N_VALUE_TYPES)
        return lh_error(LH_ERR_FORMAT, "value type %" PRIu32 " is unknown, expected 0 to %d: " DAMAGED, type,
                        (int)N_VALUE_TYPES - 1);
    *out = (int32_t)type;
    return LH_OK;
}

// count values of one type, one after the other.
static lh_status take_values(cursor *c, int32_t type, uint64_t count, lh_metadata *m) {
    const uint8_t *first = c->p;
    const void *data = first;
    if (type == LH_GGUF_STRING) {
        for (uint64_t i = 0; i < count; i++) {
            const char *text;
            uint64_t len;
            LH_TRY(take_string(c, "a string", &text, &len));
            if (m->type == LH_GGUF_STRING) data = text;
        }
    } else {
        uint64_t size;
        if (__builtin_mul_overflow(count, value_types[type].size, &size)) size = UINT64_MAX;
        if (!take(c, size, "a value")) return LH_ERR_FORMAT;
    }
    if (type == LH_GGUF_BOOL)
        for (uint64_t i = 0; i < count; i++)
            if (first[i] > 1) return lh_error(LH_ERR_FORMAT, "a bool is %d, expected 0 or 1: " DAMAGED, first[i]);
    m->data = data;
    m->size = (uint64_t)(c->p - (const uint8_t *)data);
    return LH_OK;
}

static lh_status take_value(cursor *c, lh_metadata *m) {
    LH_TRY(take_type(c, &m->type));
    m->elem_type = m->type;
    m->count = 1;
    if (m->type == LH_GGUF_ARRAY) {
        LH_TRY(take_type(c, &m->elem_type));
        LH_TRY(take_u64(c, "the length of an array", &m->count));
        if (m->elem_type == LH_GGUF_ARRAY) return lh_error(LH_ERR_UNSUPPORTED, "arrays of arrays are not supported");
    }
    return take_values(c, m->elem_type, m->count, m);
}

static lh_status parse_metadata(lh_gguf *g, cursor *c, uint64_t count) {
    const uint64_t least = 8 + 1 + 4 + 1;  // length and text of a key, type, value
    if (count > remaining(c) / least)
        return lh_error(LH_ERR_FORMAT,
                        "the header announces %" PRIu64 " metadata entries, but only %" PRIu64
                        " bytes follow: " TRUNCATED,
                        count, remaining(c));
    g->metadata = lh_alloc(count, sizeof *g->metadata);
    if (!g->metadata) return LH_ERR_MEMORY;
    for (uint64_t i = 0; i < count; i++) {
        lh_metadata *m = &g->metadata[i];
        lh_status s = take_name(g, c, "the key", &m->key);
        if (s != LH_OK) return lh_error_context(s, "metadata entry %" PRIu64 " of %" PRIu64, i + 1, count);
        s = take_value(c, m);
        if (s != LH_OK) return lh_error_context(s, "the value of %s", lh_quote_name(m->key).text);
    }
    g->n_metadata = (int64_t)count;
    return index_metadata(g);
}

// --- tensors ---------------------------------------------------------------------------------------------------

#define DEFAULT_ALIGNMENT 32
#define MAX_ALIGNMENT (1 << 20)

static lh_status read_alignment(const lh_gguf *g, uint64_t *out) {
    int64_t alignment = (int64_t)*out;
    LH_TRY(lh_gguf_int(g, "general.alignment", &alignment));
    if (alignment < 8 || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0)
        return lh_error(LH_ERR_FORMAT, "general.alignment is %" PRId64 ", expected a power of two from 8 to %d",
                        alignment, MAX_ALIGNMENT);
    *out = (uint64_t)alignment;
    return LH_OK;
}

// Everything of a tensor but its name and where its data lies.
static lh_status take_shape(cursor *c, uint64_t alignment, lh_gguf_tensor *t, uint64_t *offset) {
    uint32_t n_dims, type;
    LH_TRY(take_u32(c, "the number of dimensions", &n_dims));
    if (n_dims < 1 || n_dims > 4)
        return lh_error(LH_ERR_FORMAT, "%" PRIu32 " dimensions, expected 1 to 4: " DAMAGED, n_dims);
    t->n_dims = (int)n_dims;
    int64_t values = 1;
    for (int d = 0; d < 4; d++) {
        uint64_t ne = 1;
        if (d < t->n_dims) LH_TRY(take_u64(c, "a dimension", &ne));
        if (ne == 0 || ne > INT64_MAX || __builtin_mul_overflow(values, (int64_t)ne, &values))
            return lh_error(LH_ERR_FORMAT, "dimension %d is %" PRIu64 ", expected 1 to 2^63 values in all: " DAMAGED, d,
                            ne);
        t->ne[d] = (int64_t)ne;
    }
    LH_TRY(take_u32(c, "the type", &type));
    LH_TRY(take_u64(c, "the offset", offset));
    const lh_type_traits *traits = lh_type_get(type);
    if (!traits)
        return lh_error(LH_ERR_UNSUPPORTED,
                        "type %s is not supported; use a file in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to "
                        "Q6_K, IQ4_NL or IQ4_XS",
                        lh_type_name(type));
    t->type = (lh_type)type;
    if (t->ne[0] % traits->block_len != 0)
        return lh_error(LH_ERR_FORMAT, "rows of %" PRId64 " values are not whole blocks of %s, which hold %d: " DAMAGED,
                        t->ne[0], traits->name, traits->block_len);
    if (__builtin_mul_overflow((uint64_t)(values / traits->block_len), (uint64_t)traits->block_size, &t->size))
        return lh_error(LH_ERR_FORMAT, "%" PRId64 " values of %s are more than 2^64 bytes: " DAMAGED, values,
                        traits->name);
    if (*offset % alignment != 0)
        return lh_error(LH_ERR_FORMAT, "offset %" PRIu64 " is not a multiple of the alignment %" PRIu64 ": " DAMAGED,
                        *offset, alignment);
    return LH_OK;
}

// offsets (n_tensors): from the start of the data section, which begins at the next multiple of the alignment.
static lh_status place_tensors(lh_gguf *g, const cursor *c, uint64_t alignment, const uint64_t *offsets) {
    uint64_t start = LH_ROUND_UP((uint64_t)(c->p - c->start), alignment), size = (uint64_t)(c->end - c->start);
    uint64_t available = size > start ? size - start : 0, rest = available;
    for (int64_t i = 0; i < g->n_tensors; i++) {
        lh_gguf_tensor *t = &g->tensors[i];
        if (offsets[i] > available || t->size > available - offsets[i])
            return lh_error(LH_ERR_FORMAT,
                            "the tensor %s takes %" PRIu64 " bytes at offset %" PRIu64 " of only %" PRIu64
                            " bytes of data: " TRUNCATED,
                            lh_quote_name(t->name).text, t->size, offsets[i], available);
        // Otherwise a small file might be a model that takes hours to look through.
        if (t->size > rest)
            return lh_error(LH_ERR_FORMAT, "the tensor %s lies where others do, in %" PRIu64 " bytes of data: " DAMAGED,
                            lh_quote_name(t->name).text, available);
        rest -= t->size;
        t->data = c->start + start + offsets[i];
    }
    return LH_OK;
}

static lh_status parse_tensors(lh_gguf *g, cursor *c, uint64_t count) {
    const uint64_t least = 8 + 1 + 4 + 8 + 4 + 8;  // length and text of a name, n_dims, one dimension, type, offset
    if (count > remaining(c) / least)
        return lh_error(LH_ERR_FORMAT,
                        "the header announces %" PRIu64 " tensors, but only %" PRIu64
                        " bytes are left for them: " TRUNCATED,
                        count, remaining(c));
    uint64_t alignment = DEFAULT_ALIGNMENT;
    LH_TRY(read_alignment(g, &alignment));
    g->tensors = lh_alloc(count, sizeof *g->tensors);
    uint64_t *offsets = lh_alloc(count, sizeof *offsets);
    lh_status s = g->tensors && offsets ? LH_OK : LH_ERR_MEMORY;
    for (uint64_t i = 0; i < count && s == LH_OK; i++) {
        lh_gguf_tensor *t = &g->tensors[i];
        s = take_name(g, c, "the name", &t->name);
        if (s != LH_OK) {
            lh_error_context(s, "tensor %" PRIu64 " of %" PRIu64, i + 1, count);
            break;
        }
        s = take_shape(c, alignment, t, &offsets[i]);
        if (s != LH_OK) lh_error_context(s, "the tensor %s", lh_quote_name(t->name).text);
    }
    if (s == LH_OK) {
        g->n_tensors = (int64_t)count;
        s = place_tensors(g, c, alignment, offsets);
    }
    if (s == LH_OK) s = index_tensors(g);
    lh_free(offsets);
    return s;
}

lh_status lh_gguf_join_parts(lh_gguf *g) {
    int64_t total = 0, n = 0;
    for (const lh_gguf *part = g; part; part = part->next_part) total += part->n_tensors;
    lh_gguf_tensor *tensors = lh_alloc((size_t)total, sizeof *tensors);
    if (!tensors) return LH_ERR_MEMORY;
    for (lh_gguf *part = g; part; part = part->next_part) {
        if (part->n_tensors) memcpy(tensors + n, part->tensors, (size_t)part->n_tensors * sizeof *tensors);
        n += part->n_tensors;
        lh_free(part->tensors_by_name);
        lh_free(part->tensors);
        part->tensors_by_name = NULL;
        part->tensors = NULL;
        part->n_tensors = 0;
    }
    g->tensors = tensors;
    g->n_tensors = total;
    return index_tensors(g);
}

// --- the container ---------------------------------------------------------------------------------------------

#define HTML_PAGE "an HTML page, probably the one about the model; download the file itself"

// What people open by mistake, by its first bytes.
static const struct {
    const char *start, *what;
} not_gguf[] = {
    {"version https://git-lfs", "a git-lfs pointer, not the model itself; fetch it with `git lfs pull`"},
    {"<!doctype html", HTML_PAGE},
    {"<html", HTML_PAGE},
    {"<?xml", "an XML document, probably a server's error message; download the file again"},
    {"{", "a JSON document, perhaps a server's error message or a Hugging Face config; give the .gguf file"},
    {"PK\x03\x04", "a zip archive or a PyTorch checkpoint; unpack it, or convert the model to GGUF"},
    {"\x1f\x8b", "gzip-compressed; decompress it first"},
    {"\x28\xb5\x2f\xfd", "zstd-compressed; decompress it first"},
    {"\xfd\x37zXZ", "xz-compressed; decompress it first"},
    {"lmgg", "an old GGML model, of before GGUF; convert it again from the original weights"},
    {"fmgg", "an old GGMF model, of before GGUF; convert it again from the original weights"},
    {"tjgg", "an old GGJT model, of before GGUF; convert it again from the original weights"},
    {"algg", "an old GGLA adapter, of before GGUF; convert it again from the original weights"},
};

static bool begins_with(const uint8_t *p, size_t size, const char *start) {
    for (size_t i = 0; start[i]; i++) {
        if (i >= size) return false;
        uint8_t lower = p[i] >= 'A' && p[i] <= 'Z' ? (uint8_t)(p[i] + 32) : p[i];
        if (p[i] != (uint8_t)start[i] && lower != (uint8_t)start[i]) return false;
    }
    return true;
}

static lh_status explain_magic(const uint8_t *p, size_t size) {
    if (size == 0) return lh_error(LH_ERR_FORMAT, "the file is empty, expected a GGUF model");
    if (size < 24 && memcmp(p, "GGUF", LH_MIN(size, 4)) == 0)
        return lh_error(LH_ERR_FORMAT,
                        "the file has only %zu bytes, fewer than a GGUF header; download or copy it again", size);
    // A u64 length, then JSON that begins with {". First, since the length may look like anything.
    if (size >= 10 && p[8] == '{' && p[9] == '"' && memcmp(p + 5, "\0\0\0", 3) == 0)
        return lh_error(LH_ERR_FORMAT, "the file is in safetensors format; convert the model to GGUF");
    size_t skip = begins_with(p, size, "\xef\xbb\xbf") ? 3 : 0;
    while (skip < size && strchr(" \t\r\n", p[skip]) && p[skip]) skip++;
    for (size_t i = 0; i < sizeof not_gguf / sizeof *not_gguf; i++)
        if (begins_with(p + skip, size - skip, not_gguf[i].start) || begins_with(p, size, not_gguf[i].start))
            return lh_error(LH_ERR_FORMAT, "the file is %s", not_gguf[i].what);
    if (size >= 4 && memcmp(p, "\0\0\0\0", 4) == 0)
        return lh_error(LH_ERR_FORMAT, "the file begins with zeros, as an unfinished download does; download it again");
    return lh_error(LH_ERR_FORMAT, "the file begins with %s, expected 'GGUF': it is not a GGUF model",
                    lh_quote((const char *)p, LH_MIN(size, 4)).text);
}

static lh_status check_version(uint32_t version) {
    if (version == 2 || version == 3) return LH_OK;
    if (version == 1)
        return lh_error(LH_ERR_UNSUPPORTED,
                        "GGUF version 1 is not supported, expected 2 or 3; convert the model again");
    if ((version & 0xffff) == 0 && version != 0)
        return lh_error(LH_ERR_UNSUPPORTED, "the file is a big-endian GGUF, expected little-endian; convert it");
    return lh_error(LH_ERR_UNSUPPORTED, "GGUF version %" PRIu32 " is unknown, expected 2 or 3", version);
}

static lh_status parse(lh_gguf *g, cursor *c) {
    uint32_t magic, version;
    uint64_t n_tensors, n_metadata;
    if (remaining(c) < 24 || memcmp(c->p, "GGUF", 4) != 0) return explain_magic(c->p, remaining(c));
    LH_TRY(take_u32(c, "the magic", &magic));
    LH_TRY(take_u32(c, "the version", &version));
    LH_TRY(check_version(version));
    LH_TRY(take_u64(c, "the number of tensors", &n_tensors));
    LH_TRY(take_u64(c, "the number of metadata entries", &n_metadata));
    LH_TRY(parse_metadata(g, c, n_metadata));
    return parse_tensors(g, c, n_tensors);
}

lh_status lh_gguf_parse(const void *memory, size_t size, lh_gguf **out) {
    *out = NULL;
    if ((uintptr_t)memory % 8 != 0) return lh_error(LH_ERR_ARGUMENT, "the memory of a GGUF is not 8-byte aligned");
    lh_gguf *g = lh_alloc(1, sizeof *g);
    if (!g) return LH_ERR_MEMORY;
    cursor c = {memory, memory, (const uint8_t *)memory + size};
    lh_status s = parse(g, &c);
    if (s != LH_OK)
        lh_gguf_free(g);
    else
        *out = g;
    return s;
}

void lh_gguf_free(lh_gguf *g) {
    while (g) {
        lh_gguf *next = g->next_part;
        for (lh_name_block *block = g->names; block;) {
            lh_name_block *after = block->next;
            lh_free(block);
            block = after;
        }
        lh_free(g->metadata);
        lh_free(g->metadata_by_key);
        lh_free(g->tensors);
        lh_free(g->tensors_by_name);
        lh_gguf_unmap(g);
        lh_free(g);
        g = next;
    }
}
