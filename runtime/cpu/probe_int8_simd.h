// Bytes. The file that includes this defines:
//   vi             a vector of 32-bit sums
//   vi_set1(x)
//   vi_bytes(sum, w, a)  sum += w . a over four bytes a lane
//   VI_REGISTER    the constraint of a register that holds a vi
#include <string.h>

#include "probe_kernels.h"

static int32_t int8_simd(int64_t rounds) {
    vi sum[LH_PROBE_SUMS], w = vi_set1(0x01010101), a = vi_set1(0x01020304);
    for (int i = 0; i < LH_PROBE_SUMS; i++) sum[i] = vi_set1(i);
    do {
        for (int i = 0; i < LH_PROBE_SUMS; i++) {
            // To the compiler w is another one each time: a product that did not change would be computed once.
            __asm__("" : "+" VI_REGISTER(w));
            sum[i] = vi_bytes(sum[i], w, a);
        }
    } while (--rounds > 0);
    int32_t total = 0;
    for (int i = 0; i < LH_PROBE_SUMS; i++) {
        int32_t lanes[sizeof(vi) / sizeof(int32_t)];
        memcpy(lanes, &sum[i], sizeof lanes);
        total ^= lanes[0];
    }
    return total;
}

static void set_int8_probe(lh_probe_kernels *k) {
    k->int8_ops = LH_PROBE_SUMS * (int32_t)sizeof(vi) * 2;
    k->int8 = int8_simd;
}
