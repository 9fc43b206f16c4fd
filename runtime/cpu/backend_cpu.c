#include <stdio.h>
#include <string.h>

#include "cpu.h"
#include "features.h"

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

// Weights are read where the file is mapped.
static lh_status cpu_upload(lh_backend *b, lh_tensor *t) {
    (void)b;
    (void)t;
    return LH_OK;
}

static void cpu_unload(lh_backend *b, lh_tensor *t) {
    (void)b;
    (void)t;
}

static void cpu_begin(lh_backend *b) {
    lh_cpu *c = (lh_cpu *)b;
    // The parent's thread that had the turn as this process was made is not here to end it.
    if (lh_threads_check_fork(c->threads)) pthread_mutex_init(&c->turn, NULL);
    pthread_mutex_lock(&c->turn);
}

static void cpu_end(lh_backend *b) { pthread_mutex_unlock(&((lh_cpu *)b)->turn); }

static void cpu_free(lh_backend *b) {
    lh_cpu *c = (lh_cpu *)b;
    if (c->scratch)
        for (int i = 0; i <= b->n_threads; i++) lh_free(c->scratch[i].data);
    lh_free(c->scratch);
    lh_threads_free(c->threads);
    pthread_mutex_destroy(&c->turn);
    lh_free(c);
}

static const lh_backend_ops cpu_ops = {
    .free = cpu_free, .alloc = cpu_alloc, .release = cpu_release, .write = cpu_write, .read = cpu_read,
    .available = cpu_available, .upload = cpu_upload, .unload = cpu_unload, .begin = cpu_begin, .end = cpu_end,
    .embed = lh_cpu_embed, .project = lh_cpu_project, .append = lh_cpu_append, .summarize = lh_cpu_summarize,
    .select = lh_cpu_select, .attend = lh_cpu_attend, .probe = lh_cpu_probe,
};

lh_status lh_backend_open_cpu(int32_t n_threads, lh_backend **out) {
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
