// Rows of quantised weights times one token, any format alike: a piece of a row is unpacked into the first-level cache
// and multiplied there. Part of the files that include matmul_quant_simd.h first and define besides:
//
//   vi_dot16(sum, w, a)     16 signed bytes by 16 signed bytes; products are added, exactly, in whatever lanes

LH_INLINE void dot_rows_quant(unpack_fn unpack, int64_t block_len, size_t block_size, int len, bool has_min,
                              const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) {
    const float *act_sum = len == 16 ? act->sum16 : act->sum32;
    const char *blocks = (const char *)w->data + (size_t)row * w->row_size;
    for (int64_t r = 0; r < n_rows; r++) {
        vf total = vf_set1(0);
        float mins = 0;
        for (int64_t col = 0; col < w->n_cols; col += PIECE) {
            int64_t n = LH_MIN(w->n_cols - col, PIECE);
            int8_t q[PIECE];
            float scale[PIECE / 16], min[PIECE / 16];
            fetch_ahead(blocks, (size_t)(n / block_len) * block_size);
            unpack(blocks, n, q, scale, min);
            blocks += (size_t)(n / block_len) * block_size;
            for (int64_t s = 0; s < n / len; s++) {
                const int8_t *v = q + s * len, *a = act->q + col + s * len;
                vi sum = vi_dot16(vi_set1(0), v, a);
                if (len == 32) sum = vi_dot16(sum, v + 16, a + 16);
                vf product = vf_set1(scale[s] * act->scale[(col + s * len) / LH_ACT_BLOCK]);
                total = vf_fma(product, vi_float(sum), total);
                if (has_min) mins += min[s] * act_sum[col / len + s];
            }
        }
        out[r] = vf_sum(total) + mins;
    }
}

#define DEFINE_DOT(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block)                               \
    static void dot_##suffix(const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *act, float *out) { \
        dot_rows_quant(unpack_##suffix, block_len, sizeof(lh_block_##suffix), scale_len, has_min, w, row, n_rows,  \
                       act, out);                                                                                  \
    }
LH_QUANT_FORMATS(DEFINE_DOT)

static void set_quant_dots(lh_dot_fn dot[LH_TYPE_COUNT]) {
#define SET_DOT(suffix, TYPE, block_len, scale_len, has_min, bits, unpack_block) dot[LH_TYPE_##TYPE] = dot_##suffix;
    LH_QUANT_FORMATS(SET_DOT)
}
