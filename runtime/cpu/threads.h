// A persistent pool that shares out pieces of work. The caller works too, as thread 0, and waits only for pieces that
// another thread has begun: a worker that the system has not scheduled (a busy machine, a container's quota) is not
// missed. Idle workers spin for up to a millisecond, then sleep.
#ifndef LH_THREADS_H
#define LH_THREADS_H

#include <pthread.h>

#include "base.h"

typedef struct lh_threads lh_threads;
// thread: 0 .. count - 1, for scratch memory; which thread gets which piece is left to chance.
typedef void (*lh_task)(void *arg, int64_t piece, int thread);

// Processors that this process may use: affinity, lowered by a container's quota.
int lh_threads_usable(void);
// n >= 1, the caller included.
lh_status lh_threads_new(int n, lh_threads **out);
void lh_threads_free(lh_threads *t);
int lh_threads_count(const lh_threads *t);
// After a fork the child has the pool but not its threads: it goes on with one. turn (may be NULL), the lock that callers
// take next, is made anew with it. Any number of threads may call this at once.
void lh_threads_check_fork(lh_threads *t, pthread_mutex_t *turn);
// Run task(arg, piece, thread) for piece = 0 .. n_pieces - 1 < 2^31 and return when all are done. Pieces begin in
// order. Not reentrant: the backend's begin and end serialise callers.
void lh_threads_for(lh_threads *t, int64_t n_pieces, lh_task task, void *arg);

#endif
