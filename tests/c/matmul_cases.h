// Random projections and what they should give, for tests of backends. Weights, inputs, biases and outputs end where an
// unmapped page begins, so that one byte too many is a crash.
#ifndef LH_TEST_MATMUL_CASES_H
#define LH_TEST_MATMUL_CASES_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend.h"

static int failures;

#define FAIL(...)                                 \
    do {                                          \
        if (failures++ < 20) {                    \
            printf(__VA_ARGS__);                  \
            printf("\n");                         \
        }                                         \
    } while (0)

// --- random and guarded ----------------------------------------------------------------------------------------

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint32_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static float random_float(void) {  // -1..1, denser in the middle
    float a = (float)random_bits() / 4294967296.0f, b = (float)random_bits() / 4294967296.0f;
    return (2 * a - 1) * b;
}

// Memory that ends at a page nobody may touch. Kept until the case ends.
static struct {
    void *base;
    size_t size;
} guarded[64];
static int n_guarded;

static void *guarded_alloc(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = LH_ROUND_UP(bytes, page) + page;
    char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || n_guarded == 64) abort();
    mprotect(base + size - page, page, PROT_NONE);
    guarded[n_guarded].base = base;
    guarded[n_guarded++].size = size;
    return base + size - page - bytes;
}

static void guarded_free_all(void) {
    while (n_guarded) {
        n_guarded--;
        munmap(guarded[n_guarded].base, guarded[n_guarded].size);
    }
}

// --- weights ---------------------------------------------------------------------------------------------------

// Where the halves lie in a block: scale, and min or -1.
static const int16_t half_at[LH_TYPE_COUNT][2] = {
    [LH_TYPE_Q4_0] = {0, -1}, [LH_TYPE_Q4_1] = {0, 2}, [LH_TYPE_Q5_0] = {0, -1}, [LH_TYPE_Q5_1] = {0, 2},
    [LH_TYPE_Q8_0] = {0, -1}, [LH_TYPE_Q2_K] = {80, 82}, [LH_TYPE_Q3_K] = {108, -1}, [LH_TYPE_Q4_K] = {0, 2},
    [LH_TYPE_Q5_K] = {0, 2}, [LH_TYPE_Q6_K] = {208, -1}, [LH_TYPE_IQ4_NL] = {0, -1}, [LH_TYPE_IQ4_XS] = {0, -1},
};

typedef enum weights_kind { RANDOM, EXTREME } weights_kind;

static void fill_half(uint8_t *at) {
    // Now and then zero or subnormal.
    uint16_t h = random_bits() % 16 == 0 ? (uint16_t)(random_bits() % 3) : lh_f32_to_f16(random_float() / 8);
    memcpy(at, &h, 2);
}

static void fill_weights(lh_tensor *w, weights_kind kind) {
    const lh_type_traits *traits = lh_type_get(w->type);
    uint8_t *data = guarded_alloc((size_t)w->n_rows * w->row_size);
    w->data = data;
    for (int64_t i = 0; i < w->n_rows * (int64_t)w->row_size; i += traits->block_size) {
        if (traits->scale_len) {
            // All bits set or only the highest ones: the largest products.
            uint8_t extreme = random_bits() & 1 ? 0xff : 0x80;
            for (int j = 0; j < traits->block_size; j++)
                data[i + j] = kind == EXTREME ? extreme : (uint8_t)random_bits();
            for (int j = 0; j < 2; j++)
                if (half_at[w->type][j] >= 0) fill_half(data + i + half_at[w->type][j]);
        } else {
            float f = random_float();
            uint32_t bits;
            memcpy(&bits, &f, 4);
            uint16_t half = w->type == LH_TYPE_F16 ? lh_f32_to_f16(f) : (uint16_t)(bits >> 16);
            memcpy(data + i, w->type == LH_TYPE_F32 ? (void *)&f : (void *)&half, (size_t)traits->block_size);
        }
    }
}

static lh_tensor make_weights(lh_type type, int64_t n_rows, int64_t n_cols, weights_kind kind) {
    const lh_type_traits *traits = lh_type_get(type);
    lh_tensor w = {.type = type, .n_rows = n_rows, .n_cols = n_cols};
    w.row_size = (size_t)(n_cols / traits->block_len * traits->block_size);
    fill_weights(&w, kind);
    return w;
}

static float *random_vector(int64_t n, float scale) {
    float *x = guarded_alloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = scale * random_float();
    return x;
}

// --- a case ----------------------------------------------------------------------------------------------------

typedef struct test_case {
    char name[160];
    lh_project p;
    lh_tensor w[3];
    float *decoded[3];      // (n_rows, n_cols)
    float *magnitude[3];    // |scale * q| + |min|, the same shape
    float *before;          // y[0] before, where p.add
} test_case;

static test_case make_case(int n_out, const lh_type *types, const int64_t *n_rows, int64_t n_cols, int32_t n,
                           int prologue, bool bias, bool add, weights_kind kind) {
    test_case c = {.p = {.n = n, .n_cols = (int32_t)n_cols, .n_out = n_out, .add = add, .norm_eps = 1e-5f}};
    static const char *const prologues[] = {"plain", "norm", "silu"};
    int at = snprintf(c.name, sizeof c.name, "n %d, cols %lld, %s%s%s%s:", n, (long long)n_cols, prologues[prologue],
                      bias ? ", bias" : "", add ? ", add" : "", kind == EXTREME ? ", extreme" : "");
    c.p.x = random_vector(n * n_cols, 3);
    if (kind == EXTREME)
        for (int64_t i = 0; i < n * n_cols; i++) ((float *)c.p.x)[i] = random_bits() % 8 ? 2 : -2;
    if (prologue == 1) c.p.norm = random_vector(n_cols, 2);
    if (prologue == 2) c.p.gate = random_vector(n * n_cols, 20);
    for (int i = 0; i < n_out; i++) {
        c.w[i] = make_weights(types[i], n_rows[i], n_cols, kind);
        if (bias) c.p.bias[i] = random_vector(n_rows[i], 1);
        c.p.y[i] = guarded_alloc((size_t)(n * n_rows[i]) * sizeof(float));
        const lh_type_traits *traits = lh_type_get(types[i]);
        int64_t n_values = n_rows[i] * n_cols;
        c.decoded[i] = malloc((size_t)n_values * sizeof(float));
        c.magnitude[i] = malloc((size_t)n_values * sizeof(float));
        traits->decode(c.w[i].data, c.decoded[i], n_values);
        for (int64_t j = 0; j < n_values; j++) c.magnitude[i][j] = fabsf(c.decoded[i][j]);
        if (traits->has_min) {
            int8_t *q = malloc((size_t)n_values);
            float *scale = malloc((size_t)n_values * sizeof(float)), *min = malloc((size_t)n_values * sizeof(float));
            traits->unpack(c.w[i].data, n_values, q, scale, min);
            for (int64_t j = 0; j < n_values; j++) {
                int64_t s = j / traits->scale_len;
                c.magnitude[i][j] = fabsf(scale[s] * (float)q[j]) + fabsf(min[s]);
            }
            free(q);
            free(scale);
            free(min);
        }
        at += snprintf(c.name + at, sizeof c.name - (size_t)at, " %s x %lld", traits->name, (long long)n_rows[i]);
    }
    if (add) c.before = random_vector(n * n_rows[0], 1);
    return c;
}

static void free_case(test_case *c) {
    for (int i = 0; i < c->p.n_out; i++) {
        free(c->decoded[i]);
        free(c->magnitude[i]);
    }
    guarded_free_all();
}

// The prologue in double.
static void reference_prologue(const lh_project *p, int32_t t, double *out) {
    const float *x = p->x + (int64_t)t * p->n_cols;
    double squares = 0;
    for (int i = 0; i < p->n_cols; i++) squares += (double)x[i] * x[i];
    for (int i = 0; i < p->n_cols; i++) {
        out[i] = x[i];
        if (p->norm) out[i] = x[i] / sqrt(squares / p->n_cols + (double)p->norm_eps) * p->norm[i];
        if (p->gate) {
            double g = p->gate[(int64_t)t * p->n_cols + i];
            out[i] = x[i] * g / (1 + exp(-g));
        }
    }
}

#endif
