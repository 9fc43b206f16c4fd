#include "spans.h"

#include <string.h>

#define BLOCK_LEN 32

LH_INLINE void move_part(const char *to, const char *from, size_t size) { memcpy((char *)to, from, size); }

// Blocks [first, first + count) of one view to the first ones of the other.
LH_INLINE void move_blocks(lh_block_parts p, lh_block_view from, int first, int count, lh_block_view to) {
    for (int i = 0; i < count; i++) {
        size_t f = (size_t)(first + i), t = (size_t)i;
        move_part(to.weights + t * to.weights_step, from.weights + f * from.weights_step, p.weights);
        move_part(to.fifth + t * to.fifth_step, from.fifth + f * from.fifth_step, p.fifth);
        move_part(to.scale + t * to.half_step, from.scale + f * from.half_step, p.scale);
        move_part(to.min + t * to.half_step, from.min + f * from.half_step, p.min);
    }
}

LH_INLINE void row_to_spans(lh_block_parts p, const char *row, int64_t n_blocks, char *out) {
    for (int64_t b = 0; b < n_blocks; b += LH_SPAN) {
        int n = (int)LH_MIN(n_blocks - b, LH_SPAN);
        size_t at = (size_t)b * lh_block_size(p);
        move_blocks(p, lh_view_blocks(p, false, row + at, n), 0, n, lh_view_blocks(p, true, out + at, n));
    }
}

// Blocks [first, end) of a row of n_blocks in spans.
LH_INLINE void blocks_of_row(lh_block_parts p, const char *row, int64_t n_blocks, int64_t first, int64_t end, char *out) {
    while (first < end) {
        int64_t span = first / LH_SPAN * LH_SPAN;
        int n = (int)LH_MIN(n_blocks - span, LH_SPAN), count = (int)(LH_MIN(end, span + n) - first);
        lh_block_view from = lh_view_blocks(p, true, row + (size_t)span * lh_block_size(p), n);
        move_blocks(p, from, (int)(first - span), count, lh_view_blocks(p, false, out, count));
        first += count;
        out += (size_t)count * lh_block_size(p);
    }
}

bool lh_has_spans(lh_type type) { return lh_type_get(type)->block_len == BLOCK_LEN; }

void lh_to_spans(const lh_tensor *w, int64_t row, int64_t n_rows, void *out) {
    for (int64_t r = 0; r < n_rows; r++) {
        const char *from = (const char *)w->data + (size_t)(row + r) * w->row_size;
        char *to = (char *)out + (size_t)r * w->row_size;
        switch (w->type) {
#define ROW_TO_SPANS(TYPE, ...) \
    case LH_TYPE_##TYPE: row_to_spans((lh_block_parts)__VA_ARGS__, from, w->n_cols / BLOCK_LEN, to); break;
            LH_SPAN_FORMATS(ROW_TO_SPANS)
            default: break;
        }
    }
}

const void *lh_blocks_at(const lh_tensor *w, int64_t row, int64_t col, int64_t n, void *room) {
    const lh_type_traits *traits = lh_type_get(w->type);
    const char *from = (const char *)w->data + (size_t)row * w->row_size;
    int64_t first = col / traits->block_len;
    if (!w->spans) return from + (size_t)first * (size_t)traits->block_size;
    switch (w->type) {
#define BLOCKS_OF_ROW(TYPE, ...)                                                                                       \
    case LH_TYPE_##TYPE:                                                                                               \
        blocks_of_row((lh_block_parts)__VA_ARGS__, from, w->n_cols / BLOCK_LEN, first, first + n / BLOCK_LEN, room);   \
        break;
        LH_SPAN_FORMATS(BLOCKS_OF_ROW)
        default: break;
    }
    return room;
}
