// The other direction of quant.h: floats to blocks. Apart from it, because those who read models need none of this.
#ifndef LH_QUANT_ENCODE_H
#define LH_QUANT_ENCODE_H

#include "quant.h"

// n values, a multiple of the type's block_len, to blocks. Any bit pattern may come in; what a format cannot hold gives
// blocks without meaning, never undefined behaviour.
typedef void (*lh_encode_fn)(const float *values, void *blocks, int64_t n);

// NULL for a number that is no supported type.
lh_encode_fn lh_encode_get(int64_t type);

// Formats of 256 values with scales of their own for every run, and those with a table of levels (quant_encode_k.c).
void lh_encode_q2_k(const float *values, void *blocks, int64_t n);
void lh_encode_q3_k(const float *values, void *blocks, int64_t n);
void lh_encode_q4_k(const float *values, void *blocks, int64_t n);
void lh_encode_q5_k(const float *values, void *blocks, int64_t n);
void lh_encode_q6_k(const float *values, void *blocks, int64_t n);
void lh_encode_iq4_nl(const float *values, void *blocks, int64_t n);
void lh_encode_iq4_xs(const float *values, void *blocks, int64_t n);

#endif
