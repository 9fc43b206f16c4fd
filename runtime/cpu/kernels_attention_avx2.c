#include "simd_avx2.h"
// The vectors come first: the kernels are written in them.
#include "attention_simd.h"

typedef __m256i vs;
static inline vs vs_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline vs vs_set1(int16_t a) { return _mm256_set1_epi16(a); }
static inline vs vs_set1_pair(int32_t twice) { return _mm256_set1_epi32(twice); }
static inline vs vs_dot(vs codes, vs q) { return _mm256_maddubs_epi16(codes, q); }
static inline vs vs_bits(vs a, int from, int n) {
    return _mm256_and_si256(_mm256_srli_epi16(a, from), _mm256_set1_epi8((char)((1 << n) - 1)));
}
static inline vs vs_times(vs a, int bits) { return _mm256_slli_epi16(a, bits); }
static inline vs vs_add(vs a, vs b) { return _mm256_add_epi16(a, b); }
static inline vs vs_max(vs a, vs b) { return _mm256_max_epi16(a, b); }
static inline int32_t vs_top(vs a) {
    __m128i half = _mm_max_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    // The processor finds the least of unsigned words.
    __m128i least = _mm_minpos_epu16(_mm_sub_epi16(_mm_set1_epi16(INT16_MAX), half));
    return INT16_MAX - (_mm_cvtsi128_si32(least) & 0xffff);
}
#include "peak_simd.h"

const lh_attention_kernels lh_attention_kernels_avx2 = {
    .rotate = rotate_simd,
    .store = store_simd,
    .load = load_simd,
    .attend = attend_simd,
    .top = top_simd,
    .peak_codes = peak_codes_simd,
    .peak = peak_simd,
    .peak_one = peak_one_simd,
};
