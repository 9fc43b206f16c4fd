// The CUDA backend: opening a device, its memory, and the table of operations. Commands and graphs are in commands.cu.
//
// A device that failed is lost: after most failures nothing brings a process's CUDA context back, so every later call
// gives the same sentence, and the rest of the process lives on.
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "cublas.h"

#define OLDEST_CAPABILITY 80
// Kernels read weights in pieces of 16 bytes, which may begin before a matrix's last row ends and end behind it.
#define WEIGHT_PADDING 64

static lh_cuda *cuda_of(lh_backend *b) { return (lh_cuda *)b; }

// --- errors ------------------------------------------------------------------------------------------------------

static lh_status lost(const lh_cuda *c) {
    return lh_error(LH_ERR_BACKEND,
                    "GPU %d failed (%s): its models are lost; where it cannot be opened again, restart the process",
                    c->index, c->lost_why);
}

lh_status lh_cuda_check(lh_cuda *c, cudaError_t error, const char *what) {
    if (c->lost) return lost(c);
    if (error == cudaSuccess) return LH_OK;
    cudaGetLastError();
    if (error == cudaErrorMemoryAllocation)
        return lh_error(LH_ERR_MEMORY, "GPU %d ran out of memory while %s: lower ctx or batch", c->index, what);
    c->lost = true;
    snprintf(c->lost_why, sizeof c->lost_why, "%s: %s", what, cudaGetErrorString(error));
    return lost(c);
}

// Every call comes from whatever thread: the device is the thread's, not the process's.
static lh_status enter(lh_cuda *c) {
    if (c->lost) return lost(c);
    return lh_cuda_check(c, cudaSetDevice(c->index), "choosing the device");
}

static lh_status finish(lh_cuda *c) {
    LH_TRY(lh_cuda_flush(c));
    return lh_cuda_check(c, cudaStreamSynchronize(c->stream), "computing");
}

// --- memory ------------------------------------------------------------------------------------------------------

static uint64_t cuda_available(lh_backend *b) {
    size_t available = 0, total = 0;
    // Of a lost device the next allocation tells.
    if (enter(cuda_of(b)) != LH_OK || cudaMemGetInfo(&available, &total) != cudaSuccess) return UINT64_MAX;
    return available;
}

static lh_status allocate(lh_cuda *c, size_t bytes, const char *advice, void **out) {
    *out = NULL;
    cudaError_t error = cudaMalloc(out, LH_MAX(bytes, (size_t)1));
    if (error != cudaErrorMemoryAllocation) return lh_cuda_check(c, error, "reserving memory");
    cudaGetLastError();
    return lh_error(LH_ERR_MEMORY, "%.3f GiB more of GPU memory are needed, %.3f GiB of GPU %d are free: %s",
                    (double)bytes / (1 << 30), (double)cuda_available(&c->base) / (1 << 30), c->index, advice);
}

static lh_status cuda_alloc(lh_backend *b, size_t bytes, void **out) {
    lh_cuda *c = cuda_of(b);
    LH_TRY(enter(c));
    LH_TRY(allocate(c, bytes, "lower ctx or batch", out));
    cudaError_t error = cudaMemsetAsync(*out, 0, LH_MAX(bytes, (size_t)1), c->stream);
    lh_status status = lh_cuda_check(c, error, "clearing memory");
    if (status == LH_OK) return LH_OK;
    cudaFree(*out);
    *out = NULL;
    return status;
}

static void cuda_release(lh_backend *b, void *p) {
    if (!p) return;
    lh_cuda *c = cuda_of(b);
    if (enter(c) == LH_OK) finish(c);
    // Addresses come back: a graph must not take new memory for what was there before.
    lh_cuda_drop_graphs(c);
    cudaFree(p);
}

static lh_status cuda_write(lh_backend *b, void *device, const void *host, size_t bytes) {
    lh_cuda *c = cuda_of(b);
    LH_TRY(enter(c));
    LH_TRY(lh_cuda_flush(c));
    if (!bytes) return LH_OK;
    LH_CUDA_TRY(c, "writing", cudaMemcpyAsync(device, host, bytes, cudaMemcpyDefault, c->stream));
    return lh_cuda_check(c, cudaStreamSynchronize(c->stream), "writing");
}

static lh_status cuda_read(lh_backend *b, void *host, const void *device, size_t bytes) {
    lh_cuda *c = cuda_of(b);
    LH_TRY(enter(c));
    LH_TRY(lh_cuda_flush(c));
    if (bytes) LH_CUDA_TRY(c, "reading", cudaMemcpyAsync(host, device, bytes, cudaMemcpyDefault, c->stream));
    return lh_cuda_check(c, cudaStreamSynchronize(c->stream), "computing");
}

lh_status lh_cuda_scratch(lh_cuda *c, lh_cuda_slot slot, size_t bytes, void **out) {
    auto *s = &c->scratch[slot];
    if (s->size < bytes) {
        // Work that was enqueued may still use the old memory: freeing it waits for that.
        lh_cuda_drop_graphs(c);
        if (s->data) cudaFree(s->data);
        s->data = NULL;
        s->size = 0;
        LH_TRY(allocate(c, bytes, "lower batch or ctx", &s->data));
        s->size = bytes;
    }
    *out = s->data;
    return LH_OK;
}

// --- weights -----------------------------------------------------------------------------------------------------

static lh_status copy_to_device(lh_cuda *c, const void *host, size_t bytes, const char *advice, void **out) {
    LH_TRY(allocate(c, bytes + WEIGHT_PADDING, advice, out));
    cudaError_t error = cudaMemcpyAsync(*out, host, bytes, cudaMemcpyHostToDevice, c->stream);
    if (error == cudaSuccess) error = cudaStreamSynchronize(c->stream);
    lh_status status = lh_cuda_check(c, error, "copying weights");
    if (status == LH_OK) return LH_OK;
    cudaFree(*out);
    *out = NULL;
    return status;
}

static lh_status cuda_upload(lh_backend *b, lh_tensor *t) {
    lh_cuda *c = cuda_of(b);
    LH_TRY(enter(c));
    return copy_to_device(c, t->data, (size_t)t->n_rows * t->row_size, "use a smaller model or device \"cpu\"",
                          &t->device);
}

static void cuda_unload(lh_backend *b, lh_tensor *t) {
    cuda_release(b, t->device);
    t->device = NULL;
}

// Host memory and its copy.
typedef struct lh_cuda_constants {
    const float *host;
    float *device;
} lh_cuda_constants;

lh_status lh_cuda_constant(lh_cuda *c, const float *host, int64_t n, const float **out) {
    *out = NULL;
    if (!host) return LH_OK;
    for (int32_t i = 0; i < c->n_constants; i++)
        if (c->constants[i].host == host) return *out = c->constants[i].device, LH_OK;
    if (c->n_constants == c->max_constants) {
        int32_t most = LH_MAX(64, 2 * c->max_constants);
        lh_cuda_constants *more = (lh_cuda_constants *)lh_alloc((size_t)most, sizeof *more);
        if (!more) return LH_ERR_MEMORY;
        if (c->n_constants) memcpy(more, c->constants, (size_t)c->n_constants * sizeof *more);
        lh_free(c->constants);
        c->constants = more;
        c->max_constants = most;
    }
    void *device;
    LH_TRY(copy_to_device(c, host, (size_t)n * sizeof *host, "use a smaller model", &device));
    c->constants[c->n_constants++] = {host, (float *)device};
    *out = (const float *)device;
    return LH_OK;
}

// --- operations --------------------------------------------------------------------------------------------------

static void cuda_begin(lh_backend *b) { pthread_mutex_lock(&cuda_of(b)->turn); }

// Nothing may wait when another session's turn comes. What fails here is told by the next operation.
static void cuda_end(lh_backend *b) {
    lh_cuda *c = cuda_of(b);
    char before[1024];
    snprintf(before, sizeof before, "%s", lh_last_error());
    if (!c->lost && enter(c) == LH_OK && finish(c) != LH_OK && !c->lost) {
        c->failed = true;
        snprintf(c->failed_why, sizeof c->failed_why, "%s", lh_last_error());
        lh_error(LH_OK, "%s", before);  // whoever ends its turn is told what it failed of itself; this, the next call
    }
    pthread_mutex_unlock(&c->turn);
}

static lh_status submit(lh_cuda *c, lh_cuda_command *m) {
    LH_TRY(enter(c));
    if (c->failed) {
        c->failed = false;
        return lh_error(LH_ERR_MEMORY, "an earlier call could not finish: %s", c->failed_why);
    }
    return lh_cuda_submit(c, m);
}

static lh_status cuda_embed(lh_backend *b, const lh_tensor *table, const int32_t *ids, int32_t n, float *x) {
    lh_cuda_command m = {};
    m.op = LH_CUDA_OP_EMBED;
    m.w[0] = *table;
    m.ids = ids;
    m.n = n;
    m.x = x;
    return submit(cuda_of(b), &m);
}

static lh_status cuda_project(lh_backend *b, const lh_project *p) {
    lh_cuda_command m = {};
    m.op = LH_CUDA_OP_PROJECT;
    m.project = *p;
    m.n = p->n;
    for (int i = 0; i < p->n_out; i++) m.w[i] = *p->w[i];
    return submit(cuda_of(b), &m);
}

static lh_status attention(lh_backend *b, lh_cuda_op op, const lh_attention *a) {
    lh_cuda_command m = {};
    m.op = op;
    m.attention = *a;
    m.n = a->n;
    return submit(cuda_of(b), &m);
}

static lh_status cuda_append(lh_backend *b, const lh_attention *a) { return attention(b, LH_CUDA_OP_APPEND, a); }

static lh_status cuda_summarize(lh_backend *b, const lh_attention *a, int32_t first, int32_t end) {
    (void)first, (void)end;  // follow from the position, on the device
    return attention(b, LH_CUDA_OP_SUMMARIZE, a);
}

static lh_status cuda_select(lh_backend *b, const lh_attention *a) { return attention(b, LH_CUDA_OP_SELECT, a); }
static lh_status cuda_attend(lh_backend *b, const lh_attention *a) { return attention(b, LH_CUDA_OP_ATTEND, a); }

static lh_status cuda_probe(lh_backend *b, double seconds, lh_ceilings *out) {
    lh_cuda *c = cuda_of(b);
    LH_TRY(enter(c));
    LH_TRY(finish(c));
    return lh_cuda_probe(c, seconds, out);
}

static void cuda_free(lh_backend *b) {
    lh_cuda *c = cuda_of(b);
    cudaSetDevice(c->index);
    if (c->stream) cudaStreamSynchronize(c->stream);
    lh_cuda_commands_free(c);
    lh_cublas_free(c->cublas);
    for (int i = 0; i < c->n_constants; i++) cudaFree(c->constants[i].device);
    for (auto &s : c->scratch)
        if (s.data) cudaFree(s.data);
    if (c->params) cudaFree(c->params);
    if (c->stream) cudaStreamDestroy(c->stream);
    cudaGetLastError();
    pthread_mutex_destroy(&c->turn);
    lh_free(c->constants);
    lh_free(c);
}

static const lh_backend_ops *operations() {
    static lh_backend_ops ops;
    ops.free = cuda_free;
    ops.alloc = cuda_alloc;
    ops.release = cuda_release;
    ops.write = cuda_write;
    ops.read = cuda_read;
    ops.available = cuda_available;
    ops.upload = cuda_upload;
    ops.unload = cuda_unload;
    ops.begin = cuda_begin;
    ops.end = cuda_end;
    ops.queues = true;
    ops.embed = cuda_embed;
    ops.project = cuda_project;
    ops.append = cuda_append;
    ops.summarize = cuda_summarize;
    ops.select = cuda_select;
    ops.attend = cuda_attend;
    ops.probe = cuda_probe;
    ops.offload = lh_cuda_offload();
    return &ops;
}

// --- opening -----------------------------------------------------------------------------------------------------

static lh_status find_device(int32_t index) {
    int count = 0, driver = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    cudaGetLastError();
    // The same error where there is no driver at all, whose version is 0.
    if (error == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0)
        return lh_error(LH_ERR_BACKEND,
                        "the driver knows CUDA %d.%d and this build needs %d.%d: update the driver, or use \"cpu\"",
                        driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    bool none = error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver || (error == cudaSuccess && !count);
    if (error != cudaSuccess || none)
        return lh_error(none ? LH_ERR_UNSUPPORTED : LH_ERR_BACKEND,
                        "there is no GPU that can be used (%s): use \"cpu\"",
                        cudaGetErrorString(error == cudaSuccess ? cudaErrorNoDevice : error));
    if (index < 0 || index >= count)
        return lh_error(LH_ERR_ARGUMENT, "device \"cuda:%d\" was asked for, but there %s: use %s", index,
                        count == 1 ? "is one GPU" : "are fewer GPUs", count == 1 ? "\"cuda:0\"" : "a smaller number");
    return LH_OK;
}

static lh_status open_device(lh_cuda *c) {
    cudaDeviceProp prop;
    LH_CUDA_TRY(c, "opening it", cudaSetDevice(c->index));
    LH_CUDA_TRY(c, "asking for its properties", cudaGetDeviceProperties(&prop, c->index));
    c->capability = prop.major * 10 + prop.minor;
    if (c->capability < OLDEST_CAPABILITY)
        return lh_error(LH_ERR_BACKEND,
                        "GPU %d (%.64s) has compute capability %d.%d, expected 8.0 or later: use \"cpu\"",
                        c->index, prop.name, prop.major, prop.minor);
    int shared = 0, n_sm = 0;
    LH_CUDA_TRY(c, "asking for its shared memory",
                cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->index));
    LH_CUDA_TRY(c, "asking for its processors",
                cudaDeviceGetAttribute(&n_sm, cudaDevAttrMultiProcessorCount, c->index));
    c->shared_max = (size_t)shared;
    c->n_sm = n_sm;
    LH_CUDA_TRY(c, "making a stream", cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
    LH_TRY(allocate(c, sizeof *c->params, "free some", (void **)&c->params));
    LH_TRY(lh_cuda_commands_new(c));
    c->cublas = lh_cublas_open(c->stream);
    snprintf(c->base.name, sizeof c->base.name, "cuda:%d (%.32s%s)", c->index, prop.name, c->cublas ? ", cuBLAS" : "");
    return LH_OK;
}

lh_status lh_backend_open_cuda(int32_t index, lh_backend **out) {
    LH_TRY(find_device(index));
    lh_cuda *c = (lh_cuda *)lh_alloc(1, sizeof *c);
    if (!c) return LH_ERR_MEMORY;
    c->base.ops = operations();
    c->base.n_threads = 1;
    c->index = index;
    c->pos = -1;
    pthread_mutex_init(&c->turn, NULL);
    lh_status status = open_device(c);
    if (status != LH_OK) cuda_free(&c->base);
    else *out = &c->base;
    return status;
}
