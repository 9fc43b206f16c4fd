// Classes of characters by general category, and UTF-8 that may be anything.
#ifndef LH_UNICODE_H
#define LH_UNICODE_H

#include <stddef.h>
#include <stdint.h>

// A code point has one of these, or none (controls, formats, private use, unassigned).
enum {
    LH_UPPER = 1,        // Lu, Lt
    LH_LOWER = 2,        // Ll
    LH_CASELESS = 4,     // Lm, Lo
    LH_MARK = 8,         // M*
    LH_NUMBER = 16,      // N*
    LH_PUNCTUATION = 32, // P*
    LH_SYMBOL = 64,      // S*
    LH_SPACE = 128,      // White_Space, whatever its category
    LH_LETTER = LH_UPPER | LH_LOWER | LH_CASELESS,
};

// unicode_tables.c
extern const uint8_t lh_unicode_ascii[128];
extern const int32_t lh_unicode_n_ranges;
extern const uint32_t lh_unicode_ranges[];

// Code points from 0x110000 on have none.
uint8_t lh_unicode_class(uint32_t code_point);

enum {
    LH_UTF8_BAD = -1,        // no well-formed sequence begins here
    LH_UTF8_TRUNCATED = -2,  // one might, but the bytes end before it does
};

// The character at p, n >= 1 bytes: its length (1..4), and *code_point is it, LH_UTF8_BAD or LH_UTF8_TRUNCATED. For
// LH_UTF8_BAD the length is that of the maximal subpart (Unicode, section 3.9), which one U+FFFD stands for.
size_t lh_utf8_decode(const char *p, size_t n, int32_t *code_point);

#endif
