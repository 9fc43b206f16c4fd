// The best of many floats, by counting, which is what vectors do well. Header-only: it is compiled for the instructions of
// whoever ranks.
#ifndef LH_RANK_H
#define LH_RANK_H

#include <stdint.h>
#include <string.h>

#include "chunk_map.h"

// Floats as integers of the same order; -0 and 0 are one value, as they are to lh_ranks_before.
static inline int32_t lh_order_of(float x) {
    x += 0.0f;
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ (int32_t)((uint32_t)(bits >> 31) >> 1);
}

// The largest value that at least k of n keys reach, 1 <= k <= n.
static inline int32_t lh_kth_best(const int32_t *keys, int32_t n, int32_t k) {
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int32_t i = 0; i < n; i++) {
        low = keys[i] < low ? keys[i] : low;
        high = keys[i] > high ? keys[i] : high;
    }
    while (low < high) {
        int32_t middle = (int32_t)((int64_t)low + ((int64_t)high - low + 1) / 2), reached = 0;
        for (int32_t i = 0; i < n; i++) reached += keys[i] >= middle;
        if (reached >= k) low = middle;
        else high = middle - 1;
    }
    return low;
}

// What qsort takes to put the best first; the lower index of equals.
typedef struct lh_ranked {
    float value;
    int32_t index;
} lh_ranked;

static inline int lh_by_rank(const void *a, const void *b) {
    const lh_ranked *x = a, *y = b;
    return lh_ranks_before(x->value, x->index, y->value, y->index) ? -1 : 1;
}

#define LH_RANK_GROUPS 64

// A value that at least k of n keys reach and few more: the k-th best of the best keys of groups. Where groups would be few
// or small, the least value there is.
static inline int32_t lh_floor_of_best(const int32_t *keys, int32_t n, int32_t k) {
    if (n < 4 * LH_RANK_GROUPS || k > LH_RANK_GROUPS) return INT32_MIN;
    int32_t best[LH_RANK_GROUPS], i = LH_RANK_GROUPS;
    memcpy(best, keys, sizeof best);
    for (; i + LH_RANK_GROUPS <= n; i += LH_RANK_GROUPS)
        for (int g = 0; g < LH_RANK_GROUPS; g++) best[g] = keys[i + g] > best[g] ? keys[i + g] : best[g];
    for (int g = 0; i + g < n; g++) best[g] = keys[i + g] > best[g] ? keys[i + g] : best[g];
    return lh_kth_best(best, LH_RANK_GROUPS, k);
}

#endif
