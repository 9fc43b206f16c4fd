// What kernels need beyond plain CUDA C++: launching, dynamic shared memory, and the instructions that only PTX has.
// The one place that tells the device's compiler from the tests' emulator (tests/emulator), which runs the same kernels
// on the CPU: everything below has a twin there that means the same.
#ifndef LH_CUDA_DEVICE_CUH
#define LH_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include <tuple>

#define LH_WARP 32
#define LH_ALL_LANES 0xffffffffu

// LH_LAUNCH(kernel, grid, block, shared_bytes, stream, args...): a cudaError_t. Arguments become what the kernel takes.
#define LH_LAUNCH(...) lh_launch(__VA_ARGS__)

// More dynamic shared memory than this must be asked for: 48 KB, less what a kernel may have declared itself. What is
// then asked for is the same in every launch, since a graph's nodes must not meet a limit that was lowered after them:
// what every target has.
#define LH_SHARED_STATIC (4u << 10)
#define LH_SHARED_DEFAULT ((48u << 10) - LH_SHARED_STATIC)
#define LH_SHARED_EVERYWHERE ((99u << 10) - LH_SHARED_STATIC)

template <class... P, class... A>
cudaError_t lh_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, A... args) {
    if (shared > LH_SHARED_DEFAULT) {
        size_t most = shared > LH_SHARED_EVERYWHERE ? shared : LH_SHARED_EVERYWHERE;
        cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most);
        if (e != cudaSuccess) return e;
    }
    std::tuple<P...> converted(static_cast<P>(args)...);
#ifdef __CUDACC__
    return std::apply(
        [&](P &...p) {
            void *pointers[] = {(void *)&p...};
            return cudaLaunchKernel((const void *)kernel, grid, block, pointers, shared, stream);
        },
        converted);
#else
    return lh_emulator_launch((const void *)kernel, grid, block, shared, stream,
                              [=]() { std::apply(kernel, converted); });
#endif
}

// Shared memory of the size that the launch gave, 16-byte aligned.
static __device__ __forceinline__ unsigned char *lh_shared_memory() {
#ifdef __CUDACC__
    extern __shared__ __align__(16) unsigned char lh_dynamic_shared[];
    return lh_dynamic_shared;
#else
    return lh_emulator_shared;
#endif
}

// 16 bytes from global to shared memory, behind the back of the registers; zeros where !valid (global is not read
// then). Both addresses are multiples of 16. What was copied is there after commit, wait and a barrier.
static __device__ __forceinline__ void lh_cp_async16(void *shared, const void *global, bool valid = true) {
#ifdef __CUDACC__
    unsigned to = (unsigned)__cvta_generic_to_shared(shared);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#else
    if (((uintptr_t)shared | (valid ? (uintptr_t)global : 0)) % 16) lh_emulator_fail("cp.async of an odd address");
    lh_emulator_copy_later(shared, global, valid ? 16 : 0, valid ? 0 : 16);
#endif
}

static __device__ __forceinline__ void lh_cp_async_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#else
    lh_emulator_copy_commit();
#endif
}

// Until at most `left` of the groups this thread committed are still under way.
template <int left>
static __device__ __forceinline__ void lh_cp_async_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;\n" ::"n"(left) : "memory");
#else
    lh_emulator_copy_wait(left);
#endif
}

// --- tensor cores ------------------------------------------------------------------------------------------------
// A warp multiplies: D (16, 8) float += A (16, 16) half . B (16, 8) half. With g = lane / 4 and t = lane % 4 a lane
// has, two halves each,
//   a[0]: A[g][2t..]     a[1]: A[g + 8][2t..]     a[2]: A[g][2t + 8..]     a[3]: A[g + 8][2t + 8..]
//   b[0]: B[2t..][g]     b[1]: B[2t + 8..][g]
//   d[0], d[1]: D[g][2t..]     d[2], d[3]: D[g + 8][2t..]

#ifndef __CUDACC__
struct lh_mma_args {
    float *d;
    const uint32_t *a, *b;
};

inline void lh_mma_emulated(void *args[32]) {
    float a[16][16], b[16][8];
    auto low = [](uint32_t v) { return __half2float(__ushort_as_half((unsigned short)v)); };
    for (int lane = 0; lane < 32; lane++) {
        auto *m = (lh_mma_args *)args[lane];
        if (!m) lh_emulator_fail("mma without lane %d", lane);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 2; j++) a[g + i % 2 * 8][2 * t + i / 2 * 8 + j] = low(m->a[i] >> (16 * j));
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 2; j++) b[2 * t + i * 8 + j][g] = low(m->b[i] >> (16 * j));
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            float sum = ((lh_mma_args *)args[lane])->d[i];
            for (int k = 0; k < 16; k++) sum += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
            ((lh_mma_args *)args[lane])->d[i] = sum;
        }
}
#endif

static __device__ __forceinline__ void lh_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    lh_mma_args m = {d, a, b};
    lh_emulator_warp(LH_ALL_LANES, lh_mma_emulated, &m);
#endif
}

// The same with bytes: D (16, 8) int32 += A (16, 32) int8 . B (32, 8) int8. A lane has, four bytes each,
//   a[0]: A[g][4t..]     a[1]: A[g + 8][4t..]     a[2]: A[g][4t + 16..]     a[3]: A[g + 8][4t + 16..]
//   b[0]: B[4t..][g]     b[1]: B[4t + 16..][g]
// and d as above.
#ifndef __CUDACC__
struct lh_mma_s8_args {
    int32_t *d;
    const uint32_t *a, *b;
};

inline void lh_mma_s8_emulated(void *args[32]) {
    int a[16][32], b[32][8];
    for (int lane = 0; lane < 32; lane++) {
        auto *m = (lh_mma_s8_args *)args[lane];
        if (!m) lh_emulator_fail("mma without lane %d", lane);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) a[g + i % 2 * 8][4 * t + i / 2 * 16 + j] = (int8_t)(m->a[i] >> (8 * j));
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++) b[4 * t + i * 16 + j][g] = (int8_t)(m->b[i] >> (8 * j));
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            int sum = 0;
            for (int k = 0; k < 32; k++) sum += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
            ((lh_mma_s8_args *)args[lane])->d[i] += sum;
        }
}
#endif

static __device__ __forceinline__ void lh_mma_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    lh_mma_s8_args m = {d, a, b};
    lh_emulator_warp(LH_ALL_LANES, lh_mma_s8_emulated, &m);
#endif
}

// Four 8 x 8 matrices of halves from shared memory: lane i gives the address of row i % 8 of matrix i / 8 (16 bytes,
// 16-byte aligned); out[m] of a lane is matrix m at row lane / 4, columns 2 * (lane % 4)... With trans each matrix is
// transposed on the way.
#ifndef __CUDACC__
struct lh_ldmatrix_args {
    const uint16_t *row;
    uint32_t *out;
};

template <bool trans>
inline void lh_ldmatrix_emulated(void *args[32]) {
    for (int lane = 0; lane < 32; lane++) {
        if (!args[lane]) lh_emulator_fail("ldmatrix without lane %d", lane);
        for (int m = 0; m < 4; m++) {
            uint32_t v = 0;
            for (int j = 0; j < 2; j++) {
                int r = trans ? lane % 4 * 2 + j : lane / 4, c = trans ? lane / 4 : lane % 4 * 2 + j;
                v |= (uint32_t)((lh_ldmatrix_args *)args[m * 8 + r])->row[c] << (16 * j);
            }
            ((lh_ldmatrix_args *)args[lane])->out[m] = v;
        }
    }
}
#endif

template <bool trans = false>
static __device__ __forceinline__ void lh_ldmatrix(uint32_t out[4], const void *row) {
#ifdef __CUDACC__
    unsigned at = (unsigned)__cvta_generic_to_shared(row);
    if (trans)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(at)
                     : "memory");
#else
    if ((uintptr_t)row % 16) lh_emulator_fail("ldmatrix of an odd address");
    lh_ldmatrix_args m = {(const uint16_t *)row, out};
    lh_emulator_warp(LH_ALL_LANES, lh_ldmatrix_emulated<trans>, &m);
#endif
}

// --- small things ------------------------------------------------------------------------------------------------

// 2^x, the instruction: results below the normal floats are zeros.
static __device__ __forceinline__ float lh_exp2(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

static __device__ __forceinline__ float lh_warp_sum(float v) {
    for (int bits = LH_WARP / 2; bits; bits /= 2) v += __shfl_xor_sync(LH_ALL_LANES, v, bits);
    return v;
}

static __device__ __forceinline__ float lh_warp_max(float v) {
    for (int bits = LH_WARP / 2; bits; bits /= 2) v = fmaxf(v, __shfl_xor_sync(LH_ALL_LANES, v, bits));
    return v;
}

// Two floats as two halves, the first in the low bits. Beyond the range of halves: the largest of them.
static __device__ __forceinline__ uint32_t lh_pack_half2(float x, float y) {
    const float most = 65504.0f;
    __half2 h = __floats2half2_rn(fminf(fmaxf(x, -most), most), fminf(fmaxf(y, -most), most));
    return (uint32_t)__half_as_ushort(__low2half(h)) | (uint32_t)__half_as_ushort(__high2half(h)) << 16;
}

#endif
