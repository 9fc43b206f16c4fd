// The CUDA runtime's functions on the host: memory behind guard pages, streams that do everything at once, graphs that
// record closures. See cuda_runtime.h.
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <vector>

#include "scheduler.h"

struct lh_emulated_graph {
    std::vector<std::function<cudaError_t()>> nodes;
};
struct lh_emulated_stream {
    lh_emulated_graph *capture;  // NULL: work is done at once
};
struct lh_emulated_event {
    int unused;
};

namespace {

// Without being asked for: 48 KB, less 4 for what kernels declare themselves, which is not seen here.
constexpr size_t SHARED = 44 << 10, SHARED_MOST = 99 << 10;

struct region {
    size_t bytes;
    char *map;
    size_t mapped;
};

std::recursive_mutex turn;
std::map<char *, region> device, pinned;
std::map<const void *, size_t> shared_of;
size_t limit = (size_t)8 << 30, allocated;
int devices = 1, launches_left = -1;
bool old, broken;  // that device
int64_t launches, replays;
bool refuses;
cudaError_t sticky = cudaSuccess, last = cudaSuccess;

typedef std::lock_guard<std::recursive_mutex> guard;

cudaError_t note(cudaError_t e) {
    if (e != cudaSuccess) last = e;
    return e;
}

// The end lies where a page begins that may not be touched; the start is aligned as the device's is, to 256 bytes.
char *map_guarded(size_t bytes, region *r) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), rounded = (bytes + 255) / 256 * 256;
    r->bytes = bytes;
    r->mapped = (rounded + page - 1) / page * page + page;
    void *p = mmap(NULL, r->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    r->map = (char *)p;
    mprotect(r->map + r->mapped - page, page, PROT_NONE);
    return r->map + r->mapped - page - rounded;
}

// Does [p, p + bytes) lie in one allocation of the device?
bool on_device(const void *p, size_t bytes) {
    auto it = device.upper_bound((char *)p);
    if (it == device.begin()) return false;
    --it;
    return (char *)p + bytes <= it->first + it->second.bytes;
}

cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work) {
    if (sticky) return note(sticky);
    if (!stream || !stream->capture) return note(work());
    stream->capture->nodes.push_back(work);
    return cudaSuccess;
}

}  // namespace

unsigned char *lh_emulator_shared_memory(size_t bytes) {
    static std::map<size_t, unsigned char *> kept;
    unsigned char *&p = kept[bytes];
    region r;
    if (!p && !(p = (unsigned char *)map_guarded(bytes, &r))) lh_emulator_fail("no memory for shared memory");
    return p;
}

cudaError_t lh_emulator_func_shared(const void *kernel, size_t bytes) {
    guard g(turn);
    if (bytes > SHARED_MOST) return note(cudaErrorInvalidValue);
    shared_of[kernel] = bytes;
    return cudaSuccess;
}

cudaError_t lh_emulator_launch(const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                               std::function<void()> body) {
    guard g(turn);
    size_t threads = (size_t)block.x * block.y * block.z, most = SHARED;
    if (shared_of.count(kernel) && shared_of[kernel] > most) most = shared_of[kernel];
    if (!threads || threads > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > INT32_MAX ||
        grid.y > 65535 || grid.z > 65535)
        return note(cudaErrorInvalidConfiguration);
    if (shared > most) return note(cudaErrorInvalidValue);
    return enqueue(stream, [=]() {
        if (launches_left == 0) return sticky = cudaErrorIllegalAddress;
        if (launches_left > 0) launches_left--;
        launches++;
        lh_emulator_run(grid, block, shared, body);
        return cudaSuccess;
    });
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = devices == -1 ? 0 : devices == -2 ? 11080 : CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *count) {
    *count = devices < 0 || broken ? 0 : devices;
    if (broken) return cudaErrorInitializationError;
    return devices < 0 ? cudaErrorInsufficientDriver : devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}
cudaError_t cudaSetDevice(int d) {
    if (d < 0 || d >= devices) return cudaErrorInvalidDevice;
    return sticky;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int) {
    *prop = {"Emulator", limit, old ? 7 : 8, 0};
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)SHARED_MOST; break;
        case cudaDevAttrMultiProcessorCount: *value = 4; break;
        case cudaDevAttrComputeCapabilityMajor: *value = 8; break;
        case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    }
    return cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
        case cudaSuccess: return "no error";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInvalidConfiguration: return "invalid configuration argument";
        case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
        case cudaErrorNoDevice: return "no CUDA-capable device is detected";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
        default: return "invalid argument";
    }
}
cudaError_t cudaGetLastError() {
    cudaError_t e = last;
    last = sticky;
    return e;
}
cudaError_t cudaPeekAtLastError() { return last; }

cudaError_t cudaMalloc(void **out, size_t bytes) {
    guard g(turn);
    if (sticky) return sticky;
    *out = NULL;
    if (!bytes) return cudaSuccess;
    region r;
    char *p;
    if (allocated + bytes > limit || !(p = map_guarded(bytes, &r))) return note(cudaErrorMemoryAllocation);
    if (bytes < (size_t)64 << 20) memset(p, 0xff, bytes);  // NaN, if not too much of it
    allocated += bytes;
    device[p] = r;
    *out = p;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    guard g(turn);
    if (!p) return cudaSuccess;
    auto it = device.find((char *)p);
    if (it == device.end()) lh_emulator_fail("cudaFree of %p, which cudaMalloc did not give", p);
    allocated -= it->second.bytes;
    munmap(it->second.map, it->second.mapped);
    device.erase(it);
    return sticky;
}
cudaError_t cudaMallocHost(void **out, size_t bytes) {
    guard g(turn);
    if (sticky) return sticky;
    region r;
    char *p = map_guarded(bytes, &r);
    if (!p) return note(cudaErrorMemoryAllocation);
    pinned[p] = r;
    *out = p;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) {
    guard g(turn);
    auto it = pinned.find((char *)p);
    if (it == pinned.end()) lh_emulator_fail("cudaFreeHost of %p, which cudaMallocHost did not give", p);
    munmap(it->second.map, it->second.mapped);
    pinned.erase(it);
    return sticky;
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    guard g(turn);
    if (sticky) return sticky;
    *available = limit > allocated ? limit - allocated : 0;
    *total = limit;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    guard g(turn);
    if (sticky) return note(sticky);
    bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
    bool any = kind == cudaMemcpyDefault;  // both are asked where they lie
    if (!any && (on_device(to, bytes) != to_device || on_device(from, bytes) != from_device))
        return note(cudaErrorInvalidValue);
    return enqueue(stream, [=]() {
        memcpy(to, from, bytes);
        return cudaSuccess;
    });
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    guard g(turn);
    if (!on_device(to, bytes)) return note(cudaErrorInvalidValue);
    return enqueue(stream, [=]() {
        memset(to, value, bytes);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    *out = new lh_emulated_stream();
    return sticky;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return sticky;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return note(stream->capture ? cudaErrorStreamCaptureUnsupported : sticky);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (sticky || refuses) return note(refuses ? cudaErrorStreamCaptureUnsupported : sticky);
    stream->capture = new lh_emulated_graph();
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
    *out = stream->capture;
    stream->capture = NULL;
    return sticky;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    *out = new lh_emulated_graph(*graph);
    return sticky;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
    guard g(turn);
    replays++;
    for (auto &node : graph->nodes)
        if (cudaError_t e = sticky ? sticky : node()) return note(e);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return sticky;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return cudaGraphDestroy(graph); }
cudaError_t cudaEventCreate(cudaEvent_t *out) {
    *out = new lh_emulated_event();
    return sticky;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return sticky;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return sticky; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return sticky; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) {
    *ms = 1;  // nothing here can be timed
    return sticky;
}

void lh_emulator_limit(size_t bytes) { limit = bytes; }
size_t lh_emulator_allocated() { return allocated; }
void lh_emulator_devices(int count) {
    old = count == -3;
    broken = count == -4;
    devices = old || broken ? 1 : count;
}
int64_t lh_emulator_launches() { return launches; }
void lh_emulator_refuse(int yes) { refuses = yes; }
int64_t lh_emulator_replays() { return replays; }
void lh_emulator_break(int after) {
    launches_left = after;
    sticky = last = cudaSuccess;
}

// --- halves ------------------------------------------------------------------------------------------------------

float lh_emulator_half_to_float(uint16_t h) {
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    float magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
                      : exponent     ? ldexpf((float)(1024 + mantissa), exponent - 25)
                                     : ldexpf((float)mantissa, -24);
    return h & 0x8000 ? -magnitude : magnitude;
}

uint16_t lh_emulator_float_to_half(float f) {
    uint32_t bits = lh_emulator_bits<uint32_t>(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7fff);
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // 65520 rounds to infinity
    if (magnitude < 0x38800000) return (uint16_t)(sign | (uint32_t)rintf(ldexpf(fabsf(f), 24)));
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000) >> 13));
}
