// Weights as processors with wide vectors like to read them. A block of 18 bytes never fits a vector, and its scale has
// to be picked out of it; so rows of the legacy formats, where they are copied at all, are laid out in spans of 16
// blocks, the last one of as many as remain: first the weights of all its blocks, then the fifth bits of these, then
// scales, then mins. A span has the bytes of its blocks, and rows remain as long as they were.
#ifndef LH_SPANS_H
#define LH_SPANS_H

#include <string.h>

#include "quant.h"
#include "quant_layout.h"

#define LH_SPAN_BLOCKS 16
#define LH_SPAN_BLOCK_LEN 32  // values in a block
#define LH_HALF 2             // bytes

// Bytes of a block, beside its scale. In the file it begins with the scale; then come min, fifth bits, weights.
typedef struct lh_block_parts {
    size_t weights, fifth, min;
} lh_block_parts;

// The legacy formats: X(suffix, TYPE, weights, fifth, min).
#define LH_SPAN_FORMATS(X)     \
    X(q4_0, Q4_0, 16, 0, 0)    \
    X(q4_1, Q4_1, 16, 0, 2)    \
    X(q5_0, Q5_0, 16, 4, 0)    \
    X(q5_1, Q5_1, 16, 4, 2)    \
    X(q8_0, Q8_0, 32, 0, 0)    \
    X(iq4_nl, IQ4_NL, 16, 0, 0)

#define LH_DEFINE_PARTS(suffix, TYPE, weights, fifth, min)                                         \
    static const lh_block_parts lh_parts_##suffix = {weights, fifth, min};                         \
    static_assert(LH_HALF + (min) + (fifth) + (weights) == sizeof(lh_block_##suffix), #TYPE);
LH_SPAN_FORMATS(LH_DEFINE_PARTS)

LH_INLINE size_t lh_block_size(lh_block_parts p) { return LH_HALF + p.min + p.fifth + p.weights; }

// Where the parts of a block are, and how far from there those of the next one.
typedef struct lh_block_view {
    const char *weights, *fifth, *scale, *min;
    size_t weights_step, fifth_step, half_step;  // scale and min are halves
} lh_block_view;

// Of n blocks as in the file, or of a span of n, the first one.
LH_INLINE lh_block_view lh_view_blocks(lh_block_parts p, bool span, const char *at, int n) {
    size_t size = lh_block_size(p), all = (size_t)n;
    if (!span) return (lh_block_view){at + size - p.weights, at + LH_HALF + p.min, at, at + LH_HALF, size, size, size};
    const char *fifth = at + all * p.weights, *scale = fifth + all * p.fifth;
    return (lh_block_view){at, fifth, scale, scale + all * LH_HALF, p.weights, p.fifth, LH_HALF};
}

// The span of a block of a row of n_blocks; *block becomes its number there.
LH_INLINE lh_block_view lh_view_span(lh_block_parts p, const char *row, int64_t n_blocks, int64_t *block) {
    int64_t first = *block / LH_SPAN_BLOCKS * LH_SPAN_BLOCKS;
    *block -= first;
    return lh_view_blocks(p, true, row + (size_t)first * lh_block_size(p), (int)LH_MIN(n_blocks - first, LH_SPAN_BLOCKS));
}

// Block i of one view becomes block j of another, whose memory is the caller's to write.
LH_INLINE void lh_copy_block(lh_block_parts p, lh_block_view from, int64_t i, lh_block_view to, int64_t j) {
    size_t f = (size_t)i, t = (size_t)j;
    memcpy((char *)to.weights + t * to.weights_step, from.weights + f * from.weights_step, p.weights);
    memcpy((char *)to.fifth + t * to.fifth_step, from.fifth + f * from.fifth_step, p.fifth);
    memcpy((char *)to.scale + t * to.half_step, from.scale + f * from.half_step, LH_HALF);
    memcpy((char *)to.min + t * to.half_step, from.min + f * from.half_step, p.min);
}

// Whether a format is one of these.
bool lh_has_spans(lh_type type);
// Rows [row, row + n_rows) of w, which lie as in the file, laid out in spans.
void lh_to_spans(const lh_tensor *w, int64_t row, int64_t n_rows, void *out);
// n values of a row from column col on, as blocks of the file: where they lie, or put together in `room`, which has their
// size. col and n are multiples of the block length.
const void *lh_blocks_at(const lh_tensor *w, int64_t row, int64_t col, int64_t n, void *room);

#endif
