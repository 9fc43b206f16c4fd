// The four functions of cuBLAS that are needed, found by name. Its own headers are not: a build needs nothing of it.
#include "cublas.h"

#include <dlfcn.h>
#include <stdlib.h>

// The numbers of cublas_api.h and library_types.h.
#define CUBLAS_OP_N 0
#define CUBLAS_OP_T 1
#define CUDA_R_32F 0
#define CUDA_R_16F 2
#define CUBLAS_COMPUTE_32F 68
#define CUBLAS_GEMM_DEFAULT (-1)

typedef struct lh_cublas {
    void *handle;
    int (*destroy)(void *handle);
    int (*gemm)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a, int type_a,
                int ld_a, const void *b, int type_b, int ld_b, const void *beta, void *c, int type_c, int ld_c,
                int compute, int algorithm);
} lh_cublas;

template <class F>
static bool find(void *library, const char *name, F *function) {
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

static bool start(lh_cublas *b, const char *name, cudaStream_t stream) {
    // It stays open: what a library registered with the driver is not undone by closing it.
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    int (*create)(void **handle);
    int (*set_stream)(void *handle, cudaStream_t stream);
    if (!library || !find(library, "cublasCreate_v2", &create) || !find(library, "cublasSetStream_v2", &set_stream) ||
        !find(library, "cublasDestroy_v2", &b->destroy) || !find(library, "cublasGemmEx", &b->gemm) ||
        create(&b->handle) != 0)
        return false;
    if (set_stream(b->handle, stream) == 0) return true;
    b->destroy(b->handle);
    return false;
}

lh_cublas *lh_cublas_open(cudaStream_t stream) {
    // LH_CUBLAS=0 leaves it alone, so that one machine tests both ways.
    const char *wanted = getenv("LH_CUBLAS");
    if (wanted && strcmp(wanted, "0") == 0) return NULL;
    const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so",
                                 "/usr/local/cuda/lib64/libcublas.so"};
    lh_cublas *b = (lh_cublas *)lh_alloc(1, sizeof *b);
    // The driver may be too old for one that is there.
    for (const char *name : names)
        if (b && start(b, name, stream)) return b;
    lh_free(b);
    return NULL;
}

void lh_cublas_free(lh_cublas *b) {
    if (!b) return;
    b->destroy(b->handle);
    lh_free(b);
}

static __global__ void bias_kernel(float *y, int64_t ld, int m, int n, const float *bias) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n)
        for (int t = (int)blockIdx.y; t < m; t += (int)gridDim.y) y[t * ld + i] += bias[i];
}

// In cuBLAS's order of columns: y (n, m) = w^T (n, k) . x (k, m).
lh_status lh_cublas_gemm(lh_cuda *c, const lh_cuda_gemm *g) {
    lh_cublas *b = c->cublas;
    const float one = 1, beta = g->add ? 1.0f : 0.0f;
    int failed = b->gemm(b->handle, CUBLAS_OP_T, CUBLAS_OP_N, g->n, g->m, g->k, &one, g->w, CUDA_R_16F, (int)g->ld_w,
                         g->x, CUDA_R_16F, (int)g->ld_x, &beta, g->y, CUDA_R_32F, (int)g->ld_y, CUBLAS_COMPUTE_32F,
                         CUBLAS_GEMM_DEFAULT);
    if (failed)
        return lh_error(LH_ERR_BACKEND, "cuBLAS failed with status %d: set LH_CUBLAS=0 to do without it", failed);
    if (!g->bias) return LH_OK;
    dim3 grid((unsigned)(g->n + 255) / 256, (unsigned)LH_MIN(g->m, 1024));
    LH_CUDA_RUN(c, bias_kernel, grid, 256, 0, g->y, g->ld_y, g->m, g->n, g->bias);
    return LH_OK;
}
