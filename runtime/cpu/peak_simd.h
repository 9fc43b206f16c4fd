// The kernel of scheme `peak` over vectors of 16-bit words: part of kernels_attention_{avx2,avx512,neon}.c, which define
// `vs` and its operations first. vs_dot(codes, q): of each key, the products of two components.
#include "peak.h"
#include "prefetch.h"
#include "simd_pin.h"

// Plain loops over bytes, which compilers turn into vectors.
static void peak_codes_simd(const uint8_t *restrict upper, const uint8_t *restrict lower, int32_t n_keys, int32_t dims,
                            uint8_t *restrict codes) {
    size_t row = 2 * (size_t)n_keys;
    for (int32_t group = 0; group < dims / LH_PEAK_GROUP; group++, upper += 2 * row, lower += row, codes += 4 * row)
        for (size_t at = 0; at < row; at += 2 * LH_PEAK_KEYS)
            for (size_t i = at; i < at + 2 * LH_PEAK_KEYS; i++) {
                codes[i] = (uint8_t)((upper[i] & 15) << 2 | (lower[i] & 3));
                codes[row + i] = (uint8_t)((upper[i] >> 4) << 2 | (lower[i] >> 2 & 3));
                codes[2 * row + i] = (uint8_t)((upper[row + i] & 15) << 2 | (lower[i] >> 4 & 3));
                codes[3 * row + i] = (uint8_t)((upper[row + i] >> 4) << 2 | lower[i] >> 6);
            }
}

#define PEAK_VECS (LH_PEAK_KEYS * 2 / (int)sizeof(vs))
#define PEAK_ROWS (8 / PEAK_VECS)  // with their maxima, what registers hold
#define MOST_PAIRS (LH_PEAK_MAX_DIMS / 2)

// Every pair of n components, twice in a word: what is broadcast as it lies in memory.
static void pair_words(const int8_t *q, int32_t n, int32_t *words) {
    for (int32_t i = 0; i < n / 2; i++)
        words[i] = (int32_t)(((uint32_t)(uint8_t)q[2 * i] | (uint32_t)(uint8_t)q[2 * i + 1] << 8) * 0x00010001u);
}

LH_INLINE void peak_rows(const uint8_t *codes, int32_t n_keys, int32_t dims, const int8_t *q, int rows, int32_t *out) {
    int32_t words[PEAK_ROWS * MOST_PAIRS];
    pair_words(q, rows * dims, words);
    vs best[PEAK_ROWS];
    for (int r = 0; r < rows; r++) best[r] = vs_set1(INT16_MIN);
    for (int32_t first = 0; first < n_keys; first += LH_PEAK_KEYS) {
        vs sum[PEAK_ROWS][PEAK_VECS];
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < PEAK_VECS; v++) sum[r][v] = vs_set1(0);
        for (int32_t x = 0; x < dims / 2; x++) {
            const uint8_t *at = codes + ((size_t)x * n_keys + first) * 2;
            vs key[PEAK_VECS];
            for (int v = 0; v < PEAK_VECS; v++) key[v] = vs_load(at + (size_t)v * sizeof(vs));
            for (int r = 0; r < rows; r++) {
                vs pair = vs_set1_pair(words[r * (dims / 2) + x]);
                // Unpinned, all products would be computed before they are added, and spilled.
                for (int v = 0; v < PEAK_VECS; v++) {
                    sum[r][v] = vs_add(sum[r][v], vs_dot(key[v], pair));
                    LH_PIN(sum[r][v]);
                }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < PEAK_VECS; v++) best[r] = vs_max(best[r], sum[r][v]);
    }
    for (int r = 0; r < rows; r++) out[r] = vs_top(best[r]);
}

static void peak_simd(const uint8_t *codes, int32_t n_keys, int32_t dims, const int8_t *q, int32_t rows, int32_t *out) {
    int32_t i = 0;
    for (; i + PEAK_ROWS <= rows; i += PEAK_ROWS)
        peak_rows(codes, n_keys, dims, q + (size_t)i * dims, PEAK_ROWS, out + i);
    for (; i < rows; i++) peak_rows(codes, n_keys, dims, q + (size_t)i * dims, 1, out + i);
}

// A query's largest product with a chunk's codes. Whether there are lower bits is known to the compiler.
LH_INLINE int32_t peak_chunk(const uint8_t *upper, const uint8_t *lower, int32_t n_keys, int32_t dims,
                             const int32_t *words) {
    size_t row = 2 * (size_t)n_keys;
    vs best = vs_set1(INT16_MIN);
    for (size_t at = 0; at < row; at += sizeof(vs)) {
        vs coarse = vs_set1(0), fine = coarse;
        for (int32_t group = 0; group < dims / LH_PEAK_GROUP; group++) {
            const uint8_t *high = upper + 2 * (size_t)group * row + at;
            vs pairs[2] = {vs_load(high), vs_load(high + row)}, bits = coarse;
            if (lower) bits = vs_load(lower + (size_t)group * row + at);
            for (int p = 0; p < LH_PEAK_GROUP / 2; p++) {
                vs pair = vs_set1_pair(words[group * (LH_PEAK_GROUP / 2) + p]);
                vs upper4 = vs_bits(pairs[p / 2], p % 2 * LH_PEAK_HIGH_BITS, LH_PEAK_HIGH_BITS);
                coarse = vs_add(coarse, vs_dot(upper4, pair));
                if (lower) fine = vs_add(fine, vs_dot(vs_bits(bits, p * LH_PEAK_LOW_BITS, LH_PEAK_LOW_BITS), pair));
            }
        }
        best = vs_max(best, vs_add(vs_times(coarse, LH_PEAK_LOW_BITS), fine));
    }
    return vs_top(best);
}

LH_INLINE void peak_chunks(const lh_peak_planes *p, bool lower, const int32_t *chunks, int32_t n, const int8_t *q,
                           int32_t *out) {
    int32_t words[MOST_PAIRS];
    pair_words(q, p->dims, words);
    for (int32_t i = 0; i < n; i++) {
        size_t chunk = (size_t)chunks[i], next = (size_t)chunks[LH_MIN(i + LH_FETCH_CHUNKS, n - 1)];
        lh_prefetch(p->upper + next * p->upper_size, p->upper_size);
        if (lower) lh_prefetch(p->lower + next * p->lower_size, p->lower_size);
        out[i] = peak_chunk(p->upper + chunk * p->upper_size, lower ? p->lower + chunk * p->lower_size : NULL, p->n_keys,
                            p->dims, words);
    }
}

static void peak_one_simd(const lh_peak_planes *p, const int32_t *chunks, int32_t n, const int8_t *q, int32_t *out) {
    if (p->lower) peak_chunks(p, true, chunks, n, q, out);
    else peak_chunks(p, false, chunks, n, q, out);
}
