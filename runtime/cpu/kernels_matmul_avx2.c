// AVX2 with FMA and F16C.
//
// Products of bytes would saturate (vpmaddubsw), so that both factors are widened to 16 bits: vpmaddwd is exact.
#include "simd_avx2.h"

typedef __m256i vi;
#define Q_GROUP 2
#define Q_TOKENS 4
#define Q_ZERO 0

static inline __m256i widen(const int8_t *q) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)q)); }

static inline vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline vi vi_set1(int32_t a) { return _mm256_set1_epi32(a); }
static inline vi vi_dot(vi sum, vi w, vi a) { return _mm256_add_epi32(sum, _mm256_madd_epi16(w, a)); }
static inline vi vi_dot16(vi sum, const int8_t *w, const int8_t *a) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(widen(w), widen(a)));
}
static inline vf vi_float(vi a) { return _mm256_cvtepi32_ps(a); }
static inline vf weight_words(const int8_t *q) { return _mm256_castsi256_ps(widen(q)); }
static inline void act_words(const int8_t *q, int32_t *words) {
    _mm256_storeu_si256((__m256i *)words, widen(q));
    _mm256_storeu_si256((__m256i *)(words + 8), widen(q + 16));
}

// The vectors come first: the kernels are written in them.
#include "matmul_float_simd.h"
#include "matmul_quant_simd.h"
#include "dot_quant_simd.h"

void lh_matmul_kernels_avx2(lh_matmul_kernels *k) {
    k->name = "avx2";
    set_float_kernels(k);
    set_quant_panels(k);
    set_quant_dots(k->dot);
    lh_dot_kernels_avx2(k->dot);
}
