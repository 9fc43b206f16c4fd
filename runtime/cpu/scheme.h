// How chunks are summarised and scored on the CPU: one row a scheme.
#ifndef LH_CPU_SCHEME_H
#define LH_CPU_SCHEME_H

#include "cpu.h"

// What a head asks at some tokens of the batch.
typedef struct lh_queries {
    int32_t head;
    int32_t token, n;
} lh_queries;

// Which scores are wanted: of n such queries against chunks [first, end).
typedef struct lh_scoring {
    int32_t summary;     // see lh_summary_of
    int32_t n;
    void *queries;       // what `prepare` made of them
    int32_t first, end;
    const int32_t *only; // of one token, n_only of these chunks: the other scores stay as they are; NULL: all
    int32_t n_only;
    float *out;          // (n, stride): out[i * stride + s - first]
    float *most;         // not NULL: bounds are wanted, of one token, by schemes that look twice; out has the lower ones,
                         // and this the upper
    int64_t stride;
} lh_scoring;

typedef struct lh_cpu_scheme {
    // Summary number `s` (see lh_summary_at) of a complete chunk into out. scratch: summarize_bytes.
    void (*summarize)(const lh_attention_kernels *k, const lh_attention *a, int32_t s, int32_t chunk, void *out,
                      void *scratch);
    size_t (*summarize_bytes)(const lh_attention *a);
    // What scores are computed from, once for all chunks: out, prepare_bytes of n tokens.
    void (*prepare)(const lh_cpu *c, const lh_attention *a, const lh_queries *q, void *out);
    size_t (*prepare_bytes)(const lh_attention *a, int32_t n);
    // scratch: score_bytes, which are as many or more for more tokens or chunks.
    void (*score)(const lh_cpu *c, const lh_attention *a, const lh_scoring *s, void *scratch);
    size_t (*score_bytes)(const lh_cpu *c, const lh_attention *a, const lh_scoring *s);
    // One token first looks at bounds, which take less memory than scores, and then where they leave it open. Otherwise
    // a scoring has all chunks.
    bool two_looks;
} lh_cpu_scheme;

extern const lh_cpu_scheme lh_cpu_bounds, lh_cpu_paper, lh_cpu_peak;

#endif
