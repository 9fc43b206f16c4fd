// The CPU backend's own state, shared by its operations.
#ifndef LH_CPU_H
#define LH_CPU_H

#include <pthread.h>

#include "attention_kernels.h"
#include "backend.h"
#include "matmul_kernels.h"
#include "threads.h"

typedef struct lh_cpu {
    lh_backend base;
    lh_threads *threads;
    pthread_mutex_t turn;     // held from begin to end
    lh_matmul_kernels matmul;
    lh_attention_kernels attention;
    // Scratch that grows to what an operation asks for and is kept; slot 0 is shared by all threads of an operation,
    // slot 1 + t belongs to thread t.
    struct lh_scratch {
        void *data;
        size_t size;
    } *scratch;
    // Copies of weights, one behind the other.
    char *weights;            // NULL: they are read where they are mapped
    size_t weights_size, weights_used;
} lh_cpu;

// At least `bytes`, LH_ALIGN-aligned, contents undefined; NULL if there is none (lh_error is set). Call it before the
// threads start, not inside a task: growing may move it.
void *lh_cpu_scratch_shared(lh_cpu *c, size_t bytes);
// The same for every thread: lh_cpu_scratch_of(c, thread) then gives it.
lh_status lh_cpu_scratch_threads(lh_cpu *c, size_t bytes);
static inline void *lh_cpu_scratch_of(const lh_cpu *c, int thread) { return c->scratch[1 + thread].data; }

// Keys or values of one chunk: (chunk, head_dim).
static inline char *lh_cpu_rows(const lh_attention *a, int32_t kv_head, void *side, int32_t chunk) {
    size_t row = lh_kv_row_size(a->kv_type, a->head_dim);
    return (char *)side + (size_t)lh_slot_of(chunk, a->heads[kv_head].room) * a->plan.chunk * row;
}

static inline char *lh_cpu_keys(const lh_attention *a, int32_t kv_head, int32_t chunk) {
    return lh_cpu_rows(a, kv_head, a->heads[kv_head].k, chunk);
}

static inline char *lh_cpu_values(const lh_attention *a, int32_t kv_head, int32_t chunk) {
    return lh_cpu_rows(a, kv_head, a->heads[kv_head].v, chunk);
}

// What lh_cpu_project does, for one matrix, on the calling thread alone and in memory of that size: for tasks that
// multiply. matmul.c
size_t lh_cpu_multiply_size(const lh_cpu *c, const lh_project *p);
void lh_cpu_multiply(const lh_cpu *c, const lh_project *p, void *memory);

// The operations, by file.
lh_status lh_cpu_embed(lh_backend *b, const lh_tensor *table, const int32_t *ids, int32_t n, float *x);  // matmul.c
lh_status lh_cpu_project(lh_backend *b, const lh_project *p);                                            // matmul.c
lh_status lh_cpu_append(lh_backend *b, const lh_attention *a);                                           // attention.c
lh_status lh_cpu_summarize(lh_backend *b, const lh_attention *a, int32_t first, int32_t end);            // select.c
lh_status lh_cpu_select(lh_backend *b, const lh_attention *a);                                           // select.c
lh_status lh_cpu_attend(lh_backend *b, const lh_attention *a);                                           // attention.c
lh_status lh_cpu_probe(lh_backend *b, double seconds, lh_ceilings *out);                                 // probe.c

#endif
