// AMX: products of bfloat16 tiles, for panels of quantised weights.
//
// A scale for every 32 weights would interrupt products of whole numbers after half a tile's depth. Weights and
// activations are rounded to bfloat16 instead, scales applied, and sums stay in a tile from the first column to the
// last: that is faster, and nearer to the truth than activations of 8 bits are.
//
// A panel: for every pair of 16 rows and every 32 columns two tiles of weights, whose line i holds columns 2 i and
// 2 i + 1 of 16 rows. A tile of tokens: for every 32 columns two tiles of 16 tokens.
#include "simd_avx512.h"
// The vectors come first.
#include "matmul_unpack_simd.h"
#include "simd_amx.h"

#define PAIR (2 * T_SIDE)           // rows or tokens that are multiplied at once
#define PAIRS 2                     // of rows, of a panel

// --- weights ---------------------------------------------------------------------------------------------------

// The lower two bytes of each word, of the value q + 128, as floats: put under the exponent of a number whose last bits
// they are.
LH_INLINE __m512i low_bytes(__m512i words, __m512 scale, __m512 min, bool has_min) {
    enum { MASKED_OR = 0xea };  // (a & b) | c
    __m512 v[2];
    v[0] = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(words, _mm512_set1_epi32(0xff),
                                                         _mm512_castps_si512(_mm512_set1_ps(0x1p23f)), MASKED_OR));
    v[1] = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(words, _mm512_set1_epi32(0xff00),
                                                         _mm512_castps_si512(_mm512_set1_ps(0x1p15f)), MASKED_OR));
    v[0] = _mm512_sub_ps(v[0], _mm512_set1_ps(0x1p23f + 128));
    v[1] = _mm512_sub_ps(v[1], _mm512_set1_ps(0x1p15f + 128));
    for (int i = 0; i < 2; i++) v[i] = has_min ? _mm512_fmadd_ps(v[i], scale, min) : _mm512_mul_ps(v[i], scale);
    return pair_words(v[0], v[1]);
}

// 16 rows of a piece into the tiles of a panel, n columns.
LH_INLINE void pack_piece(const piece *p, int64_t n, int scale_len, bool has_min, char *to) {
    vf scales[VN], mins[VN];  // of a run, of all rows
    for (int r = 0; r < VN; r++) scales[r] = vf_load(p->scale[r]);
    vf_transpose(scales);
    for (int r = 0; has_min && r < VN; r++) mins[r] = vf_load(p->min[r]);
    if (has_min) vf_transpose(mins);
    for (int64_t c = 0; c < n; c += 64) {
        vf words[VN];
        for (int r = 0; r < VN; r++) words[r] = vf_load((const float *)(const void *)(p->q[r] + c));
        vf_transpose(words);
        LH_UNROLL for (int i = 0; i < VN; i++) {
            int64_t at = c + 4 * i;
            if (at >= n) return;
            vf scale = scales[at / scale_len], min = has_min ? mins[at / scale_len] : vf_set1(0);
            __m512i q = _mm512_xor_si512(_mm512_castps_si512(words[i]), _mm512_set1_epi8((char)0x80));
            char *line = to + at / T_COLS * 2 * T_BYTES + at % T_COLS / 2 * 64;
            _mm512_storeu_si512(line, low_bytes(q, scale, min, has_min));
            _mm512_storeu_si512(line + 64, low_bytes(_mm512_srli_epi32(q, 16), scale, min, has_min));
        }
    }
}

static void pack_quant_amx(const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols, void *panel) {
    const lh_type_traits *traits = lh_type_get(w->type);
    piece p = {0};
    for (int b = 0; b < 2 * PAIRS && row + b * T_SIDE < w->n_rows; b++) {
        char *to = (char *)panel + (size_t)(b / 2) * (size_t)n_cols / T_COLS * 2 * T_BYTES + b % 2 * T_BYTES;
        const int64_t most = piece_cols(traits);
        for (int64_t c = 0; c < n_cols; c += most, to += most / T_COLS * 2 * T_BYTES) {
            int64_t n = LH_MIN(n_cols - c, most);
            unpack_piece(w, row + b * T_SIDE, col + c, n, &p);
            if (traits->scale_len == 32 && !traits->has_min) pack_piece(&p, n, 32, false, to);
            else if (traits->scale_len == 32) pack_piece(&p, n, 32, true, to);
            else if (!traits->has_min) pack_piece(&p, n, 16, false, to);
            else pack_piece(&p, n, 16, true, to);
        }
    }
}

// --- tokens ----------------------------------------------------------------------------------------------------

static void pack_tokens_amx(const lh_act_row *row, int64_t n_cols, int32_t t, void *tile) {
    char *to = (char *)tile + t / T_SIDE * T_BYTES + t % T_SIDE * 64;
    for (int64_t i = 0; i < n_cols; i += T_COLS, to += 2 * T_BYTES) {
        __m512i words = _mm512_setzero_si512();
        if (row) words = (__m512i)_mm512_cvtne2ps_pbh(vf_load(row->x + i + VN), vf_load(row->x + i));
        _mm512_storeu_si512(to, words);
    }
}

// --- products --------------------------------------------------------------------------------------------------

_Static_assert(sizeof(tile_config) == LH_PANEL_STATE, "what begin and end are given");
static void begin_amx(void *before) { begin_tiles(before); }
static void end_amx(const void *before) { end_tiles(before); }

// The products of 32 rows with 32 tokens, over n blocks of columns, are added to tiles 0 to 3.
LH_INLINE void multiply_pair(const char *w, const char *act, int64_t n) {
    for (int64_t i = 0; i < n; i++, w += 2 * T_BYTES, act += 2 * T_BYTES) {
        _tile_loadd(4, act, 64);
        _tile_loadd(6, w, 64);
        _tile_loadd(7, w + T_BYTES, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, act + T_BYTES, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

// Results of 32 rows from memory into place.
static void put_pair(const lh_tile_out *out, int32_t row, const float (*result)[PAIR]) {
    lh_tile_out part = *out;
    part.y += row;
    part.n_rows = LH_MIN(out->n_rows - row, PAIR);
    if (out->bias) part.bias += row;
    for (int t = 0; t < out->n_tokens; t++) {
        vf values[2] = {vf_load(result[t]), vf_load(result[t] + VN)};
        put_rows(&part, t, 2, values);
    }
}

static void multiply_amx(const lh_type_traits *traits, const void *panel, const void *tile, int64_t col, int64_t n_cols,
                         const lh_tile_out *out) {
    (void)traits;
    const char *w = panel, *act = (const char *)tile + col / T_COLS * 2 * T_BYTES;
    int64_t n = n_cols / T_COLS;
    tiles_follow_stores();
    for (int32_t row = 0; row < out->n_rows; row += PAIR, w += n * 2 * T_BYTES) {
        // Whole tiles lie where they belong; others, and those that want a bias, take a detour.
        bool whole = out->n_rows - row >= PAIR && out->n_tokens == PAIR && !out->bias;
        _Alignas(64) float result[PAIR][PAIR];
        float *y = whole ? out->y + row : result[0];
        int64_t stride = whole ? out->stride : PAIR, line = stride * (int64_t)sizeof(float);
        float *below = y + T_SIDE * stride;
        if (whole && out->add) {
            _tile_loadd(0, y, line);
            _tile_loadd(1, y + T_SIDE, line);
            _tile_loadd(2, below, line);
            _tile_loadd(3, below + T_SIDE, line);
        } else {
            zero_tiles();
        }
        multiply_pair(w, act, n);
        _tile_stored(0, y, line);
        _tile_stored(1, y + T_SIDE, line);
        _tile_stored(2, below, line);
        _tile_stored(3, below + T_SIDE, line);
        if (!whole) put_pair(out, row, (const float (*)[PAIR])result);
    }
}

void lh_matmul_kernels_amx(lh_matmul_kernels *k) {
    k->name = "amx";
    k->integer = (lh_panel_kernels){
        .rows = PAIRS * PAIR, .tokens = PAIR, .cols = LH_PANEL_COLS,
        .panel_bytes = PAIRS * PAIR * T_COLS * 2, .tile_bytes = PAIR * T_COLS * 2,
        .pack = pack_quant_amx, .pack_tokens = pack_tokens_amx, .multiply = multiply_amx,
        .plain = true, .begin = begin_amx, .end = end_amx,
    };
    lh_few_kernels_amx(&k->very_few, &k->few);
    k->few_tokens = 48;
    k->stream_tokens = 4;
}
