// Rows of the commonest quantised formats, as they lie in the file, times one token's activations: AVX2.
//
// Weights of six bits and less are unsigned bytes, small enough for vpmaddubsw to be exact. What they are more than the
// weight (`zero`), and the mins, are multiples of the sums of activations. The other formats: dot_quant_simd.h.
#include "quant_blocks.h"
#include "simd_avx2.h"
// The vectors come first.
#include "matmul_tile.h"

// --- two blocks side by side -----------------------------------------------------------------------------------------

LH_INLINE __m256i broadcast_128(const void *p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p)); }

// 16 bytes of each. A blend runs anywhere, an insertion on one unit only.
LH_INLINE __m256i side_by_side(const void *a, const void *b) {
    __m256i first = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a));
    return _mm256_blend_epi32(first, broadcast_128(b), 0xf0);
}

// The weights of two blocks, side by side: of each the first 16, and the second.
typedef struct block_pair {
    __m256i w[2];
} block_pair;

// 32 activations, for both.
LH_INLINE block_pair twice(const int8_t *q) { return (block_pair){{broadcast_128(q), broadcast_128(q + 16)}}; }

// (v >> shift) & mask, byte by byte.
LH_INLINE __m256i bits_of(__m256i v, int shift, char mask) {
    return _mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8(mask));
}

// Sums of products with activations that both blocks meet: four of the first block, four of the second.
LH_INLINE __m256i pair_products(block_pair v, block_pair q, bool is_signed) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i pairs[2];
    LH_UNROLL for (int h = 0; h < 2; h++)
        pairs[h] = is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(v.w[h]), _mm256_sign_epi8(q.w[h], v.w[h]))
                             : _mm256_maddubs_epi16(v.w[h], q.w[h]);
    // Weights of up to five bits leave room for one more sum in 16 bits.
    if (!is_signed) return _mm256_madd_epi16(_mm256_add_epi16(pairs[0], pairs[1]), ones);
    return _mm256_add_epi32(_mm256_madd_epi16(pairs[0], ones), _mm256_madd_epi16(pairs[1], ones));
}

// Sums of neighbours: of each half, those of a, then those of b. Two shuffles take less than the instruction for it.
LH_INLINE __m256i add_neighbours(__m256i a, __m256i b) {
    __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    return _mm256_add_epi32(_mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88)),
                            _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xdd)));
}

// The same. Sums of eight products with five bits fit 16 bits.
LH_INLINE __m256i halve(__m256i a, __m256i b, bool is_signed) {
    if (is_signed) return add_neighbours(a, b);
    return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
}

LH_INLINE const char *row_of(const lh_tensor *w, int64_t row) {
    return (const char *)w->data + (size_t)row * w->row_size;
}

// Memory is asked for in its order, while `rows` rows are read at once: what the last of them begins with comes before
// they do.
LH_INLINE size_t ahead_of(int rows, size_t row_size) { return LH_MAX((size_t)FETCH_AHEAD, (size_t)(rows - 1) * row_size); }

// --- legacy formats: 32 weights a block, one scale -------------------------------------------------------------

LH_INLINE block_pair nibbles(const uint8_t *a, const uint8_t *b) {
    __m256i v = side_by_side(a, b);
    return (block_pair){{bits_of(v, 0, 15), bits_of(v, 4, 15)}};
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
    double pair = 0;  // as a load that spreads what it loads
    memcpy(&pair, x, (size_t)n * sizeof *x);
    return _mm256_castpd_ps(_mm256_set1_pd(pair));
}

// A legacy format: 32 weights a block. The scale is its first half, the min its second.
typedef struct legacy {
    block_values_fn values;
    size_t size;
    bool is_signed, has_min;
    float zero;  // what a value is more than its weight
} legacy;

// n blocks, 1 or 2, of 4 rows, from block i on. The sums of rows 0, 2, 1 and 3: for each, of both blocks.
LH_INLINE void add_blocks(legacy f, int n, const char *const rows[ROWS], int64_t i, const lh_act_row *act,
                          __m256 *total, __m256 *fix) {
    __m256 scale, min;
    halves(rows, n == 2 ? f.size : 0, &scale, &min);
    if (!f.is_signed) *fix = _mm256_fmadd_ps(f.has_min ? min : scale, pairs_of(act->sum32 + i, n), *fix);
    scale = _mm256_mul_ps(scale, pairs_of(act->scale + i, n));
    __m256i sums[ROWS / 2][2] = {{_mm256_setzero_si256()}};  // all of them are zero
    LH_UNROLL for (int j = 0; j < n; j++) {
        block_pair q = twice(act->q + 32 * (i + j));
        size_t block = (size_t)j * f.size;
        LH_UNROLL for (int p = 0; p < ROWS / 2; p++)
            sums[p][j] = pair_products(f.values(rows[2 * p] + block, rows[2 * p + 1] + block), q, f.is_signed);
    }
    __m256i first = halve(sums[0][0], sums[0][1], f.is_signed), second = halve(sums[1][0], sums[1][1], f.is_signed);
    *total = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(add_neighbours(first, second)), *total);
}

LH_INLINE void dot_legacy(legacy f, const lh_tensor *w, int64_t first_row, int64_t n_rows, const lh_act_row *act,
                          float *out) {
    const char *rows = row_of(w, first_row);
    int64_t n_blocks = w->n_cols / 32;
    size_t row_size = w->row_size, ahead = ahead_of(ROWS, row_size), step = 2 * f.size;
    for (int64_t first = 0; first < n_rows; first += ROWS) {
        const char *row[ROWS], *next = rows + (size_t)first * row_size + ahead;
        for (int r = 0; r < ROWS; r++) row[r] = rows + (size_t)LH_MIN(first + r, n_rows - 1) * row_size;
        __m256 total = _mm256_setzero_ps(), fix = total;
        int64_t i = 0;
        for (; i + 2 <= n_blocks; i += 2, next += ROWS * step) {
            lh_prefetch(next, ROWS * step);
            add_blocks(f, 2, row, i, act, &total, &fix);
            LH_UNROLL for (int r = 0; r < ROWS; r++) row[r] += step;
        }
        if (i < n_blocks) add_blocks(f, 1, row, i, act, &total, &fix);
        if (!f.is_signed) total = _mm256_fmadd_ps(_mm256_set1_ps(f.has_min ? 1 : -f.zero), fix, total);
        total = _mm256_hadd_ps(total, total);
        float four[ROWS];
        _mm_storeu_ps(four, _mm_unpacklo_ps(_mm256_castps256_ps128(total), _mm256_extractf128_ps(total, 1)));
        memcpy(out + first, four, (size_t)LH_MIN(n_rows - first, ROWS) * sizeof *out);
    }
}

#define DEFINE_LEGACY_DOT(suffix, is_signed, has_min, zero)                                                        \
    static void dot_##suffix(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) { \
        dot_legacy((legacy){values_##suffix, sizeof(lh_block_##suffix), is_signed, has_min, zero}, w, row, n_rows, \
                   act, out);                                                                                      \
    }

DEFINE_LEGACY_DOT(q4_0, false, false, 8)
DEFINE_LEGACY_DOT(q4_1, false, true, 0)
DEFINE_LEGACY_DOT(q5_0, false, false, 16)
DEFINE_LEGACY_DOT(q5_1, false, true, 0)
DEFINE_LEGACY_DOT(q8_0, true, false, 0)
DEFINE_LEGACY_DOT(iq4_nl, true, false, 0)

// --- K formats: 256 weights a block ----------------------------------------------------------------------------

// Of two rows: run j of 32 weights of a block.
typedef block_pair (*run_values_fn)(const void *a, const void *b, int j);

// Of 32 bytes of each row the same bits.
LH_INLINE block_pair run_bits(const uint8_t *a, const uint8_t *b, int shift, char mask) {
    return (block_pair){{bits_of(side_by_side(a, b), shift, mask), bits_of(side_by_side(a + 16, b + 16), shift, mask)}};
}

LH_INLINE block_pair above_nibbles(block_pair low, block_pair high) {
    LH_UNROLL for (int h = 0; h < 2; h++) low.w[h] = _mm256_or_si256(low.w[h], _mm256_slli_epi16(high.w[h], 4));
    return low;
}

LH_INLINE block_pair run_q4_k(const void *a, const void *b, int j) {
    int at = j / 2 * 32;
    return run_bits(QS(q4_k, a) + at, QS(q4_k, b) + at, j % 2 * 4, 15);
}

LH_INLINE block_pair run_q5_k(const void *a, const void *b, int j) {
    int at = j / 2 * 32;
    return above_nibbles(run_bits(QS(q5_k, a) + at, QS(q5_k, b) + at, j % 2 * 4, 15),
                         run_bits(QH(q5_k, a), QH(q5_k, b), j, 1));
}

LH_INLINE block_pair run_q6_k(const lh_block_q6_k *a, const lh_block_q6_k *b, int j) {
    int low = j / 4 * 64 + j % 2 * 32, high = j / 4 * 32;
    return above_nibbles(run_bits(a->ql + low, b->ql + low, j % 4 / 2 * 4, 15),
                         run_bits(a->qh + high, b->qh + high, j % 4 * 2, 3));
}

// Sums of the first row in lane 0, of the second in lane 4.
LH_INLINE void store_pair(__m256 sums, bool both, float *out) {
    sums = _mm256_hadd_ps(sums, sums);
    sums = _mm256_hadd_ps(sums, sums);
    out[0] = _mm256_cvtss_f32(sums);
    if (both) out[1] = _mm_cvtss_f32(_mm256_extractf128_ps(sums, 1));
}

// What a block of Q4_K or Q5_K begins with: d, dmin and 12 bytes of six-bit numbers, of two rows side by side. As floats,
// the scales and mins of runs 0..3 of both, and of runs 4..7.
LH_INLINE void six_bit_numbers(__m256i heads, __m256 scales[2], __m256 mins[2]) {
    const __m256i zero = _mm256_setzero_si256(), shift = _mm256_setr_epi32(0, 0, 4, 0, 0, 0, 4, 0);
    // Of words 1 and 2, scales and mins: those of runs 0..3, and the upper two bits of the others, whose lower four bits
    // are in word 3.
    __m256i low = bits_of(heads, 0, 0x3f), upper = bits_of(heads, 2, 0x30);
    __m256i lower = _mm256_srlv_epi32(_mm256_shuffle_epi32(heads, 0xff), shift);
    __m256i high = _mm256_or_si256(_mm256_and_si256(lower, _mm256_set1_epi8(15)), upper);
    __m256i scale = _mm256_unpackhi_epi8(_mm256_unpacklo_epi32(low, high), zero);
    __m256i min = _mm256_unpacklo_epi8(_mm256_unpackhi_epi32(low, high), zero);
    scales[0] = _mm256_cvtepi32_ps(_mm256_unpacklo_epi16(scale, zero));
    scales[1] = _mm256_cvtepi32_ps(_mm256_unpackhi_epi16(scale, zero));
    mins[0] = _mm256_cvtepi32_ps(_mm256_unpacklo_epi16(min, zero));
    mins[1] = _mm256_cvtepi32_ps(_mm256_unpackhi_epi16(min, zero));
}

// Of two rows, the sums of products of runs j..j+3 with activations q.
LH_INLINE __m256 four_runs(run_values_fn values, const void *a, const void *b, int j, const int8_t *q) {
    __m256i sums[4];
    LH_UNROLL for (int i = 0; i < 4; i++) sums[i] = pair_products(values(a, b, j + i), twice(q + 32 * i), false);
    __m256i first = halve(sums[0], sums[1], false), second = halve(sums[2], sums[3], false);
    return _mm256_cvtepi32_ps(add_neighbours(first, second));
}

// Runs of 32 with mins.
LH_INLINE void dot_4_5_k(run_values_fn values, size_t block_size, const lh_tensor *w, int64_t row, int64_t n_rows,
                         const lh_act_row *act, float *out) {
    const size_t row_size = w->row_size;
    for (int64_t r = 0; r < n_rows; r += 2) {
        bool both = r + 1 < n_rows;
        const char *a = row_of(w, row + r), *b = a + both * row_size;
        const char *next = a + ahead_of(2, row_size);
        __m256 total[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};  // the second: of mins
        for (int64_t i = 0; i < w->n_cols; i += 256, a += block_size, b += block_size, next += 2 * block_size) {
            lh_prefetch(next, 2 * block_size);
            __m256i heads = side_by_side(a, b);
            __m256 d = _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(heads, 0x08)));
            __m256 scales[2], mins[2], sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
            six_bit_numbers(heads, scales, mins);
            LH_UNROLL for (int k = 0; k < 2; k++) {
                int64_t run = i / 32 + 4 * k;
                __m256 scale = _mm256_mul_ps(scales[k], _mm256_broadcast_ps((const __m128 *)(act->scale + run)));
                sums[0] = _mm256_fmadd_ps(scale, four_runs(values, a, b, 4 * k, act->q + 32 * run), sums[0]);
                sums[1] = _mm256_fmadd_ps(mins[k], _mm256_broadcast_ps((const __m128 *)(act->sum32 + run)), sums[1]);
            }
            total[0] = _mm256_fmadd_ps(_mm256_permute_ps(d, 0x00), sums[0], total[0]);  // by d
            total[1] = _mm256_fmadd_ps(_mm256_permute_ps(d, 0x55), sums[1], total[1]);  // by dmin
        }
        store_pair(_mm256_sub_ps(total[0], total[1]), both, out + r);
    }
}

static void dot_q4_k(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {
    dot_4_5_k(run_q4_k, sizeof(lh_block_q4_k), w, row, n_rows, act, out);
}

static void dot_q5_k(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {
    dot_4_5_k(run_q5_k, sizeof(lh_block_q5_k), w, row, n_rows, act, out);
}

// The scales of 16 runs of 16 in two rows, as words: of the first eight runs, and the last.
LH_INLINE void word_scales(const int8_t *a, const int8_t *b, __m256i out[2]) {
    __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)a));
    __m256i y = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)b));
    out[0] = _mm256_permute2x128_si256(x, y, 0x20);
    out[1] = _mm256_permute2x128_si256(x, y, 0x31);
}

static void dot_q6_k(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {
    const size_t row_size = w->row_size;
    for (int64_t r = 0; r < n_rows; r += 2) {
        bool both = r + 1 < n_rows;
        const lh_block_q6_k *a = (const void *)row_of(w, row + r);
        const lh_block_q6_k *b = (const void *)((const char *)a + both * row_size);
        const char *next = (const char *)a + ahead_of(2, row_size);
        __m256 total = _mm256_setzero_ps(), fix = total;
        for (int64_t i = 0; i < w->n_cols; i += 256, a++, b++, next += 2 * sizeof *a) {
            lh_prefetch(next, 2 * sizeof *a);
            __m256 d = _mm256_set_m128(_mm_set1_ps(lh_half(b->d)), _mm_set1_ps(lh_half(a->d))), sums = _mm256_setzero_ps();
            __m256i scales[2];
            word_scales(a->scales, b->scales, scales);
            LH_UNROLL for (int j = 0; j < 8; j++) {
                block_pair v = run_q6_k(a, b, j), q = twice(act->q + i + 32 * j);
                __m256i sum[2];
                LH_UNROLL for (int h = 0; h < 2; h++) {
                    const __m256i word = _mm256_set1_epi16((short)(0x0101 * (2 * (2 * j % 8 + h)) + 0x0100));
                    __m256i pairs = _mm256_maddubs_epi16(v.w[h], q.w[h]);
                    sum[h] = _mm256_madd_epi16(pairs, _mm256_shuffle_epi8(scales[j / 4], word));
                }
                __m256 products = _mm256_cvtepi32_ps(_mm256_add_epi32(sum[0], sum[1]));
                sums = _mm256_fmadd_ps(_mm256_set1_ps(act->scale[i / 32 + j]), products, sums);
            }
            total = _mm256_fmadd_ps(d, sums, total);
            // What values are more than weights: the sums of activations of 16 runs, four at a time.
            sums = _mm256_setzero_ps();
            LH_UNROLL for (int k = 0; k < 4; k++) {
                __m256i four = k % 2 ? _mm256_unpackhi_epi16(scales[k / 2], scales[k / 2])
                                     : _mm256_unpacklo_epi16(scales[k / 2], scales[k / 2]);
                __m128 of = _mm_loadu_ps(act->sum16 + i / 16 + 4 * k);
                sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(four, 16)), _mm256_set_m128(of, of), sums);
            }
            fix = _mm256_fmadd_ps(d, sums, fix);
        }
        store_pair(_mm256_fnmadd_ps(_mm256_set1_ps(32), fix, total), both, out + r);
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
