// What the machine can do at best, to be held against what it does: see lh_model_probe.
//
// Every ceiling is the best of many passes over all threads. A pass takes some milliseconds: short enough that some are
// left alone on a busy machine, long enough for a thread that slept to be there.
#include "cpu.h"
#include "features.h"
#include "probe_kernels.h"
#include "resources.h"

#define ROUNDS 40000               // of a piece of arithmetic
#define PIECES 32                  // of a pass, for every thread
#define READ_PIECE (1ull << 20)    // bytes
#define READ_PIECES 512            // of the memory that is read, where there is room: far more than any cache holds

// --- plain C -----------------------------------------------------------------------------------------------------

#define LANES 16

static float fma_generic(int64_t rounds) {
    float sum[LANES] = {0}, total = 0;
    for (; rounds > 0; rounds--)
        for (int i = 0; i < LANES; i++) sum[i] = sum[i] * 0.5f + 1;
    for (int i = 0; i < LANES; i++) total += sum[i];
    return total;
}

static int32_t int8_generic(int64_t rounds) {
    int8_t w[LANES] = {1, 2, 3}, a[LANES] = {3, 2, 1};
    int32_t sum[LANES] = {0}, total = 0;
    for (; rounds > 0; rounds--) {
        __asm__("" : "+m"(w));  // another one each time, to the compiler
        for (int i = 0; i < LANES; i++) sum[i] += w[i] * a[i];
    }
    for (int i = 0; i < LANES; i++) total ^= sum[i];
    return total;
}

static float read_generic(const float *x, int64_t n) {
    float sum[LANES] = {0}, total = 0;
    for (const float *end = x + n; x < end; x += LANES)
        for (int i = 0; i < LANES; i++) sum[i] += x[i];
    for (int i = 0; i < LANES; i++) total += sum[i];
    return total;
}

static lh_probe_kernels select_kernels(unsigned features) {
    lh_probe_kernels k = {
        .fma_ops = 2 * LANES, .int8_ops = 2 * LANES,
        .fma = fma_generic, .int8 = int8_generic, .read = read_generic,
    };
#if defined(__x86_64__)
    if (features & LH_CPU_AVX2) lh_probe_kernels_avx2(&k);
    if (features & LH_CPU_AVX512) lh_probe_kernels_avx512(&k);
    if (features & LH_CPU_AVX512_VNNI) lh_probe_kernels_avx512vnni(&k);
#ifndef LH_NO_AMX
    if (features & LH_CPU_AMX) lh_probe_kernels_amx(&k);
#endif
#elif defined(__aarch64__)
    if (features & LH_CPU_NEON) lh_probe_kernels_neon(&k);
    if (features & LH_CPU_DOTPROD) lh_probe_kernels_dotprod(&k);
#else
    (void)features;
#endif
    return k;
}

// --- measuring ---------------------------------------------------------------------------------------------------

typedef struct probe_job {
    lh_probe_kernels kernels;
    float *memory;    // (n_memory, READ_FLOATS)
    int64_t n_memory;
    int64_t at;       // where a pass begins to read: after what the last one has left in the cache
} probe_job;

#define READ_FLOATS ((int64_t)(READ_PIECE / sizeof(float)))

static void fma_task(void *arg, int64_t piece, int thread) {
    (void)piece, (void)thread;
    ((const probe_job *)arg)->kernels.fma(ROUNDS);
}

static void int8_task(void *arg, int64_t piece, int thread) {
    (void)piece, (void)thread;
    ((const probe_job *)arg)->kernels.int8(ROUNDS);
}

static void tiles_task(void *arg, int64_t piece, int thread) {
    (void)piece, (void)thread;
    ((const probe_job *)arg)->kernels.tiles(ROUNDS / 8);  // a round takes longer
}

static void write_task(void *arg, int64_t piece, int thread) {
    (void)thread;
    float *x = ((const probe_job *)arg)->memory + piece * READ_FLOATS;
    for (int64_t i = 0; i < READ_FLOATS; i++) x[i] = 1;  // memory that was never written to is all one page
}

static void read_task(void *arg, int64_t piece, int thread) {
    (void)thread;
    const probe_job *j = arg;
    j->kernels.read(j->memory + (j->at + piece) % j->n_memory * READ_FLOATS, READ_FLOATS);
}

// Things a second, where a piece is n of them.
static double best_rate(lh_cpu *c, double seconds, double n, lh_task task, probe_job *j) {
    int64_t pieces = (int64_t)PIECES * lh_threads_count(c->threads);
    double best = 0, began = lh_now(), before, after = began;
    do {
        before = after;
        lh_threads_for(c->threads, pieces, task, j);
        after = lh_now();
        best = LH_MAX(best, (double)pieces * n / (after - before));
        j->at += pieces;
    } while (after - began < seconds);
    return best;
}

lh_status lh_cpu_probe(lh_backend *b, double seconds, lh_ceilings *out) {
    lh_cpu *c = (lh_cpu *)b;
    probe_job j = {.kernels = select_kernels(lh_cpu_features())};
    j.n_memory = (int64_t)LH_MAX(LH_MIN(READ_PIECES, lh_memory_available() / 4 / READ_PIECE), 1);
    j.memory = lh_alloc((size_t)j.n_memory, READ_PIECE);
    if (!j.memory) return LH_ERR_MEMORY;
    out->fp32 = best_rate(c, seconds, (double)ROUNDS * j.kernels.fma_ops, fma_task, &j);
    out->int8 = best_rate(c, seconds, (double)ROUNDS * j.kernels.int8_ops, int8_task, &j);
    out->float16 = 0;
    if (j.kernels.tiles) out->float16 = best_rate(c, seconds, ROUNDS / 8.0 * j.kernels.tile_ops, tiles_task, &j);
    lh_threads_for(c->threads, j.n_memory, write_task, &j);
    out->read = best_rate(c, seconds, (double)READ_PIECE, read_task, &j);
    lh_free(j.memory);
    return LH_OK;
}
