// Typed access to the metadata of a GGUF file.
#include "gguf_impl.h"

#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static lh_status wrong_type(const lh_metadata *m, const char *expected) {
    bool array = m->type == LH_GGUF_ARRAY;
    return lh_error(LH_ERR_FORMAT, "the value of %s is %s%s, expected %s", lh_quote_name(m->key).text,
                    array ? "an array of " : "", lh_gguf_type_name(m->elem_type), expected);
}

#define READ(type, from, into)                \
    do {                                      \
        type value_;                          \
        memcpy(&value_, from, sizeof value_); \
        into = value_;                        \
    } while (0)

lh_status lh_gguf_int(const lh_gguf *g, const char *key, int64_t *out) {
    const lh_metadata *m = lh_gguf_metadata(g, key);
    if (!m) return LH_OK;
    uint64_t unsigned_value = 0;
    switch (m->type) {
    case LH_GGUF_U8: READ(uint8_t, m->data, *out); return LH_OK;
    case LH_GGUF_I8: READ(int8_t, m->data, *out); return LH_OK;
    case LH_GGUF_U16: READ(uint16_t, m->data, *out); return LH_OK;
    case LH_GGUF_I16: READ(int16_t, m->data, *out); return LH_OK;
    case LH_GGUF_U32: READ(uint32_t, m->data, *out); return LH_OK;
    case LH_GGUF_I32: READ(int32_t, m->data, *out); return LH_OK;
    case LH_GGUF_I64: READ(int64_t, m->data, *out); return LH_OK;
    case LH_GGUF_U64:
        READ(uint64_t, m->data, unsigned_value);
        if (unsigned_value > INT64_MAX)
            return lh_error(LH_ERR_FORMAT, "%s is %" PRIu64 ", expected a number below 2^63",
                            lh_quote_name(key).text, unsigned_value);
        *out = (int64_t)unsigned_value;
        return LH_OK;
    default: return wrong_type(m, "an integer");
    }
}

lh_status lh_gguf_float(const lh_gguf *g, const char *key, float *out) {
    const lh_metadata *m = lh_gguf_metadata(g, key);
    if (!m) return LH_OK;
    double value = 0;
    switch (m->type) {
    case LH_GGUF_F32: READ(float, m->data, *out); return LH_OK;
    case LH_GGUF_F64:
        READ(double, m->data, value);
        if (!(value >= -FLT_MAX && value <= FLT_MAX))
            return lh_error(LH_ERR_FORMAT, "%s is %g, expected a number that fits in 32 bits",
                            lh_quote_name(key).text, value);
        *out = (float)value;
        return LH_OK;
    default: return wrong_type(m, "a float");
    }
}

lh_status lh_gguf_bool(const lh_gguf *g, const char *key, bool *out) {
    const lh_metadata *m = lh_gguf_metadata(g, key);
    if (!m) return LH_OK;
    if (m->type != LH_GGUF_BOOL) return wrong_type(m, "a bool");
    *out = *(const uint8_t *)m->data != 0;
    return LH_OK;
}

lh_status lh_gguf_string(const lh_gguf *g, const char *key, const char **text, size_t *len) {
    const lh_metadata *m = lh_gguf_metadata(g, key);
    if (!m) return LH_OK;
    if (m->type != LH_GGUF_STRING) return wrong_type(m, "a string");
    *text = m->data;
    *len = m->size;
    return LH_OK;
}

lh_status lh_gguf_array(const lh_gguf *g, const char *key, lh_gguf_type elem_type, const void **data, uint64_t *count) {
    const lh_metadata *m = lh_gguf_metadata(g, key);
    if (!m) return LH_OK;
    if (m->type != LH_GGUF_ARRAY || m->elem_type != (int32_t)elem_type) {
        char expected[32];
        snprintf(expected, sizeof expected, "an array of %s", lh_gguf_type_name((int32_t)elem_type));
        return wrong_type(m, expected);
    }
    *data = m->data;
    *count = m->count;
    return LH_OK;
}

void lh_gguf_next_string(const void **cursor, const char **text, size_t *len) {
    uint64_t size;
    memcpy(&size, *cursor, sizeof size);
    *text = (const char *)*cursor + sizeof size;
    *len = size;
    *cursor = *text + size;
}
