// What the device can do at best (lh_model_probe): arithmetic in registers alone, reading from memory alone.
#include "cuda.h"

#define THREADS 256
#define BLOCKS_PER_SM 8
#define ROUNDS 256
#define CHAINS 8               // independent results, so that no multiplication waits for the one before
#define READ_BYTES ((uint64_t)1 << 30)

static __global__ void __launch_bounds__(THREADS) fma_kernel(float seed, float *out) {
    float v[CHAINS];
    for (int i = 0; i < CHAINS; i++) v[i] = seed + (float)i;
    for (int r = 0; r < ROUNDS; r++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++) v[i] = fmaf(v[i], seed, 1.0f);
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) sum += v[i];
    if (sum == 0.5f) out[0] = sum;  // never: but the compiler cannot know
}

static __global__ void __launch_bounds__(THREADS) dp4a_kernel(int seed, float *out) {
    int v[CHAINS];
    for (int i = 0; i < CHAINS; i++) v[i] = seed + i;
    for (int r = 0; r < ROUNDS; r++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++) v[i] = __dp4a(v[i], seed, v[i]);
    int sum = 0;
    for (int i = 0; i < CHAINS; i++) sum += v[i];
    if (sum == 12345) out[0] = (float)sum;
}

static __global__ void __launch_bounds__(THREADS) read_kernel(const uint4 *from, int64_t n, float *out) {
    unsigned all = 0;
    int64_t step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) {
        uint4 v = __ldcs(&from[i]);
        all |= v.x | v.y | v.z | v.w;
    }
    if (all) out[0] = 1;  // never: memory was cleared
}

// Things a second, where a run is n of them: the best of as many runs as fit into the time.
template <class F>
static lh_status best_rate(lh_cuda *c, double seconds, double n, F run, double *out) {
    cudaEvent_t events[2] = {};
    LH_CUDA_TRY(c, "timing", cudaEventCreate(&events[0]));
    lh_status status = lh_cuda_check(c, cudaEventCreate(&events[1]), "timing");
    double spent = 0;
    *out = 0;
    do {
        float ms = 0;
        if (status == LH_OK) status = lh_cuda_check(c, cudaEventRecord(events[0], c->stream), "timing");
        if (status == LH_OK) status = run();
        if (status == LH_OK) status = lh_cuda_check(c, cudaEventRecord(events[1], c->stream), "timing");
        if (status == LH_OK) status = lh_cuda_check(c, cudaEventSynchronize(events[1]), "timing");
        if (status == LH_OK) status = lh_cuda_check(c, cudaEventElapsedTime(&ms, events[0], events[1]), "timing");
        if (status != LH_OK) break;
        double took = LH_MAX((double)ms * 1e-3, 1e-7);
        *out = LH_MAX(*out, n / took);
        spent += took;
    } while (spent < seconds);
    for (cudaEvent_t e : events)
        if (e) cudaEventDestroy(e);
    return status;
}

static lh_status measure(lh_cuda *c, double seconds, uint4 *memory, uint64_t bytes, lh_ceilings *out) {
    unsigned blocks = (unsigned)(c->n_sm * BLOCKS_PER_SM);
    double steps = (double)blocks * THREADS * ROUNDS * CHAINS;
    float *sink = (float *)memory;
    auto fma_run = [&]() {
        LH_CUDA_RUN(c, fma_kernel, blocks, THREADS, 0, 0.999f, sink);
        return LH_OK;
    };
    auto dp4a_run = [&]() {
        LH_CUDA_RUN(c, dp4a_kernel, blocks, THREADS, 0, 3, sink);
        return LH_OK;
    };
    auto read_run = [&]() {
        LH_CUDA_RUN(c, read_kernel, blocks, THREADS, 0, memory, (int64_t)(bytes / sizeof *memory), sink);
        return LH_OK;
    };
    LH_TRY(best_rate(c, seconds, 2 * steps, fma_run, &out->fp32));
    LH_TRY(best_rate(c, seconds, 8 * steps, dp4a_run, &out->int8));
    return best_rate(c, seconds, (double)bytes, read_run, &out->read);
}

lh_status lh_cuda_probe(lh_cuda *c, double seconds, lh_ceilings *out) {
    lh_backend *b = &c->base;
    uint64_t bytes = LH_MAX(LH_MIN(READ_BYTES, b->ops->available(b) / 4) / 4096 * 4096, (uint64_t)4096);
    void *memory;
    LH_TRY(b->ops->alloc(b, (size_t)bytes, &memory));
    lh_status status = measure(c, seconds, (uint4 *)memory, bytes, out);
    b->ops->release(b, memory);
    return status;
}
