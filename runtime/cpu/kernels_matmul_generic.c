// The matmul kernels in plain C: the oracle of the others, and what runs where there is nothing better.
#include <math.h>
#include <string.h>

#include "matmul_kernels.h"

#define ROWS 8
#define TOKENS 4
#define PIECE 256  // columns unpacked at a time; a multiple of every block length

static void rms_norm(const float *x, const float *weight, float eps, int64_t n, float *out) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    float factor = (float)(1 / sqrt(sum / (double)n + eps));
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * factor * weight[i];
}

static void silu_mul(const float *gate, const float *x, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++) out[i] = gate[i] / (1 + expf(-gate[i])) * x[i];
}

static void quantise(const float *x, int64_t n, lh_act_row *row) {
    for (int64_t b = 0; b < n / LH_ACT_BLOCK; b++, x += LH_ACT_BLOCK) {
        float max = 0;
        bool finite = true;
        for (int i = 0; i < LH_ACT_BLOCK; i++) {
            max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
            finite = finite && isfinite(x[i]);
        }
        // Blocks too small for a finite 127 / max are zero.
        float inverse = finite && max > LH_ACT_TINY ? 127 / max : 0;
        float scale = !finite ? NAN : max > LH_ACT_TINY ? max / 127 : 0;
        int8_t *q = row->q + b * LH_ACT_BLOCK;
        int32_t *sum = row->q_sum + 2 * b;
        sum[0] = sum[1] = 0;
        for (int i = 0; i < LH_ACT_BLOCK; i++) {
            q[i] = finite ? (int8_t)rintf(x[i] * inverse) : 0;
            sum[i / 16] += q[i];
        }
        row->scale[b] = scale;
        row->sum16[2 * b] = scale * (float)sum[0];
        row->sum16[2 * b + 1] = scale * (float)sum[1];
        row->sum32[b] = scale * (float)(sum[0] + sum[1]);
    }
}

// --- quantised weights -----------------------------------------------------------------------------------------

// 32 activations of one token; a tile is (n_cols / 32, TOKENS) of these.
typedef struct act_block {
    int8_t q[LH_ACT_BLOCK];
    float scale, sum32, sum16[2];
} act_block;

// Unpacked weights of n columns times quantised activations, block b of which is b * step after the first.
static float dot_unpacked(const lh_type_traits *traits, int64_t n, const int8_t *q, const float *scale,
                          const float *min, const act_block *act, int64_t step) {
    float total = 0;
    int len = traits->scale_len;
    for (int64_t i = 0; i < n; i += len, scale++, min++) {
        const act_block *a = act + i / LH_ACT_BLOCK * step;
        int half = (int)(i % LH_ACT_BLOCK / 16);
        int32_t sum = 0;
        for (int j = 0; j < len; j++) sum += q[i + j] * a->q[16 * half + j];
        total += *scale * a->scale * (float)sum;
        if (traits->has_min) total += *min * (len == 16 ? a->sum16[half] : a->sum32);
    }
    return total;
}

static act_block act_block_of(const lh_act_row *row, int64_t b) {
    act_block a = {.scale = row->scale[b], .sum32 = row->sum32[b], .sum16 = {row->sum16[2 * b], row->sum16[2 * b + 1]}};
    memcpy(a.q, row->q + b * LH_ACT_BLOCK, LH_ACT_BLOCK);
    return a;
}

static const void *blocks_at(const lh_type_traits *traits, const lh_tensor *w, int64_t row, int64_t col) {
    return (const char *)w->data + (size_t)row * w->row_size + col / traits->block_len * traits->block_size;
}

static void dot_quantised(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {
    const lh_type_traits *traits = lh_type_get(w->type);
    for (int64_t r = 0; r < n_rows; r++) out[r] = 0;
    for (int64_t col = 0; col < w->n_cols; col += PIECE) {
        int64_t n = w->n_cols - col < PIECE ? w->n_cols - col : PIECE;
        act_block blocks[PIECE / LH_ACT_BLOCK];
        for (int64_t b = 0; b < n / LH_ACT_BLOCK; b++) blocks[b] = act_block_of(act, col / LH_ACT_BLOCK + b);
        for (int64_t r = 0; r < n_rows; r++) {
            int8_t q[PIECE];
            float scale[PIECE / 16], min[PIECE / 16];
            traits->unpack(blocks_at(traits, w, row + r, col), n, q, scale, min);
            out[r] += dot_unpacked(traits, n, q, scale, min, blocks, 1);
        }
    }
}

// A panel is row by row: all q, then all scales, then all mins.
typedef struct panel_parts {
    int8_t *q;     // (ROWS, n_cols)
    float *scale;  // (ROWS, n_cols / scale_len)
    float *min;    // the same
} panel_parts;

static panel_parts parts_of_panel(const void *panel, int64_t n_cols, int scale_len) {
    panel_parts p = {.q = (int8_t *)panel};
    p.scale = (float *)(p.q + ROWS * n_cols);
    p.min = p.scale + ROWS * (n_cols / scale_len);
    return p;
}

static void pack_quantised(const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols, void *panel) {
    const lh_type_traits *traits = lh_type_get(w->type);
    int64_t n_scales = n_cols / traits->scale_len;
    panel_parts p = parts_of_panel(panel, n_cols, traits->scale_len);
    for (int64_t r = row; r < row + ROWS; r++, p.q += n_cols, p.scale += n_scales, p.min += n_scales) {
        if (r < w->n_rows) {
            traits->unpack(blocks_at(traits, w, r, col), n_cols, p.q, p.scale, p.min);
        } else {
            memset(p.q, 0, (size_t)n_cols);
            memset(p.scale, 0, (size_t)n_scales * sizeof(float));
            if (traits->has_min) memset(p.min, 0, (size_t)n_scales * sizeof(float));
        }
    }
}

static void pack_tokens_quantised(const lh_act_row *row, int64_t n_cols, int32_t t, void *tile) {
    act_block *to = (act_block *)tile + t;
    for (int64_t b = 0; b < n_cols / LH_ACT_BLOCK; b++)
        to[b * TOKENS] = row ? act_block_of(row, b) : (act_block){.scale = 0};
}

static void put(const lh_tile_out *out, int t, int r, float value) {
    float *y = &out->y[t * out->stride + r];
    if (out->bias) value += out->bias[r];
    *y = out->add ? *y + value : value;
}

static void multiply_quantised(const lh_type_traits *traits, const void *panel, const void *tile, int64_t col,
                               int64_t n_cols, const lh_tile_out *out) {
    int64_t n_scales = n_cols / traits->scale_len;
    panel_parts p = parts_of_panel(panel, n_cols, traits->scale_len);
    for (int t = 0; t < out->n_tokens; t++) {
        const act_block *act = (const act_block *)tile + col / LH_ACT_BLOCK * TOKENS + t;
        for (int r = 0; r < out->n_rows; r++)
            put(out, t, r, dot_unpacked(traits, n_cols, p.q + r * n_cols, p.scale + r * n_scales, p.min + r * n_scales,
                                        act, TOKENS));
    }
}

// --- float weights ---------------------------------------------------------------------------------------------

static void dot_real(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {
    const lh_type_traits *traits = lh_type_get(w->type);
    for (int64_t r = 0; r < n_rows; r++) {
        double total = 0;
        for (int64_t col = 0; col < w->n_cols; col += PIECE) {
            int64_t n = w->n_cols - col < PIECE ? w->n_cols - col : PIECE;
            float piece[PIECE];
            traits->decode(blocks_at(traits, w, row + r, col), piece, n);
            for (int64_t i = 0; i < n; i++) total += (double)piece[i] * act->x[col + i];
        }
        out[r] = (float)total;
    }
}

// A panel is (n_cols, ROWS), a tile (n_cols, TOKENS).
static void pack_real(const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols, void *panel) {
    const lh_type_traits *traits = lh_type_get(w->type);
    float *to = panel;
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t c = 0; c < n_cols; c += PIECE) {
            int64_t n = n_cols - c < PIECE ? n_cols - c : PIECE;
            float piece[PIECE] = {0};
            if (row + r < w->n_rows)
                traits->decode(blocks_at(traits, w, row + r, col + c), piece, n);
            for (int64_t i = 0; i < n; i++) to[(c + i) * ROWS + r] = piece[i];
        }
}

static void pack_tokens_real(const lh_act_row *row, int64_t n_cols, int32_t t, void *tile) {
    float *to = (float *)tile + t;
    for (int64_t i = 0; i < n_cols; i++) to[i * TOKENS] = row ? row->x[i] : 0;
}

static void multiply_real(const lh_type_traits *traits, const void *panel, const void *tile, int64_t col,
                          int64_t n_cols, const lh_tile_out *out) {
    (void)traits;
    const float *w = panel, *act = (const float *)tile + col * TOKENS;
    float sum[TOKENS][ROWS] = {{0}};
    for (int64_t i = 0; i < n_cols; i++, w += ROWS, act += TOKENS)
        for (int t = 0; t < TOKENS; t++)
            for (int r = 0; r < ROWS; r++) sum[t][r] += act[t] * w[r];
    for (int t = 0; t < out->n_tokens; t++)
        for (int r = 0; r < out->n_rows; r++) put(out, t, r, sum[t][r]);
}

void lh_matmul_kernels_generic(lh_matmul_kernels *k) {
    k->name = "generic";
    k->rms_norm = rms_norm;
    k->silu_mul = silu_mul;
    k->quantise = quantise;
    k->stream_tokens = 3;
    for (int type = 0; type < LH_TYPE_COUNT; type++) {
        const lh_type_traits *traits = lh_type_get(type);
        if (traits) k->dot[type] = traits->scale_len ? dot_quantised : dot_real;
    }
    k->real = (lh_panel_kernels){
        .rows = ROWS, .tokens = TOKENS, .cols = LH_FLOAT_PANEL_COLS,
        .panel_bytes = ROWS * 32 * sizeof(float), .tile_bytes = TOKENS * 32 * sizeof(float),
        .pack = pack_real, .pack_tokens = pack_tokens_real, .multiply = multiply_real,
    };
    k->integer = (lh_panel_kernels){
        .rows = ROWS, .tokens = TOKENS, .cols = LH_PANEL_COLS,
        .panel_bytes = ROWS * (32 + 16), .tile_bytes = TOKENS * sizeof(act_block),
        .pack = pack_quantised, .pack_tokens = pack_tokens_quantised, .multiply = multiply_quantised,
    };
}
