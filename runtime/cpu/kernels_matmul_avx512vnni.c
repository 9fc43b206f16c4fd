// Quantised weights with AVX-512 VNNI.
//
// vpdpbusd multiplies unsigned by signed bytes: weights are q + 128, and each sum starts from -128 times the sum of its
// activations, so it is exact. A panel is 32 rows: for every 32 columns, eight groups of four columns, two vectors of 16
// rows x 4 columns each, then scales and mins. A tile of tokens is laid out to match and its words are broadcast.
#include "simd_avx512.h"
// The vectors come first.
#include "matmul_unpack.h"

#define ROWS 32
#define TOKENS 6
#define GROUPS 8  // of four columns, in a block of 32

// 32 activations of a tile.
typedef struct act_block {
    int32_t q[GROUPS][TOKENS];  // four bytes each
    float scale[TOKENS];
    int32_t start32[TOKENS], start16[2][TOKENS];  // -128 * sum of q
    float sum32[TOKENS], sum16[2][TOKENS];
} act_block;
_Static_assert(sizeof(act_block) == TOKENS * (32 + 7 * 4), "lh_panel_tile_size counts on it");

// --- panels ----------------------------------------------------------------------------------------------------

// Sizes inside a block of 32 columns of a panel, in bytes.
#define PANEL_Q (ROWS * 32)
#define PANEL_SCALES (ROWS * 4)

LH_INLINE size_t panel_block_size(int scale_len, bool has_min) {
    return PANEL_Q + (size_t)(32 / scale_len) * PANEL_SCALES * (has_min ? 2 : 1);
}

static void pack(const lh_tensor *w, int64_t row, int64_t col, int64_t n_cols, void *panel) {
    const lh_type_traits *traits = lh_type_get(w->type);
    const size_t block_size = panel_block_size(traits->scale_len, traits->has_min);
    const int n_scales = 32 / traits->scale_len;
    lh_piece piece = {0};
    for (int half = 0; half < 2; half++)
        for (int64_t c = 0; c < n_cols; c += LH_PIECE) {
            int64_t n = LH_MIN(n_cols - c, LH_PIECE);
            lh_unpack_piece(traits, w, 16, row + 16 * half, col + c, n, &piece);
            char *block = (char *)panel + (size_t)(c / 32) * block_size;
            for (int64_t i = 0; i < n; i += 64) {
                vf v[16];
                LH_UNROLL for (int r = 0; r < 16; r++)
                    v[r] = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_load_si512(piece.q[r] + i), _mm512_set1_epi8(-128)));
                vf_transpose(v);
                for (int b = 0; b < 2 && i + 32 * b < n; b++, block += block_size) {
                    LH_UNROLL for (int g = 0; g < GROUPS; g++)
                        _mm512_storeu_ps(block + g * 128 + half * 64, v[GROUPS * b + g]);
                    float *scale = (float *)(block + PANEL_Q) + 16 * half;
                    for (int s = 0; s < n_scales; s++)
                        for (int r = 0; r < 16; r++) {
                            int64_t from = (i / 32 + b) * n_scales + s;
                            scale[s * ROWS + r] = piece.scale[r][from];
                            if (traits->has_min) scale[(n_scales + s) * ROWS + r] = piece.min[r][from];
                        }
                }
            }
        }
}

static void pack_tokens(const lh_act_row *row, int64_t n_cols, int32_t t, void *tile) {
    act_block *to = tile;
    for (int64_t b = 0; b < n_cols / 32; b++, to++) {
        int32_t q[GROUPS] = {0}, sum[2] = {0, 0};
        if (row) {
            memcpy(q, row->q + 32 * b, 32);
            memcpy(sum, row->q_sum + 2 * b, sizeof sum);
        }
        LH_UNROLL for (int g = 0; g < GROUPS; g++) to->q[g][t] = q[g];
        to->scale[t] = row ? row->scale[b] : 0;
        to->start32[t] = -128 * (sum[0] + sum[1]);
        to->sum32[t] = row ? row->sum32[b] : 0;
        for (int h = 0; h < 2; h++) {
            to->start16[h][t] = -128 * sum[h];
            to->sum16[h][t] = row ? row->sum16[2 * b + h] : 0;
        }
    }
}

// The register tile: 32 rows x 6 tokens, in integers over a run that shares a scale, in floats over the panel.
LH_INLINE void multiply_tile(int scale_len, bool has_min, const char *panel, const act_block *act, int64_t n_blocks,
                             const lh_tile_out *out) {
    const int n_scales = 32 / scale_len, n_groups = scale_len / 4;
    __m512 total[TOKENS][2];
    LH_UNROLL for (int t = 0; t < TOKENS; t++) total[t][0] = total[t][1] = _mm512_setzero_ps();
    for (int64_t b = 0; b < n_blocks; b++, act++, panel += panel_block_size(scale_len, has_min)) {
        LH_UNROLL for (int s = 0; s < n_scales; s++) {
            __m512i sum[TOKENS][2];
            LH_UNROLL for (int t = 0; t < TOKENS; t++)
                sum[t][0] = sum[t][1] = _mm512_set1_epi32(n_scales == 1 ? act->start32[t] : act->start16[s][t]);
            LH_UNROLL for (int g = s * n_groups; g < (s + 1) * n_groups; g++) {
                __m512i w0 = _mm512_loadu_si512(panel + g * 128), w1 = _mm512_loadu_si512(panel + g * 128 + 64);
                LH_UNROLL for (int t = 0; t < TOKENS; t++) {
                    __m512i a = _mm512_set1_epi32(act->q[g][t]);
                    sum[t][0] = _mm512_dpbusd_epi32(sum[t][0], w0, a);
                    sum[t][1] = _mm512_dpbusd_epi32(sum[t][1], w1, a);
                }
            }
            const float *scale = (const float *)(panel + PANEL_Q) + s * ROWS;
            __m512 s0 = _mm512_loadu_ps(scale), s1 = _mm512_loadu_ps(scale + 16);
            LH_UNROLL for (int t = 0; t < TOKENS; t++) {
                __m512 a = _mm512_set1_ps(act->scale[t]);
                total[t][0] = _mm512_fmadd_ps(_mm512_mul_ps(s0, a), _mm512_cvtepi32_ps(sum[t][0]), total[t][0]);
                total[t][1] = _mm512_fmadd_ps(_mm512_mul_ps(s1, a), _mm512_cvtepi32_ps(sum[t][1]), total[t][1]);
            }
            if (has_min) {
                const float *min = scale + n_scales * ROWS;
                __m512 m0 = _mm512_loadu_ps(min), m1 = _mm512_loadu_ps(min + 16);
                LH_UNROLL for (int t = 0; t < TOKENS; t++) {
                    __m512 a = _mm512_set1_ps(n_scales == 1 ? act->sum32[t] : act->sum16[s][t]);
                    total[t][0] = _mm512_fmadd_ps(m0, a, total[t][0]);
                    total[t][1] = _mm512_fmadd_ps(m1, a, total[t][1]);
                }
            }
        }
    }
    LH_UNROLL for (int t = 0; t < TOKENS; t++)
        if (t < out->n_tokens) put_rows(out, t, 2, total[t]);
}

static void multiply(const lh_type_traits *traits, const void *panel, const void *tile, int64_t col, int64_t n_cols,
                     const lh_tile_out *out) {
    const act_block *act = (const act_block *)tile + col / 32;
    int64_t n = n_cols / 32;
    if (traits->scale_len == 32 && !traits->has_min) multiply_tile(32, false, panel, act, n, out);
    else if (traits->scale_len == 32) multiply_tile(32, true, panel, act, n, out);
    else if (!traits->has_min) multiply_tile(16, false, panel, act, n, out);
    else multiply_tile(16, true, panel, act, n, out);
}

void lh_matmul_kernels_avx512vnni(lh_matmul_kernels *k) {
    k->name = "avx512vnni";
    lh_dot_kernels_avx512vnni(k->dot);
    k->integer = (lh_panel_kernels){ROWS, TOKENS, 1, pack, pack_tokens, multiply};
}
