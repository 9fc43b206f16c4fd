#include <stdio.h>
#include <string.h>

#include "cpu.h"
#include "features.h"
#include "resources.h"
#include "spans.h"

static void *scratch_slot(lh_cpu *c, int slot, size_t bytes) {
    struct lh_scratch *s = &c->scratch[slot];
    if (s->size < bytes) {
        lh_free(s->data);
        s->data = lh_alloc(1, bytes);
        s->size = s->data ? bytes : 0;
    }
    return s->data;
}

void *lh_cpu_scratch_shared(lh_cpu *c, size_t bytes) { return scratch_slot(c, 0, bytes); }

lh_status lh_cpu_scratch_threads(lh_cpu *c, size_t bytes) {
    for (int t = 0; t < lh_threads_count(c->threads); t++)
        if (!scratch_slot(c, 1 + t, bytes)) return LH_ERR_MEMORY;
    return LH_OK;
}

static lh_status cpu_alloc(lh_backend *b, size_t bytes, void **out) {
    (void)b;
    *out = lh_alloc(1, bytes);
    return *out ? LH_OK : LH_ERR_MEMORY;
}

static void cpu_release(lh_backend *b, void *p) {
    (void)b;
    lh_free(p);
}

static lh_status cpu_write(lh_backend *b, void *device, const void *host, size_t bytes) {
    (void)b;
    if (bytes) memcpy(device, host, bytes);
    return LH_OK;
}

static lh_status cpu_read(lh_backend *b, void *host, const void *device, size_t bytes) {
    (void)b;
    if (bytes) memcpy(host, device, bytes);
    return LH_OK;
}

static uint64_t cpu_available(lh_backend *b) {
    (void)b;
    return lh_memory_available();
}

// Weights are copied into huge pages, up to a second for each GB, unless that takes long or memory is scarce; in spans,
// where kernels prefer these. Where the file is mapped they lie in small pages, which take time to find: SmolLM2 writes a
// tenth slower from them, and 8B in a virtual machine, which looks every page up twice, at 0.6 to 0.8 of the speed.
#define MOST_COPIED ((size_t)16 << 30)
static lh_status cpu_reserve(lh_backend *b, size_t bytes) {
    lh_cpu *c = (lh_cpu *)b;
    if (!lh_huge_pages() || bytes > MOST_COPIED || bytes > lh_memory_available() / 2) return LH_OK;
    c->weights = lh_alloc(1, bytes);
    if (c->weights) lh_ask_for_huge_pages(c->weights, bytes);
    c->weights_size = c->weights ? bytes : 0;
    return LH_OK;
}

#define COPY_BYTES ((size_t)256 << 10)  // of a piece of work

typedef struct copy_job {
    const lh_tensor *from;
    char *to;
    bool spans;
    int64_t rows;  // of a piece
} copy_job;

static void copy_task(void *arg, int64_t piece, int thread) {
    const copy_job *j = arg;
    const lh_tensor *w = j->from;
    (void)thread;
    int64_t row = piece * j->rows, n_rows = LH_MIN(j->rows, w->n_rows - row);
    size_t at = (size_t)row * w->row_size;
    if (j->spans) lh_to_spans(w, row, n_rows, j->to + at);
    else memcpy(j->to + at, (const char *)w->data + at, (size_t)n_rows * w->row_size);
}

static lh_status cpu_upload(lh_backend *b, lh_tensor *t) {
    lh_cpu *c = (lh_cpu *)b;
    size_t room = LH_ROUND_UP((size_t)t->n_rows * t->row_size, (size_t)LH_ALIGN);
    if (room > c->weights_size - c->weights_used) return LH_OK;
    copy_job j = {t, c->weights + c->weights_used, c->matmul.spans && lh_has_spans(t->type),
                  (int64_t)(COPY_BYTES / t->row_size) + 1};
    c->weights_used += room;
    lh_threads_for(c->threads, (t->n_rows + j.rows - 1) / j.rows, copy_task, &j);
    t->data = j.to;
    t->spans = j.spans;
    return LH_OK;
}

static void cpu_unload(lh_backend *b, lh_tensor *t) {
    (void)b;
    (void)t;
}

static void cpu_begin(lh_backend *b) {
    lh_cpu *c = (lh_cpu *)b;
    lh_threads_check_fork(c->threads, &c->turn);
    pthread_mutex_lock(&c->turn);
}

static void cpu_end(lh_backend *b) { pthread_mutex_unlock(&((lh_cpu *)b)->turn); }

static void cpu_free(lh_backend *b) {
    lh_cpu *c = (lh_cpu *)b;
    if (c->scratch)
        for (int i = 0; i <= b->n_threads; i++) lh_free(c->scratch[i].data);
    lh_free(c->scratch);
    lh_free(c->weights);
    lh_threads_free(c->threads);
    pthread_mutex_destroy(&c->turn);
    lh_free(c);
}

static const lh_backend_ops cpu_ops = {
    .free = cpu_free, .alloc = cpu_alloc, .release = cpu_release, .write = cpu_write, .read = cpu_read,
    .available = cpu_available, .reserve = cpu_reserve, .upload = cpu_upload, .unload = cpu_unload, .begin = cpu_begin, .end = cpu_end,
    .embed = lh_cpu_embed, .project = lh_cpu_project, .append = lh_cpu_append, .summarize = lh_cpu_summarize,
    .select = lh_cpu_select, .attend = lh_cpu_attend, .probe = lh_cpu_probe,
};

lh_status lh_backend_open_cpu(int32_t n_threads, lh_backend **out) {
    LH_TRY(lh_cpu_features_check());
    lh_cpu *c = lh_alloc(1, sizeof *c);
    if (!c) return LH_ERR_MEMORY;
    c->base.ops = &cpu_ops;
    c->base.n_threads = n_threads ? n_threads : lh_threads_usable();
    pthread_mutex_init(&c->turn, NULL);
    unsigned features = lh_cpu_features();
    lh_matmul_kernels_select(features, &c->matmul);
    lh_attention_kernels_select(features, &c->attention);
    snprintf(c->base.name, sizeof c->base.name, "cpu (%s, %d thread%s)", lh_cpu_features_text(features),
             c->base.n_threads, c->base.n_threads == 1 ? "" : "s");
    lh_status status = lh_threads_new(c->base.n_threads, &c->threads);
    if (status == LH_OK && !(c->scratch = lh_alloc((size_t)c->base.n_threads + 1, sizeof *c->scratch)))
        status = LH_ERR_MEMORY;
    if (status != LH_OK) cpu_free(&c->base);
    else *out = &c->base;
    return status;
}
