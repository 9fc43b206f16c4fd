// The attention kernels over vectors: the body of kernels_attention_{avx2,avx512,neon}.c, which include a simd_*.h
// first and then this, once each. The meaning of every kernel is its twin in kernels_attention_generic.c.
//
// Everything is made of one register block, C (rows x vectors) = C * scale + A . B. Scores are q . K^T and outputs are
// P . V. For many rows K is unpacked and transposed once into a panel; for a few rows (decoding) keys and values are
// read as they lie.
#include <math.h>
#include <string.h>

#include "attention_kernels.h"
#include "chunk_map.h"
#include "kv_simd.h"
#include "prefetch.h"
#include "quant.h"
#include "rank.h"
#include "simd_math.h"

_Static_assert(FEW_ROWS < LH_MANY_ROWS, "LH_MANY_ROWS are unpacked");

#define AT_ONCE 4    // of FEW_ROWS
#define MOST_VECS 8  // of one row of a block

// --- small ones --------------------------------------------------------------------------------------------------

static void rotate_simd(const float *x, int32_t n, size_t stride, const float *table, float sign, float scale,
                        int32_t dim, float *y) {
    const float *cosines = table, *sines = table + dim;
    int32_t j = 0;
    for (; j + VN <= dim; j += VN) {
        vf along = vf_mul(vf_load(cosines + j), vf_set1(scale)), across = vf_mul(vf_load(sines + j), vf_set1(sign * scale));
        for (size_t i = 0; i < (size_t)n; i++) {
            vf a = vf_load(x + i * stride + j);
            vf_store(y + i * stride + j, vf_fma(a, along, vf_mul(vf_swap_pairs(a), across)));
        }
    }
    for (; j < dim; j++)
        for (size_t i = 0; i < (size_t)n; i++) {
            const float *row = x + i * stride;
            y[i * stride + (size_t)j] = scale * (row[j] * cosines[j] + sign * row[j ^ 1] * sines[j]);
        }
}

LH_INLINE vf clamp(vf x, float most) { return vf_min(vf_max(x, vf_set1(-most)), vf_set1(most)); }

static void store_f16(const float *x, int32_t n, uint16_t *out) {
    int32_t i = 0;
    for (; i + VN <= n; i += VN) vf_store_f16(out + i, clamp(vf_load(x + i), LH_F16_MAX));
    for (; i < n; i++) out[i] = lh_f32_to_f16(fminf(fmaxf(x[i], -LH_F16_MAX), LH_F16_MAX));
}

static void store_block(const float *x, lh_block_q8_0 *b) {
    vf most = vf_set1(0);
    for (int i = 0; i < 32; i += VN) most = vf_max(most, vf_max(vf_load(x + i), vf_sub(vf_set1(0), vf_load(x + i))));
    b->d = lh_f32_to_f16(fminf(vf_top(most) / 127, LH_F16_MAX));
    float scale = lh_half(b->d), inverse = scale > 0 ? 1 / scale : 0;
    for (int i = 0; i < 32; i += VN) vf_store_i8(b->qs + i, clamp(vf_mul(vf_load(x + i), vf_set1(inverse)), 127));
}

static void store_simd(const float *x, int32_t n, lh_kv_type type, void *out) {
    switch (type) {
        case LH_KV_F32: memcpy(out, x, (size_t)n * sizeof *x); break;
        case LH_KV_BF16:
            for (int32_t i = 0; i < n; i++) ((uint16_t *)out)[i] = lh_bfloat(x[i]);
            break;
        case LH_KV_Q8_0: {
            lh_block_q8_0 *b = out;
            for (; n >= 32; n -= 32, x += 32) store_block(x, b++);
            float rest[32] = {0};
            memcpy(rest, x, (size_t)n * sizeof *x);
            if (n) store_block(rest, b);
            break;
        }
        default: store_f16(x, n, out);
    }
}

LH_INLINE void load_row(const void *row, int32_t n, lh_kv_type type, float *out) {
    int32_t i = 0;
    for (; i + VN <= n; i += VN) vf_store(out + i, load_vector(row, (size_t)i, type));
    for (; i < n; i++) out[i] = load_one(row, (size_t)i, type);
}

static void load_simd(const void *row, int32_t n, lh_kv_type type, float *out) {
    BY_TYPE(type, load_row(row, n, TYPE, out))
}

// --- the register block ------------------------------------------------------------------------------------------

// c[i] (vecs vectors) = c[i] * scale[i] + sum_x a[i][x] * b[x]; scale NULL: c is not read. Rows of a are a_stride
// floats apart, rows of b, of `type`, b_stride bytes. next: as many bytes to be fetched meanwhile, or NULL. rows, vecs and
// type are constants where this is called.
LH_INLINE void block(int rows, int vecs, int32_t depth, const float *a, size_t a_stride, const void *b, size_t b_stride,
                     lh_kv_type type, const float *scale, float *const *c, size_t col, const char *next) {
    vf sum[BLOCK_ROWS][MOST_VECS];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vecs; v++)
            sum[i][v] = scale ? vf_mul(vf_load(c[i] + col + (size_t)v * VN), vf_set1(scale[i])) : vf_set1(0);
    for (int32_t x = 0; x < depth; x++) {
        const char *row = (const char *)b + (size_t)x * b_stride;
        if (next) FETCH(next + (size_t)x * b_stride, b_stride);
        vf in[MOST_VECS];
        for (int v = 0; v < vecs; v++) in[v] = load_vector(row, col + (size_t)v * VN, type);
        for (int i = 0; i < rows; i++) {
            vf one = vf_set1(a[(size_t)i * a_stride + x]);
            for (int v = 0; v < vecs; v++) sum[i][v] = vf_fma(one, in[v], sum[i][v]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vecs; v++) vf_store(c[i] + col + (size_t)v * VN, sum[i][v]);
}

#define BLOCK_ARGS depth, a, a_stride, b, b_stride, type, scale, c, col, next

LH_INLINE void block_vecs(int rows, int vecs, int32_t depth, const float *a, size_t a_stride, const void *b,
                          size_t b_stride, lh_kv_type type, const float *scale, float *const *c, size_t col,
                          const char *next) {
    switch (vecs) {
#if BLOCK_VECS > 2
        case 4: block(rows, 4, BLOCK_ARGS); break;
        case 3: block(rows, 3, BLOCK_ARGS); break;
#endif
        case 2: block(rows, 2, BLOCK_ARGS); break;
        default: block(rows, 1, BLOCK_ARGS); break;
    }
}

// The same for up to AT_ONCE rows and any number of columns: as many accumulators as hide how long each addition takes.
LH_INLINE void product_few(int rows, int32_t cols, int32_t depth, const float *a, size_t a_stride, const void *b,
                           size_t b_stride, lh_kv_type type, const float *scale, float *const *c, const char *next) {
    const int wide = rows == 1 ? MOST_VECS : rows == 2 ? MOST_VECS / 2 : BLOCK_VECS;
    size_t col = 0;
    for (; col + (size_t)wide * VN <= (size_t)cols; col += (size_t)wide * VN, next = NULL)
        block(rows, wide, BLOCK_ARGS);
    for (; col < (size_t)cols; col += VN, next = NULL) block(rows, 1, BLOCK_ARGS);
}

LH_INLINE void product_as_it_lies(int32_t rows, int32_t cols, int32_t depth, const float *a, size_t a_stride,
                                  const void *b, size_t b_stride, lh_kv_type type, const float *scale, float *const *c,
                                  const char *next) {
    switch (rows) {
        case 1: product_few(1, cols, depth, a, a_stride, b, b_stride, type, scale, c, next); break;
        case 2: product_few(2, cols, depth, a, a_stride, b, b_stride, type, scale, c, next); break;
        case 3: product_few(3, cols, depth, a, a_stride, b, b_stride, type, scale, c, next); break;
        default: product_few(4, cols, depth, a, a_stride, b, b_stride, type, scale, c, next); break;
    }
}
_Static_assert(AT_ONCE == 4, "product_as_it_lies counts the rows");

// The same for any number of rows and columns; columns are whole vectors.
static __attribute__((noinline)) void product_f32(int32_t rows, int32_t cols, int32_t depth, const float *a,
                                                  size_t a_stride, const float *b, size_t b_stride, const float *scale,
                                                  float *const *c) {
    const lh_kv_type type = LH_KV_F32;
    const char *const next = NULL;
    b_stride *= sizeof *b;
    for (int32_t i = 0; i < rows;
         i += BLOCK_ROWS, a += BLOCK_ROWS * a_stride, c += BLOCK_ROWS, scale += scale ? BLOCK_ROWS : 0)
        for (int32_t at = 0; at < cols; at += BLOCK_VECS * VN) {
            size_t col = (size_t)at;
            int vecs = (cols - at) / VN < BLOCK_VECS ? (cols - at) / VN : BLOCK_VECS;
            switch (rows - i) {
                case 1: block_vecs(1, vecs, BLOCK_ARGS); break;
                case 2: block_vecs(2, vecs, BLOCK_ARGS); break;
                case 3: block_vecs(3, vecs, BLOCK_ARGS); break;
                case 4: block_vecs(4, vecs, BLOCK_ARGS); break;
                case 5: block_vecs(5, vecs, BLOCK_ARGS); break;
                default: block_vecs(6, vecs, BLOCK_ARGS); break;
            }
        }
}
_Static_assert(BLOCK_ROWS == 6, "the switch in product_f32 counts the rows of a block");

// --- panels ------------------------------------------------------------------------------------------------------

// out[x * LH_TILE_KEYS + j] = b[j][x], zero for j >= n, for the columns that are used: n rounded up to whole vectors.
LH_INLINE void transpose_rows(const char *b, int32_t n, int32_t dim, lh_kv_type type, float *out) {
    size_t row = lh_kv_row_size(type, dim);
    for (int32_t j0 = 0; j0 < n; j0 += VN, b += VN * row) {
        int32_t x0 = 0;
        for (; x0 + VN <= dim; x0 += VN) {
            vf r[VN];
            for (int i = 0; i < VN; i++) r[i] = j0 + i < n ? load_vector(b + i * row, (size_t)x0, type) : vf_set1(0);
            vf_transpose(r);
            for (int i = 0; i < VN; i++) vf_store(out + (size_t)(x0 + i) * LH_TILE_KEYS + j0, r[i]);
        }
        for (; x0 < dim; x0++)
            for (int i = 0; i < VN; i++)
                out[(size_t)x0 * LH_TILE_KEYS + j0 + i] = j0 + i < n ? load_one(b + i * row, (size_t)x0, type) : 0;
    }
}

static void transpose(const void *b, int32_t n, int32_t dim, lh_kv_type type, float *out) {
    BY_TYPE(type, transpose_rows(b, n, dim, TYPE, out))
}

// out[r * LH_TILE_KEYS + j] = a[r] . b[j] for j < n <= VN. Keys are unpacked once for all rows, whose number is known to
// the compiler.
LH_INLINE void dots_vector(int rows, const float *a, size_t a_stride, const char *b, int32_t n, int32_t dim, lh_kv_type type,
                           float *out) {
    const int keys = rows == 1 ? VN : rows < 4 ? VN / 2 : VN / 4;  // at once: all sums have to stay in registers
    size_t row = lh_kv_row_size(type, dim);
    vf sums[AT_ONCE][VN];
    int32_t x = 0;
    for (int at = 0; at < VN; at += keys) {
        vf r[AT_ONCE][VN];
        for (int k = 0; k < rows; k++)
            for (int i = 0; i < keys; i++) r[k][i] = vf_set1(0);
        for (x = 0; x + VN <= dim; x += VN)
            for (int i = 0; i < keys; i++) {
                if (at + i >= n) continue;
                vf key = load_vector(b + (size_t)(at + i) * row, (size_t)x, type);
                for (int k = 0; k < rows; k++) r[k][i] = vf_fma(vf_load(a + (size_t)k * a_stride + x), key, r[k][i]);
            }
        for (int k = 0; k < rows; k++)
            for (int i = 0; i < keys; i++) sums[k][at + i] = r[k][i];
    }
    for (int k = 0; k < rows; k++, a += a_stride, out += LH_TILE_KEYS) {
        float whole[VN];
        vf_store(whole, vf_sums(sums[k]));
        for (int i = 0; i < n; i++) {
            for (int32_t y = x; y < dim; y++) whole[i] += a[y] * load_one(b + (size_t)i * row, (size_t)y, type);
            out[i] = whole[i];
        }
    }
}

// next: as many bytes, but for the last vector of keys, to be fetched meanwhile, or NULL.
LH_INLINE void dots_rows(int rows, const float *a, size_t a_stride, const char *b, int32_t n, int32_t dim, lh_kv_type type,
                         float *out, const char *next) {
    size_t row = lh_kv_row_size(type, dim);
    int32_t j = 0;
    for (; j + VN <= n; j += VN) {
        if (next) FETCH(next + (size_t)j * row, VN * row);
        dots_vector(rows, a, a_stride, b + (size_t)j * row, VN, dim, type, out + j);
    }
    if (j < n) dots_vector(rows, a, a_stride, b + (size_t)j * row, n - j, dim, type, out + j);
}

static void dots_few(int32_t rows, const float *a, size_t a_stride, const void *b, int32_t n, int32_t dim,
                     lh_kv_type type, float *out, const char *next) {
    switch (rows) {
        case 1: BY_TYPE(type, dots_rows(1, a, a_stride, b, n, dim, TYPE, out, next)) break;
        case 2: BY_TYPE(type, dots_rows(2, a, a_stride, b, n, dim, TYPE, out, next)) break;
        case 3: BY_TYPE(type, dots_rows(3, a, a_stride, b, n, dim, TYPE, out, next)) break;
        default: BY_TYPE(type, dots_rows(4, a, a_stride, b, n, dim, TYPE, out, next)) break;
    }
}
_Static_assert(AT_ONCE == 4, "dots_few counts the rows");

// --- attend ------------------------------------------------------------------------------------------------------

// Scores of a row, with bias added, become its weights; returns what the accumulator is to be multiplied with. Keys past
// `visible` get weight 0, up to `cols`.
static float softmax_step(float *scores, int32_t visible, int32_t cols, float bias, float *top, float *sum) {
    for (int32_t j = visible; j < cols; j++) scores[j] = -INFINITY;
    vf most = vf_load(scores);
    for (int32_t j = VN; j < cols; j += VN) most = vf_max(most, vf_load(scores + j));
    float here = vf_top(most) + bias, now = here > *top ? here : *top;
    vf total = vf_set1(0);
    for (int32_t j = 0; j < cols; j += VN) {
        vf p = vf_exp(vf_sub(vf_load(scores + j), vf_set1(now - bias)));
        vf_store(scores + j, p);
        total = vf_add(total, p);
    }
    float shrink = *top == now ? 1 : expf(*top - now);
    *top = now;
    *sum = *sum * shrink + vf_sum(total);
    return shrink;
}

// Keys as they are to be met: out (n_keys, dim). scratch: as much.
static void turn_keys(const lh_tile *t, float *scratch, float *out) {
    size_t row = lh_kv_row_size(t->type, t->dim), dim = (size_t)t->dim;
    for (int32_t j = 0; j < t->n_keys; j++) load_simd(t->k + (size_t)j * row, t->dim, t->type, scratch + (size_t)j * dim);
    rotate_simd(scratch, t->n_keys, dim, t->turn, -1, 1, t->dim, out);
}

static void attend_simd(const lh_tile *t, float *scratch) {
    int32_t cols = LH_ROUND_UP(t->n_keys, VN);
    size_t stride = (size_t)t->stride;
    float *panel = scratch, *values = panel + LH_TILE_KEYS * stride, *turned = values + LH_TILE_KEYS * stride;
    float *scores = turned + LH_TILE_KEYS * stride, *shrink = scores + (size_t)t->rows * LH_TILE_KEYS;
    bool few = t->rows <= FEW_ROWS, same_keys = !few && t->same_keys, same_values = !few && t->same_values;
    const void *keys = t->k;
    lh_kv_type key_type = t->type;
    int32_t step = few ? AT_ONCE : BLOCK_ROWS;
    size_t row = lh_kv_row_size(t->type, t->dim);

    // Few rows do little with what they read: memory has to work meanwhile. It fetches the values while keys are met, and
    // the next keys while values are; all at once would only wait for its turn.
    if (t->turn && !same_keys) {
        turn_keys(t, panel, turned);
        keys = turned;
        key_type = LH_KV_F32;
    }
    if (!few && !same_keys) transpose(keys, t->n_keys, t->dim, key_type, panel);
    for (int32_t i = 0; i < t->rows; i += step) {
        int32_t some = LH_MIN(t->rows - i, step);
        const float *q = t->q + (size_t)i * stride;
        float *c[BLOCK_ROWS];
        for (int32_t r = 0; r < some; r++) c[r] = scores + (size_t)(i + r) * LH_TILE_KEYS;
        if (!few) product_f32(some, cols, t->dim, q, stride, panel, LH_TILE_KEYS, NULL, c);
        else dots_few(some, q, stride, keys, t->n_keys, t->dim, key_type, c[0], i == 0 ? t->v : NULL);
    }
    for (int32_t i = 0; i < t->rows; i++)
        shrink[i] = softmax_step(scores + (size_t)i * LH_TILE_KEYS, t->limit ? t->limit[i] : t->n_keys, cols,
                                 t->bias ? t->bias[i] : 0, &t->top[t->row[i]], &t->sum[t->row[i]]);

    // Values are read as they lie where a row is whole vectors; where it is not, or many rows read them, unpacked.
    bool as_they_lie = few && t->dim == t->stride;
    for (int32_t j = 0; !as_they_lie && !same_values && j < t->n_keys; j++) {
        load_simd((const char *)t->v + (size_t)j * row, t->dim, t->type, values + j * stride);
        memset(values + j * stride + t->dim, 0, (stride - (size_t)t->dim) * sizeof *values);
    }
    for (int32_t i = 0; i < t->rows; i += step) {
        int32_t n = LH_MIN(t->rows - i, step);
        const float *p = scores + (size_t)i * LH_TILE_KEYS;
        float *c[BLOCK_ROWS];
        for (int32_t r = 0; r < n; r++) c[r] = t->acc + (size_t)t->row[i + r] * stride;
        if (!as_they_lie) product_f32(n, t->stride, t->n_keys, p, LH_TILE_KEYS, values, stride, shrink + i, c);
        else
            BY_TYPE(t->type, product_as_it_lies(n, t->stride, t->n_keys, p, LH_TILE_KEYS, t->v, row, TYPE, shrink + i, c,
                                                i == 0 ? t->next_k : NULL))
    }
}

// --- top ---------------------------------------------------------------------------------------------------------

#define TOP_RUN 32  // keys that are looked at together

// Those of n keys that reach `least`, moved to the front; their places into `at`. Returns how many they are.
static int32_t keep_reaching(int32_t *keys, int32_t n, int32_t least, int32_t *at) {
    int32_t kept = 0;
    for (int32_t first = 0; first < n; first += TOP_RUN) {
        int32_t end = first + TOP_RUN < n ? first + TOP_RUN : n, reached = 0;
        for (int32_t i = first; i < end; i++) reached += keys[i] >= least;
        for (int32_t i = first; reached > 0; i++) {
            if (keys[i] < least) continue;
            keys[kept] = keys[i];
            at[kept++] = i;
            reached--;
        }
    }
    return kept;
}

static void top_simd(const float *scores, int32_t n, int32_t k, int32_t first, int32_t *out, int32_t *scratch) {
    if (k <= 0) return;
    int32_t *keys = scratch, *at = scratch + n;
    for (int32_t i = 0; i < n; i++) keys[i] = lh_order_of(scores[i]);
    // Where groups would be few or small, everything is looked at.
    n = keep_reaching(keys, n, lh_floor_of_best(keys, n, k), at);
    int32_t least = lh_kth_best(keys, n, k), ties = k;
    for (int32_t i = 0; i < n; i++) ties -= keys[i] > least;
    for (int32_t i = 0; i < n; i++)
        if (keys[i] > least || (keys[i] == least && ties-- > 0)) *out++ = at[i] + first;
}
