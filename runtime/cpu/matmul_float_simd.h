// Prologues and float weights over vectors: the body of kernels_matmul_{avx2,avx512,neon,dotprod}.c, which include a
// simd_*.h first.
//
// A panel is rows of weights as floats, column by column; a tile is tokens, column by column too, each value broadcast
// against the vectors of rows.
#include <math.h>
#include <string.h>

#include "matmul_tile.h"
#include "simd_math.h"

#define FLOAT_ROWS (BLOCK_VECS * VN)
#define FLOAT_TOKENS BLOCK_ROWS

// The first n floats, or zeros in their place.
LH_INLINE vf load_some(const float *p, int64_t n) {
    if (n >= VN) return vf_load(p);
    float buffer[VN] = {0};
    memcpy(buffer, p, (size_t)n * sizeof *p);
    return vf_load(buffer);
}

LH_INLINE void store_some(float *p, int64_t n, vf v) {
    if (n >= VN) {
        vf_store(p, v);
    } else {
        float buffer[VN];
        vf_store(buffer, v);
        memcpy(p, buffer, (size_t)n * sizeof *p);
    }
}

static void rms_norm_simd(const float *x, const float *weight, float eps, int64_t n, float *out) {
    vf sum[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
    for (int64_t i = 0; i < n; i += 4 * VN)
        for (int j = 0; j < 4 && i + j * VN < n; j++) {
            vf v = load_some(x + i + j * VN, n - i - j * VN);
            sum[j] = vf_fma(v, v, sum[j]);
        }
    float squares = vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
    vf factor = vf_set1(1 / sqrtf(squares / (float)n + eps));
    for (int64_t i = 0; i < n; i += VN) {
        vf v = vf_mul(load_some(x + i, n - i), factor);
        store_some(out + i, n - i, vf_mul(v, load_some(weight + i, n - i)));
    }
}

static void silu_mul_simd(const float *gate, const float *x, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i += VN) {
        vf g = load_some(gate + i, n - i);
        // Past -88 silu is 0 for all that follows, and exp would overflow.
        vf e = vf_exp(vf_sub(vf_set1(0), vf_max(g, vf_set1(-88))));
        vf silu = vf_div(g, vf_add(vf_set1(1), e));
        store_some(out + i, n - i, vf_mul(silu, load_some(x + i, n - i)));
    }
}

static void quantise_simd(const float *x, int64_t n, lh_act_row *row) {
    for (int64_t b = 0; b < n / LH_ACT_BLOCK; b++, x += LH_ACT_BLOCK) {
        vf v[LH_ACT_BLOCK / VN], m = vf_set1(0), sum[2] = {vf_set1(0), vf_set1(0)};
        LH_UNROLL for (int i = 0; i < LH_ACT_BLOCK / VN; i++) {
            v[i] = vf_load(x + i * VN);
            m = vf_max(vf_max(v[i], vf_sub(vf_set1(0), v[i])), m);
        }
        float max = vf_top(m);
        float inverse = max > LH_ACT_TINY ? 127 / max : 0, scale = max > LH_ACT_TINY ? max / 127 : 0;
        LH_UNROLL for (int i = 0; i < LH_ACT_BLOCK / VN; i++) {
            v[i] = vf_round(vf_mul(v[i], vf_set1(inverse)));
            vf_store_i8(row->q + b * LH_ACT_BLOCK + i * VN, v[i]);
            sum[i * VN / 16] = vf_add(sum[i * VN / 16], v[i]);
        }
        // Sums of small whole numbers are exact. A NaN comes through, and infinity * 0 is one.
        float low = vf_sum(sum[0]), high = vf_sum(sum[1]);
        if (isnan(low + high)) {
            memset(row->q + b * LH_ACT_BLOCK, 0, LH_ACT_BLOCK);
            low = high = 0;
            scale = NAN;
        }
        row->scale[b] = scale;
        row->q_sum[2 * b] = (int32_t)low;
        row->q_sum[2 * b + 1] = (int32_t)high;
        row->sum16[2 * b] = scale * low;
        row->sum16[2 * b + 1] = scale * high;
        row->sum32[b] = scale * (low + high);
    }
}

LH_INLINE vf load_weights(lh_type type, const char *p) {
    if (type == LH_TYPE_F16) return vf_load_f16((const uint16_t *)(const void *)p);
    if (type == LH_TYPE_BF16) return vf_load_bf16((const uint16_t *)(const void *)p);
    return vf_load((const float *)(const void *)p);
}

// The first n weights, or zeros in their place.
LH_INLINE vf load_some_weights(lh_type type, size_t size, const char *p, int64_t n) {
    if (n >= VN) return load_weights(type, p);
    char buffer[VN * sizeof(float)] = {0};
    memcpy(buffer, p, (size_t)n * size);
    return load_weights(type, buffer);
}

LH_INLINE void dot_rows(lh_type type, size_t size, const lh_tensor *t, int64_t row, int64_t n_rows, const float *x,
                        float *out) {
    const int64_t n_cols = t->n_cols;
    const char *w = (const char *)t->data + (size_t)row * t->row_size;
    for (int64_t r = 0; r < n_rows; r++, w += t->row_size) {
        vf sum[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
        int64_t i = 0;
        for (; i + 4 * VN <= n_cols; i += 4 * VN) {
            fetch_ahead(w + (size_t)i * size, 4 * VN * size);
            LH_UNROLL for (int j = 0; j < 4; j++)
                sum[j] = vf_fma(load_weights(type, w + (size_t)(i + j * VN) * size), vf_load(x + i + j * VN), sum[j]);
        }
        for (; i < n_cols; i += VN)
            sum[0] = vf_fma(load_some_weights(type, size, w + (size_t)i * size, n_cols - i),
                            load_some(x + i, n_cols - i), sum[0]);
        out[r] = vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
    }
}

static void dot_float_simd(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {
    // One copy of the loop for each type.
    if (w->type == LH_TYPE_F32) dot_rows(LH_TYPE_F32, 4, w, row, n_rows, act->x, out);
    else if (w->type == LH_TYPE_F16) dot_rows(LH_TYPE_F16, 2, w, row, n_rows, act->x, out);
    else dot_rows(LH_TYPE_BF16, 2, w, row, n_rows, act->x, out);
}

LH_INLINE void pack_rows(lh_type type, size_t size, const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols,
                         float *panel) {
    for (int64_t c = 0; c < n_cols; c += VN, panel += VN * FLOAT_ROWS)
        for (int v = 0; v < BLOCK_VECS; v++) {
            vf block[VN];
            for (int r = 0; r < VN; r++) {
                int64_t from = row + v * VN + r;
                const char *p = (const char *)w->data + (size_t)LH_MIN(from, w->n_rows - 1) * w->row_size;
                block[r] = from < w->n_rows ? load_some_weights(type, size, p + (size_t)(col + c) * size, n_cols - c)
                                            : vf_set1(0);
            }
            vf_transpose(block);
            for (int j = 0; j < VN && c + j < n_cols; j++) vf_store(panel + j * FLOAT_ROWS + v * VN, block[j]);
        }
}

static void pack_float_simd(const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols, void *panel) {
    if (w->type == LH_TYPE_F32) pack_rows(LH_TYPE_F32, 4, w, row, col, n_cols, panel);
    else if (w->type == LH_TYPE_F16) pack_rows(LH_TYPE_F16, 2, w, row, col, n_cols, panel);
    else pack_rows(LH_TYPE_BF16, 2, w, row, col, n_cols, panel);
}

static void pack_tokens_float_simd(const lh_act_row *row, int64_t n_cols, int32_t t, void *tile) {
    float *to = (float *)tile + t;
    for (int64_t i = 0; i < n_cols; i++) to[i * FLOAT_TOKENS] = row ? row->x[i] : 0;
}

static void multiply_float_simd(const lh_type_traits *traits, const void *panel, const void *tile, int64_t col,
                                int64_t n_cols, const lh_tile_out *out) {
    (void)traits;
    const float *w = panel, *act = (const float *)tile + col * FLOAT_TOKENS;
    vf sum[FLOAT_TOKENS][BLOCK_VECS];
    LH_UNROLL for (int t = 0; t < FLOAT_TOKENS; t++)
        LH_UNROLL for (int v = 0; v < BLOCK_VECS; v++) sum[t][v] = vf_set1(0);
    for (int64_t i = 0; i < n_cols; i++, w += FLOAT_ROWS, act += FLOAT_TOKENS) {
        vf in[BLOCK_VECS];
        LH_UNROLL for (int v = 0; v < BLOCK_VECS; v++) in[v] = vf_load(w + v * VN);
        LH_UNROLL for (int t = 0; t < FLOAT_TOKENS; t++) {
            vf a = vf_set1(act[t]);
            LH_UNROLL for (int v = 0; v < BLOCK_VECS; v++) sum[t][v] = vf_fma(a, in[v], sum[t][v]);
        }
    }
    LH_UNROLL for (int t = 0; t < FLOAT_TOKENS; t++)
        if (t < out->n_tokens) put_rows(out, t, BLOCK_VECS, sum[t]);
}

// The entries of a table that this file has.
static void set_float_kernels(lh_matmul_kernels *k) {
    k->rms_norm = rms_norm_simd;
    k->silu_mul = silu_mul_simd;
    k->quantise = quantise_simd;
    k->dot[LH_TYPE_F32] = k->dot[LH_TYPE_F16] = k->dot[LH_TYPE_BF16] = dot_float_simd;
    k->real = (lh_panel_kernels){
        .rows = FLOAT_ROWS, .tokens = FLOAT_TOKENS, .cols = LH_FLOAT_PANEL_COLS,
        .panel_bytes = FLOAT_ROWS * 32 * sizeof(float), .tile_bytes = FLOAT_TOKENS * 32 * sizeof(float),
        .pack = pack_float_simd, .pack_tokens = pack_tokens_float_simd, .multiply = multiply_float_simd,
    };
}
