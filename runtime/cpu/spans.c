#include "spans.h"

LH_INLINE void row_to_spans(lh_block_parts p, const char *row, int64_t n_blocks, char *out) {
    lh_block_view from = lh_view_blocks(p, false, row, 1);
    for (int64_t b = 0; b < n_blocks; b++) {
        int64_t at = b;
        lh_block_view to = lh_view_span(p, out, n_blocks, &at);
        lh_copy_block(p, from, b, to, at);
    }
}

LH_INLINE void blocks_of_row(lh_block_parts p, const char *row, int64_t n_blocks, int64_t first, int64_t end, char *out) {
    lh_block_view to = lh_view_blocks(p, false, out, 1);
    for (int64_t b = first; b < end; b++) {
        int64_t at = b;
        lh_block_view from = lh_view_span(p, row, n_blocks, &at);
        lh_copy_block(p, from, at, to, b - first);
    }
}

bool lh_has_spans(lh_type type) {
    switch (type) {
#define HAS_SPANS(suffix, TYPE, ...) case LH_TYPE_##TYPE: return true;
        LH_SPAN_FORMATS(HAS_SPANS)
        default: return false;
    }
}

void lh_to_spans(const lh_tensor *w, int64_t row, int64_t n_rows, void *out) {
    int64_t n_blocks = w->n_cols / LH_SPAN_BLOCK_LEN;
    for (int64_t r = 0; r < n_rows; r++) {
        const char *from = (const char *)w->data + (size_t)(row + r) * w->row_size;
        char *to = (char *)out + (size_t)r * w->row_size;
        switch (w->type) {
#define ROW_TO_SPANS(suffix, TYPE, ...) \
    case LH_TYPE_##TYPE: row_to_spans(lh_parts_##suffix, from, n_blocks, to); break;
            LH_SPAN_FORMATS(ROW_TO_SPANS)
            default: break;
        }
    }
}

const void *lh_blocks_at(const lh_tensor *w, int64_t row, int64_t col, int64_t n, void *room) {
    const lh_type_traits *traits = lh_type_get(w->type);
    const char *from = (const char *)w->data + (size_t)row * w->row_size;
    if (!w->spans) return from + (size_t)(col / traits->block_len) * (size_t)traits->block_size;
    int64_t n_blocks = w->n_cols / LH_SPAN_BLOCK_LEN, first = col / LH_SPAN_BLOCK_LEN, end = first + n / LH_SPAN_BLOCK_LEN;
    switch (w->type) {
#define BLOCKS_OF_ROW(suffix, TYPE, ...) \
    case LH_TYPE_##TYPE: blocks_of_row(lh_parts_##suffix, from, n_blocks, first, end, room); break;
        LH_SPAN_FORMATS(BLOCKS_OF_ROW)
        default: break;
    }
    return room;
}
