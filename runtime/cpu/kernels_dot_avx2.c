// Rows of the commonest quantised formats, as they lie in the file, times one token's activations: AVX2.
//
// Weights of six bits and less are unsigned bytes, small enough for vpmaddubsw to be exact. What they are more than the
// weight (`zero`), and the mins, are multiples of the sums of activations. The other formats: dot_quant_simd.h.
#include "quant_blocks.h"
#include "simd_avx2.h"
// The vectors come first.
#include "matmul_tile.h"

LH_INLINE __m256i load_256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

// Broadcasts from memory are free, shuffles are not: without this the compiler would make shuffles of them.
LH_INLINE void store_for_broadcasts(float to[8], __m256 a) {
    _mm256_storeu_ps(to, a);
    __asm__("" : "+m"(*(float (*)[8])to));
}

// 32 products, their sums four by four. Signed: the weight's sign goes to the activation.
LH_INLINE __m256 products(__m256i w, __m256i q, bool is_signed) {
    __m256i pairs = is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w))
                              : _mm256_maddubs_epi16(w, q);
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// --- legacy formats: 32 weights a block, one scale -------------------------------------------------------------

LH_INLINE __m256i broadcast_128(const void *p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p)); }

// 16 bytes of each.
LH_INLINE __m256i side_by_side(const void *a, const void *b) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a)),
                                   _mm_loadu_si128((const __m128i *)b), 1);
}

// The weights of two blocks, side by side: of each the first 16, and the second.
typedef struct block_pair {
    __m256i w[2];
} block_pair;

LH_INLINE block_pair nibbles(const uint8_t *a, const uint8_t *b) {
    __m256i v = side_by_side(a, b), mask = _mm256_set1_epi8(15);
    return (block_pair){{_mm256_and_si256(v, mask), _mm256_and_si256(_mm256_srli_epi16(v, 4), mask)}};
}

// To nibbles what 32 bits of each block add: 16 where they are set.
LH_INLINE block_pair fifth_bits(block_pair v, const uint8_t *a, const uint8_t *b) {
    int32_t of_a, of_b;
    memcpy(&of_a, a, 4);
    memcpy(&of_b, b, 4);
    __m256i bits = _mm256_setr_epi32(of_a, 0, 0, 0, of_b, 0, 0, 0);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    LH_UNROLL for (int h = 0; h < 2; h++) {
        const __m256i byte = _mm256_set1_epi8((char)(2 * h));
        const __m256i of = _mm256_add_epi8(byte, _mm256_setr_epi64x(0, 0x0101010101010101, 0, 0x0101010101010101));
        __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, of), bit), bit);
        v.w[h] = _mm256_or_si256(v.w[h], _mm256_and_si256(set, _mm256_set1_epi8(16)));
    }
    return v;
}

#define QS(suffix, p) (((const lh_block_##suffix *)(p))->qs)
#define QH(suffix, p) (((const lh_block_##suffix *)(p))->qh)

LH_INLINE block_pair values_q4_0(const void *a, const void *b) { return nibbles(QS(q4_0, a), QS(q4_0, b)); }
LH_INLINE block_pair values_q4_1(const void *a, const void *b) { return nibbles(QS(q4_1, a), QS(q4_1, b)); }

LH_INLINE block_pair values_q5_0(const void *a, const void *b) {
    return fifth_bits(nibbles(QS(q5_0, a), QS(q5_0, b)), QH(q5_0, a), QH(q5_0, b));
}

LH_INLINE block_pair values_q5_1(const void *a, const void *b) {
    return fifth_bits(nibbles(QS(q5_1, a), QS(q5_1, b)), QH(q5_1, a), QH(q5_1, b));
}

LH_INLINE block_pair values_q8_0(const void *a, const void *b) {
    return (block_pair){{side_by_side(QS(q8_0, a), QS(q8_0, b)), side_by_side(QS(q8_0, a) + 16, QS(q8_0, b) + 16)}};
}

LH_INLINE block_pair values_iq4_nl(const void *a, const void *b) {
    __m256i table = broadcast_128(lh_iq4_values);
    block_pair v = nibbles(QS(iq4_nl, a), QS(iq4_nl, b));
    return (block_pair){{_mm256_shuffle_epi8(table, v.w[0]), _mm256_shuffle_epi8(table, v.w[1])}};
}

// Sums of products with activations that both blocks meet: four of the first block, four of the second.
LH_INLINE __m256 pair_products(block_pair v, const __m256i q[2], bool is_signed) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i pairs[2];
    LH_UNROLL for (int h = 0; h < 2; h++)
        pairs[h] = is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(v.w[h]), _mm256_sign_epi8(q[h], v.w[h]))
                             : _mm256_maddubs_epi16(v.w[h], q[h]);
    // Weights of up to five bits leave room for one more sum in 16 bits.
    if (!is_signed) return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_add_epi16(pairs[0], pairs[1]), ones));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_madd_epi16(pairs[0], ones), _mm256_madd_epi16(pairs[1], ones)));
}

#define ROWS 4  // at once: two pairs, whose rows lie side by side; they share what is loaded of the activations

typedef block_pair (*block_values_fn)(const void *a, const void *b);

// The first halves of two blocks in each of 4 rows as floats, and the second ones: blocks of rows 0 and 2, then of 1 and 3.
LH_INLINE void halves(const char *const rows[ROWS], size_t step, __m256 *first, __m256 *second) {
    __m128i v[2];
    LH_UNROLL for (int h = 0; h < 2; h++) {
        int32_t words[4];
        LH_UNROLL for (int i = 0; i < 4; i++) memcpy(&words[i], rows[2 * h + i / 2] + i % 2 * step, 4);
        v[h] = _mm_insert_epi32(_mm_cvtsi32_si128(words[0]), words[1], 1);
        v[h] = _mm_insert_epi32(_mm_insert_epi32(v[h], words[2], 2), words[3], 3);
    }
    __m256 low = _mm256_cvtph_ps(v[0]), high = _mm256_cvtph_ps(v[1]);  // first and second in turn
    *first = _mm256_shuffle_ps(low, high, 0x88);
    *second = _mm256_shuffle_ps(low, high, 0xdd);
}

// Two floats, or one and a zero, four times.
LH_INLINE __m256 pairs_of(const float *x, int n) {
    __m128 pair = n == 2 ? _mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)x)) : _mm_load_ss(x);
    return _mm256_castpd_ps(_mm256_broadcastsd_pd(_mm_castps_pd(pair)));
}

// A legacy format: 32 weights a block. The scale is its first half, the min its second.
typedef struct legacy {
    block_values_fn values;
    size_t size;
    bool is_signed, has_min;
    float zero;  // what a value is more than its weight
} legacy;

// n blocks, 1 or 2, of 4 rows, from block i on.
LH_INLINE void add_blocks(legacy f, int n, const char *const rows[ROWS], int64_t i, const lh_act_row *act,
                          __m256 total[ROWS / 2], __m256 *fix) {
    __m256 scale, min;
    halves(rows, n == 2 ? f.size : 0, &scale, &min);
    if (!f.is_signed) *fix = _mm256_fmadd_ps(f.has_min ? min : scale, pairs_of(act->sum32 + i, n), *fix);
    scale = _mm256_mul_ps(scale, pairs_of(act->scale + i, n));
    LH_UNROLL for (int j = 0; j < n; j++) {
        const int8_t *at = act->q + 32 * (i + j);
        const __m256i q[2] = {broadcast_128(at), broadcast_128(at + 16)};
        size_t block = (size_t)j * f.size;
        __m256 first = pair_products(f.values(rows[0] + block, rows[1] + block), q, f.is_signed);
        __m256 second = pair_products(f.values(rows[2] + block, rows[3] + block), q, f.is_signed);
        // In each half of a register a scale of the block's row, four times.
        total[0] = _mm256_fmadd_ps(j ? _mm256_permute_ps(scale, 0x55) : _mm256_permute_ps(scale, 0x00), first, total[0]);
        total[1] = _mm256_fmadd_ps(j ? _mm256_permute_ps(scale, 0xff) : _mm256_permute_ps(scale, 0xaa), second, total[1]);
    }
}

LH_INLINE void dot_legacy(legacy f, const void *rows, size_t row_size, int64_t n_rows, int64_t n_cols,
                          const lh_act_row *act, float *out) {
    int64_t n_blocks = n_cols / 32;
    // Memory is asked for in its order; what the last of the rows begins with comes before they do.
    size_t ahead = LH_MAX((size_t)LH_AHEAD, (ROWS - 1) * row_size), step = 2 * f.size;
    for (int64_t first = 0; first < n_rows; first += ROWS) {
        const char *row[ROWS], *next = (const char *)rows + (size_t)first * row_size + ahead;
        for (int r = 0; r < ROWS; r++) row[r] = (const char *)rows + (size_t)LH_MIN(first + r, n_rows - 1) * row_size;
        __m256 total[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, fix = _mm256_setzero_ps();
        int64_t i = 0;
        for (; i + 2 <= n_blocks; i += 2, next += ROWS * step) {
            lh_prefetch(next, ROWS * step);
            add_blocks(f, 2, row, i, act, total, &fix);
            LH_UNROLL for (int r = 0; r < ROWS; r++) row[r] += step;
        }
        if (i < n_blocks) add_blocks(f, 1, row, i, act, total, &fix);
        // Two sums of rows 0 and 2, then of 1 and 3, as in fix.
        __m256 sums = _mm256_hadd_ps(total[0], total[1]);
        if (!f.is_signed) sums = _mm256_fmadd_ps(_mm256_set1_ps(f.has_min ? 1 : -f.zero), fix, sums);
        sums = _mm256_hadd_ps(sums, sums);
        float four[ROWS];
        _mm_storeu_ps(four, _mm_unpacklo_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
        memcpy(out + first, four, (size_t)LH_MIN(n_rows - first, ROWS) * sizeof *out);
    }
}

#define DEFINE_LEGACY_DOT(suffix, is_signed, has_min, zero)                                                      \
    static void dot_##suffix(const lh_type_traits *traits, const void *rows, size_t row_size, int64_t n_rows,    \
                             int64_t n_cols, const lh_act_row *act, float *out) {                                \
        (void)traits;                                                                                            \
        dot_legacy((legacy){values_##suffix, sizeof(lh_block_##suffix), is_signed, has_min, zero}, rows,         \
                   row_size, n_rows, n_cols, act, out);                                                          \
    }

DEFINE_LEGACY_DOT(q4_0, false, false, 8)
DEFINE_LEGACY_DOT(q4_1, false, true, 0)
DEFINE_LEGACY_DOT(q5_0, false, false, 16)
DEFINE_LEGACY_DOT(q5_1, false, true, 0)
DEFINE_LEGACY_DOT(q8_0, true, false, 0)
DEFINE_LEGACY_DOT(iq4_nl, true, false, 0)

// --- K formats -------------------------------------------------------------------------------------------------

// Run j of 32 weights of a block.
typedef __m256i (*values_fn)(const void *block, int j);

LH_INLINE __m256i values_q4_k(const void *block, int j) {
    __m256i v = load_256(((const lh_block_q4_k *)block)->qs + j / 2 * 32);
    return _mm256_and_si256(_mm256_srli_epi16(v, j % 2 * 4), _mm256_set1_epi8(15));
}

LH_INLINE __m256i values_q5_k(const void *block, int j) {
    const lh_block_q5_k *b = block;
    __m256i low = _mm256_and_si256(_mm256_srli_epi16(load_256(b->qs + j / 2 * 32), j % 2 * 4), _mm256_set1_epi8(15));
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(load_256(b->qh), j), _mm256_set1_epi8(1));
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
}

LH_INLINE __m256 six_bits(uint32_t low, uint32_t high, float factor) {
    __m128i bytes = _mm_set_epi32(0, 0, (int32_t)high, (int32_t)low);
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_set1_ps(factor));
}

// Runs of 32 with mins.
LH_INLINE void dot_4_5_k(values_fn values, size_t block_size, const void *rows, size_t row_size, int64_t n_rows,
                         int64_t n_cols, const lh_act_row *act, float *out) {
    for (int64_t r = 0; r < n_rows; r++) {
        const char *block = (const char *)rows + (size_t)r * row_size;
        __m256 total[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, fix = _mm256_setzero_ps();
        for (int64_t i = 0; i < n_cols; i += 256, block += block_size) {
            const lh_block_q4_k *head = (const void *)block;  // Q5_K begins as Q4_K does
            fetch_ahead(block, block_size);
            uint32_t words[4];
            lh_scales_4_5_k(head->scales, words);
            __m256 scales = six_bits(words[0], words[1], lh_half(head->d));
            __m256 mins = six_bits(words[2], words[3], -lh_half(head->dmin));
            fix = _mm256_fmadd_ps(mins, _mm256_loadu_ps(act->sum32 + i / 32), fix);
            float scale[8];
            store_for_broadcasts(scale, _mm256_mul_ps(scales, _mm256_loadu_ps(act->scale + i / 32)));
            LH_UNROLL for (int j = 0; j < 8; j++)
                total[j % 2] = _mm256_fmadd_ps(_mm256_set1_ps(scale[j]), products(values(block, j), load_256(act->q + i + 32 * j), false),
                                               total[j % 2]);
        }
        out[r] = vf_sum(_mm256_add_ps(_mm256_add_ps(total[0], total[1]), fix));
    }
}

static void dot_q4_k(const lh_type_traits *traits, const void *rows, size_t row_size, int64_t n_rows, int64_t n_cols,
                     const lh_act_row *act, float *out) {
    (void)traits;
    dot_4_5_k(values_q4_k, sizeof(lh_block_q4_k), rows, row_size, n_rows, n_cols, act, out);
}

static void dot_q5_k(const lh_type_traits *traits, const void *rows, size_t row_size, int64_t n_rows, int64_t n_cols,
                     const lh_act_row *act, float *out) {
    (void)traits;
    dot_4_5_k(values_q5_k, sizeof(lh_block_q5_k), rows, row_size, n_rows, n_cols, act, out);
}

LH_INLINE __m256i values_q6_k(const lh_block_q6_k *b, int j) {
    __m256i low = load_256(b->ql + j / 4 * 64 + j % 2 * 32), high = load_256(b->qh + j / 4 * 32);
    low = _mm256_and_si256(_mm256_srli_epi16(low, j % 4 / 2 * 4), _mm256_set1_epi8(15));
    high = _mm256_and_si256(_mm256_srli_epi16(high, j % 4 * 2), _mm256_set1_epi8(3));
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
}

static void dot_q6_k(const lh_type_traits *traits, const void *rows, size_t row_size, int64_t n_rows, int64_t n_cols,
                     const lh_act_row *act, float *out) {
    (void)traits;
    for (int64_t r = 0; r < n_rows; r++) {
        const lh_block_q6_k *b = (const void *)((const char *)rows + (size_t)r * row_size);
        __m256 total[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, fix = _mm256_setzero_ps();
        for (int64_t i = 0; i < n_cols; i += 256, b++) {
            fetch_ahead(b, sizeof *b);
            // Run 2j is half of the j-th 32 weights, run 2j + 1 the other: lanes 0..3 and 4..7 of their products.
            __m256 d = _mm256_set1_ps(lh_half(b->d)), act_scale = _mm256_loadu_ps(act->scale + i / 32);
            __m256 scale[2];
            LH_UNROLL for (int h = 0; h < 2; h++) {
                __m128i bytes = _mm_loadl_epi64((const __m128i *)(b->scales + 8 * h));
                scale[h] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), d);
                fix = _mm256_fmadd_ps(scale[h], _mm256_loadu_ps(act->sum16 + i / 16 + 8 * h), fix);
            }
            LH_UNROLL for (int j = 0; j < 8; j++) {
                int k = j % 4 * 2;
                __m256 weight_scale =
                    _mm256_permutevar8x32_ps(scale[j / 4], _mm256_setr_epi32(k, k, k, k, k + 1, k + 1, k + 1, k + 1));
                __m256 product = _mm256_mul_ps(weight_scale, _mm256_permutevar8x32_ps(act_scale, _mm256_set1_epi32(j)));
                total[j % 2] = _mm256_fmadd_ps(product, products(values_q6_k(b, j), load_256(act->q + i + 32 * j), false), total[j % 2]);
            }
        }
        out[r] = vf_sum(_mm256_fnmadd_ps(_mm256_set1_ps(32), fix, _mm256_add_ps(total[0], total[1])));
    }
}

void lh_dot_kernels_avx2(lh_dot_fn dot[LH_TYPE_COUNT]) {
    dot[LH_TYPE_Q4_0] = dot_q4_0;
    dot[LH_TYPE_Q4_1] = dot_q4_1;
    dot[LH_TYPE_Q5_0] = dot_q5_0;
    dot[LH_TYPE_Q5_1] = dot_q5_1;
    dot[LH_TYPE_Q8_0] = dot_q8_0;
    dot[LH_TYPE_IQ4_NL] = dot_iq4_nl;
    dot[LH_TYPE_Q4_K] = dot_q4_k;
    dot[LH_TYPE_Q5_K] = dot_q5_k;
    dot[LH_TYPE_Q6_K] = dot_q6_k;
}
