// Every attention kernel this machine has against its generic twin, and the generic ones against doubles, on random and
// hostile shapes. Prints what failed; exits non-zero then.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chunk_map.h"
#include "cpu/attention_kernels.h"
#include "cpu/features.h"
#include "kv_type.h"
#include "peak.h"
#include "quant.h"
#include "quant_blocks.h"

// Float against double over a few hundred terms of size 1.
#define TOLERANCE 3e-5
// Weights and values of size 1 rounded to bfloat16, by 1/256 each at most.
#define BFLOAT_TOLERANCE 0x1.1p-7

static int failures;
static uint64_t state = 1;

static float uniform(void) {  // -1..1
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(state >> 32) / 2147483648.0f;
}

static void fill(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = uniform();
}

static void expect_near(const char *table, const char *what, double found, double expected, double scale) {
    if (fabs(found - expected) <= TOLERANCE * scale) return;
    if (failures++ < 20) printf("%s %s: %.9g, expected %.9g\n", table, what, found, expected);
}

static void test_rotate(const char *name, const lh_attention_kernels *k, int32_t dim) {
    enum { ROWS = 3, GAP = 5 };
    size_t stride = (size_t)dim + GAP;
    float *x = lh_alloc(2 * ROWS * stride + 2 * (size_t)dim, sizeof *x), *y = x + ROWS * stride, *table = y + ROWS * stride;
    fill(x, 2 * ROWS * stride + 2 * (size_t)dim);
    float beyond = y[dim];
    for (int sign = -1; sign <= 1; sign += 2) {
        k->rotate(x, ROWS, stride, table, (float)sign, 0.5f, dim, y);
        for (size_t i = 0; i < ROWS; i++)
            for (int32_t j = 0; j < dim; j++)
                expect_near(name, "rotate", y[i * stride + j],
                            0.5 * ((double)x[i * stride + j] * table[j] + sign * (double)x[i * stride + (j ^ 1)] * table[dim + j]),
                            1);
        expect_near(name, "rotate, between rows", y[dim], beyond, 0);
    }
    lh_free(x);
}

static void test_store(const char *name, const lh_attention_kernels *k, int32_t n) {
    float *x = lh_alloc(2 * (size_t)n, sizeof *x), *back = x + n;
    uint16_t *half = lh_alloc((size_t)n, sizeof *half);
    fill(x, (size_t)n);
    if (n > 3) {
        x[0] = 1e30f;  // saturates
        x[1] = 1e-7f;  // a subnormal half
        x[2] = -0.0f;
    }
    k->store(x, n, LH_KV_F16, half);
    for (int32_t i = 0; i < n; i++)
        if (half[i] != lh_f32_to_f16(fminf(x[i], LH_F16_MAX)) && failures++ < 20)
            printf("%s store: %g is %04x\n", name, (double)x[i], half[i]);
    k->load(half, n, LH_KV_F16, back);
    for (int32_t i = 0; i < n; i++)
        if (back[i] != lh_f16_to_f32(half[i]) && failures++ < 20)
            printf("%s load: %04x is %g\n", name, half[i], (double)back[i]);
    k->store(x, n, LH_KV_F32, back);
    if (memcmp(x, back, (size_t)n * sizeof *x) != 0 && failures++ < 20) printf("%s store f32 differs\n", name);
    k->store(x, n, LH_KV_BF16, half);
    k->load(half, n, LH_KV_BF16, back);
    for (int32_t i = 0; i < n; i++)
        if (!(fabs((double)back[i] - x[i]) <= ldexp(fabs((double)x[i]), -8)) && failures++ < 20)
            printf("%s bf16: %g became %g\n", name, (double)x[i], (double)back[i]);
    lh_free(half);
    lh_free(x);
}

// Blocks of 32 under one scale: an error of half a step, and the scale itself is a half.
static void test_q8_0(const char *name, const lh_attention_kernels *k, int32_t n) {
    size_t size = lh_kv_row_size(LH_KV_Q8_0, n);
    float *x = lh_alloc(2 * (size_t)n, sizeof *x), *back = x + n;
    char *row = lh_alloc(size + 1, 1), *twin = lh_alloc(size, 1);
    static const float sizes[] = {1, 0, 1e-9f, 1e5f, 1e30f};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        fill(x, (size_t)n);
        for (int32_t i = 0; i < n; i++) x[i] *= sizes[s];
        row[size] = 77;
        k->store(x, n, LH_KV_Q8_0, row);
        k->load(row, n, LH_KV_Q8_0, back);
        lh_attention_kernels_generic.store(x, n, LH_KV_Q8_0, twin);
        if ((memcmp(row, twin, size) != 0 || row[size] != 77) && failures++ < 20)
            printf("%s q8_0 of %g differs\n", name, (double)sizes[s]);
        for (int32_t i = 0; i < n; i++) {
            double most = 0;  // of the block
            for (int32_t j = i / 32 * 32; j < LH_MIN(i / 32 * 32 + 32, n); j++) most = fmax(most, fabs((double)x[j]));
            // Scales saturate, and below 2^-24 there are none.
            double expected = fmin(fmax(x[i], -127.0 * LH_F16_MAX), 127.0 * LH_F16_MAX);
            if (!(fabs(back[i] - expected) <= most / 254 * (1 + 0x1p-9) + 127 * 0x1p-24) && failures++ < 20)
                printf("%s q8_0: %g became %g\n", name, (double)x[i], (double)back[i]);
        }
    }
    lh_free(twin);
    lh_free(row);
    lh_free(x);
}

static void test_top(const char *name, const lh_attention_kernels *k, int32_t n, int32_t best, int values) {
    float *scores = lh_alloc((size_t)n, 4);
    int32_t *out = lh_alloc((size_t)best + 1, 4), *expected = lh_alloc((size_t)best + 1, 4),
            *scratch = lh_alloc(2 * (size_t)n, 4);
    for (int32_t i = 0; i < n; i++) {
        scores[i] = uniform();
        if (values) scores[i] = (float)((int)(scores[i] * (float)values)) * 0.5f;  // many ties, both zeros
        if (i % 17 == 5 && values > 1) scores[i] = i % 2 ? -INFINITY : 1e38f;
    }
    // A choice by the total order, one at a time.
    char *taken = lh_alloc((size_t)n, 1);
    for (int32_t r = 0; r < best; r++) {
        int32_t pick = -1;
        for (int32_t i = 0; i < n; i++)
            if (!taken[i] && (pick < 0 || lh_ranks_before(scores[i], i, scores[pick], pick))) pick = i;
        taken[pick] = 1;
    }
    for (int32_t i = 0, r = 0; i < n; i++)
        if (taken[i]) expected[r++] = i + 7;
    out[best] = 12345;
    k->top(scores, n, best, 7, out, scratch);
    if ((memcmp(out, expected, (size_t)best * 4) != 0 || out[best] != 12345) && failures++ < 20)
        printf("%s top: %d of %d with %d values differs\n", name, best, n, values);
    lh_free(taken);
    lh_free(scratch);
    lh_free(expected);
    lh_free(out);
    lh_free(scores);
}

// Two tiles in a row into the same states, the second one's keys turned, then everything against doubles.
static void test_attend(const char *name, const lh_attention_kernels *k, int32_t rows, int32_t n_keys, int32_t dim,
                        lh_kv_type type, bool limited, bool biased, bool turned, float size) {
    int32_t stride = LH_ROUND_UP(dim, LH_PAD), states = rows + 2;
    size_t keys = (size_t)n_keys * dim, row_size = lh_kv_row_size(type, dim), side = (size_t)n_keys * row_size;
    float *q = lh_alloc((size_t)rows * stride, 4), *kv = lh_alloc(4 * keys, 4),
          *acc = lh_alloc((size_t)states * stride, 4);
    float *top = lh_alloc((size_t)states, 4), *sum = lh_alloc((size_t)states, 4),
          *scratch = lh_alloc(lh_tile_scratch(rows, stride), 4);
    char *stored = lh_alloc(4 * side, 1);
    float *bias = lh_alloc((size_t)rows, 4), *turn = lh_alloc(2 * (size_t)dim, 4);
    int32_t *limit = lh_alloc((size_t)rows, 4), *row = lh_alloc((size_t)rows, 4);
    for (int32_t i = 0; i < rows; i++) {
        for (int32_t x = 0; x < dim; x++) q[i * stride + x] = uniform() * size;
        limit[i] = limited ? 1 + (int32_t)(i % n_keys) : n_keys;
        row[i] = rows + 1 - i;
        bias[i] = biased ? 5 * uniform() : 0;
    }
    fill(kv, 4 * keys);
    fill(turn, 2 * (size_t)dim);
    for (int32_t j = 0; j < 4 * n_keys; j++) {
        lh_attention_kernels_generic.store(kv + (size_t)j * dim, dim, type, stored + j * row_size);
        lh_attention_kernels_generic.load(stored + j * row_size, dim, type, kv + (size_t)j * dim);
    }
    for (int32_t i = 0; i < states; i++) top[i] = -INFINITY;
    for (int tile = 0; tile < 2; tile++) {
        lh_tile t = {.rows = rows,
                     .n_keys = n_keys,
                     .dim = dim,
                     .stride = stride,
                     .type = type,
                     .k = stored + 2 * tile * side,
                     .v = stored + (2 * tile + 1) * side,
                     .next_k = tile == 0 ? stored + 2 * side : NULL,
                     .q = q,
                     .limit = limited ? limit : NULL,
                     .row = row,
                     .bias = biased && tile == 1 ? bias : NULL,
                     .turn = turned && tile == 1 ? turn : NULL,
                     .top = top,
                     .sum = sum,
                     .acc = acc};
        if (tile == 1 && rows > LH_MANY_ROWS) {  // in two parts
            t.rows = LH_MANY_ROWS;
            k->attend(&t, scratch);
            t.q += t.rows * stride;
            t.row += t.rows;
            if (t.limit) t.limit += t.rows;
            if (t.bias) t.bias += t.rows;
            t.rows = rows - t.rows;
            t.same_keys = t.same_values = true;
        }
        k->attend(&t, scratch);
    }
    // Scores of factors that are rounded as there; their powers of two and the values are rounded, too.
    bool bfloat = strcmp(name, "amx") == 0 && rows > 8 && type != LH_KV_F32;
    double unit = bfloat ? 0x1.62e42fefa39efp-1 : 1, tolerance = bfloat ? BFLOAT_TOLERANCE / TOLERANCE : 1 + size * dim / 20;
    for (int32_t i = 0; i < rows; i++) {
        double most = -INFINITY, total = 0, *weight = lh_alloc(2 * (size_t)n_keys, sizeof *weight);
        for (int32_t j = 0; j < 2 * n_keys; j++) {
            int32_t tile = j / n_keys, at = j % n_keys;
            weight[j] = -INFINITY;
            if (at >= limit[i]) continue;
            weight[j] = tile == 1 ? bias[i] : 0;
            for (int32_t x = 0; x < dim; x++) {
                float of_query = q[i * stride + x];
                const float *key = kv + 2 * tile * keys + (size_t)at * dim;
                double of_key = key[x];
                if (turned && tile == 1) of_key = of_key * turn[x] - (double)key[x ^ 1] * turn[dim + x];
                if (bfloat) of_query = lh_bf16_to_f32(lh_bfloat(of_query * 0x1.715476p+0f));
                if (bfloat) of_key = lh_bf16_to_f32(lh_bfloat((float)of_key));
                weight[j] += unit * of_query * of_key;
            }
            most = fmax(most, weight[j]);
        }
        for (int32_t j = 0; j < 2 * n_keys; j++) total += weight[j] = exp(weight[j] - most);
        for (int32_t x = 0; x < dim; x++) {
            double out = 0;
            for (int32_t j = 0; j < 2 * n_keys; j++)
                out += weight[j] / total * kv[(2 * (j / n_keys) + 1) * keys + (j % n_keys) * dim + x];
            expect_near(name, "attend", acc[row[i] * stride + x] / sum[row[i]], out, tolerance);
        }
        lh_free(weight);
    }
    for (int32_t x = 0; x < stride; x++) expect_near(name, "attend, another state", acc[x], 0, 0);
    lh_free(row);
    lh_free(limit);
    lh_free(turn);
    lh_free(bias);
    lh_free(stored);
    lh_free(scratch);
    lh_free(sum);
    lh_free(top);
    lh_free(acc);
    lh_free(kv);
    lh_free(q);
}

// Many tiles of one score: the first one's values, which are ones, weigh as much as all the others', which are zeros.
static void test_attend_long(const char *name, const lh_attention_kernels *k, lh_kv_type type) {
    enum { ROWS = 16, DIM = 32, TILES = 600 };
    size_t row_size = lh_kv_row_size(type, DIM), side = LH_TILE_KEYS * row_size;
    char *zeros = lh_alloc(side, 1), *ones = lh_alloc(side, 1);
    float *q = lh_alloc(ROWS * DIM, 4), *acc = lh_alloc(ROWS * DIM, 4), *scratch = lh_alloc(lh_tile_scratch(ROWS, DIM), 4);
    float one[DIM], top[ROWS], sum[ROWS] = {0};
    int32_t row[ROWS];
    fill(q, ROWS * DIM);
    for (int x = 0; x < DIM; x++) one[x] = 1;
    for (int j = 0; j < LH_TILE_KEYS; j++) k->store(one, DIM, type, ones + j * row_size);
    for (int i = 0; i < ROWS; i++) row[i] = i, top[i] = -INFINITY;
    for (int tile = 0; tile < TILES; tile++) {
        lh_tile t = {.rows = ROWS, .n_keys = LH_TILE_KEYS, .dim = DIM, .stride = DIM, .type = type, .k = zeros,
                     .v = tile == 0 ? ones : zeros, .q = q, .row = row, .top = top, .sum = sum, .acc = acc};
        k->attend(&t, scratch);
    }
    for (int i = 0; i < ROWS * DIM; i++)
        expect_near(name, "attend, many tiles", acc[i] / sum[i / DIM], 1.0 / TILES, 0.1);
    lh_free(scratch);
    lh_free(acc);
    lh_free(q);
    lh_free(ones);
    lh_free(zeros);
}

// Exact, so every table says the same; codes and queries of any value within their range.
static void test_peak(const char *name, const lh_attention_kernels *k, int32_t dims, int32_t n_keys, int32_t rows,
                      bool extreme) {
    int32_t levels = lh_peak_query_levels(dims), most = LH_PEAK_ZERO + LH_PEAK_LEVELS;
    uint8_t *codes = lh_alloc((size_t)dims * n_keys, 1);
    int8_t *q = lh_alloc((size_t)rows * dims, 1);
    int32_t *out = lh_alloc((size_t)rows, 4), *same = lh_alloc((size_t)rows, 4);
    for (int32_t i = 0; i < dims * n_keys; i++)
        codes[i] = (uint8_t)(extreme ? most : 1 + (int32_t)((uniform() + 1) / 2 * (float)(most - 1)));
    for (int32_t i = 0; i < rows * dims; i++)
        q[i] = (int8_t)(extreme ? (i / dims % 2 ? levels : -levels) : (int32_t)(uniform() * (float)levels));
    k->peak(codes, n_keys, dims, q, rows, out);
    lh_attention_kernels_generic.peak(codes, n_keys, dims, q, rows, same);
    for (int32_t i = 0; i < rows; i++) {
        expect_near(name, "peak", out[i], same[i], 0);
        if (extreme) expect_near(name, "peak at its bound", same[i], (i % 2 ? 1 : -1) * levels * most * dims, 0);
    }
    lh_free(same);
    lh_free(out);
    lh_free(q);
    lh_free(codes);
}

// Chunks with planes of random bits: the codes of any table are those of the generic one, and those of the generic one have
// the bits that peak.h says; one query's best products, in chunks of any order, are those with such codes, or with their
// upper bits.
static void test_peak_planes(const char *name, const lh_attention_kernels *k, int32_t dims, int32_t n_keys) {
    enum { CHUNKS = 7, GAP = 4 };
    static const int32_t order[] = {3, 0, 6, 6, 1};
    const int32_t n = sizeof order / sizeof *order;
    size_t row = 2 * (size_t)n_keys, n_codes = (size_t)dims * n_keys;
    size_t upper_size = n_codes / 2 + GAP, lower_size = n_codes / 4 + GAP;
    uint8_t *upper = lh_alloc(CHUNKS * upper_size, 1), *lower = lh_alloc(CHUNKS * lower_size, 1);
    uint8_t *codes = lh_alloc(n_codes, 1), *same = lh_alloc(n_codes, 1);
    int8_t *q = lh_alloc((size_t)dims, 1);
    int32_t levels = lh_peak_query_levels(dims);
    for (size_t i = 0; i < CHUNKS * upper_size; i++) upper[i] = (uint8_t)(int32_t)(128 + 127 * uniform());
    for (size_t i = 0; i < CHUNKS * lower_size; i++) lower[i] = (uint8_t)(int32_t)(128 + 127 * uniform());
    for (int32_t x = 0; x < dims; x++) q[x] = (int8_t)(x % 2 ? levels : (int32_t)(uniform() * (float)levels));
    lh_peak_planes planes = {upper, lower, upper_size, lower_size, n_keys, dims};
    lh_peak_planes coarse = {upper, NULL, upper_size, 0, n_keys, dims};
    int32_t exact[CHUNKS], bound[CHUNKS], best;
    k->peak_one(&planes, order, n, q, exact);
    k->peak_one(&coarse, order, n, q, bound);
    for (int32_t c = 0; c < n; c++) {
        const uint8_t *high = upper + order[c] * upper_size, *low = lower + order[c] * lower_size;
        k->peak_codes(high, low, n_keys, dims, codes);
        lh_attention_kernels_generic.peak_codes(high, low, n_keys, dims, same);
        if (memcmp(codes, same, n_codes) != 0 && failures++ < 20) printf("%s peak_codes differ\n", name);
        lh_attention_kernels_generic.peak(same, n_keys, dims, q, 1, &best);
        expect_near(name, "peak_one", exact[c], best, 0);
        for (size_t i = 0; i < n_codes; i++) {
            size_t pair = i / row, bits = low[pair / 4 * row + i % row] >> 2 * (pair % 4) & 3;
            size_t expected = (high[pair / 2 * row + i % row] >> 4 * (pair % 2) & 15) * 4 + bits;
            if (same[i] != expected && failures++ < 20) printf("peak_codes: %d, expected %zu\n", same[i], expected);
            same[i] &= 0xfc;
        }
        lh_attention_kernels_generic.peak(same, n_keys, dims, q, 1, &best);
        expect_near(name, "peak_one of upper bits", bound[c], best, 0);
    }
    lh_free(q);
    lh_free(same);
    lh_free(codes);
    lh_free(lower);
    lh_free(upper);
}

int main(void) {
    const struct {
        const char *name;
        unsigned features;
    } tables[] = {
        {"generic", 0}, {"avx2", LH_CPU_AVX2}, {"avx512", LH_CPU_AVX2 | LH_CPU_AVX512},
        {"avx512vnni", LH_CPU_AVX2 | LH_CPU_AVX512 | LH_CPU_AVX512_VNNI},
        {"amx", LH_CPU_AVX2 | LH_CPU_AVX512 | LH_CPU_AVX512_VNNI | LH_CPU_AMX}, {"neon", LH_CPU_NEON},
    };
    static const int32_t dims[] = {2, 8, 16, 20, 32, 64, 80, 96, 100, 128, 256};
    static const int32_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 12, 13, 64, 96};
    static const int32_t key_counts[] = {1, 5, 16, 31, 32, 33, 63, 64};
    static const int32_t lengths[] = {1, 2, 15, 16, 17, 100, 255, 256, 257, 1000, 2100};
    int tested = 0;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        if ((tables[i].features & lh_cpu_features()) != tables[i].features) continue;
        lh_attention_kernels k;
        lh_attention_kernels_select(tables[i].features, &k);
        tested++;
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
            int32_t dim = dims[d];
            test_rotate(tables[i].name, &k, dim);
            test_store(tables[i].name, &k, dim);
            test_q8_0(tables[i].name, &k, dim);
            for (size_t r = 0; r < sizeof row_counts / sizeof *row_counts; r++) {
                for (size_t n = 0; n < sizeof key_counts / sizeof *key_counts; n++) {
                    lh_kv_type type = (lh_kv_type)((r + n) % LH_KV_TYPES);
                    test_attend(tables[i].name, &k, row_counts[r], key_counts[n], dim, type, n % 3 == 1,
                                (r + d) % 2, (r + n / 2) % 2, r % 4 == 3 ? 30 : 1);
                }
            }
        }
        for (lh_kv_type type = 0; type < LH_KV_TYPES; type++) test_attend_long(tables[i].name, &k, type);
        static const int32_t peak_dims[] = {8, 16, 24, 32, 64, 128};
        for (size_t d = 0; d < sizeof peak_dims / sizeof *peak_dims; d++)
            for (size_t r = 0; r < sizeof row_counts / sizeof *row_counts; r++)
                for (int32_t n = 1; n <= 3; n++)
                    test_peak(tables[i].name, &k, peak_dims[d], n * LH_PEAK_KEYS, row_counts[r], n == 3 && r % 2);
        for (int32_t groups = 1; groups <= 5; groups++)
            for (int32_t n = 1; n <= 3; n++)
                test_peak_planes(tables[i].name, &k, groups * LH_PEAK_GROUP, n * LH_PEAK_KEYS);
        for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n++)
            for (int32_t best = 0; best <= lengths[n]; best += 1 + lengths[n] / 9)
                for (int values = 0; values < 4; values++) test_top(tables[i].name, &k, lengths[n], best, values);
    }
    printf("%d tables, %d failures\n", tested, failures);
    return failures != 0;
}
