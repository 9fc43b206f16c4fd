// What scheme `peak` keeps of a chunk, and how queries meet it. Header-only: backends share it, so that they pick the
// same chunks.
//
// A head compares what tokens say mostly in those pairs of its components that rotations hardly turn; the fast pairs
// tell near places apart, and nothing far away. So of every key of a chunk its slowest components are kept, as codes of
// 6 bits, and a chunk is as good as its best key: max_j q . k_j. Queries are quantised, too, to so few levels that a
// whole product fits 16 bits: it is exact, whatever the order in which a backend adds it up.
//
//   k[x] ~ centre[x] + step * (code[x] - LH_PEAK_ZERO)
// The centre is the mean of the keys of chunk 0, the same for all chunks: q . centre does not bear on their order.
//
// Codes lie in two planes, apart in memory: their upper 4 bits, which bound every product, and their lower 2 bits, which
// a backend need not read where the bounds decide. Of four pairs of components a, b, c, d and each key in turn
//   summary: a byte for a[0] and b[0], one for a[1] and b[1]; for all keys; then the same of c and d; at the end the
//            step, a float
//   detail:  a byte for a[0], b[0], c[0] and d[0], and one for a[1], b[1], c[1] and d[1]
// where what is named first has the lowest bits. Components are filled up to whole fours of pairs with any codes.
#ifndef LH_PEAK_H
#define LH_PEAK_H

#include <stddef.h>
#include <stdint.h>

#include "base.h"

#define LH_PEAK_LEVELS 31  // of a code, to either side of
#define LH_PEAK_ZERO 32
#define LH_PEAK_KEYS 32    // keys lie in whole runs of so many; the last one of a chunk is repeated
#define LH_PEAK_MIN_DIMS 16
#define LH_PEAK_MAX_DIMS 128  // of the largest heads
#define LH_PEAK_GROUP 8    // components that share bytes
#define LH_PEAK_HIGH_BITS 4
#define LH_PEAK_LOW_BITS 2
#define LH_PEAK_LOW ((1 << LH_PEAK_LOW_BITS) - 1)
#define LH_PEAK_TINY 1e-35f  // keys and queries of nothing larger are zeros

// The components that are compared: the last so many of a head. Files order pairs from fast to slow.
LH_SHARED_FN int32_t lh_peak_dims(int32_t head_dim) {
    int32_t dims = head_dim / 4 > LH_PEAK_MIN_DIMS ? head_dim / 4 : LH_PEAK_MIN_DIMS;
    return (dims < head_dim ? dims : head_dim) / 2 * 2;
}

LH_SHARED_FN int32_t lh_peak_stored(int32_t head_dim) { return LH_ROUND_UP(lh_peak_dims(head_dim), LH_PEAK_GROUP); }

// Of a query's component to either side of zero: what keeps a whole product within 16 bits.
LH_SHARED_FN int32_t lh_peak_query_levels(int32_t dims) {
    int32_t levels = INT16_MAX / ((LH_PEAK_ZERO + LH_PEAK_LEVELS) * dims);
    return levels < INT8_MAX ? levels : INT8_MAX;
}

LH_SHARED_FN int32_t lh_peak_keys(int32_t chunk) { return LH_ROUND_UP(chunk, LH_PEAK_KEYS); }

// Bytes: of the upper bits, of a summary, and of its detail.
LH_SHARED_FN size_t lh_peak_upper(int32_t head_dim, int32_t chunk) {
    return (size_t)lh_peak_stored(head_dim) / 2 * (size_t)lh_peak_keys(chunk);
}
LH_SHARED_FN size_t lh_peak_size(int32_t head_dim, int32_t chunk) {
    return LH_ROUND_UP(lh_peak_upper(head_dim, chunk) + sizeof(float), (size_t)16);
}
LH_SHARED_FN size_t lh_peak_detail(int32_t head_dim, int32_t chunk) {
    return (size_t)lh_peak_stored(head_dim) / 4 * (size_t)lh_peak_keys(chunk);
}

#endif
