// What everything stands on: statuses with a per-thread sentence, and aligned memory.
#ifndef LH_BASE_H
#define LH_BASE_H

#include "include/longheads.h"

#define LH_ALIGN 64  // a cache line, and the widest vector

// Functions in headers that every backend shares: on the host, and where CUDA compiles them on the device, too.
#ifdef __CUDACC__
#define LH_SHARED_FN static inline __host__ __device__
#else
#define LH_SHARED_FN static inline
#endif

// Remember the sentence for this thread and return the status, so that `return lh_error(LH_ERR_FORMAT, "...", ...)` is
// the whole error path.
lh_status lh_error(lh_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Put "prefix: " before the sentence of the current error (a path, a tensor's name); returns status unchanged.
lh_status lh_error_context(lh_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define LH_TRY(expr)                                \
    do {                                            \
        lh_status lh_try_ = (expr);                 \
        if (lh_try_ != LH_OK) return lh_try_;       \
    } while (0)

// Seconds since some time ago, which never go backwards.
double lh_now(void);

// Tells of it, and fails where that stops the call. p: may be NULL.
lh_status lh_report(const lh_progress *p, uint64_t done, uint64_t total);

// Zeroed, LH_ALIGN-aligned; NULL if there is none (lh_error is set) or if count * size overflows. Much memory is not there
// before it is written to.
void *lh_alloc(size_t count, size_t size);
void lh_free(void *p);

// Huge pages, where the system has them for the asking. In pages of 4 KB looking addresses up costs up to a tenth of the time
// in which weights are read. For caches of keys and values they bring nothing: there they would only be filled with zeros
// for texts that are short.
bool lh_huge_pages(void);
void lh_ask_for_huge_pages(void *p, size_t bytes);

uint64_t lh_allocated(void);  // bytes that lh_alloc gave and lh_free did not take

#define LH_INLINE static inline __attribute__((always_inline))
#define LH_MIN(a, b) ((a) < (b) ? (a) : (b))
#define LH_MAX(a, b) ((a) > (b) ? (a) : (b))
#define LH_ROUND_UP(a, b) (((a) + (b) - 1) / (b) * (b))

// Arrays that share one block of memory, one behind the other, each LH_ALIGN-aligned. Where there is no block yet,
// `used` tells how large it has to be.
typedef struct lh_layout {
    char *memory;
    size_t used;
} lh_layout;

static inline void *lh_take(lh_layout *l, size_t count, size_t size) {
    char *at = l->memory ? l->memory + l->used : NULL;
    l->used += LH_ROUND_UP(count * size, (size_t)LH_ALIGN);
    return at;
}

#endif
