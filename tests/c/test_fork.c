// A fork while the CPU backend computes: threads of the child that first compute at the same moment take turns.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend.h"

#define FORKS 1000  // not every one meets the moment
#define THREADS 4
#define TURNS 20
#define SECONDS 10  // a child that takes longer hangs

static lh_backend *backend;
static atomic_int ready, inside, together;

static void *work(void *arg) {
    (void)arg;
    atomic_fetch_add(&ready, 1);
    while (atomic_load(&ready) < THREADS) sched_yield();
    for (int i = 0; i < TURNS; i++) {
        backend->ops->begin(backend);
        if (atomic_fetch_add(&inside, 1) != 0) atomic_fetch_add(&together, 1);
        sched_yield();
        atomic_fetch_sub(&inside, 1);
        backend->ops->end(backend);
    }
    return NULL;
}

static int child(void) {
    pthread_t threads[THREADS];
    alarm(SECONDS);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, NULL) != 0) return 2;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    return together != 0;
}

int main(void) {
    int failures = 0, status;
    if (lh_backend_open_cpu(2, &backend) != LH_OK) return 2;
    backend->ops->begin(backend);  // the children's copy of this turn is never ended
    for (int i = 0; i < FORKS && failures == 0; i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(child());
        if (pid < 0 || waitpid(pid, &status, 0) != pid) return 2;
        failures += status != 0;
    }
    backend->ops->end(backend);
    backend->ops->free(backend);
    printf("%d failures\n", failures);
    return failures != 0;
}
