// Rows of the commonest quantised formats, as they lie in the file, times one token's activations: AVX2.
//
// Weights of six bits and less are unsigned bytes, small enough for vpmaddubsw to be exact. What they are more than the
// weight (`zero`), and the mins, are multiples of the sums of activations. The other formats: dot_quant_simd.h.
#include "quant_blocks.h"
#include "simd_avx2.h"
// The vectors come first.
#include "matmul_tile.h"

LH_INLINE __m256i load_256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

// 32 products, their sums four by four.
LH_INLINE __m256 dot_32(__m256i w, const int8_t *q) {
    __m256i pairs = _mm256_maddubs_epi16(w, load_256(q));
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// --- legacy formats --------------------------------------------------------------------------------------------

LH_INLINE __m256i nibbles(const uint8_t *qs) {
    __m128i v = _mm_loadu_si128((const __m128i *)qs);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
}

static void dot_q4_0(const lh_type_traits *traits, const void *rows, size_t row_size, int64_t n_rows, int64_t n_cols,
                     const lh_act_row *act, float *out) {
    (void)traits;
    for (int64_t r = 0; r < n_rows; r++) {
        const lh_block_q4_0 *b = (const void *)((const char *)rows + (size_t)r * row_size);
        __m256 total = _mm256_setzero_ps();
        float fix = 0;
        for (int64_t i = 0; i < n_cols / 32; i++, b++) {
            float d = lh_half(b->d);
            total = _mm256_fmadd_ps(_mm256_set1_ps(d * act->scale[i]), dot_32(nibbles(b->qs), act->q + 32 * i), total);
            fix += d * act->sum32[i];
        }
        out[r] = vf_sum(total) - 8 * fix;
    }
}

static void dot_q4_1(const lh_type_traits *traits, const void *rows, size_t row_size, int64_t n_rows, int64_t n_cols,
                     const lh_act_row *act, float *out) {
    (void)traits;
    for (int64_t r = 0; r < n_rows; r++) {
        const lh_block_q4_1 *b = (const void *)((const char *)rows + (size_t)r * row_size);
        __m256 total = _mm256_setzero_ps();
        float fix = 0;
        for (int64_t i = 0; i < n_cols / 32; i++, b++) {
            float d = lh_half(b->d);
            total = _mm256_fmadd_ps(_mm256_set1_ps(d * act->scale[i]), dot_32(nibbles(b->qs), act->q + 32 * i), total);
            fix += lh_half(b->m) * act->sum32[i];
        }
        out[r] = vf_sum(total) + fix;
    }
}

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
        __m256 total = _mm256_setzero_ps(), fix = _mm256_setzero_ps();
        for (int64_t i = 0; i < n_cols; i += 256, block += block_size) {
            const lh_block_q4_k *head = (const void *)block;  // Q5_K begins as Q4_K does
            uint32_t words[4];
            lh_scales_4_5_k(head->scales, words);
            __m256 scales = six_bits(words[0], words[1], lh_half(head->d));
            __m256 mins = six_bits(words[2], words[3], -lh_half(head->dmin));
            fix = _mm256_fmadd_ps(mins, _mm256_loadu_ps(act->sum32 + i / 32), fix);
            float scale[8];
            _mm256_storeu_ps(scale, _mm256_mul_ps(scales, _mm256_loadu_ps(act->scale + i / 32)));
            LH_UNROLL for (int j = 0; j < 8; j++)
                total = _mm256_fmadd_ps(_mm256_set1_ps(scale[j]), dot_32(values(block, j), act->q + i + 32 * j), total);
        }
        out[r] = vf_sum(_mm256_add_ps(total, fix));
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
        __m256 total = _mm256_setzero_ps(), fix = _mm256_setzero_ps();
        for (int64_t i = 0; i < n_cols; i += 256, b++) {
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
                total = _mm256_fmadd_ps(product, dot_32(values_q6_k(b, j), act->q + i + 32 * j), total);
            }
        }
        out[r] = vf_sum(_mm256_fnmadd_ps(_mm256_set1_ps(32), fix, total));
    }
}

void lh_dot_kernels_avx2(lh_dot_fn dot[LH_TYPE_COUNT]) {
    dot[LH_TYPE_Q4_0] = dot_q4_0;
    dot[LH_TYPE_Q4_1] = dot_q4_1;
    dot[LH_TYPE_Q4_K] = dot_q4_k;
    dot[LH_TYPE_Q5_K] = dot_q5_k;
    dot[LH_TYPE_Q6_K] = dot_q6_k;
}
