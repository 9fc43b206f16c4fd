// The kernels under matmul.c: one table per instruction set, generic first, better entries laid over it.
//
// Against quantised weights activations are quantised too: int8 in blocks of 32, sums over a block exact in int32,
// scales applied in float; many tokens may stay as they are where kernels want that. Against float weights they stay
// float. Two shapes of work:
//
// - few tokens: `dot` streams rows of weights as they lie, or `dots` for several tokens at once;
// - many tokens: `pack` unpacks a panel of rows, any format, into one layout that stays in cache, `pack_tokens` lays
//   activations out to match, and `multiply` runs a register tile of rows x tokens over them. Layouts are their own.
#ifndef LH_MATMUL_KERNELS_H
#define LH_MATMUL_KERNELS_H

#include "quant.h"

#define LH_ACT_BLOCK 32     // activations that share a scale
#define LH_ACT_TINY 1e-35f  // blocks of nothing larger are zeros

// One token's activations. The quantised part is there where a matrix needs it, and then n_cols is a multiple of 32.
typedef struct lh_act_row {
    const float *x;    // (n_cols)
    int8_t *q;         // (n_cols), -127..127
    float *scale;      // (n_cols / 32): x ~ scale * q; NaN where x has a NaN or an infinity
    int32_t *q_sum;    // (n_cols / 16): sums of q over runs of 16
    float *sum16;      // (n_cols / 16): scale * sum of q, for runs of 16
    float *sum32;      // (n_cols / 32): and of 32
    int8_t *halves;    // q by fours of blocks: of all of them the first 16, then the others; filled up to whole fours
} lh_act_row;

// Where a tile goes: y[t * stride + r] (=|+=) result (+ bias[r]) for t < n_tokens, r < n_rows.
typedef struct lh_tile_out {
    float *y;
    int64_t stride;
    int32_t n_rows, n_tokens;
    const float *bias;  // or NULL
    bool add;
} lh_tile_out;

#define LH_PANEL_STATE 64
#define LH_PANEL_COLS 2048      // usual
#define LH_FLOAT_PANEL_COLS 512
#define LH_MOST_STREAMED 16
#define LH_DOT_TOKENS 4

typedef struct lh_panel_kernels {
    int32_t rows;         // of a panel
    int32_t tokens;       // of a tile
    int64_t cols;         // of a panel, at most: it has to stay in the second-level cache beside a tile
    int32_t panel_bytes, tile_bytes;  // for every 32 columns, at most
    // Unpack columns [col, col + n_cols) of rows [row, row + rows); rows past the end become zero. Quantised types: col
    // and n_cols are multiples of the block length.
    void (*pack)(const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols, void *panel);
    // Put token t of a tile into place. NULL instead of a row: zeros.
    void (*pack_tokens)(const lh_act_row *row, int64_t n_cols, int32_t t, void *tile);
    // panel . tile over the panel's columns [col, col + n_cols); the tile holds all columns. traits: of the weights.
    void (*multiply)(const lh_type_traits *traits, const void *panel, const void *tile, int64_t col, int64_t n_cols,
                     const lh_tile_out *out);
    bool plain;           // tokens are packed from floats, whatever the weights are
    // Around calls of multiply, on their thread; NULL: nothing. state: LH_PANEL_STATE bytes, LH_ALIGN-aligned.
    void (*begin)(void *state);
    void (*end)(const void *state);
} lh_panel_kernels;

// out[r] = row (row + r) of w . act for r < n_rows.
typedef void (*lh_dot_fn)(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out);
// The same of LH_DOT_TOKENS tokens: out[t * n_rows + r].
typedef void (*lh_dots_fn)(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out);

typedef struct lh_matmul_kernels {
    const char *name;
    // One row of n values; out may be x.
    void (*rms_norm)(const float *x, const float *weight, float eps, int64_t n, float *out);
    void (*silu_mul)(const float *gate, const float *x, int64_t n, float *out);
    void (*quantise)(const float *x, int64_t n, lh_act_row *row);
    lh_dot_fn dot[LH_TYPE_COUNT];
    lh_dots_fn dots[LH_TYPE_COUNT];  // NULL: there is none
    void (*arrange)(int64_t n, lh_act_row *row);  // fills in `halves`; NULL: nobody reads them
    bool spans;                // weights may lie in spans (spans.h), and are read faster then
    lh_panel_kernels real;     // F32, F16, BF16 weights
    lh_panel_kernels integer;  // quantised weights
    int32_t stream_tokens;     // up to so many are few, 1 to LH_MOST_STREAMED
    // Quantised weights where there are more tokens, but not more than few_tokens (0: there are no such kernels). very_few:
    // where they fit one tile of theirs, and all scales are of 32 weights.
    lh_panel_kernels few, very_few;
    int32_t few_tokens;
} lh_matmul_kernels;

// The best kernels for a processor with these LH_CPU_* features.
void lh_matmul_kernels_select(unsigned features, lh_matmul_kernels *out);

// One file each; each lays its entries over what is there.
void lh_matmul_kernels_generic(lh_matmul_kernels *k);
void lh_matmul_kernels_avx2(lh_matmul_kernels *k);
void lh_matmul_kernels_avx512(lh_matmul_kernels *k);
void lh_matmul_kernels_avx512vnni(lh_matmul_kernels *k);
void lh_matmul_kernels_amx(lh_matmul_kernels *k);
void lh_dot_kernels_avx2(lh_dot_fn dot[LH_TYPE_COUNT]);
void lh_dot_kernels_avx512vnni(lh_matmul_kernels *k);
void lh_few_kernels_amx(lh_panel_kernels *very_few, lh_panel_kernels *few);
void lh_matmul_kernels_neon(lh_matmul_kernels *k);
void lh_matmul_kernels_dotprod(lh_matmul_kernels *k);

#endif
