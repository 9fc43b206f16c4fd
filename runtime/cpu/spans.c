#include "spans.h"

#define BLOCK_LEN 32

LH_INLINE void block_to(lh_block_parts p, const char *block, lh_block_view to, int i) {
    size_t at = (size_t)i;
    memcpy((char *)to.scale + at * to.half_step, block, p.scale);
    memcpy((char *)to.min + at * to.half_step, block + p.scale, p.min);
    memcpy((char *)to.fifth + at * to.fifth_step, block + p.scale + p.min, p.fifth);
    memcpy((char *)to.weights + at * to.weights_step, block + p.scale + p.min + p.fifth, p.weights);
}

LH_INLINE void row_to_spans(lh_block_parts p, const char *row, int64_t n_blocks, char *out) {
    const size_t size = lh_block_size(p);
    for (int64_t b = 0; b < n_blocks; b += LH_SPAN, out += LH_SPAN * size) {
        int n = (int)LH_MIN(n_blocks - b, LH_SPAN);
        lh_block_view to = lh_view_blocks(p, true, out, n);
        for (int i = 0; i < n; i++, row += size) block_to(p, row, to, i);
    }
}

// Blocks [first, end) of a row of n_blocks in spans.
LH_INLINE void blocks_of_row(lh_block_parts p, const char *row, int64_t n_blocks, int64_t first, int64_t end, char *out) {
    const size_t size = lh_block_size(p);
    for (; first < end; first++, out += size) {
        int64_t span = first / LH_SPAN * LH_SPAN;
        lh_block_view from = lh_view_blocks(p, true, row + (size_t)span * size, (int)LH_MIN(n_blocks - span, LH_SPAN));
        lh_block_of(p, from, (int)(first - span), out);
    }
}

bool lh_has_spans(lh_type type) {
    switch (type) {
#define HAS_SPANS(suffix, TYPE) case LH_TYPE_##TYPE: return true;
        LH_SPAN_FORMATS(HAS_SPANS)
        default: return false;
    }
}

void lh_to_spans(const lh_tensor *w, int64_t row, int64_t n_rows, void *out) {
    for (int64_t r = 0; r < n_rows; r++) {
        const char *from = (const char *)w->data + (size_t)(row + r) * w->row_size;
        char *to = (char *)out + (size_t)r * w->row_size;
        switch (w->type) {
#define ROW_TO_SPANS(suffix, TYPE) \
    case LH_TYPE_##TYPE: row_to_spans(lh_parts_##suffix, from, w->n_cols / BLOCK_LEN, to); break;
            LH_SPAN_FORMATS(ROW_TO_SPANS)
            default: break;
        }
    }
}

const void *lh_blocks_at(const lh_tensor *w, int64_t row, int64_t col, int64_t n, void *room) {
    const lh_type_traits *traits = lh_type_get(w->type);
    const char *from = (const char *)w->data + (size_t)row * w->row_size;
    int64_t first = col / traits->block_len, end = first + n / BLOCK_LEN;
    if (!w->spans) return from + (size_t)first * (size_t)traits->block_size;
    switch (w->type) {
#define BLOCKS_OF_ROW(suffix, TYPE) \
    case LH_TYPE_##TYPE: blocks_of_row(lh_parts_##suffix, from, w->n_cols / BLOCK_LEN, first, end, room); break;
        LH_SPAN_FORMATS(BLOCKS_OF_ROW)
        default: break;
    }
    return room;
}
