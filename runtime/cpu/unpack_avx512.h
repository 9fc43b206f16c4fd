// Rows of quantised weights as signed bytes and numbers of runs (quant_avx512.h). Whoever includes this says where these go:
//
//   NEXT_COLS    bytes from 64 columns to the next ones
//   NEXT_FOUR    floats from the numbers of four runs to those of the next four
//   ASKED_SHARE  while n bytes are read, n / ASKED_SHARE are asked for from another place on
#ifndef LH_UNPACK_AVX512_H
#define LH_UNPACK_AVX512_H

#include "quant_avx512.h"

// Where columns of a row go as signed bytes, and the numbers of their runs.
typedef struct place {
    char *q;
    float *scale, *min;
} place;

LH_INLINE void put_64(char *q, __m512i values, int zero) {
    _mm512_storeu_si512(q, _mm512_sub_epi8(values, _mm512_set1_epi8((char)zero)));
}

// Of n runs of a row, filled up to whole fours.
LH_INLINE void put_numbers(float *to, int n, __m512 v) {
    _mm_storeu_ps(to, _mm512_castps512_ps128(v));
    if (n > 4) _mm_storeu_ps(to + NEXT_FOUR, _mm512_extractf32x4_ps(v, 1));
    if (n > 8) _mm_storeu_ps(to + 2 * NEXT_FOUR, _mm512_extractf32x4_ps(v, 2));
    if (n > 12) _mm_storeu_ps(to + 3 * NEXT_FOUR, _mm512_extractf32x4_ps(v, 3));
}

// Four blocks of nibbles, or what is there of two.
LH_INLINE void put_four(char *q, four_blocks w, int zero, bool all) {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), other = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    put_64(q, _mm512_permutex2var_epi64(w.low, first, w.high), zero);
    if (all) put_64(q + NEXT_COLS, _mm512_permutex2var_epi64(w.low, other, w.high), zero);
}

// n columns of a row, from the beginning of a span on.
LH_INLINE void unpack_fours(four_fn four, legacy f, const char *at, int64_t n, const char *later, const place *to) {
    char *q = to->q;
    float *scale = to->scale, *min = to->min;
    const size_t size = lh_block_size(f.parts), span = LH_SPAN_BLOCKS * size;
    for (int64_t left = n / 32; left > 0; left -= LH_SPAN_BLOCKS, at += span, later += span / ASKED_SHARE) {
        int blocks = (int)LH_MIN(left, LH_SPAN_BLOCKS);
        lh_block_view view = lh_view_blocks(f.parts, f.span, at, blocks);
        run_numbers w = legacy_numbers(f, at, blocks);
        put_numbers(scale, blocks, w.scale);
        if (f.parts.min) put_numbers(min, blocks, w.min);
        for (int i = 0; i < blocks; i += 4) {
            lh_prefetch_second(later + (size_t)i * size / ASKED_SHARE, 4 * size / ASKED_SHARE);
            int some = LH_MIN(blocks - i, 4);
            if (some == 4) put_four(q, four(view, 4), f.zero, true);
            else put_four(q, four(view, some), f.zero, some > 2);
            view.weights += 4 * view.weights_step;
            view.fifth += 4 * view.fifth_step;
            q += 2 * NEXT_COLS;
        }
        scale += LH_SPAN_BLOCKS / 4 * NEXT_FOUR;
        min += LH_SPAN_BLOCKS / 4 * NEXT_FOUR;
    }
}

typedef __m512i (*values_fn)(const char *span, int i, bool only_32);
typedef run_numbers (*numbers_fn)(const char *span, int n_runs);

LH_INLINE void unpack_span(values_fn values, numbers_fn numbers, int run, int zero, bool has_min, int64_t span_cols,
                           size_t span_size, const char *at, int64_t n, const char *later, const place *to) {
    char *q = to->q;
    float *scale = to->scale, *min = to->min;
    for (int64_t left = n; left > 0; left -= span_cols, at += span_size, later += span_size / ASKED_SHARE) {
        int cols = (int)LH_MIN(left, span_cols);
        const size_t step = span_size * 64 / (size_t)span_cols;
        run_numbers w = numbers(at, cols / run);
        put_numbers(scale, cols / run, w.scale);
        if (has_min) put_numbers(min, cols / run, w.min);
        for (int i = 0; i < cols / 64; i++, q += NEXT_COLS) {
            lh_prefetch_second(later + (size_t)i * step / ASKED_SHARE, step / ASKED_SHARE);
            put_64(q, values(at, i, false), zero);
        }
        if (cols % 64) put_64(q, values(at, cols / 64, true), zero);
        scale += span_cols / run / 4 * NEXT_FOUR;
        min += span_cols / run / 4 * NEXT_FOUR;
    }
}

typedef void (*unpack_row_fn)(const lh_tensor *w, const char *at, int64_t n, const char *later, const place *to);

// A copy of the loop for each layout.
#define DEFINE_FOURS(suffix, four, zero)                                                                             \
    static void row_##suffix(const lh_tensor *w, const char *at, int64_t n, const char *later, const place *to) {    \
        if (w->spans) unpack_fours(four, (legacy){lh_parts_##suffix, true, zero}, at, n, later, to);                 \
        else unpack_fours(four, (legacy){lh_parts_##suffix, false, zero}, at, n, later, to);                         \
    }
DEFINE_FOURS(q4_0, four_nibbles, 8)
DEFINE_FOURS(q4_1, four_nibbles, 0)
DEFINE_FOURS(q5_0, four_of_five, 16)
DEFINE_FOURS(q5_1, four_of_five, 0)
DEFINE_FOURS(iq4_nl, four_iq4, 128)

LH_INLINE run_numbers of_q8_0(const char *span, int n) {
    return legacy_numbers((legacy){lh_parts_q8_0, false, 128}, span, n);
}

LH_INLINE run_numbers of_q8_0_span(const char *span, int n) {
    return legacy_numbers((legacy){lh_parts_q8_0, true, 128}, span, n);
}

static void row_q8_0(const lh_tensor *w, const char *at, int64_t n, const char *later, const place *to) {
    const int64_t cols = 32 * LH_SPAN_BLOCKS;
    const size_t size = LH_SPAN_BLOCKS * sizeof(lh_block_q8_0);
    if (w->spans) unpack_span(values_q8_0_span, of_q8_0_span, 32, 128, false, cols, size, at, n, later, to);
    else unpack_span(values_q8_0, of_q8_0, 32, 128, false, cols, size, at, n, later, to);
}

// Eight scales, then eight mins.
LH_INLINE run_numbers halves_of(__m512 v) { return (run_numbers){v, _mm512_shuffle_f32x4(v, v, 0xee)}; }

#define DEFINE_K(suffix, numbers, run, zero, has_min)                                                                \
    LH_INLINE run_numbers of_##suffix(const char *span, int n) {                                                     \
        (void)n;                                                                                                     \
        return numbers;                                                                                              \
    }                                                                                                                \
    static void row_##suffix(const lh_tensor *w, const char *at, int64_t n, const char *later, const place *to) {    \
        (void)w;                                                                                                     \
        const size_t size = sizeof(lh_block_##suffix);                                                               \
        unpack_span(values_##suffix, of_##suffix, run, zero, has_min, 256, size, at, n, later, to);                  \
    }
DEFINE_K(q2_k, numbers_q2_k(span), 16, 0, true)
DEFINE_K(q3_k, numbers_q3_k(span), 16, 4, false)
DEFINE_K(q4_k, halves_of(numbers_q4_k(span)), 32, 0, true)
DEFINE_K(q5_k, halves_of(numbers_q5_k(span)), 32, 0, true)
DEFINE_K(q6_k, numbers_q6_k(span), 16, 32, false)
DEFINE_K(iq4_xs, ((run_numbers){_mm512_zextps256_ps512(numbers_iq4_xs(span)), _mm512_setzero_ps()}), 32, 128, false)

#define ROW_ENTRY(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block) [LH_TYPE_##TYPE] = row_##suffix,
static const unpack_row_fn unpack_row[LH_TYPE_COUNT] = {LH_QUANT_FORMATS(ROW_ENTRY)};

#endif
