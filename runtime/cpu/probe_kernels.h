// The loops under probe.c: nothing but the one instruction whose ceiling is asked for.
#ifndef LH_PROBE_KERNELS_H
#define LH_PROBE_KERNELS_H

#include <stdint.h>

// Independent sums: more than any processor's latency times its units, and registers enough for them everywhere.
#define LH_PROBE_SUMS 12

typedef struct lh_probe_kernels {
    int32_t fma_ops, int8_ops, tile_ops;  // multiplications and additions of a round
    float (*fma)(int64_t rounds);
    int32_t (*int8)(int64_t rounds);
    float (*read)(const float *x, int64_t n);  // their sum; n: a multiple of 128
    void (*tiles)(int64_t rounds);             // NULL: there are none
} lh_probe_kernels;

// One file each; each lays its entries over what is there.
void lh_probe_kernels_avx2(lh_probe_kernels *k);
void lh_probe_kernels_avx512(lh_probe_kernels *k);
void lh_probe_kernels_avx512vnni(lh_probe_kernels *k);
void lh_probe_kernels_amx(lh_probe_kernels *k);
void lh_probe_kernels_neon(lh_probe_kernels *k);
void lh_probe_kernels_dotprod(lh_probe_kernels *k);

#endif
