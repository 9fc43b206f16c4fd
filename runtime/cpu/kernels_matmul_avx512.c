// AVX-512 (F, BW, DQ, VL), but for the products of quantised weights: without VNNI those are AVX2's.
#include "simd_avx512.h"
// The vectors come first: the kernels are written in them.
#include "matmul_float_simd.h"

static void quantise(const float *x, int64_t n, lh_act_row *row) {
    for (int64_t b = 0; b < n / LH_ACT_BLOCK; b++) {
        __m512 v0 = _mm512_loadu_ps(x + 32 * b), v1 = _mm512_loadu_ps(x + 32 * b + 16);
        // max gives its second argument where one is NaN.
        __m512 m = _mm512_max_ps(_mm512_abs_ps(v1), _mm512_max_ps(_mm512_abs_ps(v0), _mm512_setzero_ps()));
        float max = _mm512_reduce_max_ps(m);
        float inverse = max > 1e-35f ? 127 / max : 0, scale = max > 1e-35f ? max / 127 : 0;
        __m512i q[2];
        for (int h = 0; h < 2; h++) {
            __m512 value = _mm512_mul_ps(h ? v1 : v0, _mm512_set1_ps(inverse));
            q[h] = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(value, value, _CMP_ORD_Q), value);
        }
        __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(q[1]), _mm512_cvtepi32_epi8(q[0]));
        _mm256_storeu_si256((__m256i *)(row->q + 32 * b), bytes);
        // Sums of 8 bytes + 128 each, then of 16.
        __m256i sums = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
        sums = _mm256_add_epi64(sums, _mm256_unpackhi_epi64(sums, sums));
        int32_t low = _mm256_extract_epi32(sums, 0) - 16 * 128, high = _mm256_extract_epi32(sums, 4) - 16 * 128;
        row->scale[b] = scale;
        row->q_sum[2 * b] = low;
        row->q_sum[2 * b + 1] = high;
        row->sum16[2 * b] = scale * (float)low;
        row->sum16[2 * b + 1] = scale * (float)high;
        row->sum32[b] = scale * (float)(low + high);
    }
}

void lh_matmul_kernels_avx512(lh_matmul_kernels *k) {
    k->name = "avx512";
    k->quantise = quantise;
    set_float_kernels(k);
}
