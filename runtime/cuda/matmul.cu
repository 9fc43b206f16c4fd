// embed and project. A few tokens go to matvec.cu. For more, activations pass their prologue once, into halves; weights
// are decoded into panels of halves, which tensor cores then multiply: cuBLAS where it was found, else gemm.cu.
#include "matmul.h"

#include "cublas.h"
#include "decode.cuh"
#include "prologue.cuh"

#define THREADS 256
// Of weights as halves: enough rows to fill a device, and not much memory beside a model's.
#define PANEL_BYTES ((int64_t)128 << 20)

// --- embed -------------------------------------------------------------------------------------------------------

// x (n, n_cols) = rows of table. ids: NULL: the one in params.
template <int type>
static __global__ void __launch_bounds__(THREADS)
    embed_kernel(const unsigned char *table, int64_t row_size, int n_cols, const int32_t *ids,
                 const lh_cuda_params *params, float *x) {
    int t = (int)blockIdx.y, k = ((int)blockIdx.x * THREADS + (int)threadIdx.x) * 8;
    if (k >= n_cols) return;
    float out[8];
    lh_decode8<type>(table + (int64_t)(ids ? ids[t] : params->id) * row_size, k, n_cols, out);
    for (int j = 0; j < 8 && k + j < n_cols; j++) x[(int64_t)t * n_cols + k + j] = out[j];
}

lh_status lh_cuda_embed(lh_cuda *c, const lh_tensor *table, const int32_t *ids, int32_t n, float *x) {
    int32_t *device_ids = NULL;
    if (n > 1) {
        LH_TRY(lh_cuda_scratch(c, LH_CUDA_IDS, (size_t)n * sizeof *ids, (void **)&device_ids));
        // From pageable memory: the caller's ids are read before this returns.
        LH_CUDA_TRY(c, "writing ids", cudaMemcpyAsync(device_ids, ids, (size_t)n * sizeof *ids, cudaMemcpyHostToDevice,
                                                      c->stream));
    }
    dim3 grid((unsigned)((table->n_cols + THREADS * 8 - 1) / (THREADS * 8)), (unsigned)n);
    return lh_for_type(table->type, [&](auto type) {
        LH_CUDA_RUN(c, embed_kernel<type()>, grid, THREADS, 0, (const unsigned char *)table->device,
                    (int64_t)table->row_size, (int)table->n_cols, device_ids, c->params, x);
        return LH_OK;
    });
}

// --- activations as halves ---------------------------------------------------------------------------------------

// out (n, ld), filled up with zeros.
static __global__ void __launch_bounds__(THREADS) halve_kernel(lh_prologue before, int ld, __half *out) {
    __shared__ float part[THREADS / LH_WARP];
    int t = (int)blockIdx.x;
    float factor = lh_prologue_factor(before, t, part);
    uint32_t *pairs = (uint32_t *)(out + (int64_t)t * ld);
    for (int i = (int)threadIdx.x; i < ld / 2; i += THREADS)
        pairs[i] = lh_pack_half2(lh_prologue_value(before, t, factor, 2 * i),
                                 lh_prologue_value(before, t, factor, 2 * i + 1));
}

// --- weights as halves -------------------------------------------------------------------------------------------

// out (rows, ld) = rows of w; ld is a multiple of 8, zeros from n_cols on.
template <int type>
static __global__ void __launch_bounds__(THREADS)
    panel_kernel(const unsigned char *w, int64_t row_size, int64_t rows, int n_cols, int ld, __half *out) {
    // 32 bits: a panel has no more pieces than that, and a division of 64 costs more than decoding.
    uint32_t at = blockIdx.x * THREADS + threadIdx.x, pieces = (uint32_t)ld / 8;
    int64_t row = at / pieces;
    int k = (int)(at % pieces) * 8;
    if (row >= rows) return;
    float v[8];
    lh_decode8<type>(w + row * row_size, k, n_cols, v);
    *(uint4 *)(out + row * ld + k) = make_uint4(lh_pack_half2(v[0], v[1]), lh_pack_half2(v[2], v[3]),
                                                lh_pack_half2(v[4], v[5]), lh_pack_half2(v[6], v[7]));
}

static lh_status fill_panel(lh_cuda *c, const lh_tensor *w, int64_t first, int64_t rows, int ld, __half *out) {
    const unsigned char *data = (const unsigned char *)w->device + first * (int64_t)w->row_size;
    unsigned blocks = (unsigned)((rows * (ld / 8) + THREADS - 1) / THREADS);
    return lh_for_type(w->type, [&](auto type) {
        LH_CUDA_RUN(c, panel_kernel<type()>, blocks, THREADS, 0, data, (int64_t)w->row_size, rows, (int)w->n_cols, ld,
                    out);
        return LH_OK;
    });
}

// --- project -----------------------------------------------------------------------------------------------------

static lh_status multiply(lh_cuda *c, const lh_cuda_gemm *g) {
    return c->cublas ? lh_cublas_gemm(c, g) : lh_cuda_gemm_run(c, g);
}

// Matrix i of p; x: its activations as halves, rows of ld values.
static lh_status multiply_matrix(lh_cuda *c, const lh_project *p, int i, const __half *x, int ld) {
    const lh_tensor *w = p->w[i];
    lh_cuda_gemm g = {};
    g.m = p->n;
    g.k = ld;
    g.x = x;
    g.ld_x = g.ld_w = ld;
    g.ld_y = lh_cuda_y_stride(p, i);
    g.add = p->add;
    const float *bias;
    LH_TRY(lh_cuda_constant(c, p->bias[i], w->n_rows, &bias));
    bool as_it_is = w->type == LH_TYPE_F16 && w->n_cols == ld;
    int64_t panel = as_it_is ? w->n_rows : LH_MIN(w->n_rows, LH_MAX(PANEL_BYTES / (2 * ld) / 128 * 128, (int64_t)128));
    __half *halves = (__half *)w->device;
    if (!as_it_is) LH_TRY(lh_cuda_scratch(c, LH_CUDA_PANEL, (size_t)(panel * ld) * sizeof(__half), (void **)&halves));
    for (int64_t row = 0; row < w->n_rows; row += panel) {
        g.n = (int32_t)LH_MIN(panel, w->n_rows - row);
        if (!as_it_is) LH_TRY(fill_panel(c, w, row, g.n, ld, halves));
        g.w = halves;
        g.y = p->y[i] + row;
        g.bias = bias ? bias + row : NULL;
        LH_TRY(multiply(c, &g));
    }
    return LH_OK;
}

lh_status lh_cuda_project(lh_cuda *c, const lh_project *p) {
    if (p->n <= LH_CUDA_FEW) return lh_cuda_matvec(c, p);
    lh_prologue before;
    LH_TRY(lh_prologue_of(c, p, &before));
    int ld = LH_ROUND_UP(p->n_cols, 8);
    __half *x;
    LH_TRY(lh_cuda_scratch(c, LH_CUDA_X, (size_t)p->n * (size_t)ld * sizeof *x, (void **)&x));
    LH_CUDA_RUN(c, halve_kernel, (unsigned)p->n, THREADS, 0, before, ld, x);
    for (int i = 0; i < p->n_out; i++) LH_TRY(multiply_matrix(c, p, i, x, ld));
    return LH_OK;
}
