#define _GNU_SOURCE
#include "threads.h"

#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "resources.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define relax() _mm_pause()
#elif defined(__aarch64__)
#define relax() __asm__ volatile("yield")
#else
#define relax() ((void)0)
#endif

// Operations of a small model are a few microseconds apart: a worker that slept between them would cost more than
// they do. Past this many turns it sleeps, so that an idle pool costs nothing.
#define SPINS 20000

#define CLOSED UINT32_MAX  // as the next piece: there is none

typedef struct worker {
    lh_threads *pool;
    int index;
    pthread_t thread;
} worker;

struct lh_threads {
    int n;
    // The round in the upper half, its next piece in the lower one: a worker that comes late cannot take a piece of
    // another round than the one whose task it has read.
    _Alignas(LH_ALIGN) atomic_ullong ticket;
    _Alignas(LH_ALIGN) _Atomic(lh_task) task;
    _Atomic(void *) arg;
    atomic_llong n_pieces;
    _Alignas(LH_ALIGN) atomic_llong left;  // pieces that are not done yet
    _Alignas(LH_ALIGN) atomic_int sleepers;
    atomic_bool stop;
    pthread_mutex_t mutex;                 // guards sleeping only
    pthread_cond_t wake;
    int n_workers;                         // started
    worker *workers;
    atomic_int owner;                      // a fork has the pool, but not its threads; -pid while that one renews it
};

static uint32_t round_of(unsigned long long ticket) { return (uint32_t)(ticket >> 32); }

// Take and run one piece of the current round; false if there is none.
static bool run_piece(lh_threads *t, int thread) {
    unsigned long long ticket = atomic_load_explicit(&t->ticket, memory_order_acquire);
    lh_task task;
    void *arg;
    do {
        task = atomic_load_explicit(&t->task, memory_order_relaxed);
        arg = atomic_load_explicit(&t->arg, memory_order_relaxed);
        if ((int64_t)(uint32_t)ticket >= atomic_load_explicit(&t->n_pieces, memory_order_relaxed)) return false;
        // Whoever has read a new round's task must also see that the old round is closed, and fail to take of it.
        atomic_thread_fence(memory_order_acquire);
    } while (!atomic_compare_exchange_weak_explicit(&t->ticket, &ticket, ticket + 1, memory_order_acq_rel,
                                                    memory_order_acquire));
    task(arg, (uint32_t)ticket, thread);
    atomic_fetch_sub_explicit(&t->left, 1, memory_order_release);
    return true;
}

static void wake_sleepers(lh_threads *t) {
    if (atomic_load(&t->sleepers) == 0) return;
    pthread_mutex_lock(&t->mutex);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->mutex);
}

static void wait_for_round(lh_threads *t, uint32_t seen) {
    for (int i = 0; i < SPINS; i++) {
        if (round_of(atomic_load_explicit(&t->ticket, memory_order_acquire)) != seen) return;
        relax();
    }
    pthread_mutex_lock(&t->mutex);
    // Either the caller sees a sleeper after opening its round, or the sleeper sees the round: both are sequentially
    // consistent.
    atomic_fetch_add(&t->sleepers, 1);
    while (round_of(atomic_load(&t->ticket)) == seen && !atomic_load(&t->stop)) pthread_cond_wait(&t->wake, &t->mutex);
    atomic_fetch_sub(&t->sleepers, 1);
    pthread_mutex_unlock(&t->mutex);
}

static void *work(void *arg) {
    worker *w = arg;
    lh_threads *t = w->pool;
    while (!atomic_load_explicit(&t->stop, memory_order_relaxed)) {
        uint32_t seen = round_of(atomic_load_explicit(&t->ticket, memory_order_acquire));
        while (run_piece(t, w->index)) {}
        wait_for_round(t, seen);
    }
    return NULL;
}

// A round that has no pieces: nothing of the one before can be taken any more. Returns its ticket.
static unsigned long long close_round(lh_threads *t) {
    uint32_t round = round_of(atomic_load_explicit(&t->ticket, memory_order_relaxed)) + 1;
    unsigned long long closed = (unsigned long long)round << 32 | CLOSED;
    atomic_store(&t->ticket, closed);
    atomic_thread_fence(memory_order_release);
    return closed;
}

void lh_threads_for(lh_threads *t, int64_t n_pieces, lh_task task, void *arg) {
    if (t->n == 1 || n_pieces <= 1) {
        for (int64_t i = 0; i < n_pieces; i++) task(arg, i, 0);
        return;
    }
    unsigned long long closed = close_round(t);
    atomic_store_explicit(&t->task, task, memory_order_relaxed);
    atomic_store_explicit(&t->arg, arg, memory_order_relaxed);
    atomic_store_explicit(&t->n_pieces, n_pieces, memory_order_relaxed);
    atomic_store_explicit(&t->left, n_pieces, memory_order_relaxed);
    atomic_store(&t->ticket, (unsigned long long)(round_of(closed) + 1) << 32);
    wake_sleepers(t);
    while (run_piece(t, 0)) {}
    for (int turns = 0; atomic_load_explicit(&t->left, memory_order_acquire) != 0;) {
        // Politely: where threads outnumber processors the one waited for must get to run.
        if (++turns < SPINS) relax();
        else sched_yield();
    }
}

static void renew(lh_threads *t, pthread_mutex_t *turn) {
    t->n = 1;
    t->n_workers = 0;
    // The parent's sleepers are in these, and its thread that had the turn is not here to end it.
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->wake, NULL);
    if (turn) pthread_mutex_init(turn, NULL);
}

void lh_threads_check_fork(lh_threads *t, pthread_mutex_t *turn) {
    int self = getpid(), owner;
    while ((owner = atomic_load_explicit(&t->owner, memory_order_acquire)) != self) {
        // Threads of the child may come here together: one renews, the others must not take a turn that it throws away.
        if (owner == -self) {
            sched_yield();
        } else if (atomic_compare_exchange_strong(&t->owner, &owner, -self)) {
            renew(t, turn);
            atomic_store_explicit(&t->owner, self, memory_order_release);
        }
    }
}

int lh_threads_count(const lh_threads *t) { return t->n; }

lh_status lh_threads_new(int n, lh_threads **out) {
    lh_threads *t = lh_alloc(1, sizeof *t);
    worker *workers = lh_alloc((size_t)n, sizeof *workers);
    if (!t || !workers) {
        lh_free(t);
        lh_free(workers);
        return LH_ERR_MEMORY;
    }
    t->n = n;
    atomic_init(&t->owner, getpid());
    t->workers = workers;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->wake, NULL);
    for (int i = 1; i < n; i++) {
        worker *w = &workers[t->n_workers];
        *w = (worker){.pool = t, .index = i};
        if (pthread_create(&w->thread, NULL, work, w) != 0) {
            lh_threads_free(t);
            return lh_error(LH_ERR_MEMORY, "thread %d of %d could not be started: ask for fewer threads", i + 1, n);
        }
        t->n_workers++;
    }
    *out = t;
    return LH_OK;
}

void lh_threads_free(lh_threads *t) {
    if (!t) return;
    lh_threads_check_fork(t, NULL);
    atomic_store(&t->stop, true);
    // Those that spin see a new round, those that sleep are woken.
    close_round(t);
    wake_sleepers(t);
    for (int i = 0; i < t->n_workers; i++) pthread_join(t->workers[i].thread, NULL);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->mutex);
    lh_free(t->workers);
    lh_free(t);
}

int lh_threads_usable(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    return (int)LH_MIN((uint64_t)LH_MAX(n, 1), lh_limits_of_process().processors);
}
