// What the device can do at best (lh_model_probe): arithmetic in registers alone, reading from memory alone.
#include "cuda.h"

#define THREADS 256
#define BLOCKS_PER_SM 8
#define CHAINS 8               // independent results, so that no multiplication waits for the one before
#define LEAST_MS 1.0f          // of a run
#define MOST_ROUNDS (1 << 20)
#define READ_BYTES ((uint64_t)1 << 30)

static __global__ void __launch_bounds__(THREADS) fma_kernel(int rounds, float seed, float *out) {
    float v[CHAINS];
    for (int i = 0; i < CHAINS; i++) v[i] = seed + (float)i;
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++) v[i] = fmaf(v[i], seed, 1.0f);
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) sum += v[i];
    if (sum == 0.5f) out[0] = sum;  // never: but the compiler cannot know
}

// Tensor cores: a warp's D += A . B, CHAINS results at a time. What is multiplied does not matter, so it is the lanes'
// own numbers.
static __global__ void __launch_bounds__(THREADS) half_kernel(int rounds, float seed, float *out) {
    uint32_t two = lh_pack_half2(seed, seed), a[4] = {two, two, two, two}, b[2] = {two, two};
    float d[CHAINS][4] = {};
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++) lh_mma_f16(d[i], a, b);
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
    if (sum == 0.5f) out[0] = sum;
}

static __global__ void __launch_bounds__(THREADS) byte_kernel(int rounds, uint32_t seed, float *out) {
    uint32_t a[4] = {seed, seed, seed, seed}, b[2] = {seed, seed};
    int32_t d[CHAINS][4] = {};
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++) lh_mma_s8(d[i], a, b);
    int32_t sum = 0;
    for (int i = 0; i < CHAINS; i++) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
    if (sum == 1) out[0] = (float)sum;
}

static __global__ void __launch_bounds__(THREADS) read_kernel(int rounds, const uint4 *from, int64_t n, float *out) {
    unsigned all = 0;
    int64_t step = (int64_t)gridDim.x * THREADS;
    for (int r = 0; r < rounds; r++)
        for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) {
            uint4 v = __ldcs(&from[i]);
            all |= v.x | v.y | v.z | v.w;
        }
    if (all) out[0] = 1;  // never: memory was cleared
}

// How long `run` takes, in milliseconds.
template <class F>
static lh_status timed(lh_cuda *c, cudaEvent_t events[2], F run, float *ms) {
    LH_CUDA_TRY(c, "timing", cudaEventRecord(events[0], c->stream));
    LH_TRY(run());
    LH_CUDA_TRY(c, "timing", cudaEventRecord(events[1], c->stream));
    LH_CUDA_TRY(c, "timing", cudaEventSynchronize(events[1]));
    return lh_cuda_check(c, cudaEventElapsedTime(ms, events[0], events[1]), "timing");
}

// Things a second, where a round of `run` is n of them: the best of as many runs as fit into the time, each of as many
// rounds as make the launch itself forgotten.
template <class F>
static lh_status best_rate(lh_cuda *c, cudaEvent_t events[2], double seconds, double n, F run, double *out) {
    float ms = 0;
    double spent = 0;
    int rounds = 1;
    for (;; rounds *= 2) {
        LH_TRY(timed(c, events, [&]() { return run(rounds); }, &ms));
        if (ms >= LEAST_MS || rounds >= MOST_ROUNDS) break;
    }
    *out = 0;
    do {
        LH_TRY(timed(c, events, [&]() { return run(rounds); }, &ms));
        double took = LH_MAX((double)ms * 1e-3, 1e-7);
        *out = LH_MAX(*out, rounds * n / took);
        spent += took;
    } while (spent < seconds);
    return LH_OK;
}

static lh_status measure(lh_cuda *c, cudaEvent_t events[2], double seconds, uint4 *memory, uint64_t bytes,
                         lh_ceilings *out) {
    unsigned blocks = (unsigned)(c->n_sm * BLOCKS_PER_SM);
    double steps = (double)blocks * THREADS * CHAINS;
    double products = (double)blocks * (THREADS / LH_WARP) * CHAINS * 16 * 8;  // of a row and a column
    float *sink = (float *)memory;
    auto floats = [&](int rounds) {
        LH_CUDA_RUN(c, fma_kernel, blocks, THREADS, 0, rounds, 0.999f, sink);
        return LH_OK;
    };
    auto halves = [&](int rounds) {
        LH_CUDA_RUN(c, half_kernel, blocks, THREADS, 0, rounds, 0.25f, sink);
        return LH_OK;
    };
    auto integers = [&](int rounds) {
        LH_CUDA_RUN(c, byte_kernel, blocks, THREADS, 0, rounds, 0x01020304u, sink);
        return LH_OK;
    };
    auto reading = [&](int rounds) {
        LH_CUDA_RUN(c, read_kernel, blocks, THREADS, 0, rounds, memory, (int64_t)(bytes / sizeof *memory), sink);
        return LH_OK;
    };
    LH_TRY(best_rate(c, events, seconds, 2 * steps, floats, &out->fp32));
    LH_TRY(best_rate(c, events, seconds, 2 * 16 * products, halves, &out->float16));
    LH_TRY(best_rate(c, events, seconds, 2 * 32 * products, integers, &out->int8));
    return best_rate(c, events, seconds, (double)bytes, reading, &out->read);
}

lh_status lh_cuda_probe(lh_cuda *c, double seconds, lh_ceilings *out) {
    lh_backend *b = &c->base;
    uint64_t bytes = LH_MAX(LH_MIN(READ_BYTES, b->ops->available(b) / 4) / 4096 * 4096, (uint64_t)4096);
    void *memory;
    LH_TRY(b->ops->alloc(b, (size_t)bytes, &memory));
    cudaEvent_t events[2] = {};
    lh_status status = lh_cuda_check(c, cudaEventCreate(&events[0]), "timing");
    if (status == LH_OK) status = lh_cuda_check(c, cudaEventCreate(&events[1]), "timing");
    if (status == LH_OK) status = measure(c, events, seconds, (uint4 *)memory, bytes, out);
    for (cudaEvent_t e : events)
        if (e) cudaEventDestroy(e);
    b->ops->release(b, memory);
    return status;
}
