// The thread pool: every piece runs exactly once, results are visible when the call returns, whatever the number of
// threads; run under ThreadSanitizer too.
#include <stdatomic.h>
#include <stdio.h>

#include "cpu/threads.h"

#define PIECES 1000
#define ROUNDS 3000

typedef struct round_job {
    int runs[PIECES];  // not atomic: a piece that ran twice, or too late, is a race
    int value;
    atomic_int outside;  // threads that are none
    int n_threads;
} round_job;

static void count(void *arg, int64_t piece, int thread) {
    round_job *j = arg;
    j->runs[piece] += j->value;
    if (thread < 0 || thread >= j->n_threads) atomic_fetch_add(&j->outside, 1);
}

int main(void) {
    int failures = 0;
    for (int n = 1; n <= 5; n++) {
        lh_threads *t;
        if (lh_threads_new(n, &t) != LH_OK) return 2;
        for (int round = 0; round < ROUNDS; round++) {
            // A fresh job on the stack each time: a worker that held on to an old one would write into this one.
            round_job j = {.value = round + 1, .n_threads = n};
            int pieces = round % 7 == 0 ? PIECES : round % 11;
            lh_threads_for(t, pieces, count, &j);
            for (int i = 0; i < PIECES; i++) failures += j.runs[i] != (i < pieces ? j.value : 0);
            failures += j.outside != 0;
        }
        lh_threads_free(t);
    }
    // Free at once, before the workers have begun.
    for (int i = 0; i < 200; i++) {
        lh_threads *t;
        if (lh_threads_new(4, &t) != LH_OK) return 2;
        lh_threads_free(t);
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
