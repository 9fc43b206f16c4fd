// Arithmetic of chunks and remapped positions, and who is attended (arXiv 2402.10685, section 3). Header-only: the CPU and
// CUDA share it, so that backends pick the same chunks at the same distances.
//
// l: tokens a chunk. A position p lies in chunk p / l at offset p % l. A query of chunk c attends m chunks
// s_0 < s_1 < ... < s_(m-1) = c and sees s_r at the distance, in chunks, dist(r) = min(c - s_r, W/l - 1 - r).
#ifndef LH_CHUNK_MAP_H
#define LH_CHUNK_MAP_H

#include <math.h>

#include "base.h"

// A session's settings, in chunks.
typedef struct lh_chunk_plan {
    int32_t chunk;   // l, tokens
    int32_t k;       // chunks attended where attention is sparse
    int32_t window;  // W/l
    int32_t local;   // the last chunks, own included, that are always attended
    int32_t dense;   // queries of chunks below this attend every chunk; INT32_MAX: all do
    float far_bias;  // of chunks taken by score; see lh_chosen_bias
} lh_chunk_plan;

LH_SHARED_FN int32_t lh_chunk_of(int64_t position, int32_t l) { return (int32_t)(position / l); }
LH_SHARED_FN int32_t lh_offset_of(int64_t position, int32_t l) { return (int32_t)(position % l); }

// Where chunk c lies in memory with room for n chunks, n > 1: of a text that is longer, chunk 0 and the last n - 1 stay.
LH_SHARED_FN int32_t lh_slot_of(int32_t c, int32_t n) { return c < n ? c : 1 + (c - 1) % (n - 1); }

// Distance in chunks of the r-th attended chunk s_r for a query of chunk c.
LH_SHARED_FN int32_t lh_chunk_distance(lh_chunk_plan plan, int32_t c, int32_t s_r, int32_t r) {
    int32_t true_distance = c - s_r, packed = plan.window - 1 - r;
    return true_distance < packed ? true_distance : packed;
}

LH_SHARED_FN bool lh_is_dense(lh_chunk_plan plan, int32_t c) { return c < plan.dense; }

// m: how many chunks a query of chunk c attends. Densely these are 0, 1, ..., c.
LH_SHARED_FN int32_t lh_n_attended(lh_chunk_plan plan, int32_t c) { return lh_is_dense(plan, c) ? c + 1 : plan.k; }

// Sparse: chunk 0 and the last `local` are forced; the candidates are [1, lh_candidates_end), of which
// lh_n_chosen are taken by score, ties to the lower index.
LH_SHARED_FN int32_t lh_candidates_end(lh_chunk_plan plan, int32_t c) { return c - plan.local + 1; }
LH_SHARED_FN int32_t lh_n_chosen(lh_chunk_plan plan) { return plan.k - 1 - plan.local; }

// Does a query of chunk c take any by score?
LH_SHARED_FN bool lh_chooses(lh_chunk_plan plan, int32_t c) { return !lh_is_dense(plan, c) && lh_n_chosen(plan) > 0; }

// The first of the chunks, beside chunk 0, that a query of chunk c attends without choosing them: the last of these is c.
LH_SHARED_FN int32_t lh_last_begin(lh_chunk_plan plan, int32_t c) {
    int32_t begin = lh_is_dense(plan, c) ? 1 : lh_candidates_end(plan, c);
    return begin > 1 ? begin : 1;
}

// The r-th of n chunks attended by a query of chunk c where none is taken by score: the first one and the last ones.
LH_SHARED_FN int32_t lh_unchosen(int32_t c, int32_t n, int32_t r) { return r == 0 ? 0 : c + 1 - n + r; }

// k chunks, none of them taken by score.
LH_SHARED_FN lh_chunk_plan lh_plan_without_choice(lh_chunk_plan plan, int32_t k) {
    plan.k = k;
    plan.local = k - 1;
    return plan;
}

// What is added to q . k of a chunk taken by score, before the softmax (docs/selection.md). It weighs more, since it stands
// for all those that are not attended. Where there are more to choose from than a window holds it weighs less, since the
// best ones match the better by chance, but for those that stand out. above: its score above that of the last chosen one,
// in the units of q . k.
#define LH_FAR_ANY 2.0f
#define LH_FAR_ABOVE 2.0f      // for a unit of `above`
#define LH_FAR_CHANCE 1.0f     // so much of it is chance
#define LH_FAR_MOST 1.5f       // units that count beside
LH_SHARED_FN float lh_chosen_bias(lh_chunk_plan plan, int32_t c, float above) {
    float windows = (float)(lh_candidates_end(plan, c) - 1) / (float)plan.window;
    float far = windows > 1 ? logf(windows) : 0, stands_out = fminf(above - LH_FAR_CHANCE, LH_FAR_MOST);
    return plan.far_bias * (LH_FAR_ANY - far + LH_FAR_ABOVE * fminf(far, 1) * stands_out);
}

// The total order of selection: does chunk a with score sa come before chunk b with score sb?
LH_SHARED_FN bool lh_ranks_before(float sa, int32_t a, float sb, int32_t b) { return sa > sb || (sa == sb && a < b); }

#endif
