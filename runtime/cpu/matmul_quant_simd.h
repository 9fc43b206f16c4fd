// Quantised weights over vectors: part of kernels_matmul_{avx2,avx512vnni,neon,dotprod}.c, which include a simd_*.h
// first and define, over vectors `vi` of VN words of 32 bits, which hold four columns each:
//
//   Q_TOKENS                of a tile
//   Q_SHIFT(bits, has_min)  weights lie in the panel as q + 2^Q_SHIFT, or as q where that is -1
//   Q_STEPS(bits)           most products that vi_dot can add up for weights of so many bits
//   vi_load, vi_set1        of words
//   vi_dot(bits, sum, w, a) each word of sum += the products of the columns in a word of w and of a, exactly
//   vi_finish(sum)          the sums of vi_dot as words
//   vi_add, vi_float        of words; as floats
//   vi_less(sum, a, shift)  sum - (a << shift)
//   weight_words(q, more)   VN words of q + more, as a vf
//
// A panel is Q_VECS vectors of rows: for every 32 columns 8 words of each row, then scales, then mins. A tile of tokens
// is laid out to match; its words are broadcast.
#include "matmul_act_block.h"
#include "matmul_unpack_simd.h"

#define Q_VECS 2
#define Q_ROWS (Q_VECS * VN)

// --- panels ----------------------------------------------------------------------------------------------------

// Sizes inside a panel, in bytes: the words of a block of 32 columns, and the scales of one run.
#define PANEL_WORDS ((size_t)Q_WORDS * Q_ROWS * 4)
#define PANEL_SCALES ((size_t)Q_ROWS * 4)

LH_INLINE size_t panel_block_size(int scale_len, bool has_min) {
    return PANEL_WORDS + (size_t)(32 / scale_len) * PANEL_SCALES * (has_min ? 2 : 1);
}

static void pack_scales(const lh_type_traits *traits, const piece *p, int64_t n, int v, char *panel) {
    int n_scales = 32 / traits->scale_len;
    for (int64_t s = 0; s < n / traits->scale_len; s++) {
        char *block = panel + (size_t)(s / n_scales) * panel_block_size(traits->scale_len, traits->has_min);
        float *scale = (float *)(block + PANEL_WORDS) + s % n_scales * Q_ROWS + v * VN;
        for (int r = 0; r < VN; r++) scale[r] = p->scale[r][s];
        if (traits->has_min)
            for (int r = 0; r < VN; r++) scale[n_scales * Q_ROWS + r] = p->min[r][s];
    }
}

static void pack_quant_simd(const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols, void *panel) {
    const lh_type_traits *traits = lh_type_get(w->type);
    size_t block_size = panel_block_size(traits->scale_len, traits->has_min);
    int shift = Q_SHIFT(traits->bits, traits->has_min), more = shift < 0 ? 0 : 1 << shift;
    piece p = {0};
    for (int v = 0; v < Q_VECS; v++)
        for (int64_t c = 0; c < n_cols; c += piece_cols(traits)) {
            int64_t n = LH_MIN(n_cols - c, piece_cols(traits));
            char *to = (char *)panel + (size_t)(c / 32) * block_size;
            unpack_piece(w, row + v * VN, col + c, n, &p);
            pack_scales(traits, &p, n, v, to);
            // A square of words at a time: rows become columns.
            for (int64_t first = 0; first < n / 4; first += VN) {
                vf words[VN];
                LH_UNROLL for (int r = 0; r < VN; r++) words[r] = weight_words(p.q[r] + first * 4, more);
                vf_transpose(words);
                LH_UNROLL for (int i = 0; i < VN; i++) {
                    int64_t word = first + i;
                    char *at = to + (size_t)(word / Q_WORDS) * block_size + (size_t)(word % Q_WORDS) * Q_ROWS * 4;
                    if (word < n / 4) vf_store((float *)at + v * VN, words[i]);
                }
            }
        }
}

// --- products --------------------------------------------------------------------------------------------------

// The register tile: whole numbers over a run that shares a scale, floats over the panel.
LH_INLINE void multiply_tile(int scale_len, bool has_min, int bits, const char *panel, const act_block *act,
                             int64_t n_blocks, const lh_tile_out *out) {
    const int n_scales = 32 / scale_len, run = scale_len / 4, shift = Q_SHIFT(bits, has_min);
    const int steps = LH_MIN(Q_STEPS(bits), run);
    vf total[Q_TOKENS][Q_VECS];
    LH_UNROLL for (int t = 0; t < Q_TOKENS; t++)
        LH_UNROLL for (int v = 0; v < Q_VECS; v++) total[t][v] = vf_set1(0);
    for (int64_t b = 0; b < n_blocks; b++, act++, panel += panel_block_size(scale_len, has_min)) {
        LH_UNROLL for (int s = 0; s < n_scales; s++) {
            vi sum[Q_TOKENS][Q_VECS];
            for (int first = s * run; first < (s + 1) * run; first += steps) {
                vi part[Q_TOKENS][Q_VECS];
                LH_UNROLL for (int t = 0; t < Q_TOKENS; t++)
                    LH_UNROLL for (int v = 0; v < Q_VECS; v++) part[t][v] = vi_set1(0);
                // Unpinned, all products would be computed before they are added, and spilled.
                LH_UNROLL for (int i = first; i < first + steps; i++) {
                    vi w[Q_VECS];
                    const char *words = panel + (size_t)i * Q_ROWS * 4;
                    LH_UNROLL for (int v = 0; v < Q_VECS; v++) w[v] = vi_load(words + (size_t)v * VN * 4);
                    LH_UNROLL for (int t = 0; t < Q_TOKENS; t++) {
                        vi a = vi_set1(act->words[i][t]);
                        LH_UNROLL for (int v = 0; v < Q_VECS; v++) {
                            part[t][v] = vi_dot(bits, part[t][v], w[v], a);
                            LH_PIN(part[t][v]);
                        }
                    }
                }
                LH_UNROLL for (int t = 0; t < Q_TOKENS; t++)
                    LH_UNROLL for (int v = 0; v < Q_VECS; v++) {
                        vi here = vi_finish(part[t][v]);
                        sum[t][v] = first == s * run ? here : vi_add(sum[t][v], here);
                    }
            }
            if (shift >= 0)
                LH_UNROLL for (int t = 0; t < Q_TOKENS; t++) {
                    vi a = vi_set1(n_scales == 1 ? act->q_sum32[t] : act->q_sum16[s][t]);
                    LH_UNROLL for (int v = 0; v < Q_VECS; v++) sum[t][v] = vi_less(sum[t][v], a, shift);
                }
            const float *scale = (const float *)(panel + PANEL_WORDS) + s * Q_ROWS;
            LH_UNROLL for (int t = 0; t < Q_TOKENS; t++) {
                vf a = vf_set1(act->scale[t]);
                LH_UNROLL for (int v = 0; v < Q_VECS; v++)
                    total[t][v] = vf_fma(vf_mul(vf_load(scale + v * VN), a), vi_float(sum[t][v]), total[t][v]);
            }
            if (has_min) {
                const float *min = scale + n_scales * Q_ROWS;
                LH_UNROLL for (int t = 0; t < Q_TOKENS; t++) {
                    vf a = vf_set1(n_scales == 1 ? act->sum32[t] : act->sum16[s][t]);
                    LH_UNROLL for (int v = 0; v < Q_VECS; v++)
                        total[t][v] = vf_fma(vf_load(min + v * VN), a, total[t][v]);
                }
            }
        }
    }
    LH_UNROLL for (int t = 0; t < Q_TOKENS; t++)
        if (t < out->n_tokens) put_rows(out, t, Q_VECS, total[t]);
}

static void multiply_quant_simd(const lh_type_traits *traits, const void *panel, const void *tile, int64_t col,
                                int64_t n_cols, const lh_tile_out *out) {
    const act_block *act = (const act_block *)tile + col / LH_ACT_BLOCK;
    int64_t n = n_cols / LH_ACT_BLOCK;
    // Every combination that a format has.
    switch ((traits->scale_len == 16 ? 100 : 0) + (traits->has_min ? 10 : 0) + traits->bits) {
        case 4: multiply_tile(32, false, 4, panel, act, n, out); break;
        case 5: multiply_tile(32, false, 5, panel, act, n, out); break;
        case 14: multiply_tile(32, true, 4, panel, act, n, out); break;
        case 15: multiply_tile(32, true, 5, panel, act, n, out); break;
        case 103: multiply_tile(16, false, 3, panel, act, n, out); break;
        case 106: multiply_tile(16, false, 6, panel, act, n, out); break;
        case 112: multiply_tile(16, true, 2, panel, act, n, out); break;
        default: multiply_tile(32, false, 8, panel, act, n, out); break;
    }
}

// The panels' entry of a table.
static void set_quant_panels(lh_matmul_kernels *k) {
    k->integer = (lh_panel_kernels){
        .rows = Q_ROWS, .tokens = Q_TOKENS, .cols = LH_PANEL_COLS,
        .panel_bytes = Q_ROWS * (32 + 16), .tile_bytes = sizeof(act_block),
        .pack = pack_quant_simd, .pack_tokens = pack_tokens_quant_simd, .multiply = multiply_quant_simd,
    };
}
