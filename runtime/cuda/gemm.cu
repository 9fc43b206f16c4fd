// y = x . w^T for many tokens on tensor cores: halves in, floats out. A block takes a tile of 128 tokens by 128 rows of
// weights and goes through the columns 32 at a time, three stages of which are in shared memory; its eight warps take
// 64 by 32 each. Both inputs lie with their columns together, as the tensor cores want them.
#include "matmul.h"

#define TILE_M 128
#define TILE_N 128
#define TILE_K 32
#define STAGES 3
#define THREADS 256
#define WARP_M 64
#define WARP_N 32
#define STAGE_HALVES ((TILE_M + TILE_N) * TILE_K)
// Tiles of rows that blocks which run together share: their weights and tokens stay in the second-level cache.
#define GROUP_M 8

// Where the 16-byte piece `piece` (0..3) of a row lies in a tile: permuted so that eight rows of one column of pieces,
// which is what a matrix load takes, fall on different banks.
static __device__ __forceinline__ int at_piece(int row, int piece) {
    return row * TILE_K + (piece ^ (row / 2 % 4)) * 8;
}

// rows x TILE_K of a matrix of n_rows from row and column on; zeros beyond it.
static __device__ __forceinline__ void fetch_tile(__half *to, const __half *from, int64_t ld, int row, int n_rows,
                                                  int col, int n_cols, int rows) {
    for (int i = (int)threadIdx.x; i < rows * (TILE_K / 8); i += THREADS) {
        int r = i / (TILE_K / 8), piece = i % (TILE_K / 8);
        bool valid = row + r < n_rows && col + piece * 8 < n_cols;
        const __half *at = from + (int64_t)(row + r) * ld + col + piece * 8;
        lh_cp_async16(to + at_piece(r, piece), valid ? at : from, valid);
    }
}

static __global__ void __launch_bounds__(THREADS) gemm_kernel(lh_cuda_gemm g, int tiles_m, int tiles_n) {
    __half *shared = (__half *)lh_shared_memory();
    int lane = (int)threadIdx.x % LH_WARP, warp = (int)threadIdx.x / LH_WARP;
    int warp_m = warp / (TILE_N / WARP_N) * WARP_M, warp_n = warp % (TILE_N / WARP_N) * WARP_N;

    // Blocks in groups of GROUP_M tiles of tokens by all rows.
    int group = (int)blockIdx.x / (GROUP_M * tiles_n), in_group = (int)blockIdx.x % (GROUP_M * tiles_n);
    int group_m = min(GROUP_M, tiles_m - group * GROUP_M);
    int m0 = (group * GROUP_M + in_group % group_m) * TILE_M, n0 = in_group / group_m * TILE_N;

    int steps = (g.k + TILE_K - 1) / TILE_K;
    auto fetch = [&](int step) {
        if (step < steps) {
            __half *to = shared + step % STAGES * STAGE_HALVES;
            fetch_tile(to, g.x, g.ld_x, m0, g.m, step * TILE_K, g.k, TILE_M);
            fetch_tile(to + TILE_M * TILE_K, g.w, g.ld_w, n0, g.n, step * TILE_K, g.k, TILE_N);
        }
        lh_cp_async_commit();
    };
    for (int s = 0; s < STAGES - 1; s++) fetch(s);

    float sum[WARP_M / 16][WARP_N / 8][4];
#pragma unroll
    for (int i = 0; i < WARP_M / 16; i++)
#pragma unroll
        for (int j = 0; j < WARP_N / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0;
    // Sixteenths of the tile without tokens are left out: a short batch costs what it is.
    int tokens = g.m - m0 - warp_m;

    for (int s = 0; s < steps; s++) {
        lh_cp_async_wait<STAGES - 2>();
        __syncthreads();
        fetch(s + STAGES - 1);  // into the stage that all have left
        const __half *x = shared + s % STAGES * STAGE_HALVES, *w = x + TILE_M * TILE_K;
#pragma unroll
        for (int h = 0; h < TILE_K / 16; h++) {
            // Two tiles of 8 rows a load: lanes 0-7 and 8-15 give the two halves of the columns of the first.
            uint32_t b[WARP_N / 8][2];
#pragma unroll
            for (int j = 0; j < WARP_N / 8; j += 2) {
                uint32_t four[4];
                int r = warp_n + j * 8 + lane / 16 * 8 + lane % 8;
                lh_ldmatrix(four, w + at_piece(r, h * 2 + lane / 8 % 2));
                b[j][0] = four[0], b[j][1] = four[1], b[j + 1][0] = four[2], b[j + 1][1] = four[3];
            }
#pragma unroll
            for (int i = 0; i < WARP_M / 16; i++) {
                if (i * 16 >= tokens) break;
                uint32_t a[4];
                lh_ldmatrix(a, x + at_piece(warp_m + i * 16 + lane % 16, h * 2 + lane / 16));
#pragma unroll
                for (int j = 0; j < WARP_N / 8; j++) lh_mma_f16(sum[i][j], a, b[j]);
            }
        }
    }

#pragma unroll
    for (int i = 0; i < WARP_M / 16; i++)
#pragma unroll
        for (int j = 0; j < WARP_N / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int m = m0 + warp_m + i * 16 + lane / 4 + e / 2 * 8, n = n0 + warp_n + j * 8 + lane % 4 * 2 + e % 2;
                if (m >= g.m || n >= g.n) continue;
                float *y = g.y + m * g.ld_y + n, v = sum[i][j][e];
                if (g.bias) v += g.bias[n];
                *y = g.add ? *y + v : v;
            }
}

lh_status lh_cuda_gemm_run(lh_cuda *c, const lh_cuda_gemm *g) {
    int tiles_m = (g->m + TILE_M - 1) / TILE_M, tiles_n = (g->n + TILE_N - 1) / TILE_N;
    size_t shared = STAGES * STAGE_HALVES * sizeof(__half);
    LH_CUDA_RUN(c, gemm_kernel, (unsigned)(tiles_m * tiles_n), THREADS, shared, *g, tiles_m, tiles_n);
    return LH_OK;
}
