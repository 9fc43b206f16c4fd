// What every attention kernel means, in plain C: the oracle of the vectorised ones, and what runs where there are none.
#include <math.h>
#include <string.h>

#include "attention_kernels.h"
#include "chunk_map.h"
#include "features.h"
#include "kv_type.h"
#include "peak.h"
#include "quant.h"
#include "quant_blocks.h"

static float load_one(const void *row, int32_t i, lh_kv_type type) {
    switch (type) {
        case LH_KV_F32: return ((const float *)row)[i];
        case LH_KV_BF16: return lh_bf16_to_f32(((const uint16_t *)row)[i]);
        case LH_KV_Q8_0: {
            const lh_block_q8_0 *b = (const lh_block_q8_0 *)row + i / 32;
            return lh_f16_to_f32(b->d) * (float)b->qs[i % 32];
        }
        default: return lh_f16_to_f32(((const uint16_t *)row)[i]);
    }
}

// Element x of row j of keys or values.
static float load_at(const lh_tile *t, const void *rows, int32_t j, int32_t x) {
    return load_one((const char *)rows + (size_t)j * lh_kv_row_size(t->type, t->dim), x, t->type);
}

static void rotate_generic(const float *x, int32_t n, size_t stride, const float *table, float sign, float scale,
                           int32_t dim, float *y) {
    for (; n > 0; n--, x += stride, y += stride)
        for (int32_t j = 0; j < dim; j++) y[j] = scale * (x[j] * table[j] + sign * x[j ^ 1] * table[dim + j]);
}

static float key_at(const lh_tile *t, int32_t j, int32_t x) {
    float key = load_at(t, t->k, j, x);
    return t->turn ? key * t->turn[x] - load_at(t, t->k, j, x ^ 1) * t->turn[t->dim + x] : key;
}

static float clamp(float x, float most) { return fminf(fmaxf(x, -most), most); }

static void store_block(const float *x, int32_t n, lh_block_q8_0 *b) {
    float most = 0;
    for (int32_t i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    b->d = lh_f32_to_f16(fminf(most / 127, LH_F16_MAX));
    float scale = lh_f16_to_f32(b->d), inverse = scale > 0 ? 1 / scale : 0;
    for (int32_t i = 0; i < 32; i++) b->qs[i] = (int8_t)(i < n ? rintf(clamp(x[i] * inverse, 127)) : 0);
}

static void store_generic(const float *x, int32_t n, lh_kv_type type, void *out) {
    switch (type) {
        case LH_KV_F32: memcpy(out, x, (size_t)n * sizeof *x); break;
        case LH_KV_BF16:
            for (int32_t i = 0; i < n; i++) ((uint16_t *)out)[i] = lh_bfloat(x[i]);
            break;
        case LH_KV_Q8_0:
            for (int32_t i = 0; i < n; i += 32) store_block(x + i, LH_MIN(n - i, 32), (lh_block_q8_0 *)out + i / 32);
            break;
        default:
            for (int32_t i = 0; i < n; i++) ((uint16_t *)out)[i] = lh_f32_to_f16(clamp(x[i], LH_F16_MAX));
    }
}

static void load_generic(const void *x, int32_t n, lh_kv_type type, float *out) {
    for (int32_t i = 0; i < n; i++) out[i] = load_one(x, i, type);
}

static void attend_generic(const lh_tile *t, float *scratch) {
    float *scores = scratch;
    for (int32_t i = 0; i < t->rows; i++) {
        int32_t visible = t->limit ? t->limit[i] : t->n_keys, state = t->row[i];
        const float *q = t->q + (size_t)i * t->stride;
        float *acc = t->acc + (size_t)state * t->stride;
        float top = t->top[state], bias = t->bias ? t->bias[i] : 0;
        for (int32_t j = 0; j < visible; j++) {
            float s = 0;
            for (int32_t x = 0; x < t->dim; x++) s += q[x] * key_at(t, j, x);
            scores[j] = s + bias;
            top = fmaxf(top, scores[j]);
        }
        float shrink = expf(t->top[state] - top);
        t->top[state] = top;
        t->sum[state] *= shrink;
        for (int32_t x = 0; x < t->dim; x++) acc[x] *= shrink;
        for (int32_t j = 0; j < visible; j++) {
            float p = expf(scores[j] - top);
            t->sum[state] += p;
            for (int32_t x = 0; x < t->dim; x++) acc[x] += p * load_at(t, t->v, j, x);
        }
    }
}

static void top_generic(const float *scores, int32_t n, int32_t k, int32_t first, int32_t *out, int32_t *scratch) {
    // scratch: the best so far, best first; a straight insertion by the total order.
    int32_t held = 0;
    for (int32_t i = 0; i < n && k > 0; i++) {
        if (held == k && !lh_ranks_before(scores[i], i, scores[scratch[k - 1]], scratch[k - 1])) continue;
        int32_t at = held < k ? held++ : k - 1;
        for (; at > 0 && lh_ranks_before(scores[i], i, scores[scratch[at - 1]], scratch[at - 1]); at--)
            scratch[at] = scratch[at - 1];
        scratch[at] = i;
    }
    // Back into the order of the text.
    for (int32_t i = 0; i < k; i++) {
        int32_t at = i;
        for (; at > 0 && out[at - 1] > scratch[i] + first; at--) out[at] = out[at - 1];
        out[at] = scratch[i] + first;
    }
}

// Code i of a pair of components, of which a row holds every key's two.
static int32_t code_at(const uint8_t *upper, const uint8_t *lower, size_t row, int32_t pair, int32_t i) {
    int32_t high = upper[pair / 2 * row + i] >> pair % 2 * LH_PEAK_HIGH_BITS & 15;
    int32_t low = lower ? lower[pair / 4 * row + i] >> pair % 4 * LH_PEAK_LOW_BITS & LH_PEAK_LOW : 0;
    return high << LH_PEAK_LOW_BITS | low;
}

static void peak_codes_generic(const uint8_t *upper, const uint8_t *lower, int32_t n_keys, int32_t dims,
                               uint8_t *codes) {
    for (int32_t pair = 0; pair < dims / 2; pair++)
        for (int32_t i = 0; i < 2 * n_keys; i++) *codes++ = (uint8_t)code_at(upper, lower, 2 * (size_t)n_keys, pair, i);
}

static void peak_generic(const uint8_t *codes, int32_t n_keys, int32_t dims, const int8_t *q, int32_t rows, int32_t *out) {
    for (int32_t i = 0; i < rows; i++, q += dims) {
        out[i] = INT32_MIN;
        for (int32_t j = 0; j < n_keys; j++) {
            int32_t sum = 0;
            for (int32_t x = 0; x < dims; x++) sum += codes[((size_t)(x / 2) * n_keys + j) * 2 + x % 2] * q[x];
            out[i] = sum > out[i] ? sum : out[i];
        }
    }
}

static void peak_one_generic(const lh_peak_planes *p, const int32_t *chunks, int32_t n, const int8_t *q, int32_t *out) {
    size_t row = 2 * (size_t)p->n_keys;
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *upper = p->upper + chunks[i] * p->upper_size;
        const uint8_t *lower = p->lower ? p->lower + chunks[i] * p->lower_size : NULL;
        out[i] = INT32_MIN;
        for (int32_t j = 0; j < p->n_keys; j++) {
            int32_t sum = 0;
            for (int32_t x = 0; x < p->dims; x++)
                sum += code_at(upper, lower, row, x / 2, 2 * j + x % 2) * q[x];
            out[i] = sum > out[i] ? sum : out[i];
        }
    }
}

const lh_attention_kernels lh_attention_kernels_generic = {
    .rotate = rotate_generic, .store = store_generic, .load = load_generic, .attend = attend_generic,
    .top = top_generic, .peak_codes = peak_codes_generic, .peak = peak_generic,
    .peak_one = peak_one_generic,
};

void lh_attention_kernels_select(unsigned features, lh_attention_kernels *out) {
    *out = lh_attention_kernels_generic;
#if defined(__x86_64__)
    if (features & LH_CPU_AVX2) *out = lh_attention_kernels_avx2;
    if (features & LH_CPU_AVX512) *out = lh_attention_kernels_avx512;
    if (features & LH_CPU_AVX512_VNNI) lh_attention_kernels_avx512vnni(out);
#ifndef LH_NO_AMX
    if (features & LH_CPU_AMX) lh_attention_kernels_amx(out);
#endif
#elif defined(__aarch64__)
    if (features & LH_CPU_NEON) *out = lh_attention_kernels_neon;
#endif
    (void)features;
}
