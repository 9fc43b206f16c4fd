// AVX-512 with VNNI: the products of many queries with codes of keys. vpdpbusd multiplies and adds four components at
// once, where other tables multiply two and add their products.
#include <string.h>

#include "simd_avx512.h"
// The vectors come first.
#include "attention_kernels.h"
#include "simd_pin.h"

#define ROWS 16
#define MOST_QUADS 16   // of components; heads that have more of them are compared by AVX-512
#define GROUPS (LH_TILE_KEYS / VN)

// Four components of 16 keys each, of `groups` groups from key `first` on: (quads, GROUPS) vectors.
static void pack_keys(const uint8_t *codes, int32_t n_keys, int32_t quads, int32_t first, int groups, __m512i *words) {
    for (int32_t x = 0; x < quads; x++)
        for (int g = 0; g < groups; g++) {
            const uint8_t *at = codes + (2 * (size_t)x * (size_t)n_keys + (size_t)(first + g * VN)) * 2;
            const uint8_t *next = at + 2 * (size_t)n_keys;
            __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)at));
            __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)next));
            words[x * GROUPS + g] = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
        }
}

// Four components, for all keys.
LH_INLINE __m512i quad_at(const int8_t *q) {
    int32_t quad;
    memcpy(&quad, q, sizeof quad);
    return _mm512_set1_epi32(quad);
}

// Of each of ROWS queries the largest product with the keys of all groups, in a lane.
LH_INLINE __m512i most_of(const int8_t *q, int32_t quads, int groups, const __m512i *words) {
    enum { AT_ONCE = 4 };
    __m512 best[ROWS];
    for (int first = 0; first < ROWS; first += AT_ONCE) {
        __m512i sum[AT_ONCE][GROUPS];
        for (int r = 0; r < AT_ONCE; r++)
            for (int g = 0; g < groups; g++) sum[r][g] = _mm512_setzero_si512();
        for (int32_t x = 0; x < quads; x++) {
            __m512i key[GROUPS];
            for (int g = 0; g < groups; g++) key[g] = _mm512_load_si512(words + x * GROUPS + g);
            for (int r = 0; r < AT_ONCE; r++) {
                __m512i quad = quad_at(q + ((first + r) * quads + x) * 4);
                // Unpinned, sums would be put together from parts, and parts spilled.
                for (int g = 0; g < groups; g++) {
                    sum[r][g] = _mm512_dpbusd_epi32(sum[r][g], key[g], quad);
                    LH_PIN(sum[r][g]);
                }
            }
        }
        for (int r = 0; r < AT_ONCE; r++) {
            __m512i most = sum[r][0];
            for (int g = 1; g < groups; g++) most = _mm512_max_epi32(most, sum[r][g]);
            best[first + r] = _mm512_castsi512_ps(most);
        }
    }
    return _mm512_castps_si512(vf_top_words(best));
}

static void peak_vnni(const uint8_t *codes, int32_t n_keys, int32_t dims, const int8_t *q, int32_t rows, int32_t *out) {
    int32_t quads = dims / 4, many = quads <= MOST_QUADS ? rows / ROWS * ROWS : 0;
    __m512i words[MOST_QUADS * GROUPS];
    for (int32_t first = 0; many > 0 && first < n_keys; first += LH_TILE_KEYS) {
        int groups = (int)LH_MIN((n_keys - first) / VN, GROUPS);
        pack_keys(codes, n_keys, quads, first, groups, words);
        for (int32_t i = 0; i < many; i += ROWS) {
            const int8_t *some = q + (size_t)i * (size_t)dims;
            __m512i most;  // the usual numbers as constants
            if (groups < GROUPS) most = most_of(some, quads, 2, words);
            else if (quads == 4) most = most_of(some, 4, GROUPS, words);
            else if (quads == 8) most = most_of(some, 8, GROUPS, words);
            else most = most_of(some, quads, GROUPS, words);
            if (first > 0) most = _mm512_max_epi32(most, _mm512_loadu_si512(out + i));
            _mm512_storeu_si512(out + i, most);
        }
    }
    if (many < rows)
        lh_attention_kernels_avx512.peak(codes, n_keys, dims, q + (size_t)many * (size_t)dims, rows - many, out + many);
}

void lh_attention_kernels_avx512vnni(lh_attention_kernels *k) {
    k->peak = peak_vnni;
}
