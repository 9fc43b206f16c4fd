// lh_cpu_project with every table of kernels this machine has, against double arithmetic on the decoded weights.
//
//   test_matmul [few]
#define _GNU_SOURCE
#include "cpu/cpu.h"
#include "cpu/features.h"
#include "cpu/spans.h"
#include "matmul_cases.h"
#include "quant_blocks.h"

// Against the same quantised activations, relative to the sum of the terms' magnitudes: rounding of float sums.
#define TIGHT 2e-6
// Against activations that were not quantised, relative to |w| |x| / sqrt(columns): a block's rounding is 1/254 of its
// largest value, some 3 standard deviations, so that this is about ten of the error's.
#define LOOSE 0.07
// The same where activations and weights are rounded to bfloat16, by 1/256 of each at most: relative to the sum of
// the terms' magnitudes.
#define LOOSE_BFLOAT 0x1.01p-7
// Norm and silu, relative to the value.
#define PROLOGUE 2e-6

// The kernels' quantisation is the generic one's, bit for bit. quantised: with the scale applied.
static void compare_quantised(const lh_matmul_kernels *k, const lh_matmul_kernels *generic, int64_t n,
                              const float *plain, const char *label, float *quantised) {
    int64_t blocks = n / LH_ACT_BLOCK;
    int8_t *q = malloc((size_t)n * 2);
    float *sums = malloc((size_t)blocks * 12 * sizeof *sums);
    lh_act_row rows[2];
    for (int i = 0; i < 2; i++) {
        float *s = sums + 6 * blocks * i;
        rows[i] = (lh_act_row){.x = plain, .q = q + n * i, .scale = s, .q_sum = (int32_t *)(s + blocks), .sum16 = s + 3 * blocks,
                               .sum32 = s + 5 * blocks};
        (i == 0 ? generic : k)->quantise(plain, n, &rows[i]);
    }
    bool same = memcmp(q, q + n, (size_t)n) == 0;
    for (int64_t i = 0; i < 6 * blocks; i++)  // bit for bit, but any NaN is any other
        same = same &&
               (memcmp(&sums[i], &sums[6 * blocks + i], 4) == 0 || (isnan(sums[i]) && isnan(sums[6 * blocks + i])));
    if (!same) FAIL("%s: a token is not quantised as the generic kernel does", label);
    for (int64_t i = 0; i < n; i++) quantised[i] = rows[0].scale[i / 32] * (float)q[i];
    free(q);
    free(sums);
}

// What the kernels make of token t: after the prologue, and quantised with its scale applied.
static void kernel_prologue(const lh_matmul_kernels *k, const lh_matmul_kernels *generic, const test_case *c, int32_t t,
                            const char *label, float *plain, float *quantised) {
    const lh_project *p = &c->p;
    int64_t n = p->n_cols;
    double *reference = malloc((size_t)n * sizeof(double));
    reference_prologue(p, t, reference);
    const float *x = p->x + t * n;
    if (p->norm) k->rms_norm(x, p->norm, p->norm_eps, n, plain);
    else if (p->gate) k->silu_mul(p->gate + t * n, x, n, plain);
    else memcpy(plain, x, (size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(plain[i] - reference[i]) <= PROLOGUE * fabs(reference[i]) + 1e-37))
            FAIL("%s: prologue of token %d: [%lld] is %.9g, not %.9g", label, t, (long long)i, plain[i], reference[i]);
    free(reference);

    if (n % LH_ACT_BLOCK == 0) compare_quantised(k, generic, n, plain, label, quantised);
}

static double as_bfloat(float x) {
    uint32_t bits = (uint32_t)lh_bfloat(x) << 16;
    float rounded;
    memcpy(&rounded, &bits, 4);
    return rounded;
}

static void check_token(const test_case *c, int i, int32_t t, const char *label, const float *plain,
                        const float *quantised, bool bfloat) {
    const lh_project *p = &c->p;
    bool integer = lh_type_get(c->w[i].type)->scale_len != 0;
    bfloat = bfloat && integer;
    const float *x = integer && !bfloat ? quantised : plain;
    int64_t n_cols = p->n_cols, n_rows = c->w[i].n_rows;
    double norm_x = 0;
    for (int64_t j = 0; j < n_cols; j++) norm_x += (double)plain[j] * plain[j];
    for (int64_t r = 0; r < n_rows; r++) {
        const float *w = c->decoded[i] + r * n_cols, *m = c->magnitude[i] + r * n_cols;
        double sum = 0, magnitude = 0, exact = 0, exact_magnitude = 0, norm_w = 0;
        for (int64_t j = 0; j < n_cols; j++) {
            sum += bfloat ? as_bfloat(w[j]) * as_bfloat(x[j]) : (double)w[j] * x[j];
            magnitude += (double)m[j] * fabsf(x[j]);
            exact += (double)w[j] * plain[j];
            exact_magnitude += fabs((double)w[j] * plain[j]);
            norm_w += (double)w[j] * w[j];
        }
        double extra = (p->bias[i] ? p->bias[i][r] : 0) + (p->add ? (double)c->before[t * n_rows + r] : 0);
        double got = p->y[i][t * n_rows + r];
        if (!(fabs(got - sum - extra) <= TIGHT * (magnitude + fabs(extra) + 1)))
            FAIL("%s: output %d, token %d, row %lld: %.9g, not %.9g (terms %.3g)", label, i, t, (long long)r, got,
                 sum + extra, magnitude);
        double loose = bfloat ? LOOSE_BFLOAT * exact_magnitude : LOOSE * sqrt(norm_w * norm_x / (double)n_cols);
        if (!(fabs(got - exact - extra) <= loose + 1e-4))
            FAIL("%s: output %d, token %d, row %lld: %.9g, far from %.9g", label, i, t, (long long)r, got,
                 exact + extra);
    }
}

// The same weights, laid out in spans where their type has these: in memory that ends where theirs does.
static lh_tensor in_spans(const lh_tensor *w) {
    lh_tensor copy = *w;
    if (!lh_has_spans(w->type)) return copy;
    void *data = guarded_alloc((size_t)w->n_rows * w->row_size);
    lh_to_spans(w, 0, w->n_rows, data);
    copy.data = data;
    copy.spans = true;
    return copy;
}

static void run_case(test_case *c, lh_backend *b, unsigned features, bool spans) {
    lh_matmul_kernels *k = &((lh_cpu *)b)->matmul, generic;
    lh_matmul_kernels_select(0, &generic);
    lh_matmul_kernels_select(features, k);
    bool some = false;
    for (int i = 0; i < c->p.n_out; i++) some = some || lh_has_spans(c->w[i].type);
    if (spans && !(k->spans && some)) return;
    char label[256];
    snprintf(label, sizeof label, "%s%s, %d threads, %s", k->name, spans ? ", spans" : "", b->n_threads, c->name);
    lh_tensor w[3];
    for (int i = 0; i < c->p.n_out; i++) {
        w[i] = spans ? in_spans(&c->w[i]) : c->w[i];
        c->p.w[i] = &w[i];
        size_t size = (size_t)(c->p.n * c->w[i].n_rows) * sizeof(float);
        if (c->p.add) memcpy(c->p.y[i], c->before, size);
        else memset(c->p.y[i], 0xff, size);  // NaN: what is not written is seen
    }
    if (lh_cpu_project(b, &c->p) != LH_OK) FAIL("%s: %s", label, lh_last_error());
    bool bfloat = k->integer.plain && c->p.n > LH_MAX(k->stream_tokens, k->few_tokens);
    float *plain = malloc((size_t)c->p.n_cols * 2 * sizeof(float)), *quantised = plain + c->p.n_cols;
    for (int32_t t = 0; t < c->p.n; t++) {
        kernel_prologue(k, &generic, c, t, label, plain, quantised);
        for (int i = 0; i < c->p.n_out; i++) check_token(c, i, t, label, plain, quantised, bfloat);
    }
    free(plain);
}

// --- the cases -------------------------------------------------------------------------------------------------

#define N_THREADS 3
static lh_backend *backends[N_THREADS];  // of 1, 2, 3 threads

static bool few_shapes;  // for sanitizers and emulators

static unsigned tables[8];
static int n_tables;

static void find_tables(void) {
    const unsigned levels[] = {
        0, LH_CPU_AVX2, LH_CPU_AVX2 | LH_CPU_AVX512, LH_CPU_AVX2 | LH_CPU_AVX512 | LH_CPU_AVX512_VNNI,
        LH_CPU_AVX2 | LH_CPU_AVX512 | LH_CPU_AVX512_VNNI | LH_CPU_AMX, LH_CPU_NEON, LH_CPU_NEON | LH_CPU_DOTPROD,
    };
    unsigned have = lh_cpu_features();
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if ((levels[i] & have) == levels[i]) tables[n_tables++] = levels[i];
}

static void run_everywhere(test_case c) {
    static int turn;
    // Every table with every number of threads, in turns.
    for (int i = 0; i < 2 * n_tables; i++)
        run_case(&c, backends[(turn + i) % N_THREADS], tables[i / 2], i % 2 == 1);
    turn++;
    free_case(&c);
}

static void one_matrix(lh_type type, int64_t n_rows, int64_t n_cols, int32_t n, int variant, weights_kind kind) {
    run_everywhere(make_case(1, &type, &n_rows, n_cols, n, variant % 3, variant / 3 % 2, variant / 6 % 2, kind));
}

static void shapes_of_type(lh_type type) {
    static const int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 33, 64, 257};
    static const int64_t rows[] = {1, 15, 16, 17, 31, 32, 33, 100};
    int64_t block = lh_type_get(type)->block_len;
    int variant = 0;
    // All shapes with the least columns; more columns with some.
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i += few_shapes ? 3 : 1)
        for (size_t j = 0; j < sizeof rows / sizeof *rows; j += few_shapes ? 3 : 1)
            one_matrix(type, rows[j], block == 1 ? 33 : block, tokens[i], variant++, RANDOM);
    static const int64_t cols[] = {1, 172, 288, 576, 608, 1536, 2080, 4352};
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
        if (cols[i] % block || (few_shapes && cols[i] == 1536)) continue;
        static const int32_t few[] = {1, 3, 4, 7, 13, 20, 50};
        for (size_t j = 0; j < 7; j += few_shapes ? 2 : 1, variant++)
            one_matrix(type, rows[variant % 8], cols[i], few[j], variant, RANDOM);
        one_matrix(type, 33, cols[i], 3, variant++, EXTREME);
        one_matrix(type, 33, cols[i], 8, variant++, EXTREME);
    }
}

static void several_matrices(void) {
    static const lh_type types[][3] = {
        {LH_TYPE_Q4_1, LH_TYPE_Q4_1, LH_TYPE_Q4_1}, {LH_TYPE_Q4_K, LH_TYPE_Q4_K, LH_TYPE_Q6_K},
        {LH_TYPE_Q8_0, LH_TYPE_F32, LH_TYPE_Q2_K},  {LH_TYPE_BF16, LH_TYPE_F16, LH_TYPE_F32},
        {LH_TYPE_F16, LH_TYPE_IQ4_XS, LH_TYPE_F16},
    };
    static const int64_t rows[][3] = {{64, 33, 16}, {1, 100, 7}, {192, 64, 64}};
    int variant = 0;
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < 3; j++)
            for (int n_out = 2; n_out <= 3; n_out++)
                for (int32_t n = 1; n < 30; n = 2 * n + 3, variant++)
                    run_everywhere(make_case(n_out, types[i], rows[j], 512, n, variant % 3, variant % 2, 0, RANDOM));
}

// Infinite and NaN scales and activations must not crash, nor touch other rows or tokens.
static void hostile_values(lh_type type) {
    const int64_t n_rows = 40, n_cols = 512;
    const lh_type_traits *traits = lh_type_get(type);
    static const int32_t tokens[] = {1, 2, 6, 11, 60};
    for (int i_tokens = 0; i_tokens < 5; i_tokens++) {
        int32_t n = tokens[i_tokens];
        test_case c = make_case(1, &type, &n_rows, n_cols, n, 0, false, false, RANDOM);
        uint8_t *row = (uint8_t *)c.w[0].data + 3 * c.w[0].row_size;
        for (size_t i = 0; i < c.w[0].row_size; i += (size_t)traits->block_size)
            for (int j = 0; j < 2 && half_at[type][j] >= 0; j++) memcpy(row + i + half_at[type][j], "\x00\x7c", 2);
        ((float *)c.p.x)[(n - 1) * n_cols + 5] = INFINITY;
        ((float *)c.p.x)[(n - 1) * n_cols + 77] = NAN;
        lh_tensor spans = in_spans(&c.w[0]);
        for (int i = 0; i < 2 * n_tables; i++) {
            lh_matmul_kernels *k = &((lh_cpu *)backends[0])->matmul;
            lh_matmul_kernels_select(tables[i / 2], k);
            if (i % 2 && !(k->spans && spans.spans)) continue;
            c.p.w[0] = i % 2 ? &spans : &c.w[0];
            if (lh_cpu_project(backends[0], &c.p) != LH_OK) FAIL("hostile values: %s", lh_last_error());
            for (int64_t r = 0; r < n_rows; r++)
                if (isfinite(c.p.y[0][(n - 1) * n_rows + r]))
                    FAIL("%s, %s: an infinite activation gives a finite result", k->name, traits->name);
            for (int32_t t = 0; t < n - 1; t++)
                for (int64_t r = 0; r < n_rows; r++)
                    if (r != 3 && !isfinite(c.p.y[0][t * n_rows + r]))
                        FAIL("%s, %s: infinities of row 3 and token %d reach row %lld, token %d", k->name, traits->name,
                             n - 1, (long long)r, t);
        }
        free_case(&c);
    }
}

// Blocks at the edges of quantising: the kernels agree with the generic one, and that is half a step away at most.
static void hostile_blocks(void) {
    static const float largest[] = {0,   1e-45f, 1e-38f, 0.9e-35f, 1.1e-35f, 1e-30f,
                                    127, 1,      1e30f,  3.4e38f,  INFINITY, NAN};
    const int64_t n = LH_ACT_BLOCK * (int64_t)(sizeof largest / sizeof *largest);
    float *x = guarded_alloc((size_t)n * sizeof *x), *quantised = guarded_alloc((size_t)n * sizeof *quantised);
    lh_matmul_kernels generic, k;
    lh_matmul_kernels_select(0, &generic);
    for (int round = 0; round < 200; round++) {
        for (int64_t i = 0; i < n; i++) {
            float most = largest[i / LH_ACT_BLOCK];
            // The largest value once; ties between two steps; numbers at random.
            int64_t j = i % LH_ACT_BLOCK;
            float factor = j < 8 ? (float)(2 * (int)(random_bits() % 127) - 127) / 254 : random_float();
            if (j == round % LH_ACT_BLOCK) factor = 1;
            x[i] = isfinite(most) ? most * factor : factor == 1 ? most : factor;
        }
        for (int i = 0; i < n_tables; i++) {
            lh_matmul_kernels_select(tables[i], &k);
            compare_quantised(&k, &generic, n, x, k.name, quantised);
            for (int64_t j = 0; j < n; j++) {
                float most = largest[j / LH_ACT_BLOCK];
                float error = fabsf(quantised[j] - x[j]);
                if (isfinite(most) ? !(error <= most / 127 * 0.50001f + 1e-35f) : !isnan(quantised[j]))
                    FAIL("%s: %.9g in a block up to %.9g is quantised as %.9g", k.name, x[j], most, quantised[j]);
            }
        }
    }
    guarded_free_all();
}

// Tiles that someone else has configured on this thread are as they were afterwards; if nobody has, nobody has.
static void tiles_of_others(void) {
#if defined(__x86_64__) && !defined(LH_NO_AMX)
    if (!(lh_cpu_features() & LH_CPU_AMX)) return;
    const lh_type type = LH_TYPE_Q8_0;
    const int64_t n_rows = 32;
    for (int turn = 0; turn < 6; turn++) {
        const int32_t tokens[] = {7, 32, 64}, theirs = turn % 2;
        // Palette; bytes of a line, and lines, of tiles 0 and 1.
        uint8_t config[64] = {[0] = 1, [16] = 12, [18] = 64, [48] = 3, [49] = 16}, after[64];
        test_case c = make_case(1, &type, &n_rows, 64, tokens[turn / 2], 0, false, false, RANDOM);
        c.p.w[0] = &c.w[0];
        lh_matmul_kernels_select(lh_cpu_features(), &((lh_cpu *)backends[0])->matmul);
        if (theirs) __asm__ volatile("ldtilecfg %0" : : "m"(config));
        else memset(config, 0, sizeof config);
        if (lh_cpu_project(backends[0], &c.p) != LH_OK) FAIL("tiles of others: %s", lh_last_error());
        __asm__ volatile("sttilecfg %0" : "=m"(after));
        if (memcmp(config, after, sizeof config) != 0) FAIL("tiles of others are configured otherwise");
        __asm__ volatile("tilerelease");
        free_case(&c);
    }
#endif
}

static void embed(lh_type type) {
    enum { N_COLS = 1280 };  // two spans and a half
    lh_tensor table = make_weights(type, 5, N_COLS, RANDOM), tables_of[] = {table, in_spans(&table)};
    const int32_t ids[] = {4, 0, 4, 2};
    float *x = guarded_alloc(4 * N_COLS * sizeof(float)), row[N_COLS];
    for (int i = 0; i < 2; i++) {
        if (lh_cpu_embed(backends[0], &tables_of[i], ids, 4, x) != LH_OK) FAIL("embed: %s", lh_last_error());
        for (int t = 0; t < 4; t++) {
            lh_type_get(type)->decode((const char *)table.data + (size_t)ids[t] * table.row_size, row, N_COLS);
            if (memcmp(row, x + t * N_COLS, sizeof row)) FAIL("embed: %s, token %d differs", lh_type_name(type), t);
        }
    }
    guarded_free_all();
}

int main(int argc, char **argv) {
    few_shapes = argc > 1 && strcmp(argv[1], "few") == 0;
    find_tables();
    for (int i = 0; i < N_THREADS; i++)
        if (lh_backend_open_cpu(i + 1, &backends[i]) != LH_OK) {
            printf("%s\n", lh_last_error());
            return 1;
        }
    for (lh_type type = 0; type < LH_TYPE_COUNT; type++) {
        if (!lh_type_get(type)) continue;
        shapes_of_type(type);
        hostile_values(type);
        embed(type);
    }
    several_matrices();
    hostile_blocks();
    tiles_of_others();
    for (int i = 0; i < n_tables; i++) {
        lh_matmul_kernels k;
        lh_matmul_kernels_select(tables[i], &k);
        printf("tested %s\n", k.name);
    }
    for (int i = 0; i < N_THREADS; i++) backends[i]->ops->free(backends[i]);
    if (failures) printf("%d failures\n", failures);
    return failures != 0;
}
