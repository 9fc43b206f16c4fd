// AVX-512 with VNNI: the panels of quantised weights.
//
// vpdpbusd multiplies unsigned by signed bytes, hence Q_ZERO. Rows for a few tokens: kernels_dot_avx512vnni.c.
#include "simd_avx512.h"

typedef __m512i vi;
#define Q_GROUP 4
#define Q_TOKENS 6
#define Q_ZERO 128

static inline vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
static inline vi vi_set1(int32_t a) { return _mm512_set1_epi32(a); }
static inline vi vi_dot(vi sum, vi w, vi a) { return _mm512_dpbusd_epi32(sum, w, a); }
static inline vf vi_float(vi a) { return _mm512_cvtepi32_ps(a); }
static inline vf weight_words(const int8_t *q) {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_loadu_si512(q), _mm512_set1_epi8(-128)));
}
static inline void act_words(const int8_t *q, int32_t *words) {
    _mm256_storeu_si256((__m256i *)words, _mm256_loadu_si256((const __m256i *)q));
}

// The vectors come first: the kernels are written in them.
#include "matmul_quant_simd.h"

void lh_matmul_kernels_avx512vnni(lh_matmul_kernels *k) {
    k->name = "avx512vnni";
    set_quant_panels(k);
    lh_dot_kernels_avx512vnni(k->dot);
}
