// The kernel of scheme `peak` over vectors of 16-bit words: part of kernels_attention_{avx2,avx512,neon}.c, which define
// `vs` and its operations first. vs_dot(codes, q): of each key, the products of two components.
#include "peak.h"
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

INLINE void peak_rows(const uint8_t *codes, int32_t n_keys, int32_t dims, const int32_t *q, int rows, int32_t *out) {
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
                vs pair = vs_set1_pair(q[r * (dims / 2) + x]);
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

static void peak_simd(const uint8_t *codes, int32_t n_keys, int32_t dims, const int32_t *q, int32_t rows,
                      int32_t *out) {
    int32_t i = 0;
    for (; i + PEAK_ROWS <= rows; i += PEAK_ROWS)
        peak_rows(codes, n_keys, dims, q + (size_t)i * (dims / 2), PEAK_ROWS, out + i);
    for (; i < rows; i++) peak_rows(codes, n_keys, dims, q + (size_t)i * (dims / 2), 1, out + i);
}

static int32_t peak_upper_simd(const uint8_t *upper, int32_t n_keys, int32_t dims, const int32_t *q) {
    vs best = vs_set1(INT16_MIN);
    for (int32_t first = 0; first < n_keys; first += LH_PEAK_KEYS) {
        vs sum[PEAK_VECS];
        for (int v = 0; v < PEAK_VECS; v++) sum[v] = vs_set1(0);
        for (int32_t x = 0; x < dims / 2; x += 2) {
            const uint8_t *at = upper + (size_t)x * n_keys + 2 * first;
            vs even = vs_set1_pair(q[x]), odd = vs_set1_pair(q[x + 1]);
            for (int v = 0; v < PEAK_VECS; v++) {
                vs both = vs_load(at + (size_t)v * sizeof(vs));
                sum[v] = vs_add(sum[v], vs_add(vs_dot(vs_low4(both), even), vs_dot(vs_high4(both), odd)));
            }
        }
        for (int v = 0; v < PEAK_VECS; v++) best = vs_max(best, sum[v]);
    }
    return vs_top(best) * (1 << LH_PEAK_LOW_BITS);
}
