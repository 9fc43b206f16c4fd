// AVX2 with FMA. Bytes as kernels_dot_avx2.c multiplies them: vpmaddubsw, vpmaddwd and an addition.
#include "simd_avx2.h"

typedef __m256i vi;
#define VI_REGISTER "x"

static inline vi vi_set1(int32_t a) { return _mm256_set1_epi32(a); }
static inline vi vi_bytes(vi sum, vi w, vi a) {
    __m256i pairs = _mm256_maddubs_epi16(w, a);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// The vectors come first: the loops are written in them.
#include "probe_float_simd.h"
#include "probe_int8_simd.h"

void lh_probe_kernels_avx2(lh_probe_kernels *k) {
    set_float_probes(k);
    set_int8_probe(k);
}
