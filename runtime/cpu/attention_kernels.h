// The kernels under attention and selection, one table for each instruction set.
//
// kernels_attention_generic.c is the plain meaning of each; attention_simd.h is the fast form, compiled once for every
// instruction set over its own vectors.
#ifndef LH_ATTENTION_KERNELS_H
#define LH_ATTENTION_KERNELS_H

#include "base.h"

// Keys in a tile; longer chunks are several tiles.
#define LH_TILE_KEYS 64
// Rows of queries, accumulators and panels are this many floats apart or a multiple: whole vectors on every machine.
#define LH_PAD 16

// Rows from which on every table unpacks keys and values.
#define LH_MANY_ROWS 16

#define LH_F16_MAX 65504.0f

// Some rows of queries against some keys: one step of an online softmax (Milakov and Gimelshein, arXiv 1805.02867).
typedef struct lh_tile {
    int32_t rows, n_keys;     // n_keys <= LH_TILE_KEYS
    int32_t dim, stride;      // stride = dim rounded up to LH_PAD
    lh_kv_type type;
    const char *k, *v;        // (n_keys) rows of dim values (kv_type.h)
    const float *turn;        // (2, dim), see rope.h: keys are rotated by as much, backwards, first; NULL: as they lie
    bool same_keys, same_values;  // k and its turn, and v, are those of the call before, which had LH_MANY_ROWS or more and
                                  // this scratch
    const char *next_k;       // of the tile that comes after this one, or NULL: to be fetched meanwhile
    const float *q;           // (rows, stride): rotated for this chunk, scaled, zero beyond dim
    const int32_t *limit;     // (rows): keys a row may see, 1..n_keys; NULL: all
    const float *bias;        // (rows): added to a row's scores; NULL: nothing
    const int32_t *row;       // (rows): index of the row's state
    float *top, *sum;         // the running maximum of scores and sum of exp(score - top), by state
    float *acc;               // (states, stride): sum of exp(score - top) * v
} lh_tile;

// Floats of scratch for one tile, LH_ALIGN-aligned: as much as the greediest table takes.
static inline size_t lh_tile_scratch(int32_t rows, int32_t stride) {
    size_t wide = LH_ROUND_UP((size_t)stride, (size_t)32), n = LH_ROUND_UP((size_t)rows, (size_t)16);
    return LH_TILE_KEYS * (3 * wide + n) + n * (1 + wide / 2);
}

// The codes of a head's keys (peak.h), from its chunk 0 on.
typedef struct lh_peak_planes {
    const uint8_t *upper, *lower;   // lower NULL: as if all lower bits were zeros
    size_t upper_size, lower_size;  // bytes from chunk to chunk
    int32_t n_keys, dims;           // multiples of LH_PEAK_KEYS and LH_PEAK_GROUP
} lh_peak_planes;

typedef struct lh_attention_kernels {
    // y[j] = scale * (x[j] * table[0][j] + sign * x[j ^ 1] * table[1][j]) in each of n rows of x and y, which are `stride`
    // floats apart; table (2, dim), see rope.h. y may not be x.
    void (*rotate)(const float *x, int32_t n, size_t stride, const float *table, float sign, float scale, int32_t dim,
                   float *y);
    // n floats into a row of the cache's type and back. Halves saturate: an infinity would turn weights of 0 into NaN.
    void (*store)(const float *x, int32_t n, lh_kv_type type, void *out);
    void (*load)(const void *x, int32_t n, lh_kv_type type, float *out);
    void (*attend)(const lh_tile *t, float *scratch);
    // The k best of n scores as ascending indices plus first, ties to the lower index; scratch 2 * n. k <= n.
    void (*top)(const float *scores, int32_t n, int32_t k, int32_t first, int32_t *out, int32_t *scratch);
    // The codes of n_keys keys from their planes (peak.h): (dims / 2, n_keys, 2) bytes.
    void (*peak_codes)(const uint8_t *upper, const uint8_t *lower, int32_t n_keys, int32_t dims, uint8_t *codes);
    // The largest product of each of `rows` queries, q (rows, dims), with such codes of n_keys keys. Products fit 16 bits.
    // n_keys and dims are multiples of LH_PEAK_KEYS and LH_PEAK_GROUP.
    void (*peak)(const uint8_t *codes, int32_t n_keys, int32_t dims, const int8_t *q, int32_t rows, int32_t *out);
    // The same of one query with each of n chunks, from their planes.
    void (*peak_one)(const lh_peak_planes *p, const int32_t *chunks, int32_t n, const int8_t *q, int32_t *out);
} lh_attention_kernels;

// The best table for these features (cpu/features.h).
void lh_attention_kernels_select(unsigned features, lh_attention_kernels *out);

// The tables, by file; the build has those of its architecture.
extern const lh_attention_kernels lh_attention_kernels_generic, lh_attention_kernels_avx2, lh_attention_kernels_avx512,
    lh_attention_kernels_neon;
// Each lays its entries over AVX-512's.
void lh_attention_kernels_avx512vnni(lh_attention_kernels *k);
void lh_attention_kernels_amx(lh_attention_kernels *k);

#endif
