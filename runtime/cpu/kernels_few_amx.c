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

// --- weights ---------------------------------------------------------------------------------------------------

// What a panel begins with: it has all columns of its rows.
typedef struct head {
    _Alignas(LH_ALIGN) const char *later;  // the second half of what the next one is made of
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

// As rows are unpacked. While a panel is, half of the next one is asked for.
#define NEXT_COLS TILE
#define NEXT_FOUR FOUR_ROWS
#define ASKED_SHARE 2
#include "unpack_avx512.h"

// Rows are whole, so that what follows is the next panel's.
static void pack_few(const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols, void *panel) {
    (void)col;
    const lh_type_traits *traits = lh_type_get(w->type);
    int64_t n_numbers = numbers_size(n_cols / traits->scale_len);
    size_t half = w->row_size / 2;
    const char *at = (const char *)w->data + (size_t)row * w->row_size, *later = at + T_SIDE * w->row_size;
    *(head *)panel = (head){later + T_SIDE * half, T_SIDE * half};
    for (int64_t r = 0; r < T_SIDE; r++, row++, at += w->row_size, later += half) {
        char *q = (char *)panel + sizeof(head) + r * COLS;
        float *scale = numbers_in(panel, n_cols) + r * FOURS, *min = scale + T_SIDE * n_numbers;
        place to = {q, scale, min};
        if (row < w->n_rows) {
            unpack_row[w->type](w, at, n_cols, later, &to);
        } else {
            for (int64_t c = 0; c < n_cols; c += COLS, q += TILE) memset(q, 0, COLS);
            for (int64_t i = 0; i < n_numbers; i += FOURS, scale += FOUR_ROWS, min += FOUR_ROWS) {
                _mm_storeu_ps(scale, _mm_setzero_ps());
                if (traits->has_min) _mm_storeu_ps(min, _mm_setzero_ps());
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
    vf columns[T_SIDE];  // an array of its own: what is indexed by variables is not in registers
    LH_UNROLL for (int r = 0; r < T_SIDE; r++) columns[r] = total[r];
    vf_transpose(columns);
    for (int t = 0; t < out->n_tokens; t++) {
        vf sum = columns[t * s.runs];
        if (s.runs == 2) sum = vf_add(sum, columns[2 * t + 1]);
        put_rows(out, t, 1, &sum);
    }
}

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
