// The emulator itself: that barriers, warp operations, copies and tensor cores mean what they should, in every order of
// threads, and that mistakes are caught. With an argument: make that mistake.
#include <stdio.h>
#include <stdlib.h>

#include "device.cuh"

static int failures;

static void check(bool ok, const char *what) {
    if (ok) return;
    printf("FAILED: %s\n", what);
    failures++;
}

// out[block] = the sum of in's stretch of that block, over shared memory and shuffles.
static __global__ void sum_kernel(const float *in, int n, float *out) {
    float *part = (float *)lh_shared_memory();
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    float v = lh_warp_sum(i < n ? in[i] : 0);
    if (threadIdx.x % LH_WARP == 0) part[threadIdx.x / LH_WARP] = v;
    __syncthreads();
    if (threadIdx.x != 0) return;
    float sum = 0;
    for (unsigned w = 0; w < blockDim.x / LH_WARP; w++) sum += part[w];
    out[blockIdx.x] = sum;
}

// D = A . B, A (16, 16) row-major, B given as its transpose (8, 16), by copies, ldmatrix and one mma.
static __global__ void mma_kernel(const __half *a, const __half *bt, float *d) {
    __half *sa = (__half *)lh_shared_memory(), *sb = sa + 16 * 16;
    int lane = (int)threadIdx.x;
    lh_cp_async16(sa + lane * 8, a + lane * 8);
    lh_cp_async16(sb + lane % 16 * 8, bt + lane % 16 * 8, lane < 16);
    lh_cp_async_commit();
    lh_cp_async_wait<0>();
    __syncthreads();
    // Lanes 16 and up wrote zeros over what lanes 0..15 copied, unless they lose the race: copy B once more, alone.
    if (lane < 16) lh_cp_async16(sb + lane * 8, bt + lane * 8);
    lh_cp_async_commit();
    lh_cp_async_wait<0>();
    __syncthreads();
    uint32_t fa[4], fb[4];
    float fd[4] = {0, 0, 0, 0};
    lh_ldmatrix(fa, sa + (lane % 16) * 16 + lane / 16 * 8);
    lh_ldmatrix(fb, sb + (lane % 8) * 16 + lane / 8 % 2 * 8);
    lh_mma_f16(fd, fa, fb);
    for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = fd[i];
}

static __global__ void votes_kernel(int *out) {
    int lane = (int)threadIdx.x;
    out[lane] = (int)__ballot_sync(LH_ALL_LANES, lane % 3 == 0);
    out[32 + lane] = __shfl_up_sync(LH_ALL_LANES, lane, 1);
    if (lane < 16) out[64 + lane] = __reduce_max_sync(0xffff, lane - 20);
}

static __global__ void wrong_kernel(int mistake, const float *in, float *out) {
    float *shared = (float *)lh_shared_memory();
    if (mistake == 1 && threadIdx.x == 0) out[0] = in[64];               // beyond the allocation
    if (mistake == 2 && threadIdx.x % 2) __syncwarp();                   // lanes that disagree
    if (mistake == 2 && threadIdx.x % 2 == 0) out[0] = __shfl_sync(LH_ALL_LANES, 1.0f, 0);
    if (mistake == 3) out[threadIdx.x] = __shfl_sync(0xff, 1.0f, 0);     // lanes outside the mask
    if (mistake == 4) shared[threadIdx.x + 1] = 0;                       // beyond shared memory
    if (mistake == 5) out[0] = (float)((const uint4 *)((const char *)in + 4))->x;  // misaligned
    if (mistake == 6 && threadIdx.x == 0) __syncwarp();                  // lanes 1..31 never come
    if (mistake == 6 && threadIdx.x > 0) __syncthreads();
}

template <class T>
static T *device_copy(const T *host, size_t n) {
    T *p;
    if (cudaMalloc((void **)&p, n * sizeof(T)) != cudaSuccess) abort();
    if (host) cudaMemcpyAsync(p, host, n * sizeof(T), cudaMemcpyHostToDevice, 0);
    return p;
}

static void test_sums() {
    enum { N = 1000, BLOCK = 128, GRID = (N + BLOCK - 1) / BLOCK };
    float in[N], out[GRID], *d_in, *d_out = device_copy<float>(NULL, GRID);
    for (int i = 0; i < N; i++) in[i] = (float)(i % 17 - 8);
    d_in = device_copy(in, N);
    size_t shared = BLOCK / LH_WARP * sizeof(float);
    check(LH_LAUNCH(sum_kernel, GRID, BLOCK, shared, 0, d_in, N, d_out) == cudaSuccess, "launch of sums");
    cudaMemcpyAsync(out, d_out, sizeof out, cudaMemcpyDeviceToHost, 0);
    for (int b = 0; b < GRID; b++) {
        float sum = 0;
        for (int i = b * BLOCK; i < N && i < (b + 1) * BLOCK; i++) sum += in[i];
        check(out[b] == sum, "sum of a block");
    }
    cudaFree(d_in);
    cudaFree(d_out);
}

static void test_mma() {
    __half a[256], bt[128];
    float d[128];
    for (int i = 0; i < 256; i++) a[i] = __half((float)(i * 7 % 23 - 11));
    for (int i = 0; i < 128; i++) bt[i] = __half((float)(i * 5 % 19 - 9));
    __half *da = device_copy(a, 256), *db = device_copy(bt, 128);
    float *dd = device_copy<float>(NULL, 128);
    check(LH_LAUNCH(mma_kernel, 1, 32, 384 * sizeof(__half), 0, da, db, dd) == cudaSuccess, "launch of mma");
    cudaMemcpyAsync(d, dd, sizeof d, cudaMemcpyDeviceToHost, 0);
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) {
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += (float)a[r * 16 + k] * (float)bt[c * 16 + k];
            check(d[r * 8 + c] == sum, "mma");
        }
    cudaFree(da);
    cudaFree(db);
    cudaFree(dd);
}

static void test_votes() {
    int out[80], *d = device_copy<int>(NULL, 80);
    check(LH_LAUNCH(votes_kernel, 1, 32, 0, 0, d) == cudaSuccess, "launch of votes");
    cudaMemcpyAsync(out, d, sizeof out, cudaMemcpyDeviceToHost, 0);
    for (int i = 0; i < 32; i++) {
        check((unsigned)out[i] == 0x49249249u, "ballot");
        check(out[32 + i] == (i ? i - 1 : 0), "shuffle up");
        if (i < 16) check(out[64 + i] == -5, "maximum of half a warp");
    }
    cudaFree(d);
}

// Every half survives the way to a float and back, and floats round to the nearest.
static void test_halves() {
    for (int i = 0; i < 65536; i++) {
        float f = lh_emulator_half_to_float((uint16_t)i);
        if (f == f) check(lh_emulator_float_to_half(f) == i, "half there and back");
    }
    check(lh_emulator_float_to_half(1.0f + 0x1p-11f) == 0x3c00, "a tie goes to even");
    check(lh_emulator_float_to_half(1.0f + 3 * 0x1p-11f) == 0x3c02, "a tie goes to even, up");
    check(lh_emulator_float_to_half(65519.0f) == 0x7bff, "the largest");
    check(lh_emulator_float_to_half(65520.0f) == 0x7c00, "what rounds to infinity");
}

int main(int argc, char **argv) {
    if (argc > 1) {
        float in[64] = {0}, *d_in = device_copy(in, 64), *d_out = device_copy(in, 64);
        LH_LAUNCH(wrong_kernel, 1, 64, 64 * sizeof(float), 0, atoi(argv[1]), d_in, d_out);
        return 0;
    }
    for (int order = 0; order < 3; order++) {
        lh_emulator_order(order);
        test_sums();
        test_mma();
        test_votes();
    }
    test_halves();
    check(lh_emulator_allocated() == 0, "memory is given back");
    if (!failures) printf("ok\n");
    return failures != 0;
}
