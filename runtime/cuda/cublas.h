// cuBLAS, where a machine has it: opened at run time, so that nothing depends on it.
#ifndef LH_CUDA_CUBLAS_H
#define LH_CUDA_CUBLAS_H

#include "matmul.h"

// NULL where there is none that can be used.
struct lh_cublas *lh_cublas_open(cudaStream_t stream);
void lh_cublas_free(struct lh_cublas *b);
lh_status lh_cublas_gemm(lh_cuda *c, const lh_cuda_gemm *g);

#endif
