// Keys and values into the cache: a warp a row, which is rotated by its offset and rounded.
#include "kv.cuh"

#define WARPS 4

static __global__ void append_kernel(lh_attention_args x) {
    const lh_attention &a = x.a;
    int item = (int)(blockIdx.x * WARPS + threadIdx.x / LH_WARP), lane = (int)threadIdx.x % LH_WARP;
    if (item >= a.n * a.n_head_kv) return;
    int position = lh_position(x, item / a.n_head_kv), head = item % a.n_head_kv, dim = a.head_dim;
    int chunk = position / a.plan.chunk, offset = position % a.plan.chunk;
    const float *key = a.new_k + (size_t)item * dim, *value = a.new_v + (size_t)item * dim;
    const float *table = a.rope_offset + 2 * (size_t)dim * offset;
    // At home, and in the copy where there is one.
    char *to[2][2] = {{lh_kv_home(x, LH_KEYS, head, chunk), lh_kv_home(x, LH_VALUES, head, chunk)},
                      {lh_kv_copy(x, LH_KEYS, head, chunk), lh_kv_copy(x, LH_VALUES, head, chunk)}};
    for (int at = 0; at < dim; at += LH_WARP) {
        int i = at + lane;
        float rotated = i < dim ? lh_rotated(key, table, 1, 1, dim, i) : 0, plain = i < dim ? value[i] : 0;
        for (int copy = 0; copy < 2 && to[copy][0]; copy++) {
            lh_kv_store(to[copy][0] + offset * x.row, at, rotated, dim, a.kv_type);
            lh_kv_store(to[copy][1] + offset * x.row, at, plain, dim, a.kv_type);
        }
    }
}

lh_status lh_cuda_append(lh_cuda *c, const lh_attention *a) {
    int rows = a->n * a->n_head_kv;
    LH_CUDA_RUN(c, append_kernel, (rows + WARPS - 1) / WARPS, WARPS * LH_WARP, 0, lh_attention_args_of(c, a));
    return LH_OK;
}
