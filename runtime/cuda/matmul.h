// Between the files of project: who multiplies how. Launchers only.
#ifndef LH_CUDA_MATMUL_H
#define LH_CUDA_MATMUL_H

#include "cuda.h"

// Up to so many tokens weights are decoded as they stream by (matvec.cu); beyond, into halves for tensor cores.
#define LH_CUDA_FEW 4

lh_status lh_cuda_matvec(lh_cuda *c, const lh_project *p);  // n <= LH_CUDA_FEW

// Floats between tokens of y[i].
static inline int64_t lh_cuda_y_stride(const lh_project *p, int i) {
    return p->y_stride ? p->y_stride : p->w[i]->n_rows;
}

// y (m, n) (=|+=) x (m, k) . w (n, k) + bias, x and w halves with rows of ld_x and ld_w values. k and both are
// multiples of 8, rows begin at multiples of 16 bytes. Values from k on are not read.
typedef struct lh_cuda_gemm {
    int32_t m, n, k;          // tokens, rows of weights, columns
    const __half *x, *w;
    int64_t ld_x, ld_w, ld_y;
    const float *bias;        // (n), device, or NULL
    float *y;
    bool add;
} lh_cuda_gemm;

lh_status lh_cuda_gemm_run(lh_cuda *c, const lh_cuda_gemm *g);

#endif
