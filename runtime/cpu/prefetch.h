// Ask for memory before it is needed.
#ifndef LH_CPU_PREFETCH_H
#define LH_CPU_PREFETCH_H

#include <stddef.h>

#define LH_FETCH_CHUNKS 4  // whose summaries are asked for ahead

static inline __attribute__((always_inline)) void lh_prefetch(const void *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + i);
}

// The same into the second-level cache.
static inline __attribute__((always_inline)) void lh_prefetch_second(const void *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + i, 0, 2);
}

#endif
