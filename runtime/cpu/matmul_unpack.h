// What the panels of quantised weights share: unpacking, compiled for the instruction set of the file that includes this.
#ifndef LH_MATMUL_UNPACK_H
#define LH_MATMUL_UNPACK_H

#include "matmul_tile.h"
#include "quant_blocks.h"

// Columns unpacked at a time: a multiple of every block length, and few enough to stay in the first-level cache.
#define LH_PIECE 256

typedef void (*lh_unpack_fn)(const void *blocks, int64_t n, int8_t *q, float *scale, float *min);

LH_QUANT_FORMATS(LH_DEFINE_UNPACK)
#define LH_UNPACK_ROW(suffix, TYPE, block_len, scale_len, has_min, unpack_block) [LH_TYPE_##TYPE] = unpack_##suffix,
static const lh_unpack_fn lh_unpack_simd[LH_TYPE_COUNT] = {LH_QUANT_FORMATS(LH_UNPACK_ROW)};

// Up to 16 rows of at most LH_PIECE columns, unpacked. Rows past the end of the matrix are zero.
typedef struct lh_piece {
    _Alignas(LH_ALIGN) int8_t q[16][LH_PIECE];
    _Alignas(LH_ALIGN) float scale[16][LH_PIECE / 16], min[16][LH_PIECE / 16];
} lh_piece;

LH_INLINE void lh_unpack_piece(const lh_type_traits *traits, const lh_tensor *w, int n_rows, int64_t row, int64_t col,
                               int64_t n, lh_piece *to) {
    lh_unpack_fn unpack = lh_unpack_simd[w->type];
    for (int r = 0; r < n_rows; r++) {
        if (row + r < w->n_rows) {
            const char *blocks = (const char *)w->data + (size_t)(row + r) * w->row_size;
            unpack(blocks + col / traits->block_len * traits->block_size, n, to->q[r], to->scale[r], to->min[r]);
        } else {
            memset(to->q[r], 0, sizeof to->q[r]);
            memset(to->scale[r], 0, sizeof to->scale[r]);
            memset(to->min[r], 0, sizeof to->min[r]);
        }
    }
}

#endif
