// A CUDA runtime for machines without a GPU: the sources of runtime/cuda are compiled as plain C++ against this, and
// run on the CPU. It shows that kernels are right, not that they are fast.
//
// Threads of a block are fibers that give way at barriers and warp operations; blocks run one after another. What a
// real device would punish only sometimes is caught always: device memory lies behind guard pages and starts as NaN;
// an asynchronous copy arrives only when it is waited for; the order of threads and blocks can be turned around
// (lh_emulator_order), which must not change a bit; lanes that disagree about a warp operation, barriers that not all
// reach and shared memory beyond what was asked for abort with a sentence.
#ifndef LH_EMULATOR_CUDA_RUNTIME_H
#define LH_EMULATOR_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <type_traits>

#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

// --- what a thread sees ------------------------------------------------------------------------------------------

struct lh_emulated_thread {
    uint3 index;   // threadIdx
    int lane, warp;
};
extern lh_emulated_thread *lh_emulated;  // the one that runs
extern uint3 blockIdx;
extern dim3 blockDim, gridDim;
extern unsigned char *lh_emulator_shared;  // dynamic shared memory of the block
#define threadIdx (lh_emulated->index)
#define warpSize 32

// Wait until all lanes of mask that live came here with the same `run`; the last one calls it once with the arguments
// of all 32 (NULL for those outside), before any goes on.
typedef void (*lh_emulator_collective)(void *args[32]);
void lh_emulator_warp(unsigned mask, lh_emulator_collective run, void *arg);
// The same for all living threads of the block: sum is that of their values.
int lh_emulator_block(int value);
unsigned lh_emulator_live();  // lanes of the own warp that have not returned

// A copy that arrives when it is waited for.
void lh_emulator_copy_later(void *to, const void *from, int bytes, int zeros);
void lh_emulator_copy_commit();
void lh_emulator_copy_wait(int groups_left);
[[noreturn]] void lh_emulator_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#include "device_functions.h"

// --- the runtime -------------------------------------------------------------------------------------------------

enum cudaError_t {
    cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorInitializationError = 3,
    cudaErrorInvalidConfiguration = 9, cudaErrorInsufficientDriver = 35, cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101, cudaErrorIllegalAddress = 700, cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3, cudaMemcpyDefault = 4,
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97, cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76,
};
#define cudaStreamNonBlocking 1
#define cudaEventDefault 0

typedef struct lh_emulated_stream *cudaStream_t;
typedef struct lh_emulated_graph *cudaGraph_t;
typedef struct lh_emulated_graph *cudaGraphExec_t;
typedef struct lh_emulated_event *cudaEvent_t;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor;
};

#define CUDART_VERSION 12040

cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **out, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaEventCreate(cudaEvent_t *out);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t lh_emulator_func_shared(const void *kernel, size_t bytes);
template <class F>
cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute, int bytes) {
    return lh_emulator_func_shared((const void *)kernel, (size_t)bytes);
}

cudaError_t lh_emulator_launch(const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                               std::function<void()> body);

// --- for tests ---------------------------------------------------------------------------------------------------

#define LH_EMULATOR_API __attribute__((visibility("default")))
extern "C" {
// 0: threads and blocks in ascending order, 1: descending, 2: odd ones first.
LH_EMULATOR_API void lh_emulator_order(int order);
LH_EMULATOR_API void lh_emulator_limit(size_t bytes);   // of device memory
LH_EMULATOR_API size_t lh_emulator_allocated();         // device memory in use
LH_EMULATOR_API void lh_emulator_break(int launches);   // the device is lost after so many; -1: never
LH_EMULATOR_API void lh_emulator_devices(int count);    // -1: no driver, -2: an old one, -3: an old GPU, -4: a broken one
LH_EMULATOR_API void lh_emulator_refuse(int yes);       // to capture
LH_EMULATOR_API int64_t lh_emulator_launches();         // kernels that ran
LH_EMULATOR_API int64_t lh_emulator_replays();          // graphs that were launched
}

#endif
