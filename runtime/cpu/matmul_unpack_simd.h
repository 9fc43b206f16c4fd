// Quantised weights as whole numbers and scales, some rows and columns at a time, on the way into a panel: over the
// vectors of a simd_*.h, which comes first.
#ifndef LH_MATMUL_UNPACK_SIMD_H
#define LH_MATMUL_UNPACK_SIMD_H

#include <string.h>

#include "matmul_tile.h"
#include "quant_blocks.h"
#include "spans.h"

// Columns unpacked at a time: a multiple of every block length, and few enough to stay in the first-level cache.
#define PIECE 256

typedef void (*unpack_fn)(const void *blocks, int64_t n, int8_t *q, float *scale, float *min);

// Compiled here, for the instruction set of this file.
LH_QUANT_FORMATS(LH_DEFINE_UNPACK)
#define UNPACK_ROW(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block) [LH_TYPE_##TYPE] = unpack_##suffix,
static const unpack_fn unpack_simd[LH_TYPE_COUNT] = {LH_QUANT_FORMATS(UNPACK_ROW)};

// n values from column col on of a row in spans, of one of these: PIECE divides a span.
LH_INLINE void unpack_blocks(unpack_fn unpack, lh_block_parts p, const char *row, int64_t n_cols, int64_t col, int64_t n,
                             int8_t *q, float *scale, float *min) {
    int64_t first = col / LH_SPAN_BLOCK_LEN;
    lh_block_view from = lh_view_span(p, row, n_cols / LH_SPAN_BLOCK_LEN, &first);
    for (int64_t i = 0; i < n / LH_SPAN_BLOCK_LEN; i++) {
        char block[sizeof(lh_block_q8_0)];  // the largest
        lh_copy_block(p, from, first + i, lh_view_blocks(p, false, block, 1), 0);
        unpack(block, LH_SPAN_BLOCK_LEN, q + LH_SPAN_BLOCK_LEN * i, scale + i, min + i);
    }
}
_Static_assert(LH_SPAN_BLOCKS * LH_SPAN_BLOCK_LEN % PIECE == 0, "a piece is of one span");

static void unpack_span(const lh_tensor *w, const char *row, int64_t col, int64_t n, int8_t *q, float *scale, float *min) {
    switch (w->type) {
#define UNPACK_BLOCKS(suffix, TYPE, ...)                                                              \
    case LH_TYPE_##TYPE:                                                                              \
        unpack_blocks(unpack_##suffix, lh_parts_##suffix, row, w->n_cols, col, n, q, scale, min);     \
        break;
        LH_SPAN_FORMATS(UNPACK_BLOCKS)
        default: break;
    }
}

// Some rows of at most PIECE columns.
typedef struct piece {
    _Alignas(LH_ALIGN) int8_t q[VN][PIECE];
    float scale[VN][PIECE / 16], min[VN][PIECE / 16];
} piece;

// Rows past the end of the matrix are zero.
static void unpack_piece(const lh_type_traits *traits, const lh_tensor *w, int64_t row, int64_t col, int64_t n,
                         piece *to) {
    for (int r = 0; r < VN; r++, row++) {
        if (row < w->n_rows) {
            const char *at = (const char *)w->data + (size_t)row * w->row_size;
            size_t before = (size_t)(col / traits->block_len * traits->block_size);
            // Pieces are too short for a processor to see where they lead: the same columns come next, of the next rows (of
            // spans, about these).
            if (row + VN < w->n_rows)
                lh_prefetch_second(at + VN * w->row_size + before, (size_t)(n / traits->block_len * traits->block_size));
            if (w->spans) unpack_span(w, at, col, n, to->q[r], to->scale[r], to->min[r]);
            else unpack_simd[w->type](at + before, n, to->q[r], to->scale[r], to->min[r]);
        } else {
            memset(to->q[r], 0, sizeof to->q[r]);
            memset(to->scale[r], 0, sizeof to->scale[r]);
            memset(to->min[r], 0, sizeof to->min[r]);
        }
    }
}

#endif
