// What the vector kernels of matmul share, over the vectors of a simd_*.h, which comes first.
#ifndef LH_MATMUL_TILE_H
#define LH_MATMUL_TILE_H

#include "matmul_kernels.h"
#include "prefetch.h"
#include "simd_pin.h"

// Register tiles live in registers only where every loop over them is unrolled.
#if defined(__clang__)
#define LH_UNROLL _Pragma("unroll")
#define LH_NO_UNROLL _Pragma("nounroll")
#else
#define LH_UNROLL _Pragma("GCC unroll 64")
#define LH_NO_UNROLL _Pragma("GCC unroll 1")
#endif

// Weights are read once, from end to end, by arithmetic that keeps up with memory only where memory knows early what is
// next: processors stop looking ahead at the end of a page. How far ahead, and into which cache, the vectors' file says.
LH_INLINE void fetch_ahead(const void *p, size_t bytes) {
    FETCH((const char *)p + FETCH_AHEAD, bytes);
}

// Token t's results, `vecs` vectors of rows, into place.
LH_INLINE void put_rows(const lh_tile_out *out, int t, int vecs, const vf *result) {
    float *y = out->y + t * out->stride;
    if (out->n_rows == vecs * VN) {
        LH_UNROLL for (int v = 0; v < vecs; v++) {
            vf value = result[v];
            if (out->bias) value = vf_add(value, vf_load(out->bias + v * VN));
            if (out->add) value = vf_add(value, vf_load(y + v * VN));
            vf_store(y + v * VN, value);
        }
    } else {
        float value[64] = {0};
        LH_UNROLL for (int v = 0; v < vecs; v++) vf_store(value + v * VN, result[v]);
        for (int r = 0; r < out->n_rows; r++) {
            if (out->bias) value[r] += out->bias[r];
            y[r] = out->add ? value[r] + y[r] : value[r];
        }
    }
}

#endif
