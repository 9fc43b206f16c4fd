#define _GNU_SOURCE
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

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

typedef struct worker {
    lh_threads *pool;
    int index;
    pthread_t thread;
} worker;

struct lh_threads {
    int n;
    lh_task task;
    void *arg;
    bool stop;
    // A region starts when `region` grows and ends when `running` is back to 0.
    _Alignas(LH_ALIGN) atomic_uint region;
    _Alignas(LH_ALIGN) atomic_int running;
    _Alignas(LH_ALIGN) atomic_int arrived;
    _Alignas(LH_ALIGN) atomic_uint phase;  // of the barrier
    pthread_mutex_t mutex;                 // guards sleeping only
    pthread_cond_t wake;
    int n_workers;                         // started
    worker *workers;
};

static unsigned wait_for_region(lh_threads *t, unsigned seen) {
    for (int i = 0; i < SPINS; i++) {
        unsigned now = atomic_load_explicit(&t->region, memory_order_acquire);
        if (now != seen) return now;
        relax();
    }
    pthread_mutex_lock(&t->mutex);
    unsigned now;
    while ((now = atomic_load_explicit(&t->region, memory_order_acquire)) == seen) pthread_cond_wait(&t->wake, &t->mutex);
    pthread_mutex_unlock(&t->mutex);
    return now;
}

static void start_region(lh_threads *t) {
    pthread_mutex_lock(&t->mutex);
    atomic_fetch_add_explicit(&t->region, 1, memory_order_release);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->mutex);
}

static void *work(void *arg) {
    worker *w = arg;
    lh_threads *t = w->pool;
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_region(t, seen);
        if (t->stop) return NULL;
        t->task(t->arg, w->index);
        atomic_fetch_sub_explicit(&t->running, 1, memory_order_release);
    }
}

// Spins politely: where threads outnumber processors the one waited for must get to run.
static void spin(int *turns) {
    if (++*turns < SPINS) relax();
    else sched_yield();
}

void lh_threads_run(lh_threads *t, lh_task task, void *arg) {
    if (t->n == 1) {
        task(arg, 0);
        return;
    }
    t->task = task;
    t->arg = arg;
    atomic_store_explicit(&t->running, t->n - 1, memory_order_relaxed);
    start_region(t);
    task(arg, 0);
    for (int turns = 0; atomic_load_explicit(&t->running, memory_order_acquire) != 0;) spin(&turns);
}

void lh_threads_barrier(lh_threads *t) {
    if (t->n == 1) return;
    unsigned phase = atomic_load_explicit(&t->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) == t->n - 1) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&t->phase, 1, memory_order_release);
        return;
    }
    for (int turns = 0; atomic_load_explicit(&t->phase, memory_order_acquire) == phase;) spin(&turns);
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
    t->stop = true;
    start_region(t);
    for (int i = 0; i < t->n_workers; i++) pthread_join(t->workers[i].thread, NULL);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->mutex);
    lh_free(t->workers);
    lh_free(t);
}

int lh_threads_usable(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        long long quota, period;
        if (fscanf(f, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0)
            n = (int)LH_MIN((long long)n, LH_MAX((quota + period - 1) / period, 1));
        fclose(f);
    }
    return LH_MAX(n, 1);
}
