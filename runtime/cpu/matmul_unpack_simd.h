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
            // Pieces are too short for a processor to see where they lead: the same columns come next, of the next rows.
            if (row + VN < w->n_rows) {
                const char *next = (const char *)w->data + (size_t)(row + VN) * w->row_size;
                lh_prefetch_second(next + col / traits->block_len * traits->block_size,
                                   (size_t)(n / traits->block_len * traits->block_size));
            }
            char room[2 * PIECE];  // of quantised types no block has more
            unpack_simd[w->type](lh_blocks_at(w, row, col, n, room), n, to->q[r], to->scale[r], to->min[r]);
        } else {
            memset(to->q[r], 0, sizeof to->q[r]);
            memset(to->scale[r], 0, sizeof to->scale[r]);
            memset(to->min[r], 0, sizeof to->min[r]);
        }
    }
}

#endif
