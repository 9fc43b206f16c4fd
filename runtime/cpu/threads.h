// A persistent pool: one region at a time runs on all threads, the caller being thread 0. Idle workers spin for some
// microseconds, then sleep.
#ifndef LH_THREADS_H
#define LH_THREADS_H

#include <stdatomic.h>

#include "base.h"

typedef struct lh_threads lh_threads;
typedef void (*lh_task)(void *arg, int thread);

// Processors that this process may use: affinity, lowered by a container's quota.
int lh_threads_usable(void);
// n >= 1, the caller included.
lh_status lh_threads_new(int n, lh_threads **out);
void lh_threads_free(lh_threads *t);
int lh_threads_count(const lh_threads *t);
// Run task(arg, 0..n-1) and return when all have finished. Not reentrant: the backend's begin/end serialise callers.
void lh_threads_run(lh_threads *t, lh_task task, void *arg);
// Inside a task: wait until all threads are here.
void lh_threads_barrier(lh_threads *t);

// Work handed out piece by piece, for pieces of unequal cost: i = lh_work_next(&w) until it is >= the number of pieces.
typedef struct lh_work {
    _Alignas(LH_ALIGN) atomic_llong next;
} lh_work;
static inline int64_t lh_work_next(lh_work *w) { return atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed); }

#endif
