// The CUDA backend's own state, shared by its operations. C++: included by runtime/cuda/*.cu alone.
//
// Operations do not reach their kernels at once: what was asked is kept in a list, and run or replayed when results are
// wanted (commands.cu). So the functions at the end only enqueue work on the stream, and must enqueue the same work for
// the same arguments whatever the position is: the position is read by kernels, from c->params, and grids do not depend
// on it where n is 1.
#ifndef LH_CUDA_H
#define LH_CUDA_H

#include <pthread.h>

extern "C" {
#include "backend.h"
#include "peak.h"
}
#include "device.cuh"

// In device memory: what differs from token to token.
typedef struct lh_cuda_params {
    int64_t pos;   // position of the first token
    int32_t id;    // the token, where it is one
} lh_cuda_params;

// Scratch of an operation: grows to what is asked for and is kept. One user each, so that nothing is overwritten early.
typedef enum lh_cuda_slot {
    LH_CUDA_IDS,         // of embed
    LH_CUDA_X,           // activations of project as halves
    LH_CUDA_PANEL,       // weights of project as halves
    LH_CUDA_ATTEND,      // attend
    LH_CUDA_SELECT,      // select
    LH_CUDA_SLOTS,
} lh_cuda_slot;

struct lh_cuda_constants;  // backend_cuda.cu
struct lh_cuda_list;  // commands that wait, and graphs: commands.cu
struct lh_cublas;     // cublas.cu

typedef struct lh_cuda {
    lh_backend base;
    int32_t index;             // device
    int32_t n_sm;              // its multiprocessors
    size_t shared_max;         // bytes of shared memory that a block can ask for
    int32_t capability;        // 80, 86, ...
    cudaStream_t stream;
    lh_cuda_params *params;    // device
    int64_t pos;               // what params->pos is when the work now enqueued runs
    struct {
        void *data;
        size_t size;
    } scratch[LH_CUDA_SLOTS];
    struct lh_cuda_constants *constants;  // (n_constants): see lh_cuda_constant
    int32_t n_constants, max_constants;
    bool lost;                 // nothing works any more
    char lost_why[160];
    bool failed;               // at the end of a turn, when nobody could be told
    char failed_why[256];
    pthread_mutex_t turn;      // held from begin to end
    struct lh_cuda_list *list;
    struct lh_cublas *cublas;  // NULL: own kernels
} lh_cuda;

// An error of the runtime as a status with a sentence; what is not a lack of memory loses the device for good.
lh_status lh_cuda_check(lh_cuda *c, cudaError_t error, const char *what);

#define LH_CUDA_TRY(c, what, ...) LH_TRY(lh_cuda_check((c), (__VA_ARGS__), (what)))
// Enqueue a kernel: LH_CUDA_RUN(c, kernel, grid, block, shared_bytes, args...)
#define LH_CUDA_RUN(c, kernel, grid, block, shared, ...) \
    LH_CUDA_TRY(c, "starting a kernel", LH_LAUNCH(kernel, grid, block, shared, (c)->stream, __VA_ARGS__))

// At least `bytes` of device memory, 256-byte aligned, contents undefined.
lh_status lh_cuda_scratch(lh_cuda *c, lh_cuda_slot slot, size_t bytes, void **out);
// A device copy of n floats of host memory that lives as long as the backend (norms, biases): copied once.
lh_status lh_cuda_constant(lh_cuda *c, const float *host, int64_t n, const float **out);

// Kernels find the position of an operation's first token as params->pos + this.
static inline int32_t lh_cuda_first(const lh_cuda *c, const lh_attention *a) { return (int32_t)(a->pos - c->pos); }

// Enqueue operations of the table (backend.h). summarize fills what the batch completes: chunks
// [lh_chunk_of(pos), lh_chunk_of(pos + n)), found on the device.
lh_status lh_cuda_embed(lh_cuda *c, const lh_tensor *table, const int32_t *ids, int32_t n, float *x);  // matmul.cu
lh_status lh_cuda_project(lh_cuda *c, const lh_project *p);                                            // matmul.cu
lh_status lh_cuda_append(lh_cuda *c, const lh_attention *a);
lh_status lh_cuda_summarize(lh_cuda *c, const lh_attention *a);
lh_status lh_cuda_select(lh_cuda *c, const lh_attention *a);
lh_status lh_cuda_attend(lh_cuda *c, const lh_attention *a);
lh_status lh_cuda_probe(lh_cuda *c, double seconds, lh_ceilings *out);                                 // probe.cu

const lh_offload_ops *lh_cuda_offload();  // offload.cu

extern "C" lh_status lh_backend_open_cuda(int32_t index, lh_backend **out);

#endif
