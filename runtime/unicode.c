#include "unicode.h"

uint8_t lh_unicode_class(uint32_t code_point) {
    if (code_point < 128) return lh_unicode_ascii[code_point];
    if (code_point > 0x10FFFF) return 0;
    // The last range that begins at or before the code point.
    uint32_t limit = code_point << 8 | 0xFF;
    int32_t low = 0, high = lh_unicode_n_ranges;
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (lh_unicode_ranges[middle] <= limit)
            low = middle;
        else
            high = middle;
    }
    return (uint8_t)lh_unicode_ranges[low];
}

size_t lh_utf8_decode(const char *p, size_t n, int32_t *code_point) {
    uint8_t lead = (uint8_t)p[0];
    if (lead < 0x80) {
        *code_point = lead;
        return 1;
    }
    *code_point = LH_UTF8_BAD;
    if (lead < 0xC2 || lead > 0xF4) return 1;
    size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    int32_t value = lead & (0x7F >> length);
    // The second byte has a narrower range after some leads: no overlong forms, no surrogates, nothing past 10FFFF.
    uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < length; i++) {
        if (i == n) {
            *code_point = LH_UTF8_TRUNCATED;
            return i;
        }
        uint8_t byte = (uint8_t)p[i];
        if (byte < low || byte > high) return i;
        value = value << 6 | (byte & 0x3F);
        low = 0x80, high = 0xBF;
    }
    *code_point = value;
    return length;
}
