// AMX: products of few tokens, for which unpacking weights costs more than multiplying them.
//
// Here unpacking is short: rows of weights are the first operand of a product, as they lie, and the tokens the second one.
// Tiles multiply whole numbers, of 16 rows and 16 columns, over a run of weights that shares a scale; vectors apply scales.
// Where there are 8 tokens or fewer, a product takes two runs: its columns are tokens by runs, with zeros for the weights of
// the other run.
//
// A panel: for every 64 columns a tile of weights as signed bytes, a line for each of 16 rows; behind all of these the scales
// of the first four runs, a row behind the other, and so on; then the mins.
//
// Memory is to be busy all the time: what the next panel is made of is asked for meanwhile, one half of it while a panel is
// unpacked, the other half while it is multiplied.
#include "simd_avx512.h"
// The vectors come first.
#include "quant_avx512.h"
#include "simd_amx.h"
#define Q_TOKENS T_SIDE
#include "matmul_act_block.h"

#define COLS 64  // of a tile of weights
#define TILE (T_SIDE * COLS)

// --- unpacking -------------------------------------------------------------------------------------------------

// What a panel begins with.
typedef struct head {
    _Alignas(LH_ALIGN) const char *later;  // weights to ask for, of this panel's share of memory the second half
    size_t bytes;
} head;

// Numbers of runs lie in fours, of 16 rows each. Of a row, and n_runs of them:
#define FOURS 4
#define FOUR_ROWS (FOURS * T_SIDE)
LH_INLINE int64_t numbers_size(int64_t n_runs) { return LH_ROUND_UP(n_runs, FOURS); }
LH_INLINE int64_t line_cols(int64_t n_cols) { return LH_ROUND_UP(n_cols, COLS); }
LH_INLINE float *numbers_in(const void *panel, int64_t n_cols) {
    return (float *)((uintptr_t)panel + sizeof(head) + (size_t)(T_SIDE * line_cols(n_cols)));
}

// Where columns of a row go, and the numbers of their runs. The next 64 columns are TILE bytes behind.
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
    if (n > 4) _mm_storeu_ps(to + FOUR_ROWS, _mm512_extractf32x4_ps(v, 1));
    if (n > 8) _mm_storeu_ps(to + 2 * FOUR_ROWS, _mm512_extractf32x4_ps(v, 2));
    if (n > 12) _mm_storeu_ps(to + 3 * FOUR_ROWS, _mm512_extractf32x4_ps(v, 3));
}

// Four blocks of nibbles, or what is there of two.
LH_INLINE void put_four(char *q, four_blocks w, int zero, bool all) {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), other = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    put_64(q, _mm512_permutex2var_epi64(w.low, first, w.high), zero);
    if (all) put_64(q + TILE, _mm512_permutex2var_epi64(w.low, other, w.high), zero);
}

// n columns of a row, from the beginning of a span on. Half as many bytes are asked for from `later` on.
LH_INLINE void unpack_fours(four_fn four, legacy f, const char *at, int64_t n, const char *later, const place *to) {
    char *q = to->q;
    float *scale = to->scale, *min = to->min;
    const size_t size = lh_block_size(f.parts);
    for (int64_t left = n / 32; left > 0; left -= LH_SPAN_BLOCKS, at += LH_SPAN_BLOCKS * size, later += LH_SPAN_BLOCKS * size / 2) {
        int blocks = (int)LH_MIN(left, LH_SPAN_BLOCKS);
        lh_block_view view = lh_view_blocks(f.parts, f.span, at, blocks);
        run_numbers w = legacy_numbers(f, at, blocks);
        put_numbers(scale, blocks, w.scale);
        if (f.parts.min) put_numbers(min, blocks, w.min);
        for (int i = 0; i < blocks; i += 4) {
            lh_prefetch_second(later + (size_t)i * size / 2, 2 * size);
            int some = LH_MIN(blocks - i, 4);
            if (some == 4) put_four(q, four(view, 4), f.zero, true);
            else put_four(q, four(view, some), f.zero, some > 2);
            view.weights += 4 * view.weights_step;
            view.fifth += 4 * view.fifth_step;
            q += 2 * TILE;
        }
        scale += LH_SPAN_BLOCKS * T_SIDE;
        min += LH_SPAN_BLOCKS * T_SIDE;
    }
}

typedef __m512i (*values_fn)(const char *span, int i, bool only_32);
typedef run_numbers (*numbers_fn)(const char *span, int n_runs);

LH_INLINE void unpack_span(values_fn values, numbers_fn numbers, int run, int zero, bool has_min, int64_t span_cols,
                           size_t span_size, const char *at, int64_t n, const char *later, const place *to) {
    char *q = to->q;
    float *scale = to->scale, *min = to->min;
    for (int64_t left = n; left > 0; left -= span_cols, at += span_size, later += span_size / 2) {
        int cols = (int)LH_MIN(left, span_cols);
        const size_t step = span_size * 64 / (size_t)span_cols;
        run_numbers w = numbers(at, cols / run);
        put_numbers(scale, cols / run, w.scale);
        if (has_min) put_numbers(min, cols / run, w.min);
        for (int i = 0; i < cols / 64; i++, q += TILE) {
            lh_prefetch_second(later + (size_t)i * step / 2, step / 2);
            put_64(q, values(at, i, false), zero);
        }
        if (cols % 64) put_64(q, values(at, cols / 64, true), zero);
        scale += span_cols / run * T_SIDE;
        min += span_cols / run * T_SIDE;
    }
}

typedef void (*unpack_fn)(const lh_tensor *w, const char *at, int64_t n, const char *later, const place *to);

// A copy of the loop for each layout.
#define DEFINE_FOURS(suffix, four, zero)                                                                       \
    static void unpack_##suffix(const lh_tensor *w, const char *at, int64_t n, const char *later, const place *to) {        \
        if (w->spans) unpack_fours(four, (legacy){lh_parts_##suffix, true, zero}, at, n, later, to);           \
        else unpack_fours(four, (legacy){lh_parts_##suffix, false, zero}, at, n, later, to);                   \
    }
DEFINE_FOURS(q4_0, four_nibbles, 8)
DEFINE_FOURS(q4_1, four_nibbles, 0)
DEFINE_FOURS(q5_0, four_of_five, 16)
DEFINE_FOURS(q5_1, four_of_five, 0)
DEFINE_FOURS(iq4_nl, four_iq4, 128)

LH_INLINE run_numbers of_q8_0(const char *span, int n) { return legacy_numbers((legacy){lh_parts_q8_0, false, 128}, span, n); }
LH_INLINE run_numbers of_q8_0_span(const char *span, int n) {
    return legacy_numbers((legacy){lh_parts_q8_0, true, 128}, span, n);
}

static void unpack_q8_0(const lh_tensor *w, const char *at, int64_t n, const char *later, const place *to) {
    const int64_t cols = 32 * LH_SPAN_BLOCKS;
    const size_t size = LH_SPAN_BLOCKS * sizeof(lh_block_q8_0);
    if (w->spans) unpack_span(values_q8_0_span, of_q8_0_span, 32, 128, false, cols, size, at, n, later, to);
    else unpack_span(values_q8_0, of_q8_0, 32, 128, false, cols, size, at, n, later, to);
}

// Eight scales, then eight mins.
LH_INLINE run_numbers halves_of(__m512 v) {
    return (run_numbers){v, _mm512_castsi512_ps(_mm512_zextsi256_si512(_mm512_extracti64x4_epi64(_mm512_castps_si512(v), 1)))};
}

#define DEFINE_K(suffix, numbers, run, zero, has_min)                                                                \
    LH_INLINE run_numbers of_##suffix(const char *span, int n) {                                                     \
        (void)n;                                                                                                     \
        return numbers;                                                                                              \
    }                                                                                                                \
    static void unpack_##suffix(const lh_tensor *w, const char *at, int64_t n, const char *later, const place *to) {              \
        (void)w;                                                                                                     \
        unpack_span(values_##suffix, of_##suffix, run, zero, has_min, 256, sizeof(lh_block_##suffix), at, n, later, to); \
    }
DEFINE_K(q2_k, numbers_q2_k(span), 16, 0, true)
DEFINE_K(q3_k, numbers_q3_k(span), 16, 4, false)
DEFINE_K(q4_k, halves_of(numbers_q4_k(span)), 32, 0, true)
DEFINE_K(q5_k, halves_of(numbers_q5_k(span)), 32, 0, true)
DEFINE_K(q6_k, numbers_q6_k(span), 16, 32, false)
DEFINE_K(iq4_xs, ((run_numbers){_mm512_zextps256_ps512(numbers_iq4_xs(span)), _mm512_setzero_ps()}), 32, 128, false)

#define ENTRY(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block) [LH_TYPE_##TYPE] = unpack_##suffix,
static const unpack_fn unpack[LH_TYPE_COUNT] = {LH_QUANT_FORMATS(ENTRY)};

static void pack_few(const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols, void *panel) {
    const lh_type_traits *traits = lh_type_get(w->type);
    int64_t n_numbers = numbers_size(n_cols / traits->scale_len);
    // Rows are whole mostly, and what follows is the next panel's.
    size_t bytes = (size_t)(n_cols / traits->block_len * traits->block_size), half = bytes / 2;
    const char *at = (const char *)w->data + (size_t)row * w->row_size + col / traits->block_len * traits->block_size;
    const char *later = at + T_SIDE * w->row_size;
    *(head *)panel = (head){later + T_SIDE * half, T_SIDE * half};
    for (int64_t r = 0; r < T_SIDE; r++, row++, at += w->row_size, later += half) {
        char *q = (char *)panel + sizeof(head) + r * COLS;
        float *scale = numbers_in(panel, n_cols) + r * FOURS, *min = scale + T_SIDE * n_numbers;
        place to = {q, scale, min};
        if (row < w->n_rows) {
            unpack[w->type](w, at, n_cols, later, &to);
        } else {
            for (int64_t c = 0; c < n_cols; c += COLS, q += TILE) memset(q, 0, COLS);
            for (int64_t i = 0; i < n_numbers; i += FOURS, scale += FOUR_ROWS, min += FOUR_ROWS) {
                put_numbers(scale, FOURS, _mm512_setzero_ps());
                if (traits->has_min) put_numbers(min, FOURS, _mm512_setzero_ps());
            }
        }
    }
}

// --- tokens ----------------------------------------------------------------------------------------------------

// Where a product takes two runs of 32: what 64 columns of weights meet. Columns here are both runs of a token, then those
// of the next one.
typedef struct two_runs {
    int32_t words[2 * Q_WORDS][T_SIDE];
    float scale[T_SIDE], sum32[T_SIDE];
} two_runs;

static void pack_tokens_two_runs(const lh_act_row *row, int64_t n_cols, int32_t t, void *tile) {
    two_runs *to = tile;
    for (int64_t b = 0; b < LH_ROUND_UP(n_cols / LH_ACT_BLOCK, 2); b++) {
        bool there = row && b < n_cols / LH_ACT_BLOCK;
        int32_t words[Q_WORDS] = {0}, own = (int32_t)(b % 2), column = 2 * t + own;
        if (there) memcpy(words, row->q + b * LH_ACT_BLOCK, sizeof words);
        for (int i = 0; i < Q_WORDS; i++) {
            to[b / 2].words[own * Q_WORDS + i][column] = words[i];
            to[b / 2].words[(1 - own) * Q_WORDS + i][column] = 0;
        }
        to[b / 2].scale[column] = there ? row->scale[b] : 0;
        to[b / 2].sum32[column] = there ? row->sum32[b] : 0;
    }
}

// --- products --------------------------------------------------------------------------------------------------

// Sums in tiles 0 to 3, weights in 4 and 5, tokens in 6 and 7: of a run of 32 weights, or of 16.
#define CONFIG(run)                                                                      \
    {                                                                                    \
        .palette = 1, .line_bytes = {64, 64, 64, 64, run, run, 64, 64},                  \
        .lines = {T_SIDE, T_SIDE, T_SIDE, T_SIDE, T_SIDE, T_SIDE, (run) / 4, (run) / 4}, \
    }
static const tile_config runs_of_32 = CONFIG(32), runs_of_16 = CONFIG(16);

static void begin_few(void *before) { save_tiles(before); }
static void end_few(const void *before) { end_tiles(before); }

// Products of 16 rows, each of `runs` runs of so many weights.
typedef struct shape {
    int run, runs;
    bool has_min;
    int64_t n_cols, n_products;
} shape;

// What product i meets: activations, and of its columns the scales and the sums.
typedef struct operand {
    const void *words;
    const float *scale, *sum;
} operand;

LH_INLINE operand operand_of(shape s, const void *tile, int64_t i) {
    if (s.runs == 2) {
        const two_runs *both = (const two_runs *)tile + i;
        return (operand){both->words, both->scale, both->sum32};
    }
    const act_block *b = (const act_block *)tile + i * s.run / LH_ACT_BLOCK;
    int64_t at = i * s.run % LH_ACT_BLOCK;
    return (operand){b->words[at / 4], b->scale, s.run == LH_ACT_BLOCK ? b->sum32 : b->sum16[at / 16]};
}

typedef int32_t products[FOURS][T_SIDE][T_SIDE];

// Four products, or what is left from the first one on.
LH_INLINE void multiply_four(shape s, int64_t first, const char *q, const void *tile, products out) {
#define MULTIPLY(i, w, a)                                                        \
    if (first + (i) < s.n_products) {                                            \
        int64_t col = (first + (i)) * s.run * s.runs;                            \
        const char *weights = q + col / COLS * TILE + col % COLS;                \
        const char *tokens = operand_of(s, tile, first + (i)).words;             \
        _tile_zero(i);                                                           \
        _tile_loadd(w, weights, COLS);                                           \
        _tile_loadd(a, tokens, 64);                                              \
        _tile_dpbssd(i, w, a);                                                   \
        _tile_stored(i, out[i], 64);                                             \
    }
    MULTIPLY(0, 4, 6)
    MULTIPLY(1, 5, 7)
    MULTIPLY(2, 4, 6)
    MULTIPLY(3, 5, 7)
    tiles_follow_stores();
}

// Numbers of as many runs, again and again.
LH_INLINE vf spread(int runs, const float *x) {
    if (runs == 1) return vf_set1(*x);
    double pair;
    memcpy(&pair, x, sizeof pair);
    return _mm512_castpd_ps(_mm512_set1_pd(pair));
}

LH_INLINE void multiply_few(shape s, const void *panel, const void *tile, const lh_tile_out *out) {
    const head *h = panel;
    const char *q = (const char *)panel + sizeof *h;
    const float *scale = numbers_in(panel, s.n_cols), *min = scale + T_SIDE * numbers_size(s.n_cols / s.run);
    s.n_products = (s.n_cols / s.run + s.runs - 1) / s.runs;
    const size_t step = h->bytes / (size_t)s.n_products;
    // Tiles take long to reach vectors: the next four products are under way meanwhile.
    _Alignas(64) products sums[2];
    vf total[T_SIDE];
    LH_UNROLL for (int r = 0; r < T_SIDE; r++) total[r] = vf_set1(0);
    set_tiles(s.runs > 1 ? &whole_tiles : s.run == 32 ? &runs_of_32 : &runs_of_16);
    tiles_follow_stores();
    multiply_four(s, 0, q, tile, sums[0]);
    for (int64_t first = 0; first < s.n_products; first += FOURS) {
        multiply_four(s, first + FOURS, q, tile, sums[(first / FOURS + 1) % 2]);
        int32_t (*now)[T_SIDE][T_SIDE] = sums[first / FOURS % 2];
        int n = (int)LH_MIN(s.n_products - first, FOURS);
        for (int i = 0; i < n; i++) {
            operand tokens = operand_of(s, tile, first + i);
            vf by = vf_load(tokens.scale), more = vf_load(tokens.sum);
            int64_t at = (first + i) * s.runs;
            at = at / FOURS * FOUR_ROWS + at % FOURS;
            lh_prefetch_second(h->later + (size_t)(first + i) * step, step);
            LH_UNROLL for (int r = 0; r < T_SIDE; r++) {
                vf sum = vf_mul(_mm512_cvtepi32_ps(_mm512_load_si512(now[i][r])), by);
                total[r] = vf_fma(sum, spread(s.runs, scale + at + r * FOURS), total[r]);
                if (s.has_min) total[r] = vf_fma(more, spread(s.runs, min + at + r * FOURS), total[r]);
            }
        }
    }
    vf columns[T_SIDE];  // an array of its own: this one is indexed by variables, and not in registers
    LH_UNROLL for (int r = 0; r < T_SIDE; r++) columns[r] = total[r];
    vf_transpose(columns);
    for (int t = 0; t < out->n_tokens; t++) {
        vf sum = columns[t * s.runs];
        if (s.runs == 2) sum = vf_add(sum, columns[2 * t + 1]);
        put_rows(out, t, 1, &sum);
    }
}

// Panels have all columns.
static void multiply_one_run(const lh_type_traits *traits, const void *panel, const void *tile, int64_t col, int64_t n_cols,
                             const lh_tile_out *out) {
    (void)col;
    if (traits->scale_len == 32 && !traits->has_min) multiply_few((shape){32, 1, false, n_cols, 0}, panel, tile, out);
    else if (traits->scale_len == 32) multiply_few((shape){32, 1, true, n_cols, 0}, panel, tile, out);
    else if (!traits->has_min) multiply_few((shape){16, 1, false, n_cols, 0}, panel, tile, out);
    else multiply_few((shape){16, 1, true, n_cols, 0}, panel, tile, out);
}

static void multiply_two_runs(const lh_type_traits *traits, const void *panel, const void *tile, int64_t col, int64_t n_cols,
                              const lh_tile_out *out) {
    (void)col;
    if (traits->has_min) multiply_few((shape){32, 2, true, n_cols, 0}, panel, tile, out);
    else multiply_few((shape){32, 2, false, n_cols, 0}, panel, tile, out);
}

void lh_few_kernels_amx(lh_panel_kernels *very_few, lh_panel_kernels *few) {
    *few = (lh_panel_kernels){
        .rows = T_SIDE, .tokens = T_SIDE, .cols = INT64_MAX,
        .panel_bytes = T_SIDE * (32 + 16) + sizeof(head), .tile_bytes = sizeof(act_block),
        .pack = pack_few, .pack_tokens = pack_tokens_quant_simd, .multiply = multiply_one_run,
        .begin = begin_few, .end = end_few,
    };
    *very_few = *few;
    very_few->tokens = T_SIDE / 2;
    very_few->tile_bytes = sizeof(two_runs) / 2;
    very_few->pack_tokens = pack_tokens_two_runs;
    very_few->multiply = multiply_two_runs;
}
