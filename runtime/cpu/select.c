// Which chunks a query attends: summaries of complete chunks, scores against them, and the choice.
#include <math.h>
#include <string.h>

#include "scheme.h"

static const lh_cpu_scheme *const schemes[] = {
    [LH_SCHEME_BOUNDS] = &lh_cpu_bounds,
    [LH_SCHEME_PAPER] = &lh_cpu_paper,
    [LH_SCHEME_PEAK] = &lh_cpu_peak,
};

// --- summarize --------------------------------------------------------------------------------------------------

typedef struct summarize_job {
    lh_cpu *cpu;
    const lh_attention *a;
    int32_t first, n_chunks;
} summarize_job;

static void summarize_task(void *arg, int64_t piece, int thread) {
    const summarize_job *j = arg;
    int32_t s = (int32_t)(piece / j->n_chunks), chunk = j->first + (int32_t)(piece % j->n_chunks);
    if (!j->a->heads[s / j->a->n_summary].summary) return;
    schemes[j->a->scheme]->summarize(&j->cpu->attention, j->a, s, chunk, lh_summary_at(j->a, s, chunk),
                                     lh_cpu_scratch_of(j->cpu, thread));
}

// The queries of the chunk that stays unfinished.
static void keep_queries(const lh_attention *a, int32_t end) {
    int64_t from = LH_MAX(a->pos, (int64_t)end * a->plan.chunk), to = a->pos + a->n;
    size_t row = (size_t)a->n_head * a->head_dim;
    if (from < to)
        memcpy(a->queries + lh_offset_of(from, a->plan.chunk) * row, a->q + (size_t)(from - a->pos) * row,
               (size_t)(to - from) * row * sizeof(float));
}

lh_status lh_cpu_summarize(lh_backend *b, const lh_attention *a, int32_t first, int32_t end) {
    summarize_job j = {.cpu = (lh_cpu *)b, .a = a, .first = first, .n_chunks = end - first};
    if (j.n_chunks > 0) {
        LH_TRY(lh_cpu_scratch_threads(j.cpu, schemes[a->scheme]->summarize_bytes(a)));
        lh_threads_for(j.cpu->threads, (int64_t)a->n_head_kv * a->n_summary * j.n_chunks, summarize_task, &j);
    }
    if (a->queries) keep_queries(a, end);
    return LH_OK;
}

// --- select -----------------------------------------------------------------------------------------------------

#define BLOCK_TOKENS 64  // tokens whose scores are there at a time
#define SLICE_CHUNKS 64  // chunks of a piece of work, at least
#define MAX_SLICES 16
#define TOP_TOKENS 8     // of a piece of work
#define PROMISING 16     // chunks that are scored first where there are two looks: they tell how good the best ones are

// Queries of all blocks are prepared first; then, block by block, all scores and all choices.
typedef struct select_job {
    lh_cpu *cpu;
    const lh_attention *a;
    const lh_cpu_scheme *scheme;
    int32_t first, n_blocks;  // of the batch: the token of the first block
    char *queries;            // (n_select, n_blocks, queries_size): see lh_scoring
    size_t queries_size;
    float *scores;            // (n_select, tokens of a block, stride)
    float *most;              // the same where scores are lower bounds so far; NULL: they are what they are
    int32_t *open;            // (n_select, stride): chunks whose scores are asked for
    // The block at hand:
    int32_t block, token, n;  // its first token, of the batch, and how many
    int32_t candidates;       // chunks 1, ..., candidates of its last token: the most there are
    int32_t n_slices;         // of the candidates
    int64_t stride;           // floats between tokens
} select_job;

static void enter_block(select_job *j, int32_t block) {
    const lh_attention *a = j->a;
    j->block = block;
    j->token = j->first + block * BLOCK_TOKENS;
    j->n = LH_MIN(BLOCK_TOKENS, a->n - j->token);
    j->candidates = lh_candidates_end(a->plan, lh_chunk_of(a->pos + j->token + j->n - 1, a->plan.chunk)) - 1;
    j->n_slices = LH_MAX(1, LH_MIN(MAX_SLICES, j->candidates / SLICE_CHUNKS));
    // One cache line more than whole ones: rows that lie a power of two apart would push each other out of the cache.
    j->stride = LH_ROUND_UP(j->candidates, 32) + 16;
}

static void *queries_at(const select_job *j, int32_t chooser, int32_t block) {
    return j->queries + ((size_t)chooser * j->n_blocks + block) * j->queries_size;
}

static void prepare_task(void *arg, int64_t piece, int thread) {
    (void)thread;
    const select_job *j = arg;
    int32_t chooser = (int32_t)(piece / j->n_blocks), block = (int32_t)(piece % j->n_blocks);
    if (j->a->leader[chooser] < 0) return;
    select_job at = *j;
    enter_block(&at, block);
    lh_queries from = {.head = j->a->leader[chooser], .token = at.token, .n = at.n};
    j->scheme->prepare(j->cpu, j->a, &from, queries_at(j, chooser, block));
}

// Of the block at hand, against all its candidates.
static lh_scoring scoring_of(const select_job *j, int32_t chooser) {
    int64_t at = (int64_t)chooser * j->n * j->stride;
    return (lh_scoring){
        .summary = lh_summary_of(j->a, j->a->leader[chooser]), .n = j->n, .queries = queries_at(j, chooser, j->block),
        .first = 1, .end = 1 + j->candidates, .out = j->scores + at, .most = j->most ? j->most + at : NULL,
        .stride = j->stride,
    };
}

static void score_task(void *arg, int64_t piece, int thread) {
    const select_job *j = arg;
    int32_t chooser = (int32_t)(piece / j->n_slices), slice = (int32_t)(piece % j->n_slices);
    if (j->a->leader[chooser] < 0) return;
    int32_t first = (int32_t)((int64_t)j->candidates * slice / j->n_slices);
    lh_scoring s = scoring_of(j, chooser);
    s.first = 1 + first;
    s.end = 1 + (int32_t)((int64_t)j->candidates * (slice + 1) / j->n_slices);
    s.out += first;
    if (s.most) s.most += first;
    j->scheme->score(j->cpu, j->a, &s, lh_cpu_scratch_of(j->cpu, thread));
}

// From bounds to scores, as far as they matter: where a bound says that a chunk is none of the k best, it stays.
static void settle(const select_job *j, int32_t chooser, int32_t k, void *scratch) {
    lh_scoring s = scoring_of(j, chooser);
    float *scores = s.out, *most = s.most, least = INFINITY;
    int32_t *open = j->open + chooser * j->stride;
    s.most = NULL;
    s.only = open;
    s.n_only = LH_MIN(LH_MAX(k, PROMISING), j->candidates);
    j->cpu->attention.top(scores, j->candidates, s.n_only, 1, open, scratch);
    j->scheme->score(j->cpu, j->a, &s, scratch);
    for (int32_t i = 0; i < s.n_only; i++) most[open[i] - 1] = -INFINITY;
    // So good the k best are at least, scored or not: so good the others have to be.
    j->cpu->attention.top(scores, j->candidates, k, 1, open, scratch);
    for (int32_t i = 0; i < k; i++) least = fminf(least, scores[open[i] - 1]);
    s.n_only = 0;
    for (int32_t i = 0; i < j->candidates; i++)
        if (most[i] >= least) open[s.n_only++] = 1 + i;
    j->scheme->score(j->cpu, j->a, &s, scratch);
}

// scores: of chunk 1 and those that follow. A token of chunk c has taken `chosen`.
static void weigh(const lh_attention *a, int32_t c, const float *scores, const int32_t *chosen, float *bias) {
    int32_t n = lh_n_chosen(a->plan);
    float least = INFINITY;
    for (int32_t r = 1; r <= n; r++) least = fminf(least, scores[chosen[r] - 1]);
    for (int32_t r = 0; r < a->plan.k; r++)
        bias[r] = r > 0 && r <= n ? lh_bias_of(a, c, scores[chosen[r] - 1], least) : 0;
}

static void choose_task(void *arg, int64_t piece, int thread) {
    const select_job *j = arg;
    const lh_attention *a = j->a;
    int32_t chooser = (int32_t)(piece % a->n_select), from = (int32_t)(piece / a->n_select) * TOP_TOKENS;
    const lh_chunk_plan plan = a->plan;
    if (a->leader[chooser] < 0) return;
    if (j->most) settle(j, chooser, lh_n_chosen(plan), lh_cpu_scratch_of(j->cpu, thread));
    for (int32_t t = from; t < LH_MIN(from + TOP_TOKENS, j->n); t++) {
        int32_t c = lh_chunk_of(a->pos + j->token + t, plan.chunk), end = lh_candidates_end(plan, c);
        size_t at = lh_choice_at(a, chooser, j->token + t);
        const float *scores = j->scores + ((int64_t)chooser * j->n + t) * j->stride;
        int32_t *out = a->chosen + at;
        out[0] = 0;
        j->cpu->attention.top(scores, end - 1, lh_n_chosen(plan), 1, out + 1, lh_cpu_scratch_of(j->cpu, thread));
        for (int32_t r = 0; r < plan.local; r++) out[1 + lh_n_chosen(plan) + r] = end + r;
        weigh(a, c, scores, out, a->bias + at);
    }
}

// Lays queries and scores out at `memory`; returns the bytes they take. The block at hand is the last one, which has the
// most candidates.
static size_t lay_out(select_job *j, void *memory) {
    lh_layout at = {.memory = memory};
    size_t choosers = (size_t)j->a->n_select, tokens = (size_t)LH_MIN(BLOCK_TOKENS, j->a->n - j->first);
    j->queries = lh_take(&at, choosers * (size_t)j->n_blocks, j->queries_size);
    j->scores = lh_take(&at, choosers * tokens * (size_t)j->stride, sizeof *j->scores);
    // A single token is bound by memory: it looks at details only where it has to.
    if (tokens == 1 && j->scheme->two_looks) {
        j->most = lh_take(&at, choosers * (size_t)j->stride, sizeof *j->most);
        j->open = lh_take(&at, choosers * (size_t)j->stride, sizeof *j->open);
    }
    return at.used;
}

static lh_status make_room(select_job *j) {
    const lh_attention *a = j->a;
    lh_scoring slice = {.n = LH_MIN(BLOCK_TOKENS, a->n - j->first)};
    for (int32_t block = 0; block < j->n_blocks; block++) {
        enter_block(j, block);
        slice.end = LH_MAX(slice.end, (j->candidates + j->n_slices - 1) / j->n_slices);
    }
    size_t top = 2 * (size_t)j->candidates * sizeof(int32_t), score = j->scheme->score_bytes(j->cpu, a, &slice);
    LH_TRY(lh_cpu_scratch_threads(j->cpu, LH_MAX(top, score)));
    void *memory = lh_cpu_scratch_shared(j->cpu, lay_out(j, NULL));
    if (!memory) return LH_ERR_MEMORY;
    lay_out(j, memory);
    return LH_OK;
}

lh_status lh_cpu_select(lh_backend *b, const lh_attention *a) {
    int32_t first = (int32_t)LH_MIN(LH_MAX((int64_t)a->plan.dense * a->plan.chunk - a->pos, 0), a->n);
    int32_t n_blocks = (a->n - first + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    if (n_blocks == 0) return LH_OK;
    select_job j = {
        .cpu = (lh_cpu *)b, .a = a, .scheme = schemes[a->scheme], .first = first, .n_blocks = n_blocks,
        .queries_size = LH_ROUND_UP(schemes[a->scheme]->prepare_bytes(a, LH_MIN(BLOCK_TOKENS, a->n - first)), (size_t)LH_ALIGN),
    };
    LH_TRY(make_room(&j));
    lh_threads *threads = j.cpu->threads;
    // A row or two take less time than waking anyone.
    bool tiny = a->n - first == 1;
    for (int32_t i = 0; tiny && i < a->n_select; i++) prepare_task(&j, i, 0);
    if (!tiny) lh_threads_for(threads, (int64_t)a->n_select * n_blocks, prepare_task, &j);
    for (int32_t block = 0; block < n_blocks; block++) {
        enter_block(&j, block);
        lh_threads_for(threads, (int64_t)a->n_select * j.n_slices, score_task, &j);
        lh_threads_for(threads, (int64_t)a->n_select * ((j.n + TOP_TOKENS - 1) / TOP_TOKENS), choose_task, &j);
    }
    return LH_OK;
}
