// lh_backend_open_cuda's embed and project for every type, against double arithmetic on the decoded weights. The same
// program runs on a GPU and on the emulator.
#define _GNU_SOURCE
#include "matmul_cases.h"

lh_status lh_backend_open_cuda(int32_t index, lh_backend **out);
__attribute__((weak)) void lh_emulator_order(int order);  // of threads and blocks; no GPU has it

// Few tokens: relative to the sum of the terms' magnitudes; rounding of float sums, norms and exponentials.
#define FEW 6e-6
// Many tokens: both factors are rounded to halves, relatively by 2^-12 on average. Relative to the root of the sum of
// the terms' squares, some eight standard deviations; and to the sum of magnitudes where all errors point one way.
#define MANY 4e-3
#define MANY_ALIKE 1.1e-3
#define FEW_TOKENS 4  // LH_CUDA_FEW

static lh_backend *gpu;

// One for each case: it keeps copies of norms and biases by their addresses, which come again here.
static void open_gpu(void) {
    if (lh_backend_open_cuda(0, &gpu) == LH_OK) return;
    printf("%s\n", lh_last_error());
    exit(1);
}

static float *on_device(const float *host, int64_t n) {
    void *p;
    if (gpu->ops->alloc(gpu, (size_t)n * sizeof *host, &p) != LH_OK ||
        gpu->ops->write(gpu, p, host, (size_t)n * sizeof *host) != LH_OK) {
        printf("%s\n", lh_last_error());
        exit(1);
    }
    return p;
}

static void check_row(const test_case *c, int i, int32_t t, int64_t r, const double *x, float got, bool alike) {
    const lh_project *p = &c->p;
    const float *w = c->decoded[i] + r * p->n_cols, *m = c->magnitude[i] + r * p->n_cols;
    double sum = 0, magnitude = 0, squares = 0;
    for (int64_t j = 0; j < p->n_cols; j++) {
        sum += (double)w[j] * x[j];
        magnitude += (double)m[j] * fabs(x[j]);
        squares += (double)w[j] * x[j] * w[j] * x[j];
    }
    double extra = (p->bias[i] ? p->bias[i][r] : 0) + (p->add ? (double)c->before[t * c->w[i].n_rows + r] : 0);
    double allowed = FEW * (magnitude + fabs(extra) + 1);
    if (p->n > FEW_TOKENS) allowed += alike ? MANY_ALIKE * magnitude : MANY * sqrt(squares) + 1e-5;
    if (!(fabs(got - sum - extra) <= allowed))
        FAIL("%s: output %d, token %d, row %lld: %.9g, not %.9g (allowed %.3g)", c->name, i, t, (long long)r, got,
             sum + extra, allowed);
}

// gap: floats between the tokens of y, beyond the rows: they must stay as they were.
static void run_case(test_case c, bool alike, int64_t gap) {
    open_gpu();
    lh_project p = c.p;
    p.x = on_device(c.p.x, (int64_t)p.n * p.n_cols);
    if (p.gate) p.gate = on_device(c.p.gate, (int64_t)p.n * p.n_cols);
    if (gap) p.y_stride = c.w[0].n_rows + gap;
    float *host[3];
    for (int i = 0; i < p.n_out; i++) {
        int64_t rows = c.w[i].n_rows, stride = rows + (p.n_out == 1 ? gap : 0);
        host[i] = malloc((size_t)(p.n * stride) * sizeof(float));
        for (int64_t j = 0; j < p.n * stride; j++) host[i][j] = NAN;  // what is not written is seen
        if (p.add)
            for (int32_t t = 0; t < p.n; t++) memcpy(host[i] + t * stride, c.before + t * rows, (size_t)rows * 4);
        p.y[i] = on_device(host[i], p.n * stride);
        if (gpu->ops->upload(gpu, &c.w[i]) != LH_OK) FAIL("%s: %s", c.name, lh_last_error());
        p.w[i] = &c.w[i];
    }
    if (gpu->ops->project(gpu, &p) != LH_OK) FAIL("%s: %s", c.name, lh_last_error());
    double *x = malloc((size_t)p.n_cols * sizeof *x);
    for (int i = 0; i < p.n_out; i++) {
        int64_t rows = c.w[i].n_rows, stride = rows + (p.n_out == 1 ? gap : 0);
        if (gpu->ops->read(gpu, host[i], p.y[i], (size_t)(p.n * stride) * sizeof(float)) != LH_OK)
            FAIL("%s: %s", c.name, lh_last_error());
        for (int32_t t = 0; t < p.n; t++) {
            reference_prologue(&c.p, t, x);
            for (int64_t r = 0; r < rows; r++) check_row(&c, i, t, r, x, host[i][t * stride + r], alike);
            for (int64_t r = rows; r < stride; r++)
                if (!isnan(host[i][t * stride + r])) FAIL("%s: a gap between tokens was written to", c.name);
        }
    }
    free(x);
    for (int i = 0; i < p.n_out; i++) {
        gpu->ops->release(gpu, p.y[i]);
        gpu->ops->unload(gpu, &c.w[i]);
        free(host[i]);
    }
    gpu->ops->release(gpu, (void *)p.x);
    gpu->ops->release(gpu, (void *)p.gate);
    gpu->ops->free(gpu);
    free_case(&c);
}

static void one_matrix(lh_type type, int64_t n_rows, int64_t n_cols, int32_t n, int variant, weights_kind kind) {
    run_case(make_case(1, &type, &n_rows, n_cols, n, variant % 3, variant / 3 % 2, variant / 6 % 2, kind),
             kind == EXTREME, variant % 5 == 1 ? 3 : 0);
}

// Every number of tokens and of rows that a tile can end at, and more columns than a stage holds.
static void shapes_of_type(lh_type type, bool all) {
    static const int32_t tokens[] = {1, 2, 4, 5, 17, 65, 130};
    static const int64_t rows[] = {1, 7, 33, 129};
    static const int64_t cols[] = {1, 172, 512, 1056, 4352};
    int64_t block = lh_type_get(type)->block_len;
    int variant = (int)type;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++, variant++)
        for (size_t j = 0; j < sizeof rows / sizeof *rows; j += all ? 1 : 3)
            if (all || tokens[i] < 100)
                one_matrix(type, rows[(j + i) % 4], block == 1 ? 33 : block, tokens[i], variant++, RANDOM);
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
        if (cols[i] % block) continue;
        one_matrix(type, rows[i % 4], cols[i], 1 + (int32_t)i % FEW_TOKENS, variant++, RANDOM);
        one_matrix(type, rows[(i + 1) % 4], cols[i], 9, variant++, RANDOM);
    }
    one_matrix(type, 33, 512, 1, variant++, EXTREME);
    one_matrix(type, 33, 512, 8, variant++, EXTREME);
    // Enough rows for one block of many warps a multiprocessor of the emulator, then for several; and too many columns
    // for shared memory.
    one_matrix(type, 129, 1280, 1, variant++, RANDOM);
    one_matrix(type, 2000, 256, 1, variant++, RANDOM);
    // SwiGLU that is applied once, for all blocks.
    if (all) one_matrix(type, 129, block == 1 ? 4351 : 4352, 3, 2, RANDOM);
    if (all) one_matrix(type, 5, 25600, 1, 6 + variant % 3, RANDOM);
}

static void several_matrices(void) {
    static const lh_type types[][3] = {
        {LH_TYPE_Q4_1, LH_TYPE_Q4_1, LH_TYPE_Q4_1}, {LH_TYPE_Q4_K, LH_TYPE_Q4_K, LH_TYPE_Q6_K},
        {LH_TYPE_Q8_0, LH_TYPE_F32, LH_TYPE_Q8_0},
    };
    static const int64_t rows[] = {64, 33, 17};
    int variant = 0;
    for (size_t i = 0; i < 3; i++)
        for (int n_out = 2; n_out <= 3; n_out++)
            for (int32_t n = 1; n < 10; n += 4, variant++)
                run_case(make_case(n_out, types[i], rows, 512, n, variant % 3, variant % 2, 0, RANDOM), false, 0);
}

static void embed(lh_type type) {
    open_gpu();
    const int64_t n_cols = lh_type_get(type)->block_len == 1 ? 515 : 512;
    lh_tensor table = make_weights(type, 5, n_cols, RANDOM);
    const int32_t ids[] = {4, 0, 4, 2};
    float x[4 * 515], row[515], *device = on_device(x, 4 * n_cols);
    if (gpu->ops->upload(gpu, &table) != LH_OK) FAIL("embed: %s", lh_last_error());
    for (int32_t n = 1; n <= 4; n += 3) {
        if (gpu->ops->embed(gpu, &table, ids, n, device) != LH_OK ||
            gpu->ops->read(gpu, x, device, (size_t)(n * n_cols) * sizeof *x) != LH_OK)
            FAIL("embed: %s", lh_last_error());
        for (int t = 0; t < n; t++) {
            lh_type_get(type)->decode((const char *)table.data + (size_t)ids[t] * table.row_size, row, n_cols);
            for (int64_t i = 0; i < n_cols; i++)
                if (!(fabsf(row[i] - x[t * n_cols + i]) <= 1e-6f * (1 + fabsf(row[i]))))
                    FAIL("embed: %s, token %d, [%lld] is %.9g, not %.9g", lh_type_name(type), t, (long long)i,
                         x[t * n_cols + i], row[i]);
        }
    }
    gpu->ops->unload(gpu, &table);
    gpu->ops->release(gpu, device);
    gpu->ops->free(gpu);
    guarded_free_all();
}

// test_cuda_matmul few|all [order]
int main(int argc, char **argv) {
    bool all = argc > 1 && strcmp(argv[1], "all") == 0;
    if (lh_emulator_order && argc > 2) lh_emulator_order(atoi(argv[2]));
    for (lh_type type = 0; type < LH_TYPE_COUNT; type++) {
        if (!lh_type_get(type)) continue;
        embed(type);
        shapes_of_type(type, all);
    }
    several_matrices();
    if (failures) printf("%d failures\n", failures);
    else printf("ok\n");
    return failures != 0;
}
