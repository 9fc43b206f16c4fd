// AMX: attention of many rows.
//
// Queries, keys, weights and values are rounded to bfloat16; their products are summed up as floats. A cache of floats
// asks for more than that, and few rows gain nothing: both go the way of AVX-512.
#include <math.h>

#include "simd_avx512.h"
// The vectors come first: the kernels are written in them.
#include "attention_kernels.h"
#include "kv_simd.h"
#include "simd_amx.h"
#include "simd_math.h"

#define TILE_GROUPS (LH_TILE_KEYS / T_SIDE)

// --- what a tile of keys is turned into --------------------------------------------------------------------------

// Of the scratch: keys and values as second operands, queries and weights as first ones.
typedef struct bench {
    char *keys;     // (groups of 16 keys, blocks of 32 components) tiles
    char *values;   // (blocks of 32 keys, groups of 16 components) tiles
    char *queries;  // (groups of 16 rows, blocks of 32 components) tiles
    float *scores;  // (rows, LH_TILE_KEYS): scores, then weights as bfloat16 from the begin of a row on
    int32_t blocks, groups;        // of components: of 32, of 16
    int32_t key_blocks, row_groups;
} bench;

static bench lay_out(const lh_tile *t, float *scratch) {
    bench b = {
        .blocks = (t->dim + T_COLS - 1) / T_COLS, .groups = t->stride / T_SIDE,
        .key_blocks = (t->n_keys + T_COLS - 1) / T_COLS, .row_groups = (t->rows + T_SIDE - 1) / T_SIDE,
    };
    b.keys = (char *)scratch;
    b.values = b.keys + (size_t)TILE_GROUPS * b.blocks * T_BYTES;
    b.queries = b.values + (size_t)TILE_GROUPS / 2 * b.groups * T_BYTES;
    b.scores = (float *)(void *)(b.queries + (size_t)b.row_groups * b.blocks * T_BYTES);
    return b;
}

// Values x, x + 1, ... of a row of dim, zero from there on.
LH_INLINE vf load_some(const char *row, int32_t x, int32_t dim, lh_kv_type type) {
    if (x + VN <= dim) return load_vector(row, (size_t)x, type);
    float some[VN] = {0};
    for (int32_t i = x; i < dim; i++) some[i - x] = load_one(row, (size_t)i, type);
    return vf_load(some);
}

// The same of a key, as it is to be met.
LH_INLINE vf load_key(const lh_tile *t, const char *key, int32_t x, lh_kv_type type) {
    vf a = load_some(key, x, t->dim, type);
    if (!t->turn) return a;
    const char *cosines = (const char *)t->turn, *sines = (const char *)(t->turn + t->dim);
    vf across = vf_mul(vf_swap_pairs(a), load_some(sines, x, t->dim, LH_KV_F32));
    return vf_sub(vf_mul(a, load_some(cosines, x, t->dim, LH_KV_F32)), across);
}

LH_INLINE void pack_keys(const lh_tile *t, const bench *b, lh_kv_type type) {
    size_t row = lh_kv_row_size(type, t->dim);
    for (int32_t j = 0; j < b->key_blocks * T_COLS; j += T_SIDE)
        for (int32_t block = 0; block < b->blocks; block++) {
            vf words[VN];
            for (int i = 0; i < VN; i++) {
                const char *key = t->k + (size_t)(j + i) * row;
                words[i] = vf_set1(0);
                if (j + i < t->n_keys)
                    words[i] = (vf)_mm512_cvtne2ps_pbh(load_key(t, key, block * T_COLS + VN, type),
                                                       load_key(t, key, block * T_COLS, type));
            }
            vf_transpose(words);
            char *to = b->keys + (size_t)(j / T_SIDE * b->blocks + block) * T_BYTES;
            for (int i = 0; i < VN; i++) vf_store((float *)(void *)to + i * VN, words[i]);
        }
}

LH_INLINE void pack_values(const lh_tile *t, const bench *b, lh_kv_type type) {
    size_t row = lh_kv_row_size(type, t->dim);
    for (int32_t j = 0; j < b->key_blocks * T_COLS; j += 2)
        for (int32_t group = 0; group < b->groups; group++) {
            vf of[2];
            for (int i = 0; i < 2; i++)
                of[i] = j + i < t->n_keys ? load_some(t->v + (size_t)(j + i) * row, group * VN, t->dim, type) : vf_set1(0);
            char *to = b->values + (size_t)(j / T_COLS * b->groups + group) * T_BYTES + j % T_COLS / 2 * 64;
            _mm512_storeu_si512(to, pair_words(of[0], of[1]));
        }
}

static void pack(const lh_tile *t, const bench *b) {
    if (!t->same_keys) BY_TYPE(t->type, pack_keys(t, b, TYPE))
    if (!t->same_values) BY_TYPE(t->type, pack_values(t, b, TYPE))
}

// Scores are wanted as powers of two.
static void pack_queries(const lh_tile *t, const bench *b) {
    const vf log2_e = vf_set1(LOG2_E);
    for (int32_t i = 0; i < b->row_groups * T_SIDE; i++)
        for (int32_t block = 0; block < b->blocks; block++) {
            const float *q = t->q + (size_t)i * (size_t)t->stride + block * T_COLS;
            vf low = vf_set1(0), high = low;
            if (i < t->rows) low = vf_mul(vf_load(q), log2_e);
            if (i < t->rows && block * T_COLS + VN < t->stride) high = vf_mul(vf_load(q + VN), log2_e);
            char *to = b->queries + (size_t)(i / T_SIDE * b->blocks + block) * T_BYTES + i % T_SIDE * 64;
            _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
}

// --- attend ------------------------------------------------------------------------------------------------------

static void multiply_keys(const bench *b) {
    for (int32_t g = 0; g < b->row_groups; g++) {
        float *scores = b->scores + (size_t)g * T_SIDE * LH_TILE_KEYS;
        const char *q = b->queries + (size_t)g * b->blocks * T_BYTES, *k = b->keys;
        size_t next = (size_t)b->blocks * T_BYTES;
        bool all = b->key_blocks > 1;
        zero_tiles();
        for (int32_t block = 0; block < b->blocks; block++, q += T_BYTES, k += T_BYTES) {
            _tile_loadd(4, q, 64);
            _tile_loadd(5, k, 64);
            _tile_loadd(6, k + next, 64);
            _tile_dpbf16ps(0, 4, 5);
            _tile_dpbf16ps(1, 4, 6);
            if (!all) continue;
            _tile_loadd(5, k + 2 * next, 64);
            _tile_loadd(6, k + 3 * next, 64);
            _tile_dpbf16ps(2, 4, 5);
            _tile_dpbf16ps(3, 4, 6);
        }
        _tile_stored(0, scores, LH_TILE_KEYS * 4);
        _tile_stored(1, scores + T_SIDE, LH_TILE_KEYS * 4);
        if (!all) continue;
        _tile_stored(2, scores + 2 * T_SIDE, LH_TILE_KEYS * 4);
        _tile_stored(3, scores + 3 * T_SIDE, LH_TILE_KEYS * 4);
    }
}

// Lanes of a vector of scores that row i may see.
LH_INLINE __mmask16 visible(const lh_tile *t, int32_t i, int v) {
    int32_t n = LH_MIN(LH_MAX((t->limit ? t->limit[i] : t->n_keys) - v * VN, 0), VN);
    return (__mmask16)((1u << n) - 1);
}

// Scores of 16 rows become weights. shrink: what their accumulators are to be multiplied with, over and over: exactly 1
// where the top stays.
LH_INLINE void weigh_rows(const lh_tile *t, float *scores, int32_t first, int vecs, bool masked, float shrink[16]) {
    const float ln_2 = 0x1.62e43p-1f;
    int32_t rows = LH_MIN(t->rows - first, T_SIDE);
    vf v[16];
    for (int i = 0; i < 16; i++) {
        float *of = scores + i * LH_TILE_KEYS;
        if (masked)
            for (int j = 0; j < vecs; j++)
                vf_store(of + j * VN, _mm512_mask_mov_ps(vf_set1(-INFINITY), i < rows ? visible(t, first + i, j) : 1,
                                                         vf_load(of + j * VN)));
        v[i] = vf_load(of);
        for (int j = 1; j < vecs; j++) v[i] = vf_max(v[i], vf_load(of + j * VN));
    }
    vf here = vf_tops(v);
    float top[16] = {0}, sum[16] = {0}, bias[16] = {0}, less[16];
    for (int i = 0; i < rows; i++) {
        top[i] = t->top[t->row[first + i]];
        sum[i] = t->sum[t->row[first + i]];
        if (t->bias) bias[i] = t->bias[first + i];
    }
    vf before = vf_load(top), now = vf_max(vf_fma(here, vf_set1(ln_2), vf_load(bias)), before);
    vf kept = vf_exp(vf_sub(before, now));
    vf_store(shrink, kept);
    vf_store(less, vf_mul(vf_sub(now, vf_load(bias)), vf_set1(LOG2_E)));
    for (int i = 0; i < 16; i++) {
        float *of = scores + i * LH_TILE_KEYS;
        vf p[4], minus = vf_set1(less[i]);
        for (int j = 0; j < vecs; j++) p[j] = vf_power_of_two(vf_sub(vf_load(of + j * VN), minus));
        for (int j = 0; j < vecs; j += 2) vf_store(of + j / 2 * VN, (vf)_mm512_cvtne2ps_pbh(p[j + 1], p[j]));
        v[i] = vf_add(p[0], p[1]);
        if (vecs == 4) v[i] = vf_add(v[i], vf_add(p[2], p[3]));
    }
    vf_store(sum, vf_fma(vf_load(sum), kept, vf_sums(v)));
    vf_store(top, now);
    for (int i = 0; i < rows; i++) {
        t->top[t->row[first + i]] = top[i];
        t->sum[t->row[first + i]] = sum[i];
    }
}

static void weigh(const lh_tile *t, float *scores, int32_t first, float shrink[16]) {
    bool masked = t->limit || t->n_keys % T_COLS;
    if (t->n_keys > T_COLS) {
        if (masked) weigh_rows(t, scores, first, 4, true, shrink);
        else weigh_rows(t, scores, first, 4, false, shrink);
    } else {
        weigh_rows(t, scores, first, 2, true, shrink);
    }
}

// Up to four groups of components: accumulators of 16 rows = themselves * shrink + weights . values.
static void add_values(const lh_tile *t, const bench *b, int32_t first, int32_t group, const float shrink[16]) {
    const float *weights = b->scores + (size_t)first * LH_TILE_KEYS;
    const char *v = b->values + (size_t)group * T_BYTES;
    int32_t n = LH_MIN(b->groups - group, 4);
    zero_tiles();
    for (int32_t block = 0; block < b->key_blocks; block++, weights += T_SIDE, v += (size_t)b->groups * T_BYTES) {
        _tile_loadd(4, weights, LH_TILE_KEYS * 4);
        _tile_loadd(5, v, 64);
        _tile_dpbf16ps(0, 4, 5);
        if (n == 1) continue;
        _tile_loadd(6, v + T_BYTES, 64);
        _tile_dpbf16ps(1, 4, 6);
        if (n == 2) continue;
        _tile_loadd(5, v + 2 * T_BYTES, 64);
        _tile_dpbf16ps(2, 4, 5);
        if (n == 3) continue;
        _tile_loadd(6, v + 3 * T_BYTES, 64);
        _tile_dpbf16ps(3, 4, 6);
    }
    _Alignas(64) float more[T_SIDE][4 * T_SIDE];
    _tile_stored(0, more[0], sizeof more[0]);
    _tile_stored(1, more[0] + T_SIDE, sizeof more[0]);
    _tile_stored(2, more[0] + 2 * T_SIDE, sizeof more[0]);
    _tile_stored(3, more[0] + 3 * T_SIDE, sizeof more[0]);
    for (int32_t i = 0; i < LH_MIN(t->rows - first, T_SIDE); i++) {
        float *acc = t->acc + (size_t)t->row[first + i] * (size_t)t->stride + group * T_SIDE;
        vf scale = vf_set1(shrink[i]);
        for (int32_t j = 0; j < n; j++)
            vf_store(acc + j * VN, vf_fma(vf_load(acc + j * VN), scale, vf_load(more[i] + j * VN)));
    }
}

static void attend_amx(const lh_tile *t, float *scratch) {
    if (t->rows <= FEW_ROWS || t->type == LH_KV_F32) {
        lh_attention_kernels_avx512.attend(t, scratch);
        return;
    }
    bench b = lay_out(t, scratch);
    tile_config before;
    begin_tiles(&before);
    pack(t, &b);
    pack_queries(t, &b);
    tiles_follow_stores();
    multiply_keys(&b);
    for (int32_t first = 0; first < t->rows; first += T_SIDE) {
        float shrink[T_SIDE];
        weigh(t, b.scores + (size_t)first * LH_TILE_KEYS, first, shrink);
        tiles_follow_stores();
        for (int32_t group = 0; group < b.groups; group += 4) add_values(t, &b, first, group, shrink);
    }
    end_tiles(&before);
}

void lh_attention_kernels_amx(lh_attention_kernels *k) {
    k->attend = attend_amx;
}
