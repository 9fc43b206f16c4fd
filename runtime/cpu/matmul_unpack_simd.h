// Quantised weights as whole numbers and scales, some rows and columns at a time, on the way into a panel: over the
// vectors of a simd_*.h, which comes first.
#ifndef LH_MATMUL_UNPACK_SIMD_H
#define LH_MATMUL_UNPACK_SIMD_H

#include <string.h>

#include "matmul_tile.h"
#include "quant_blocks.h"

// Columns unpacked at a time, `piece_cols` of PIECE at most: a multiple of every block length, and few enough to stay in the
// first-level cache. unpack_cols: n columns of a row; `later` is as many bytes that are wanted next.
#define PIECE_RUNS 16  // that share a scale, at most
#if VN == 16

#define PIECE (PIECE_RUNS * 32)
#define NEXT_COLS 64
#define NEXT_FOUR 4
#define ASKED_SHARE 1
#include "unpack_avx512.h"

LH_INLINE int64_t piece_cols(const lh_type_traits *traits) { return PIECE_RUNS * traits->scale_len; }

LH_INLINE void unpack_cols(const lh_tensor *w, const char *row, int64_t col, int64_t n, const char *later, int8_t *q,
                           float *scale, float *min) {
    const lh_type_traits *traits = lh_type_get(w->type);
    size_t before = (size_t)(col / traits->block_len * traits->block_size);
    place to = {(char *)q, scale, min};
    unpack_row[w->type](w, row + before, n, later + before, &to);
}

#else

#define PIECE (PIECE_RUNS * 16)

typedef void (*unpack_fn)(const void *blocks, int64_t n, int8_t *q, float *scale, float *min);

// Compiled here, for the instruction set of this file.
LH_QUANT_FORMATS(LH_DEFINE_UNPACK)
#define UNPACK_ROW(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block) [LH_TYPE_##TYPE] = unpack_##suffix,
static const unpack_fn unpack_simd[LH_TYPE_COUNT] = {LH_QUANT_FORMATS(UNPACK_ROW)};

LH_INLINE int64_t piece_cols(const lh_type_traits *traits) {
    (void)traits;
    return PIECE;
}

// Pieces are too short for a processor to see where they lead.
LH_INLINE void unpack_cols(const lh_tensor *w, const char *row, int64_t col, int64_t n, const char *later, int8_t *q,
                           float *scale, float *min) {
    const lh_type_traits *traits = lh_type_get(w->type);
    size_t before = (size_t)(col / traits->block_len * traits->block_size);
    lh_prefetch_second(later + before, (size_t)(n / traits->block_len * traits->block_size));
    unpack_simd[w->type](row + before, n, q, scale, min);
}

#endif

// Some rows of at most PIECE columns.
typedef struct piece {
    _Alignas(LH_ALIGN) int8_t q[VN][PIECE];
    float scale[VN][PIECE_RUNS], min[VN][PIECE_RUNS];
} piece;

// Rows past the end of the matrix are zero.
static void unpack_piece(const lh_tensor *w, int64_t row, int64_t col, int64_t n, piece *to) {
    for (int r = 0; r < VN; r++, row++) {
        if (row < w->n_rows) {
            const char *at = (const char *)w->data + (size_t)row * w->row_size;
            // The same columns come next, of the next rows.
            const char *later = row + VN < w->n_rows ? at + VN * w->row_size : at;
            unpack_cols(w, at, col, n, later, to->q[r], to->scale[r], to->min[r]);
        } else {
            memset(to->q[r], 0, sizeof to->q[r]);
            memset(to->scale[r], 0, sizeof to->scale[r]);
            memset(to->min[r], 0, sizeof to->min[r]);
        }
    }
}

#endif
