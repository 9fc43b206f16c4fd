// Weights as processors with wide vectors like to read them. A block of 18 bytes never fits a vector, and its scale has
// to be picked out of it; so rows of the legacy formats, where they are copied at all, are laid out in spans of 16
// blocks, the last one of as many as remain: first the weights of all its blocks, then the fifth bits of these, then
// scales, then mins. A span has the bytes of its blocks, and rows remain as long as they were.
#ifndef LH_SPANS_H
#define LH_SPANS_H

#include <string.h>

#include "quant.h"

#define LH_SPAN 16  // blocks

// Bytes of a block. In the file it begins with the scale, and goes back from there: min, fifth bits, weights.
typedef struct lh_block_parts {
    size_t weights, fifth, scale, min;
} lh_block_parts;

static const lh_block_parts lh_parts_q4_0 = {16, 0, 2, 0}, lh_parts_q4_1 = {16, 0, 2, 2}, lh_parts_q5_0 = {16, 4, 2, 0},
                            lh_parts_q5_1 = {16, 4, 2, 2}, lh_parts_q8_0 = {32, 0, 2, 0}, lh_parts_iq4_nl = {16, 0, 2, 0};

// The legacy formats: X(suffix, TYPE).
#define LH_SPAN_FORMATS(X) \
    X(q4_0, Q4_0) X(q4_1, Q4_1) X(q5_0, Q5_0) X(q5_1, Q5_1) X(q8_0, Q8_0) X(iq4_nl, IQ4_NL)

LH_INLINE size_t lh_block_size(lh_block_parts p) { return p.weights + p.fifth + p.scale + p.min; }

// Where the parts of a block are, and how far from there those of the next one.
typedef struct lh_block_view {
    const char *weights, *fifth, *scale, *min;
    size_t weights_step, fifth_step, half_step;  // scale and min are halves
} lh_block_view;

// Of n blocks as in the file, or of a span of n, the first one.
LH_INLINE lh_block_view lh_view_blocks(lh_block_parts p, bool span, const void *blocks, int n) {
    const char *at = (const char *)blocks;
    size_t size = lh_block_size(p), all = (size_t)n;
    if (!span) return (lh_block_view){at + size - p.weights, at + p.scale + p.min, at, at + p.scale, size, size, size};
    const char *fifth = at + all * p.weights, *scale = fifth + all * p.fifth;
    return (lh_block_view){at, fifth, scale, scale + all * p.scale, p.weights, p.fifth, p.scale};
}

// The i-th of them, as in the file.
LH_INLINE void lh_block_of(lh_block_parts p, lh_block_view blocks, int i, char *out) {
    size_t at = (size_t)i;
    memcpy(out, blocks.scale + at * blocks.half_step, p.scale);
    memcpy(out + p.scale, blocks.min + at * blocks.half_step, p.min);
    memcpy(out + p.scale + p.min, blocks.fifth + at * blocks.fifth_step, p.fifth);
    memcpy(out + p.scale + p.min + p.fifth, blocks.weights + at * blocks.weights_step, p.weights);
}

// Whether a format is one of these.
bool lh_has_spans(lh_type type);
// Rows [row, row + n_rows) of w, which lie as in the file, laid out in spans.
void lh_to_spans(const lh_tensor *w, int64_t row, int64_t n_rows, void *out);
// n values of a row from column col on, as blocks of the file: where they lie, or put together in `room`, which has their
// size. col and n are multiples of the block length.
const void *lh_blocks_at(const lh_tensor *w, int64_t row, int64_t col, int64_t n, void *room);

#endif
