// What the vector kernels of quantised weights share: unpacking compiled for their instruction set, and the walk over a
// panel's rows.
#ifndef LH_MATMUL_SIMD_H
#define LH_MATMUL_SIMD_H

#include "matmul_kernels.h"
#include "quant_blocks.h"

#define LH_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define LH_UNROLL _Pragma("unroll")
#else
#define LH_UNROLL _Pragma("GCC unroll 16")
#endif

// Columns unpacked at a time: a multiple of every block length, and few enough to stay in the first-level cache.
#define LH_PIECE 256

typedef void (*lh_unpack_fn)(const void *blocks, int64_t n, int8_t *q, float *scale, float *min);

LH_QUANT_FORMATS(LH_DEFINE_UNPACK)
#define LH_UNPACK_ROW(suffix, TYPE, block_len, scale_len, has_min, unpack_block) [LH_TYPE_##TYPE] = unpack_##suffix,
static const lh_unpack_fn lh_unpack_simd[LH_TYPE_COUNT] = {LH_QUANT_FORMATS(LH_UNPACK_ROW)};

// Some rows of at most LH_PIECE columns, unpacked. Rows past the end of the matrix, and columns past n, are zero.
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

#ifdef __AVX512F__
#include <immintrin.h>

// Token t's results of a panel of 32 rows into place.
LH_INLINE void lh_put_rows_avx512(const lh_tile_out *out, int t, const __m512 result[2]) {
    uint32_t rows = out->n_rows < 32 ? (1u << out->n_rows) - 1 : UINT32_MAX;
    LH_UNROLL for (int h = 0; h < 2; h++) {
        __mmask16 mask = (__mmask16)(rows >> (16 * h));
        float *y = out->y + t * out->stride + 16 * h;
        __m512 value = result[h];
        if (out->bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, out->bias + 16 * h));
        if (out->add) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, y));
        _mm512_mask_storeu_ps(y, mask, value);
    }
}
#endif

#endif
