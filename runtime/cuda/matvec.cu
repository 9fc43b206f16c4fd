// project for a few tokens. The weights are read once, and reading them is what it costs: a warp takes a few rows of a
// matrix, streams them through a ring in shared memory in pieces of 16 bytes, whatever the alignment of their blocks,
// and decodes them from there, a lane eight values at a time. Norm and SwiGLU are applied by every block to its own
// copy of the activations, which saves a launch, as long as they cost less than one. Sums are floats, in an order that
// depends on shapes alone.
#include "decode.cuh"
#include "matmul.h"
#include "prologue.cuh"

#define BLOCK_ROWS 32  // of a block whose warps take several rows
#define THREADS 256    // of a block that prepares activations
#define LANE_VALUES 8
#define WARP_VALUES (LANE_VALUES * LH_WARP)
// Values of SwiGLU that a multiprocessor computes, over all its blocks, before a launch of their own is cheaper: an
// estimate, from a tenth of a cycle for each.
#define OWN_VALUES 24576
#define SHARED_BUDGET LH_SHARED_EVERYWHERE

// Matrices of one type that read the same activations.
typedef struct matvec_job {
    const unsigned char *w[3];
    const float *bias[3];
    float *y[3];
    int64_t stride[3];         // of y, between tokens
    int32_t rows_end[3];       // of the matrices put one under the other
    int32_t n_w;
    int32_t n_cols;
    int64_t row_size;
    bool add;
    int32_t n;                 // tokens
    lh_prologue before;
    const float *prepared;     // (n, pitch) what comes of it; NULL: every block prepares it for itself
} matvec_job;

// How rows of a type pass through the ring: values a stage, and stages on their way.
template <int type>
struct ring {
    typedef lh_decoder<type> D;
    enum {
        bytes_256 = WARP_VALUES / D::len * D::size,
        values = WARP_VALUES * (bytes_256 >= 256 ? 1 : bytes_256 >= 128 ? 2 : 4),
        bytes = values / D::len * D::size,
        // Room for a row's stretch that begins anywhere between multiples of 16.
        pitch = ((bytes + 15) / 16 + 1) * 16,
        depth = bytes >= 1024 ? 2 : bytes >= 512 ? 3 : 4,
    };
};

// --- activations -------------------------------------------------------------------------------------------------

// Token t through its prologue, from value `begin` in steps, by all threads of a block; out may be shared or global and
// is filled up to pitch with 0. What several values need is read before the first is written: one wait for all.
static __device__ __forceinline__ void prepare(const lh_prologue &before, int t, float *out, int pitch, int begin,
                                               int step, float *part) {
    float factor = lh_prologue_factor(before, t, part), v[4];
    for (int i = begin; i < pitch; i += 4 * step) {
        lh_prologue_values(before, t, factor, i, step, v);
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (i + j * step < pitch) out[i + j * step] = v[j];
    }
}

static __global__ void __launch_bounds__(THREADS) prepare_kernel(lh_prologue before, float *out, int pitch) {
    __shared__ float part[THREADS / LH_WARP];
    int t = (int)blockIdx.y, begin = (int)(blockIdx.x * THREADS + threadIdx.x);
    prepare(before, t, out + (int64_t)t * pitch, pitch, begin, (int)gridDim.x * THREADS, part);
}

// --- rows --------------------------------------------------------------------------------------------------------

// Blocks that a multiprocessor has registers for. Said, because the compiler's own guess spills for one block more.
template <int type, int WARPS, int ROWS>
struct residents {
    enum {
        wide = type == LH_TYPE_Q3_K || (ROWS == 4 && (type == LH_TYPE_Q5_1 || type == LH_TYPE_Q5_K)),
        blocks = (WARPS > 8 ? 2 : 3) - wide,
    };
};

// ROWS rows of a warp times TOKENS tokens; job.n <= TOKENS.
template <int type, int WARPS, int ROWS, int TOKENS>
static __global__ void __launch_bounds__(WARPS *LH_WARP, (residents<type, WARPS, ROWS>::blocks))
    matvec_kernel(matvec_job job, int pitch) {
    typedef ring<type> R;
    typedef lh_decoder<type> D;
    __shared__ float part[WARPS];
    int lane = (int)threadIdx.x % LH_WARP, warp = (int)threadIdx.x / LH_WARP;
    unsigned char *stages = lh_shared_memory() + warp * (R::depth * ROWS * R::pitch);
    float *own = (float *)(lh_shared_memory() + WARPS * (R::depth * ROWS * R::pitch));

    // The warp's rows. Those behind the last matrix are read as the last row and dropped.
    int first = ((int)blockIdx.x * WARPS + warp) * ROWS, total = job.rows_end[job.n_w - 1];
    const unsigned char *row[ROWS];
    int lead_0[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int at = first + r < total ? first + r : total - 1, i = 0;
        while (at >= job.rows_end[i]) i++;
        row[r] = job.w[i] + (int64_t)(at - (i ? job.rows_end[i - 1] : 0)) * job.row_size;
        lead_0[r] = (int)((uintptr_t)row[r] % 16);
    }
    // How far behind a multiple of 16 a row's stretch begins: for most types the same in every stage.
    auto lead_of = [&](int r, int stage) {
        return R::bytes % 16 ? (lead_0[r] + stage * R::bytes) & 15 : lead_0[r];
    };
    int n_stages = (job.n_cols + R::values - 1) / R::values;

    auto fetch = [&](int stage) {
        if (stage < n_stages) {
            unsigned char *to = stages + stage % R::depth * (ROWS * R::pitch);
            int values = min((int)R::values, job.n_cols - stage * R::values);
            int bytes = values / D::len * D::size;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                int lead = lead_of(r, stage);
                const unsigned char *from = row[r] + (int64_t)stage * R::bytes - lead;
                // To a bound that the compiler knows: for most types that leaves one copy and no loop.
#pragma unroll
                for (int begin = 0; begin < R::pitch; begin += LH_WARP * 16) {
                    int piece = begin + lane * 16;
                    if (piece < lead + bytes) lh_cp_async16(to + r * R::pitch + piece, from + piece);
                }
            }
        }
        lh_cp_async_commit();
    };

    for (int s = 0; s < R::depth - 1; s++) fetch(s);
    const float *x = job.prepared;
    if (!x) {
        for (int t = 0; t < job.n; t++)
            prepare(job.before, t, own + t * pitch, pitch, (int)threadIdx.x, WARPS * LH_WARP, part);
        x = own;
        __syncthreads();
    }

    float sum[ROWS][TOKENS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int t = 0; t < TOKENS; t++) sum[r][t] = 0;

    for (int s = 0; s < n_stages; s++) {
        lh_cp_async_wait<R::depth - 2>();
        __syncwarp();
        // Into the stage that all lanes have just left.
        fetch(s + R::depth - 1);
        const unsigned char *stage = stages + s % R::depth * (ROWS * R::pitch);
#pragma unroll
        for (int step = 0; step < R::values; step += WARP_VALUES) {
            int in_stage = step + lane * LANE_VALUES, k = s * R::values + in_stage;
            if (k >= job.n_cols) break;
            float w[ROWS][LANE_VALUES];
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                lh_decode8<type>(stage + r * R::pitch + lead_of(r, s), in_stage, job.n_cols - s * R::values, w[r]);
#pragma unroll
            for (int t = 0; t < TOKENS; t++) {
                if (t >= job.n) break;
                float4 a = *(const float4 *)(x + t * pitch + k), b = *(const float4 *)(x + t * pitch + k + 4);
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    float v = sum[r][t];
                    v += w[r][0] * a.x, v += w[r][1] * a.y, v += w[r][2] * a.z, v += w[r][3] * a.w;
                    v += w[r][4] * b.x, v += w[r][5] * b.y, v += w[r][6] * b.z, v += w[r][7] * b.w;
                    sum[r][t] = v;
                }
            }
        }
    }

#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            float v = lh_warp_sum(sum[r][t]);
            int at = first + r, i = 0;
            if (lane || t >= job.n || at >= total) continue;
            while (at >= job.rows_end[i]) i++;
            at -= i ? job.rows_end[i - 1] : 0;
            float *y = job.y[i] + t * job.stride[i] + at;
            if (job.bias[i]) v += job.bias[i][at];
            *y = job.add ? *y + v : v;
        }
}

// What the launches of one project share.
typedef struct matvec_plan {
    matvec_job all;            // without matrices
    int pitch;                 // floats of a token's activations
    float *prepared;           // of all tokens, NULL: not needed so far
} matvec_plan;

// Activations that are too wide for the shared memory of a block, or too costly for every one, are prepared once, by a
// launch of their own.
static lh_status prepare_once(lh_cuda *c, matvec_plan *plan) {
    if (plan->prepared) return LH_OK;
    size_t bytes = (size_t)plan->all.n * (size_t)plan->pitch * sizeof(float);
    LH_TRY(lh_cuda_scratch(c, LH_CUDA_X, bytes, (void **)&plan->prepared));
    dim3 grid((unsigned)((plan->pitch + 4 * THREADS - 1) / (4 * THREADS)), (unsigned)plan->all.n);
    LH_CUDA_RUN(c, prepare_kernel, grid, THREADS, 0, plan->all.before, plan->prepared, plan->pitch);
    return LH_OK;
}

template <int type, int WARPS, int ROWS, int TOKENS>
static lh_status launch(lh_cuda *c, matvec_plan *plan, matvec_job job) {
    size_t rings = (size_t)WARPS * ring<type>::depth * ROWS * ring<type>::pitch, shared = rings;
    size_t activations = (size_t)job.n * (size_t)plan->pitch * sizeof(float);
    unsigned blocks = (unsigned)(job.rows_end[job.n_w - 1] + WARPS * ROWS - 1) / (WARPS * ROWS);
    bool fits = rings + activations <= LH_MIN(SHARED_BUDGET, c->shared_max);
    bool costly = job.before.gate && (int64_t)job.n * plan->pitch * blocks > (int64_t)c->n_sm * OWN_VALUES;
    if (!fits || costly) LH_TRY(prepare_once(c, plan));
    if (!fits) job.prepared = plan->prepared;
    if (fits) shared += activations;
    // What is left of the prologue is a copy.
    if (fits && costly) job.before = {plan->prepared, NULL, NULL, 0, plan->pitch};
    LH_CUDA_RUN(c, (matvec_kernel<type, WARPS, ROWS, TOKENS>), blocks, WARPS * LH_WARP, shared, job, plan->pitch);
    return LH_OK;
}

template <int type>
static lh_status launch_type(lh_cuda *c, matvec_plan *plan, const matvec_job &job) {
    if (job.n > 1) return launch<type, 8, 2, LH_CUDA_FEW>(c, plan, job);
    // Rows of a warp share what a lane reads of the activations. A multiprocessor that gets two blocks has warps enough
    // to hide what each waits for; where it gets one, that has the same rows in twice the warps; and where some would
    // get none, blocks are small. The order of a row's sum is the same in all.
    int blocks = job.rows_end[job.n_w - 1] / BLOCK_ROWS;
    if (blocks >= 2 * c->n_sm) return launch<type, 8, BLOCK_ROWS / 8, 1>(c, plan, job);
    if (4 * blocks >= 3 * c->n_sm) return launch<type, 16, BLOCK_ROWS / 16, 1>(c, plan, job);
    return launch<type, 8, 1, 1>(c, plan, job);
}

lh_status lh_cuda_matvec(lh_cuda *c, const lh_project *p) {
    matvec_plan plan = {};
    plan.pitch = LH_ROUND_UP(p->n_cols, LANE_VALUES);
    plan.all.n = p->n;
    plan.all.n_cols = p->n_cols;
    plan.all.add = p->add;
    LH_TRY(lh_prologue_of(c, p, &plan.all.before));
    bool done[3] = {false, false, false};
    for (int i = 0; i < p->n_out; i++) {
        if (done[i]) continue;
        // All matrices of this type in one launch.
        matvec_job job = plan.all;
        job.row_size = (int64_t)p->w[i]->row_size;
        int32_t rows = 0;
        for (int j = i; j < p->n_out; j++) {
            if (p->w[j]->type != p->w[i]->type) continue;
            done[j] = true;
            rows += (int32_t)p->w[j]->n_rows;
            int m = job.n_w++;
            job.w[m] = (const unsigned char *)p->w[j]->device;
            job.y[m] = p->y[j];
            job.stride[m] = lh_cuda_y_stride(p, j);
            job.rows_end[m] = rows;
            LH_TRY(lh_cuda_constant(c, p->bias[j], p->w[j]->n_rows, &job.bias[m]));
        }
        LH_TRY(lh_for_type(p->w[i]->type, [&](auto type) { return launch_type<type()>(c, &plan, job); }));
    }
    return LH_OK;
}
