#include "rope.h"

#include <math.h>

#define PI 3.14159265358979323846

// The pair whose wave turns `turns` times within the trained context (YaRN, arXiv 2309.00071, section 3.2).
static double yarn_pair(const lh_config *c, double turns) {
    int64_t ctx = c->rope_original_ctx ? c->rope_original_ctx : c->trained_ctx;
    return c->rope_dim * log((double)ctx / (turns * 2 * PI)) / (2 * log((double)c->rope_base));
}

lh_status lh_rope_init(lh_rope *r, const lh_config *c, const float *freqs) {
    int half = c->rope_dim / 2;
    bool yarn = c->rope_scaling == LH_ROPE_YARN;
    *r = (lh_rope){.head_dim = c->head_dim, .attn_scale = 1.0f / sqrtf((float)c->head_dim)};
    r->inv_freq = lh_alloc((size_t)c->head_dim / 2, sizeof *r->inv_freq);
    if (!r->inv_freq) return LH_ERR_MEMORY;

    double low = 0, high = 0;
    if (yarn) {
        low = fmax(0, floor(yarn_pair(c, c->yarn_beta_fast)));
        high = fmin(c->rope_dim - 1, ceil(yarn_pair(c, c->yarn_beta_slow)));
        double mscale = c->rope_attn_factor;
        if (c->yarn_ext_factor != 0) mscale *= 1 + 0.1 * log((double)c->rope_factor);
        r->attn_scale = (float)(mscale * mscale / sqrt((double)c->head_dim));
    }
    for (int i = 0; i < half; i++) {
        double f = pow((double)c->rope_base, -2.0 * i / c->rope_dim);
        if (freqs) f /= (double)freqs[i];
        double interpolated = f / (c->rope_scaling == LH_ROPE_NONE ? 1.0 : (double)c->rope_factor);
        // Fast waves are kept as trained (weight 1), slow ones interpolated (0), a ramp between.
        double keep = yarn ? c->yarn_ext_factor * (1 - fmin(1, fmax(0, (i - low) / fmax(0.001, high - low)))) : 0;
        r->inv_freq[i] = interpolated * (1 - keep) + f * keep;
    }
    return LH_OK;
}

void lh_rope_free(lh_rope *r) {
    lh_free(r->inv_freq);
    r->inv_freq = NULL;
}

void lh_rope_table(const lh_rope *r, int64_t first, int64_t step, int64_t n, float *table) {
    for (int64_t row = 0; row < n; row++) {
        float *cosines = table + row * 2 * r->head_dim, *sines = cosines + r->head_dim;
        for (int i = 0; i < r->head_dim / 2; i++) {
            double angle = (double)(first + row * step) * r->inv_freq[i];
            cosines[2 * i] = cosines[2 * i + 1] = (float)cos(angle);
            sines[2 * i] = -(float)sin(angle);
            sines[2 * i + 1] = (float)sin(angle);
        }
    }
}
