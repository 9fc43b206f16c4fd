// AVX-512 with VNNI: vpdpbusd.
#include <immintrin.h>
#include <stdint.h>

typedef __m512i vi;
#define VI_REGISTER "v"

static inline vi vi_set1(int32_t a) { return _mm512_set1_epi32(a); }
static inline vi vi_bytes(vi sum, vi w, vi a) { return _mm512_dpbusd_epi32(sum, w, a); }

// The vectors come first: the loop is written in them.
#include "probe_int8_simd.h"

void lh_probe_kernels_avx512vnni(lh_probe_kernels *k) { set_int8_probe(k); }
