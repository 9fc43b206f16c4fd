#define _GNU_SOURCE
#include "base.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define ERROR_CAP 1024
#define HUGE_PAGE ((size_t)2 << 20)

static _Thread_local char error_text[ERROR_CAP];

const char *lh_last_error(void) { return error_text; }

lh_status lh_error(lh_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error_text, sizeof error_text, format, args);
    va_end(args);
    return status;
}

lh_status lh_error_context(lh_status status, const char *format, ...) {
    char rest[ERROR_CAP], prefix[ERROR_CAP];
    memcpy(rest, error_text, sizeof rest);
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    // A long prefix must not push the cause out of the buffer.
    snprintf(error_text, sizeof error_text, "%.*s: %.*s", ERROR_CAP / 2, prefix, ERROR_CAP - ERROR_CAP / 2 - 4, rest);
    return status;
}

double lh_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

lh_status lh_report(const lh_progress *p, uint64_t done, uint64_t total) {
    if (!p || !p->report || p->report(p->arg, done, total)) return LH_OK;
    return lh_error(LH_ERR_STOPPED, "stopped after %llu of %llu", (unsigned long long)done, (unsigned long long)total);
}

// Larger blocks are mappings of their own: zero without being touched, which keeps a large KV cache free until it is used,
// and returned to the system at once, where a heap would keep them. A sanitizer watches what comes from the heap alone.
#ifdef __SANITIZE_ADDRESS__
#define LARGEST_IN_HEAP SIZE_MAX
#else
#define LARGEST_IN_HEAP ((size_t)1 << 20)
#endif

// Kept in front of the aligned address.
typedef struct block {
    char *start;
    size_t bytes;  // behind that address
} block;
_Static_assert(sizeof(block) <= _Alignof(max_align_t), "there is room for it");

static atomic_size_t allocated;  // by this process, touched or not

void lh_ask_for_huge_pages(void *p, size_t bytes) {
    size_t before = -(uintptr_t)p % HUGE_PAGE;
    if (bytes >= before + HUGE_PAGE) madvise((char *)p + before, (bytes - before) / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
}

bool lh_huge_pages(void) {
    char line[64] = "";
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (!f) return false;
    bool read = fgets(line, sizeof line, f);
    fclose(f);
    return read && !strstr(line, "[never]");
}

static void *map(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void *lh_alloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - 2 * LH_ALIGN) {
        lh_error(LH_ERR_MEMORY, "%zu items of %zu bytes are more than can be addressed", count, size);
        return NULL;
    }
    bytes = LH_ROUND_UP(LH_MAX(bytes, 1), (size_t)LH_ALIGN);
    char *start = bytes <= LARGEST_IN_HEAP ? calloc(1, bytes + LH_ALIGN) : map(bytes + LH_ALIGN);
    if (!start) {
        lh_error(LH_ERR_MEMORY, "out of memory: %zu bytes could not be had", bytes);
        return NULL;
    }
    char *p = start + LH_ALIGN - (uintptr_t)start % LH_ALIGN;
    memcpy(p - sizeof(block), &(block){start, bytes}, sizeof(block));
    atomic_fetch_add_explicit(&allocated, bytes, memory_order_relaxed);
    return p;
}

void lh_free(void *p) {
    if (!p) return;
    block b;
    memcpy(&b, (char *)p - sizeof b, sizeof b);
    atomic_fetch_sub_explicit(&allocated, b.bytes, memory_order_relaxed);
    if (b.bytes <= LARGEST_IN_HEAP)
        free(b.start);
    else
        munmap(b.start, b.bytes + LH_ALIGN);
}

uint64_t lh_allocated(void) { return atomic_load_explicit(&allocated, memory_order_relaxed); }
