// AVX2 with FMA and F16C.
//
// vpmaddubsw multiplies unsigned by signed bytes and adds two products in 16 bits, which is exact up to 32767. With
// weights of up to 6 bits, made unsigned, there is room for several; of 8 bits for one, and the sign has to go to the
// activation.
#include "simd_avx2.h"

typedef __m256i vi;
#define Q_TOKENS 4
#define Q_SHIFT(bits, has_min) ((has_min) || (bits) == 8 ? -1 : (bits) - 1)
#define Q_STEPS(bits) ((bits) == 8 ? 1 : 32767 / (2 * 127 * ((1 << (bits)) - 1)) / 2 * 2)

static inline vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline vi vi_set1(int32_t a) { return _mm256_set1_epi32(a); }
static inline vi vi_dot(int bits, vi sum, vi w, vi a) {
    if (bits == 8) return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, a));
}
static inline vi vi_finish(vi sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
static inline vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
static inline vi vi_less(vi sum, vi a, int shift) { return _mm256_sub_epi32(sum, _mm256_slli_epi32(a, shift)); }
static inline __m256i widen(const int8_t *q) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)q)); }
static inline vi vi_dot16(vi sum, const int8_t *w, const int8_t *a) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(widen(w), widen(a)));
}
static inline vf vi_float(vi a) { return _mm256_cvtepi32_ps(a); }
static inline vf weight_words(const int8_t *q, int more) {
    return _mm256_castsi256_ps(_mm256_add_epi8(_mm256_loadu_si256((const __m256i *)q), _mm256_set1_epi8((char)more)));
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
