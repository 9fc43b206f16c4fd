// AVX-512 with VNNI: the panels of quantised weights.
//
// vpdpbusd multiplies unsigned by signed bytes, hence Q_SHIFT. Rows for a few tokens: kernels_dot_avx512vnni.c.
#include "simd_avx512.h"

typedef __m512i vi;
#define Q_TOKENS 6
#define Q_SHIFT(bits, has_min) 7
#define Q_STEPS(bits) 8

static inline vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
static inline vi vi_set1(int32_t a) { return _mm512_set1_epi32(a); }
static inline vi vi_dot(int bits, vi sum, vi w, vi a) {
    (void)bits;
    return _mm512_dpbusd_epi32(sum, w, a);
}
static inline vi vi_finish(vi sum) { return sum; }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi vi_less(vi sum, vi a, int shift) {
    return _mm512_sub_epi32(sum, _mm512_slli_epi32(a, (unsigned)shift));
}
static inline vf vi_float(vi a) { return _mm512_cvtepi32_ps(a); }
static inline vf weight_words(const int8_t *q, int more) {
    return _mm512_castsi512_ps(_mm512_add_epi8(_mm512_loadu_si512(q), _mm512_set1_epi8((char)more)));
}

// The vectors come first: the kernels are written in them.
#include "matmul_quant_simd.h"

void lh_matmul_kernels_avx512vnni(lh_matmul_kernels *k) {
    k->name = "avx512vnni";
    k->spans = true;
    k->stream_tokens = 12;
    set_quant_panels(k);
    lh_dot_kernels_avx512vnni(k);
}
