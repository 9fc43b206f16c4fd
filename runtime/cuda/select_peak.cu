// Scores of scheme `peak` (peak.h): the best product of a query with any key of a chunk, on integer tensor cores.
//
// A block has the queries of some tokens, for one choice, in shared memory as bytes, and runs through a slice of the
// chunks. A warp takes a chunk: its codes go from memory to registers once, in the very order in which the
// tensor cores want them, and meet one tile of 16 queries after the other. Products are exact, so their order does not
// matter, and scores are those of the CPU.
#include <limits.h>

#include "reduce.cuh"
#include "select.cuh"

#define THREADS 256
#define WARPS (THREADS / LH_WARP)
#define MAX_ROWS 256   // of a block: queries, rounded up to tiles
#define TILE 16        // rows of one multiplication
#define STAGE 32       // chunks whose best products lie in shared memory at a time
#define SEGMENT 64     // keys in registers at a time
#define STEP_DIMS 32   // components of one multiplication

typedef struct peak_grid {
    int32_t tokens;    // of a block
    int32_t tiles;     // of a block
    int32_t slice;     // chunks of a block: whole stages
} peak_grid;

static int32_t steps_of(int32_t head_dim) { return (lh_peak_dims(head_dim) + STEP_DIMS - 1) / STEP_DIMS; }

// Queries in steps, as if every chunk lay at the far end of the window, where nearly all of them do: rows of the block,
// zeros behind the last. A warp takes AT_ONCE times as many rows as it has lanes for, so that their loads are under way
// together.
#define AT_ONCE 4

template <int steps>
static __device__ __forceinline__ void prepare_rows(const lh_attention_args &x, int token, int head, int rows,
                                                    int padded, signed char *queries, float *step, int *zero) {
    const lh_attention &a = x.a;
    const int width = steps * STEP_DIMS, lanes = steps == 1 ? LH_WARP / 2 : LH_WARP, pairs = steps == 4 ? 2 : 1;
    const int side_by_side = LH_WARP / lanes;
    int dim = a.head_dim, dims = lh_peak_dims(dim), levels = lh_peak_query_levels(dims);
    int warp = (int)threadIdx.x / LH_WARP, lane = (int)threadIdx.x % lanes, side = (int)threadIdx.x % LH_WARP / lanes;
    const float *far = a.rope_far;
    for (int base = warp * side_by_side * AT_ONCE; base < padded; base += WARPS * side_by_side * AT_ONCE) {
        float slow[AT_ONCE][pairs][2];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int r = base + u * side_by_side + side, t = token + r;
            const float *q = a.q + ((size_t)t * a.n_head + head) * dim;
            const float *near = a.rope_offset + 2 * (size_t)dim * (r < rows ? lh_position(x, t) % a.plan.chunk : 0);
#pragma unroll
            for (int i = 0; i < pairs; i++) {
                int at = dim - dims + 2 * (lane + i * lanes);
                slow[u][i][0] = slow[u][i][1] = 0;
                if (r >= rows || at >= dim) continue;
                float here[2];
                for (int j = 0; j < 2; j++) here[j] = lh_rotated(q, near, 1, a.scale, dim, at + j);
                for (int j = 0; j < 2; j++)
                    slow[u][i][j] =
                        __fadd_rn(__fmul_rn(here[j], far[at + j]), __fmul_rn(here[j ^ 1], far[dim + at + j]));
            }
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int r = base + u * side_by_side + side, sum = 0;
            float top = 0;
            for (int i = 0; i < pairs; i++) top = fmaxf(top, fmaxf(fabsf(slow[u][i][0]), fabsf(slow[u][i][1])));
            for (int bits = lanes / 2; bits; bits /= 2) top = fmaxf(top, __shfl_xor_sync(LH_ALL_LANES, top, bits));
            bool some = lh_peak_some(top);
            float per_step = some ? __fdiv_rn((float)levels, top) : 0;
            for (int i = 0; i < pairs; i++) {
                // Beyond the components that are compared everything is zero.
                int even = lh_peak_level(slow[u][i][0], per_step, levels),
                    odd = lh_peak_level(slow[u][i][1], per_step, levels);
                uchar2 both = {(unsigned char)even, (unsigned char)odd};
                if (r < padded) *(uchar2 *)(queries + r * width + 2 * (lane + i * lanes)) = both;
                sum += even + odd;
            }
            for (int bits = lanes / 2; bits; bits /= 2) sum += __shfl_xor_sync(LH_ALL_LANES, sum, bits);
            if (lane == 0 && r < padded) {
                step[r] = some ? __fdiv_rn(top, (float)levels) : 0;
                zero[r] = LH_PEAK_ZERO * sum;
            }
        }
    }
}

// The codes of up to SEGMENT keys as operands: of 16 keys, two tiles of eight, `steps` times 32 components.
// Lane (g, t) holds pairs 4t, ..., 4t + 3 of keys 2g and 2g + 1: two loads of their upper bits and one of the lower ones,
// sorted by pair and key.
template <int steps>
static __device__ __forceinline__ void load_codes(const char *upper, const char *lower, int n_keys, int first,
                                                  int groups, uint32_t b[SEGMENT / 16][steps][2][2]) {
    int lane = (int)threadIdx.x % LH_WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < SEGMENT / 16; j++) {
        if (first + 16 * j >= n_keys) break;
#pragma unroll
        for (int s = 0; s < steps; s++) {
            // Where there are no components queries are zeros, and any code will do.
            int group = 4 * s + t < groups ? 4 * s + t : 0;
            size_t row = 2 * (size_t)n_keys, at = group * row + 2 * (size_t)(first + 16 * j + 2 * g);
            uint32_t low = __ldg((const uint32_t *)(lower + at)), word[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t high = __ldg((const uint32_t *)(upper + at + (group + i / 2) * row));
                word[i] = (high >> i % 2 * LH_PEAK_HIGH_BITS & 0x0f0f0f0f) << LH_PEAK_LOW_BITS |
                          (low >> i * LH_PEAK_LOW_BITS & 0x03030303);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                b[j][s][0][i] = __byte_perm(word[2 * i], word[2 * i + 1], 0x5410);
                b[j][s][1][i] = __byte_perm(word[2 * i], word[2 * i + 1], 0x7632);
            }
        }
    }
}

// The best product of each row of a tile with the keys of a segment, to lanes 4g: rows g and g + 8. FULL: the segment
// is.
template <bool FULL, int steps>
static __device__ __forceinline__ void best_of(const signed char *rows, int keys,
                                               const uint32_t b[SEGMENT / 16][steps][2][2], int best[2]) {
    int lane = (int)threadIdx.x % LH_WARP, g = lane / 4, t = lane % 4;
    uint32_t q[steps][4];
#pragma unroll
    for (int s = 0; s < steps; s++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint2 eight = *(const uint2 *)(rows + (g + 8 * i) * steps * STEP_DIMS + s * STEP_DIMS + 8 * t);
            q[s][i] = eight.x;
            q[s][i + 2] = eight.y;
        }
    best[0] = best[1] = INT_MIN;
#pragma unroll
    for (int j = 0; j < SEGMENT / 16; j++) {
        if (!FULL && 16 * j >= keys) break;
#pragma unroll
        for (int half_of = 0; half_of < 2; half_of++) {
            int d[4] = {0, 0, 0, 0};
#pragma unroll
            for (int s = 0; s < steps; s++) lh_mma_s8(d, q[s], b[j][s][half_of]);
            best[0] = max(best[0], max(d[0], d[1]));
            best[1] = max(best[1], max(d[2], d[3]));
        }
    }
    for (int i = 0; i < 2; i++) {
        best[i] = max(best[i], __shfl_xor_sync(LH_ALL_LANES, best[i], 1));
        best[i] = max(best[i], __shfl_xor_sync(LH_ALL_LANES, best[i], 2));
    }
}

template <int steps>
static __global__ void __launch_bounds__(THREADS) score_peak_kernel(lh_attention_args x, lh_score_block block,
                                                                    peak_grid grid) {
    const lh_attention &a = x.a;
    const int width = steps * STEP_DIMS;
    int chooser = (int)blockIdx.z, head = a.leader[chooser], summary_of_head = lh_summary_of(&a, head);
    int token = (int)blockIdx.y * grid.tokens, rows = min(grid.tokens, block.n - token);
    int candidates = lh_candidates(x, block), slice = (int)blockIdx.x * grid.slice;
    int warp = (int)threadIdx.x / LH_WARP, lane = (int)threadIdx.x % LH_WARP;
    int groups = lh_peak_stored(a.head_dim) / LH_PEAK_GROUP, n_keys = lh_peak_keys(a.plan.chunk);
    if (head < 0 || slice >= candidates) return;

    float *step = (float *)lh_shared_memory();                            // (tiles * TILE)
    int *zero = (int *)(step + grid.tiles * TILE);                        // (tiles * TILE)
    short *best = (short *)(zero + grid.tiles * TILE);  // (tiles * TILE, STAGE + 2): products fit 16 bits
    signed char *queries = (signed char *)(best + grid.tiles * TILE * (STAGE + 2));  // (tiles * TILE, width)
    prepare_rows<steps>(x, block.token + token, head, rows, grid.tiles * TILE, queries, step, zero);
    __syncthreads();

    int end = min(candidates, slice + grid.slice);
    for (int stage = slice; stage < end; stage += STAGE) {
        for (int s = warp; s < STAGE && stage + s < end; s += WARPS) {
            const char *upper = lh_summary_at(&a, summary_of_head, 1 + stage + s);
            const char *lower = lh_detail_at(&a, summary_of_head, 1 + stage + s);
            for (int first = 0; first < n_keys; first += SEGMENT) {
                uint32_t b[SEGMENT / 16][steps][2][2];
                load_codes<steps>(upper, lower, n_keys, first, groups, b);
                for (int tile = 0; tile < grid.tiles; tile++) {
                    int found[2];
                    const signed char *at = queries + tile * TILE * width;
                    if (n_keys - first >= SEGMENT) best_of<true>(at, SEGMENT, b, found);
                    else best_of<false>(at, n_keys - first, b, found);
                    for (int i = 0; lane % 4 == 0 && i < 2; i++) {
                        short *to = best + (tile * TILE + lane / 4 + 8 * i) * (STAGE + 2) + s;
                        if (first == 0 || found[i] > *to) *to = (short)found[i];
                    }
                    __syncwarp();  // the next product wants all lanes
                }
            }
        }
        __syncthreads();
        for (int r = warp; r < rows && stage + lane < end; r += WARPS) {
            const char *summary = lh_summary_at(&a, summary_of_head, 1 + stage + lane);
            float of_chunk = *(const float *)(summary + lh_peak_upper(a.head_dim, a.plan.chunk));
            float of_query = __fmul_rn((float)(best[r * (STAGE + 2) + lane] - zero[r]), step[r]);
            block.scores[((size_t)(token + r) * a.n_select + chooser) * block.stride + stage + lane] =
                __fmul_rn(of_query, of_chunk);
        }
        __syncthreads();
    }
}

template <int steps>
static lh_status run(lh_cuda *c, const lh_attention_args *x, const lh_score_block *b) {
    peak_grid g;
    g.tokens = LH_MIN(b->n, MAX_ROWS);
    g.tiles = (g.tokens + TILE - 1) / TILE;
    // Preparing a block's queries costs about as much as meeting a few chunks. Where there is one token, memory is what
    // counts, and many blocks read it at once.
    g.slice = b->n == 1 ? STAGE : 4 * STAGE;
    dim3 grid((unsigned)((b->candidates + g.slice - 1) / g.slice), (unsigned)((b->n + g.tokens - 1) / g.tokens),
              (unsigned)x->a.n_select);
    size_t rows = (size_t)g.tiles * TILE;
    size_t shared = rows * (sizeof(float) + sizeof(int) + (STAGE + 2) * sizeof(short) + steps * STEP_DIMS);
    LH_CUDA_RUN(c, score_peak_kernel<steps>, grid, THREADS, shared, *x, *b, g);
    return LH_OK;
}

lh_status lh_cuda_score_peak(lh_cuda *c, const lh_attention_args *x, const lh_score_block *b) {
    switch (steps_of(x->a.head_dim)) {
        case 1: return run<1>(c, x, b);
        case 2: return run<2>(c, x, b);
        default: return run<4>(c, x, b);
    }
}
