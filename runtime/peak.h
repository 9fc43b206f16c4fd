// What scheme `peak` keeps of a chunk, and how queries meet it. Header-only: backends share it, so that they pick the
// same chunks.
//
// A head compares what tokens say mostly in those pairs of its components that rotations hardly turn; the fast pairs
// tell near places apart, and nothing far away. So of every key of a chunk its slowest components are kept, as codes of
// 6 bits, and a chunk is as good as its best key: max_j q . k_j. Queries are quantised, too, to so few levels that a
// whole product fits 16 bits: it is exact, whatever the order in which a backend adds it up.
//
// A summary: for every two components, the pair of codes of each key; behind all of them the step, a float.
//   k[x] ~ centre[x] + step * (code[x] - LH_PEAK_ZERO)
// The centre is the mean of the keys of chunk 0, the same for all chunks: q . centre does not bear on their order.
#ifndef LH_PEAK_H
#define LH_PEAK_H

#include <stddef.h>
#include <stdint.h>

#include "base.h"

#define LH_PEAK_LEVELS 31  // of a code, to either side of
#define LH_PEAK_ZERO 32
#define LH_PEAK_KEYS 32    // keys lie in whole runs of so many; the last one of a chunk is repeated
#define LH_PEAK_MIN_DIMS 16
#define LH_PEAK_TINY 1e-35f  // keys and queries of nothing larger are zeros

// The components that are compared: the last so many of a head. Files order pairs from fast to slow.
LH_SHARED_FN int32_t lh_peak_dims(int32_t head_dim) {
    int32_t dims = head_dim / 4 > LH_PEAK_MIN_DIMS ? head_dim / 4 : LH_PEAK_MIN_DIMS;
    return (dims < head_dim ? dims : head_dim) / 2 * 2;
}

// Of a query's component to either side of zero: what keeps a whole product within 16 bits.
LH_SHARED_FN int32_t lh_peak_query_levels(int32_t dims) {
    int32_t levels = INT16_MAX / ((LH_PEAK_ZERO + LH_PEAK_LEVELS) * dims);
    return levels < INT8_MAX ? levels : INT8_MAX;
}

LH_SHARED_FN int32_t lh_peak_keys(int32_t chunk) { return LH_ROUND_UP(chunk, LH_PEAK_KEYS); }

// Bytes: of the codes, and of all.
LH_SHARED_FN size_t lh_peak_codes(int32_t head_dim, int32_t chunk) {
    return (size_t)lh_peak_dims(head_dim) * (size_t)lh_peak_keys(chunk);
}
LH_SHARED_FN size_t lh_peak_size(int32_t head_dim, int32_t chunk) {
    return LH_ROUND_UP(lh_peak_codes(head_dim, chunk) + sizeof(float), (size_t)64);
}

#endif
