// The attention operations of lh_backend_open_cuda against the CPU backend's: the same tokens go through both, batch by
// batch, and the bytes of the cache, the summaries, the choices and the results are compared. The same program runs on
// a GPU and on the emulator. Argument: the group of cases. Prints what failed; exits non-zero then. The CPU should run
// its generic kernels (LH_CPU=generic): vectorised ones may round a rotation once less.
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "peak.h"
#include "rope.h"

lh_status lh_backend_open_cuda(int32_t index, lh_backend **out);
// Only where the emulator runs the kernels.
__attribute__((weak)) void lh_emulator_order(int order);
__attribute__((weak)) int64_t lh_emulator_replays(void);

// Of results, relative to the largest value of the text.
#define ONE 4e-6f     // one token: floats throughout; the order of sums differs
#define MANY 3e-3f    // many: queries, keys, weights and values meet as halves
// Of summaries of scheme paper and of scores: relative to the largest of the chunk.
#define SUMMARY 2e-5f
#define Q8_STEP (1.02f / 127)  // a value that lies between two steps may go to either
#define SCORE 2e-5
#define BIAS 1e-5     // where scores are the same

static int failures, checks;
#define FAIL(...)                                             \
    do {                                                      \
        if (failures++ < 20) printf(__VA_ARGS__), puts("");   \
    } while (0)
#define TRY(call)                                             \
    do {                                                      \
        if ((call) != LH_OK) printf("%s: %s\n", #call, lh_last_error()), exit(1); \
    } while (0)

enum data { RANDOM, REPEATED, LARGE, NOTHING };

typedef struct test_case {
    const char *name;
    int32_t n_head, n_head_kv, head_dim;
    lh_chunk_plan plan;
    lh_scheme scheme;
    bool per_head;           // choice
    lh_kv_type type;
    enum data data;
    int32_t batches[12];     // tokens, up to a 0
    int32_t single;          // tokens that follow one at a time
    int32_t rope_dim;        // 0: head_dim
    int32_t chunks;          // of the context; 0: one more than are used
    int32_t slots;           // of copies, where keys and values are at home in memory of the host; 0: on the device
    int32_t near;            // chunks that every third KV head attends, which chooses nothing and has no more room than
                             // it needs; 0: all choose
} test_case;

static uint64_t state;
static float uniform(void) {  // -1..1
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(state >> 32) / 2147483648.0f;
}

// One backend's side of a case.
typedef struct side {
    lh_backend *b;
    lh_attention a;
    lh_kv_head *heads;       // what a.heads holds
    char *rows, *home, *summaries;  // keys and values on the device, and in memory of the host
    float *q, *k, *v, *x;    // device
    const lh_offload_ops *offload;  // NULL: not used
    lh_tensor table;         // of embed, which begins a token's list of commands
} side;

static void *device(side *s, size_t bytes) {
    void *p;
    TRY(s->b->ops->alloc(s->b, bytes, &p));
    return p;
}

static void *copied(side *s, const void *host, size_t bytes) {
    void *p = device(s, bytes);
    TRY(s->b->ops->write(s->b, p, host, bytes));
    return p;
}

static void *fetched(side *s, const void *from, size_t bytes) {
    void *host = lh_alloc(bytes + 1, 1);
    TRY(s->b->ops->read(s->b, host, from, bytes));
    return host;
}

static size_t head_summary_bytes(const lh_attention *a) {
    return (size_t)a->n_summary * a->n_chunk * (a->summary_size + a->detail_size);
}

// Every KV head chooses, or all but every third from the second one on.
static bool is_far(const test_case *c, int32_t kv_head) { return !c->near || kv_head % 3 != 1; }

// The first group follows its last head, the next its first, and so on.
static int32_t leader_of(const test_case *c, const lh_attention *a, int32_t chooser) {
    int32_t group = a->n_head / a->n_select;
    if (!is_far(c, chooser / (a->n_select / a->n_head_kv))) return -1;
    return chooser * group + (group - 1 + chooser) % group;
}

// Keys and values of those that choose, all of the text, and of the others, the last chunks.
static void place_heads(side *s, const test_case *c, int32_t n_chunk, size_t chunk_bytes) {
    lh_attention *a = &s->a;
    int32_t n_far = 0, near_room = n_chunk, most = 1;
    for (int i = 0; c->batches[i]; i++) most = LH_MAX(most, c->batches[i]);
    if (c->near) near_room = LH_MIN(n_chunk, c->plan.dense + most / c->plan.chunk + 2);
    for (int32_t h = 0; h < c->n_head_kv; h++) n_far += is_far(c, h);
    size_t far_bytes = 2 * (size_t)n_far * n_chunk * chunk_bytes;
    size_t near_bytes = 2 * (size_t)(c->n_head_kv - n_far) * near_room * chunk_bytes;
    if (s->offload) {
        TRY(s->offload->alloc(s->b, far_bytes, (void **)&s->home));
        TRY(s->offload->cache_new(s->b, n_far, n_chunk, c->slots, chunk_bytes, &a->cache));
    }
    s->rows = device(s, near_bytes + (s->offload ? 0 : far_bytes));
    if (a->n_summary) s->summaries = device(s, (size_t)n_far * head_summary_bytes(a));
    s->heads = lh_alloc((size_t)c->n_head_kv, sizeof *s->heads);
    char *near = s->rows, *far = s->offload ? s->home : s->rows + near_bytes, *summary = s->summaries;
    for (int32_t h = 0, n = 0; h < c->n_head_kv; h++) {
        int32_t room = is_far(c, h) ? n_chunk : near_room;
        char **from = is_far(c, h) ? &far : &near;
        s->heads[h] = (lh_kv_head){.k = *from, .v = *from + room * chunk_bytes, .room = room, .cached = -1};
        *from += 2 * room * chunk_bytes;
        if (!is_far(c, h)) continue;
        if (s->offload) s->heads[h].cached = n++;
        if (!a->n_summary) continue;
        s->heads[h].summary = summary;
        summary += head_summary_bytes(a);
    }
    a->heads = copied(s, s->heads, (size_t)c->n_head_kv * sizeof *s->heads);
}

// A summary or its detail, on the device of a side; NULL: the head has none.
static char *part_at(const side *s, bool detail, int32_t i, int32_t chunk) {
    lh_attention a = s->a;
    a.heads = s->heads;
    if (!s->heads[i / a.n_summary].summary) return NULL;
    return detail ? lh_detail_at(&a, i, chunk) : lh_summary_at(&a, i, chunk);
}

static side open_side(const test_case *c, lh_backend *b, int32_t n_chunk) {
    side s = {.b = b};
    int32_t d = c->head_dim, l = c->plan.chunk, most = 1;
    for (int i = 0; c->batches[i]; i++) most = LH_MAX(most, c->batches[i]);
    bool per_query_head = c->scheme == LH_SCHEME_PAPER, dense = c->plan.dense == INT32_MAX;
    size_t row = lh_kv_row_size(c->type, d);
    lh_attention a = {
        .plan = c->plan, .near = c->near ? c->near : c->plan.k,
        .n_head = c->n_head, .n_head_kv = c->n_head_kv, .head_dim = d, .n_chunk = n_chunk,
        .scale = 1 / sqrtf((float)d), .kv_type = c->type, .scheme = c->scheme,
        .n_summary = dense || lh_n_chosen(c->plan) == 0 ? 0 : per_query_head ? c->n_head / c->n_head_kv : 1,
        .summary_type = lh_summary_type(c->type), .rope_dim = c->rope_dim ? c->rope_dim : d,
        .n_select = c->per_head ? c->n_head : c->n_head_kv,
    };
    if (c->scheme != LH_SCHEME_PEAK) a.summary_dim = LH_ROUND_UP((per_query_head ? 1 : 2) * d, LH_SUMMARY_BLOCK);
    bool peak = c->scheme == LH_SCHEME_PEAK;
    a.summary_size = peak ? lh_peak_size(d, l) : lh_kv_row_size(a.summary_type, a.summary_dim);
    a.detail_size = peak ? lh_peak_detail(d, l) : 0;
    a.score_scale = peak ? 1 : a.scale;
    s.offload = c->slots ? b->ops->offload : NULL;
    if (per_query_head) a.queries = device(&s, (size_t)l * c->n_head * d * sizeof(float));
    lh_config config = {.head_dim = d, .rope_dim = a.rope_dim, .rope_base = 10000, .rope_scaling = LH_ROPE_NONE,
                        .trained_ctx = 4096, .rope_factor = 1};
    lh_rope rope;
    TRY(lh_rope_init(&rope, &config, NULL));
    float *table = lh_alloc((size_t)LH_MAX(l, c->plan.window) * 2 * d, sizeof *table);
    lh_rope_table(&rope, 0, 1, l, table);
    a.rope_offset = copied(&s, table, (size_t)l * 2 * d * sizeof *table);
    lh_rope_table(&rope, 0, l, c->plan.window, table);
    a.rope_chunk = copied(&s, table, (size_t)lh_n_distances(&a) * 2 * d * sizeof *table);
    a.rope_far = copied(&s, table + (size_t)(c->plan.window - 1) * 2 * d, 2 * (size_t)d * sizeof *table);
    lh_free(table);
    lh_rope_free(&rope);
    int32_t *leader = lh_alloc((size_t)a.n_select, sizeof *leader);
    for (int32_t i = 0; i < a.n_select; i++) leader[i] = leader_of(c, &a, i);
    a.leader = copied(&s, leader, (size_t)a.n_select * sizeof *leader);
    lh_free(leader);
    a.chosen = device(&s, (size_t)most * a.n_select * c->plan.k * sizeof(int32_t));
    a.bias = device(&s, (size_t)most * a.n_select * c->plan.k * sizeof(float));
    a.out = device(&s, (size_t)most * c->n_head * d * sizeof(float));
    s.a = a;
    place_heads(&s, c, n_chunk, l * row);
    s.q = device(&s, (size_t)most * c->n_head * d * sizeof(float));
    s.k = device(&s, (size_t)most * c->n_head_kv * d * sizeof(float));
    s.v = device(&s, (size_t)most * c->n_head_kv * d * sizeof(float));
    static const float weights[64];
    s.table = (lh_tensor){.type = LH_TYPE_F32, .n_rows = 2, .n_cols = 32, .data = weights, .row_size = 128};
    TRY(b->ops->upload(b, &s.table));
    s.x = device(&s, 32 * sizeof(float));
    return s;
}

static void close_side(side *s) {
    if (s->offload) {
        s->offload->cache_free(s->b, s->a.cache);
        s->offload->release(s->b, s->home);
    }
    lh_free(s->heads);
    void *all[] = {s->rows, s->summaries, (void *)s->a.heads, s->a.queries, (void *)s->a.rope_offset,
                   (void *)s->a.rope_chunk, (void *)s->a.leader, s->a.chosen, s->a.bias, s->a.out, s->q, s->k, s->v,
                   s->x};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) s->b->ops->release(s->b, all[i]);
    s->b->ops->unload(s->b, &s->table);
}

// --- what must hold -----------------------------------------------------------------------------------------------

static float dequantised(const void *row, int32_t i, lh_kv_type type) {
    if (type == LH_KV_F32) return ((const float *)row)[i];
    const char *block = (const char *)row + i / 32 * 34;
    uint16_t d;
    memcpy(&d, block, 2);
    return lh_f16_to_f32(d) * (float)(int8_t)block[2 + i % 32];
}

static void check_cache(const test_case *c, side *cpu, side *gpu, int64_t position) {
    size_t row = lh_kv_row_size(c->type, c->head_dim);
    for (int which = 0; which < 2; which++)
        for (int32_t h = 0; h < c->n_head_kv; h++) {
            size_t used = LH_MIN((size_t)position, (size_t)cpu->heads[h].room * c->plan.chunk) * row;
            char *one = fetched(cpu, which ? cpu->heads[h].v : cpu->heads[h].k, used);
            char *two = fetched(gpu, which ? gpu->heads[h].v : gpu->heads[h].k, used);
            checks++;
            if (memcmp(one, two, used) != 0)
                FAIL("%s: %s of head %d differ", c->name, which ? "values" : "keys", h);
            lh_free(one);
            lh_free(two);
        }
}

static void check_summaries(const test_case *c, side *cpu, side *gpu, int64_t position) {
    const lh_attention *a = &cpu->a;
    int32_t complete = lh_chunk_of(position, c->plan.chunk);
    size_t used =
        c->scheme == LH_SCHEME_PEAK ? lh_peak_upper(c->head_dim, c->plan.chunk) + sizeof(float) : a->summary_size;
    for (int32_t i = 0; i < a->n_head_kv * a->n_summary; i++)
        for (int32_t s = 0; s < complete && part_at(cpu, false, i, s); s++) {
            char *one = fetched(cpu, part_at(cpu, false, i, s), used);
            char *two = fetched(gpu, part_at(gpu, false, i, s), used);
            checks++;
            if (c->scheme != LH_SCHEME_PAPER) {
                if (memcmp(one, two, used) != 0) FAIL("%s: summary %d of chunk %d differs", c->name, i, s);
            } else {
                float most = 0;
                for (int32_t x = 0; x < a->summary_dim; x++)
                    most = fmaxf(most, fabsf(dequantised(one, x, a->summary_type)));
                float allowed = most * (SUMMARY + (a->summary_type == LH_KV_Q8_0 ? Q8_STEP : 0));
                for (int32_t x = 0; x < a->summary_dim; x++) {
                    float expected = dequantised(one, x, a->summary_type), found = dequantised(two, x, a->summary_type);
                    if (!(fabsf(found - expected) <= allowed)) {
                        FAIL("%s: summary %d of chunk %d: component %d is %g, not %g", c->name, i, s, x, found,
                             expected);
                        break;
                    }
                }
            }
            lh_free(one);
            lh_free(two);
            if (!a->detail_size) continue;
            one = fetched(cpu, part_at(cpu, true, i, s), a->detail_size);
            two = fetched(gpu, part_at(gpu, true, i, s), a->detail_size);
            if (memcmp(one, two, a->detail_size) != 0) FAIL("%s: detail %d of chunk %d differs", c->name, i, s);
            lh_free(one);
            lh_free(two);
        }
}

// The score of chunk s by the GPU's own summaries, in double; magnitude: the sum of the terms' sizes.
static double score_of(const test_case *c, const side *gpu, const char *summaries, const float *q, int32_t head,
                       int32_t s, double *magnitude) {
    const lh_attention *a = &gpu->a;
    int32_t d = c->head_dim;
    const char *summary = summaries + (part_at(gpu, false, lh_summary_of(a, head), s) - gpu->summaries);
    double sum = 0;
    *magnitude = 0;
    for (int32_t x = 0; x < d; x++) {
        double value = q[(size_t)head * d + x],
               w = dequantised(summary, c->scheme == LH_SCHEME_BOUNDS && value < 0 ? d + x : x, a->summary_type);
        sum += value * w;
        *magnitude += fabs(value * w);
    }
    return sum;
}

static void check_bias(const test_case *c, int32_t own, int32_t chooser, int32_t rank, double found, double expected,
                       double allowed) {
    checks++;
    if (!(fabs(found - expected) <= allowed))
        FAIL("%s: chooser %d of chunk %d adds %g to its chunk number %d, not %g", c->name, chooser, own, found, rank,
             expected);
}

// Schemes whose scores are sums of floats: what was chosen is as good as anything that was not, up to rounding.
static void check_choice(const test_case *c, const side *gpu, const char *summaries, const float *q, int32_t own,
                         int32_t chooser, const int32_t *chosen, const float *bias) {
    int32_t leader = leader_of(c, &gpu->a, chooser);
    const lh_chunk_plan plan = c->plan;
    int32_t end = lh_candidates_end(plan, own), n = lh_n_chosen(plan), at = 1;
    double worst = INFINITY, rest = -INFINITY, most = 0, magnitude, *scores = lh_alloc((size_t)end, sizeof *scores);
    bool valid = chosen[0] == 0;
    for (int32_t r = 1; r < c->plan.k; r++) valid = valid && chosen[r] > chosen[r - 1];
    for (int32_t r = 0; r < plan.local; r++) valid = valid && chosen[1 + n + r] == end + r;
    for (int32_t s = 1; s < end; s++) {
        double score = scores[s] = score_of(c, gpu, summaries, q, leader, s, &magnitude);
        most = fmax(most, magnitude);
        if (at <= n && chosen[at] == s) worst = fmin(worst, score), at++;
        else rest = fmax(rest, score);
    }
    valid = valid && at == 1 + n;
    checks++;
    if (!valid) FAIL("%s: chooser %d of chunk %d breaks the rules", c->name, chooser, own);
    else if (n && rest - worst > SCORE * most)
        FAIL("%s: chooser %d of chunk %d left out a chunk better by %g", c->name, chooser, own, rest - worst);
    // Twice what scores are off by, times what a bias makes of it.
    double allowed = BIAS + 2 * SCORE * most * gpu->a.scale * LH_FAR_ABOVE * plan.far_bias;
    for (int32_t r = 0; valid && r < plan.k; r++) {
        bool taken = r > 0 && r <= n;
        check_bias(c, own, chooser, r, bias[r],
                   taken ? lh_bias_of(&gpu->a, own, (float)scores[chosen[r]], (float)worst) : 0, taken ? allowed : 0);
    }
    lh_free(scores);
}

static void check_chosen(const test_case *c, side *cpu, side *gpu, const float *q, int32_t dense) {
    const lh_attention *a = &gpu->a;
    size_t k = (size_t)c->plan.k, row = (size_t)a->n_select * k, bytes = (size_t)a->n * row * sizeof(int32_t);
    int32_t *one = fetched(cpu, cpu->a.chosen, bytes), *two = fetched(gpu, gpu->a.chosen, bytes);
    float *bias_one = fetched(cpu, cpu->a.bias, bytes), *bias_two = fetched(gpu, gpu->a.bias, bytes);
    bool exact = c->scheme == LH_SCHEME_PEAK || c->data == REPEATED;
    int32_t n_far = 0;
    for (int32_t h = 0; h < c->n_head_kv; h++) n_far += is_far(c, h);
    size_t all = (size_t)n_far * head_summary_bytes(a);
    char *summaries = exact ? NULL : fetched(gpu, gpu->summaries, all);
    for (int32_t t = dense; t < a->n; t++) {
        int32_t own = lh_chunk_of(a->pos + t, c->plan.chunk);
        for (int32_t i = 0; i < a->n_select; i++) {
            size_t at = (size_t)t * row + (size_t)i * k;
            if (leader_of(c, a, i) < 0) continue;
            if (!exact)
                check_choice(c, gpu, summaries, q + (size_t)t * c->n_head * c->head_dim, own, i, two + at, bias_two + at);
            for (size_t r = 0; exact && r < k; r++)
                check_bias(c, own, i, (int32_t)r, bias_two[at + r], bias_one[at + r], BIAS);
            checks++;
            if (exact && memcmp(one + at, two + at, k * sizeof *one) != 0)
                FAIL("%s: choice %d of token %lld is other chunks", c->name, i, (long long)a->pos + t);
        }
    }
    // Attention is compared over the same chunks, with the same biases.
    TRY(gpu->b->ops->write(gpu->b, gpu->a.chosen, one, bytes));
    TRY(gpu->b->ops->write(gpu->b, gpu->a.bias, bias_one, bytes));
    lh_free(summaries);
    lh_free(one);
    lh_free(two);
    lh_free(bias_one);
    lh_free(bias_two);
}

static void check_out(const test_case *c, side *cpu, side *gpu, float largest) {
    size_t count = (size_t)gpu->a.n * c->n_head * c->head_dim;
    float *one = fetched(cpu, cpu->a.out, count * sizeof *one), *two = fetched(gpu, gpu->a.out, count * sizeof *two);
    // Where products reach hundreds, a half's rounding decides between keys: only the range of results is sure then.
    float allowed = c->data == LARGE ? 2 : gpu->a.n == 1 ? ONE : MANY;
    for (size_t i = 0; i < count; i++) {
        checks++;
        if (fabsf(two[i] - one[i]) <= allowed * largest) continue;
        FAIL("%s: token %lld of a batch of %d, head %d, component %d: %g, not %g", c->name,
             (long long)(gpu->a.pos + (int64_t)(i / ((size_t)c->n_head * c->head_dim))), gpu->a.n,
             (int)(i / c->head_dim % c->n_head), (int)(i % c->head_dim), two[i], one[i]);
        break;
    }
    lh_free(one);
    lh_free(two);
}

// Copies were used; where there is room for all, each chunk was fetched once at most.
static void check_copies(const test_case *c, side *gpu) {
    int64_t hits = 0, misses = 0;
    TRY(gpu->offload->cache_count(gpu->b, gpu->a.cache, &hits, &misses));
    bool again = c->slots >= gpu->a.n_chunk && misses > (int64_t)c->n_head_kv * gpu->a.n_chunk;
    if (hits == 0 || misses == 0 || again)
        FAIL("%s: %lld chunks were found and %lld fetched", c->name, (long long)hits, (long long)misses);
}

// --- running ------------------------------------------------------------------------------------------------------

static void make_tokens(const test_case *c, int64_t position, int32_t n, float *q, float *k, float *v) {
    int32_t d = c->head_dim;
    // Beyond the range of halves where the cache keeps halves, and these saturate; within it elsewhere, because many
    // tokens meet as halves whatever the cache keeps.
    float size = c->data == LARGE ? c->type == LH_KV_F16 ? 3e5f : 3e4f : c->data == NOTHING ? 0 : 1;
    for (int32_t t = 0; t < n; t++) {
        // A text whose chunks come again and again: their scores are equal, and the lower index is to be chosen.
        if (c->data == REPEATED) state = 99 + (uint64_t)((position + t) % (3 * c->plan.chunk));
        for (int32_t i = 0; i < c->n_head * d; i++) q[(size_t)t * c->n_head * d + i] = uniform() * 2;
        for (int32_t i = 0; i < c->n_head_kv * d; i++) k[(size_t)t * c->n_head_kv * d + i] = uniform() * 2 * size;
        for (int32_t i = 0; i < c->n_head_kv * d; i++) v[(size_t)t * c->n_head_kv * d + i] = uniform() * size;
    }
}

// Everything of one batch, as the layers of a model ask for it.
static void run_side(side *s, const test_case *c, const float *q, const float *k, const float *v) {
    const lh_backend_ops *ops = s->b->ops;
    lh_attention *a = &s->a;
    int32_t l = c->plan.chunk, id = 1;
    size_t dim = (size_t)c->head_dim * sizeof(float);
    TRY(ops->write(s->b, s->q, q, (size_t)a->n * c->n_head * dim));
    TRY(ops->write(s->b, s->k, k, (size_t)a->n * c->n_head_kv * dim));
    TRY(ops->write(s->b, s->v, v, (size_t)a->n * c->n_head_kv * dim));
    a->q = s->q;
    a->new_k = s->k;
    a->new_v = s->v;
    TRY(ops->embed(s->b, &s->table, &id, 1, s->x));
    TRY(ops->append(s->b, a));
    if (a->n_summary) TRY(ops->summarize(s->b, a, lh_chunk_of(a->pos, l), lh_chunk_of(a->pos + a->n, l)));
    if (lh_chooses(c->plan, lh_chunk_of(a->pos + a->n - 1, l))) TRY(ops->select(s->b, a));
    TRY(ops->attend(s->b, a));
}

// A digest of everything the GPU computed: it must not depend on the order in which threads run.
static uint64_t digest;
static void add_digest(side *s, const void *from, size_t bytes) {
    unsigned char *p = fetched(s, from, bytes);
    for (size_t i = 0; i < bytes; i++) digest = (digest ^ p[i]) * 1099511628211u;
    lh_free(p);
}

static void run_batch(const test_case *c, side *cpu, side *gpu, int64_t position, int32_t n) {
    size_t row = (size_t)(c->n_head + 2 * c->n_head_kv) * c->head_dim;
    float *q = lh_alloc((size_t)n * row, sizeof *q), *k = q + (size_t)n * c->n_head * c->head_dim;
    float *v = k + (size_t)n * c->n_head_kv * c->head_dim, largest = 0;
    make_tokens(c, position, n, q, k, v);
    cpu->a.pos = gpu->a.pos = position;
    cpu->a.n = gpu->a.n = n;
    run_side(cpu, c, q, k, v);
    run_side(gpu, c, q, k, v);
    add_digest(gpu, gpu->a.out, (size_t)n * c->n_head * c->head_dim * sizeof(float));
    int32_t dense = (int32_t)LH_MIN(LH_MAX((int64_t)c->plan.dense * c->plan.chunk - position, 0), n);
    if (dense < n && lh_n_chosen(c->plan) > 0) {
        add_digest(gpu, (char *)gpu->a.chosen + (size_t)dense * gpu->a.n_select * c->plan.k * sizeof(int32_t),
                   (size_t)(n - dense) * gpu->a.n_select * c->plan.k * sizeof(int32_t));
        add_digest(gpu, (char *)gpu->a.bias + (size_t)dense * gpu->a.n_select * c->plan.k * sizeof(float),
                   (size_t)(n - dense) * gpu->a.n_select * c->plan.k * sizeof(float));
        check_chosen(c, cpu, gpu, q, dense);
        TRY(gpu->b->ops->attend(gpu->b, &gpu->a));
    }
    for (int64_t i = 0; i < (int64_t)n * c->n_head_kv * c->head_dim; i++) largest = fmaxf(largest, fabsf(v[i]));
    check_out(c, cpu, gpu, c->data == LARGE ? fminf(largest, 65504) : fmaxf(largest, 1));
    lh_free(q);
}

static void run_case(const test_case *c, lh_backend *cpu_backend, lh_backend *gpu_backend) {
    int32_t tokens = c->single, l = c->plan.chunk;
    for (int i = 0; c->batches[i]; i++) tokens += c->batches[i];
    int32_t n_chunk = c->chunks ? c->chunks : (tokens + l - 1) / l + 1;
    uint64_t found[3] = {0};
    int before = failures;
    int orders = lh_emulator_order && tokens <= 300 ? 3 : 1;  // the emulator takes its time
    for (int order = 0; order < orders; order++) {
        if (lh_emulator_order) lh_emulator_order(order);
        state = 7;
        digest = 14695981039346656037u;
        side cpu = open_side(c, cpu_backend, n_chunk), gpu = open_side(c, gpu_backend, n_chunk);
        int64_t position = 0;
        for (int i = 0; c->batches[i]; i++) {
            run_batch(c, &cpu, &gpu, position, c->batches[i]);
            position += c->batches[i];
        }
        int64_t replays = lh_emulator_replays ? lh_emulator_replays() : 0;
        for (int32_t i = 0; i < c->single; i++, position++) run_batch(c, &cpu, &gpu, position, 1);
        if (lh_emulator_replays && c->single > 4 && lh_emulator_replays() - replays < c->single - 4)
            FAIL("%s: of %d single tokens only %d were replayed", c->name, c->single,
                 (int)(lh_emulator_replays() - replays));
        check_cache(c, &cpu, &gpu, position);
        check_summaries(c, &cpu, &gpu, position);
        if (gpu.offload) check_copies(c, &gpu);
        close_side(&cpu);
        close_side(&gpu);
        found[order] = digest;
        if (failures > before) break;
        if (found[order] != found[0]) FAIL("%s: results depend on the order of threads", c->name);
    }
    if (lh_emulator_order) lh_emulator_order(0);
}

// --- cases --------------------------------------------------------------------------------------------------------

#define PEAK LH_SCHEME_PEAK
#define BOUNDS LH_SCHEME_BOUNDS
#define PAPER LH_SCHEME_PAPER
#define F16 LH_KV_F16
#define F32 LH_KV_F32
#define BF16 LH_KV_BF16
#define Q8_0 LH_KV_Q8_0
#define DENSE {16, 2, 64, 1, INT32_MAX, 0}

static const struct group {
    const char *name;
    test_case cases[20];
} groups[] = {
    {"schemes", {
        {"peak, kv head", 8, 2, 64, {16, 6, 8, 2, 6, 0.5f}, PEAK, false, F16, RANDOM, {90, 33, 70, 5}, 40, 0, 0, 0, 0},
        {"peak, head", 8, 2, 64, {16, 6, 6, 2, 6, 0}, PEAK, true, F16, RANDOM, {200}, 20, 0, 0, 0, 0},
        {"bounds, kv head", 6, 2, 32, {16, 6, 16, 2, 7, 0}, BOUNDS, false, F16, RANDOM, {100, 90, 17}, 20, 0, 0, 0, 0},
        {"bounds, head", 6, 2, 32, {16, 6, 7, 2, 7, 2}, BOUNDS, true, F32, RANDOM, {210}, 10, 0, 0, 0, 0},
        {"paper, kv head", 4, 2, 32, {16, 5, 5, 2, 5, 0}, PAPER, false, F16, RANDOM, {70, 1, 90, 3}, 20, 0, 0, 0, 0},
        {"paper, head", 4, 2, 32, {16, 5, 5, 2, 5, 0}, PAPER, true, Q8_0, RANDOM, {170}, 20, 0, 0, 0, 0},
        {"paper, half rotated", 2, 2, 32, {8, 5, 8, 1, 5, 0}, PAPER, true, F32, RANDOM, {83}, 3, 16, 0, 0, 0},
    }},
    {"types", {
        {"f32", 4, 2, 64, {16, 4, 9, 1, 4, 0}, PEAK, false, F32, RANDOM, {150}, 18, 0, 0, 0, 0},
        {"bf16", 4, 2, 64, {16, 4, 9, 1, 4, 0}, PEAK, false, BF16, RANDOM, {150}, 18, 0, 0, 0, 0},
        {"q8_0", 4, 2, 64, {16, 4, 9, 1, 4, 0.5f}, PEAK, false, Q8_0, RANDOM, {150}, 18, 0, 0, 0, 0},
        {"q8_0, part of a block", 4, 2, 40, {24, 4, 9, 1, 4, 0}, BOUNDS, true, Q8_0, RANDOM, {190}, 6, 0, 0, 0, 0},
        {"f32, rows of no eights", 3, 1, 100, {16, 4, 9, 1, 4, 0}, PEAK, false, F32, RANDOM, {150}, 6, 0, 0, 0, 0},
        {"f32, rows of no fours", 2, 1, 90, {16, 4, 9, 1, 4, 0}, PEAK, false, F32, RANDOM, {150}, 6, 0, 0, 0, 0},
        {"f32, long rows", 2, 1, 192, {16, 4, 9, 1, 4, 0}, BOUNDS, false, F32, RANDOM, {100}, 6, 0, 0, 0, 0},
    }},
    {"shapes", {
        {"one KV head of seven", 7, 1, 128, {32, 4, 8, 1, 4, 0}, PEAK, false, F16, RANDOM, {230}, 4, 0, 0, 0, 0},
        {"eight heads, chosen each", 8, 1, 80, {20, 5, 8, 2, 5, 0.5f}, PEAK, true, F16, RANDOM, {160}, 4, 0, 0, 0, 0},
        {"whole tiles", 4, 2, 128, {64, 4, 8, 1, 4, 0}, PEAK, false, F16, RANDOM, {500, 77}, 2, 0, 0, 0, 0},
        {"whole tiles, wide", 2, 1, 136, {96, 3, 8, 1, 3, 0}, PEAK, true, F16, RANDOM, {500}, 2, 0, 0, 0, 0},
        {"odd rows", 3, 1, 36, {12, 4, 8, 1, 4, 0}, PEAK, false, F16, RANDOM, {50, 31}, 5, 0, 0, 0, 0},
        {"tiny heads", 2, 2, 2, {16, 4, 8, 1, 4, 0}, PEAK, true, F16, RANDOM, {110}, 4, 0, 0, 0, 0},
        {"wide heads", 2, 1, 256, {16, 4, 8, 2, 4, 0}, PEAK, false, F16, RANDOM, {90}, 4, 0, 0, 0, 0},
        {"widest heads", 2, 1, 512, {16, 3, 8, 1, 3, 0}, PEAK, false, F16, RANDOM, {80}, 3, 0, 0, 0, 0},
        {"long chunks", 2, 1, 32, {100, 3, 5, 1, 3, 0}, PEAK, false, F16, RANDOM, {450, 77}, 4, 0, 0, 0, 0},
        {"chunks of one", 2, 1, 32, {1, 5, 20, 1, 5, 1}, PEAK, false, F16, RANDOM, {40}, 20, 0, 0, 0, 0},
        {"nothing to choose", 4, 2, 32, {16, 4, 8, 3, 4, 0}, PEAK, false, F16, RANDOM, {120}, 5, 0, 0, 0, 0},
        {"room for the last chunks", 4, 2, 32, {16, 4, 8, 3, 4, 0}, PEAK, false, F16, RANDOM, {120, 70, 100, 9}, 40, 0,
         0, 0, 4},
        {"dense", 4, 2, 32, DENSE, PEAK, false, F16, RANDOM, {100, 3, 60}, 6, 0, 0, 0, 0},
        {"a long context, hardly used", 2, 1, 8, {4, 5, 20, 1, 5, 0}, PEAK, true, F16, RANDOM, {60}, 6, 0, 9000, 0, 0},
        {"forty heads", 40, 1, 16, {16, 4, 8, 1, 4, 0}, PEAK, false, F16, RANDOM, {90}, 3, 0, 0, 0, 0},
        {"many chunks", 2, 1, 16, {4, 20, 60, 2, 20, 0}, PEAK, true, F16, RANDOM, {300, 300}, 5, 0, 0, 0, 0},
        {"many choosers", 64, 4, 8, {4, 20, 30, 2, 20, 3}, PEAK, true, F16, RANDOM, {110}, 4, 0, 0, 0, 0},
        {"many chunks, bounds", 2, 1, 16, {4, 20, 60, 2, 20, 0}, BOUNDS, true, F16, RANDOM, {300, 300}, 5, 0, 0, 0, 0},
    }},
    {"some choose", {
        {"peak, kv head", 8, 4, 64, {16, 6, 8, 2, 6, 0.5f}, PEAK, false, F16, RANDOM, {90, 33, 70, 5}, 40, 0, 0, 0, 3},
        {"peak, head", 6, 3, 32, {16, 6, 9, 2, 8, 1}, PEAK, true, Q8_0, RANDOM, {140, 70, 100, 9}, 20, 0, 0, 0, 8},
        {"bounds, kv head", 6, 3, 32, {16, 6, 7, 1, 7, 2}, BOUNDS, false, F16, RANDOM, {120, 100, 60}, 20, 0, 0, 0, 4},
        {"paper, head", 4, 2, 32, {16, 5, 8, 2, 8, 1}, PAPER, true, F32, RANDOM, {70, 1, 90, 3}, 20, 0, 0, 0, 8},
        {"few slots", 8, 4, 64, {16, 6, 9, 2, 9, 1}, PEAK, false, F16, RANDOM, {90, 63, 70, 5}, 40, 0, 0, 8, 3},
        {"some slots", 6, 3, 32, {16, 6, 8, 2, 6, 1}, PEAK, true, F16, RANDOM, {90, 33}, 40, 0, 0, 9, 6},
    }},
    {"ties", {
        {"repeated, peak", 4, 2, 32, {8, 9, 20, 2, 9, 0}, PEAK, false, F16, REPEATED, {200, 40}, 6, 0, 0, 0, 0},
        {"repeated, bounds", 4, 2, 32, {8, 9, 20, 2, 9, 0}, BOUNDS, true, F32, REPEATED, {200, 40}, 6, 0, 0, 0, 0},
        {"repeated, bounds, q8_0", 4, 2, 32, {8, 9, 20, 2, 9, 0}, BOUNDS, false, Q8_0, REPEATED, {240}, 6, 0, 0, 0, 0},
        {"nothing", 4, 2, 32, {8, 9, 20, 2, 9, 0}, PEAK, false, F16, NOTHING, {200}, 3, 0, 0, 0, 0},
    }},
    {"large", {
        {"large, f16", 4, 2, 32, {8, 5, 20, 2, 5, 0}, PEAK, false, F16, LARGE, {100}, 6, 0, 0, 0, 0},
        {"large, q8_0", 4, 2, 32, {8, 5, 20, 2, 5, 0}, PEAK, true, Q8_0, LARGE, {100}, 6, 0, 0, 0, 0},
        {"large, f32", 4, 2, 32, {8, 5, 20, 2, 5, 0}, PEAK, false, F32, LARGE, {100}, 6, 0, 0, 0, 0},
    }},
    {"offload", {
        {"few slots", 8, 2, 64, {16, 6, 8, 2, 6, 1}, PEAK, false, F16, RANDOM, {90, 33, 70, 5}, 30, 0, 0, 3, 0},
        {"some slots", 8, 2, 64, {16, 6, 8, 2, 6, 0}, PEAK, true, F16, RANDOM, {198}, 30, 0, 0, 9, 0},
        {"all in slots", 4, 2, 32, {16, 6, 16, 2, 6, 0}, PEAK, false, F16, RANDOM, {198}, 30, 0, 0, 30, 0},
        {"odd rows", 4, 2, 36, {5, 6, 8, 2, 6, 0}, BOUNDS, false, Q8_0, RANDOM, {61, 40}, 20, 0, 0, 7, 0},
        {"paper", 2, 2, 32, {8, 5, 5, 2, 5, 0}, PAPER, false, F32, RANDOM, {70}, 20, 0, 0, 6, 0},
        {"dense", 4, 2, 32, DENSE, PEAK, false, BF16, RANDOM, {100, 3}, 20, 0, 0, 4, 0},
    }},
    {"budget", {
        {"budget of 4096", 1, 1, 16, {64, 64, 90, 8, 64, 0}, PEAK, false, F16, RANDOM, {4000, 300, 500}, 3, 0, 0, 0, 0},
    }},
};

int main(int argc, char **argv) {
    lh_backend *cpu, *gpu;
    if (lh_backend_open_cuda(0, &gpu) != LH_OK) {
        printf("%s\n", lh_last_error());
        return 1;
    }
    TRY(lh_backend_open_cpu(1, &cpu));
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        if (argc > 1 && strcmp(argv[1], groups[g].name) != 0) continue;
        for (const test_case *c = groups[g].cases; c->name && c < groups[g].cases + 20; c++) {
            if (argc > 2 && strcmp(argv[2], c->name) != 0) continue;
            run_case(c, cpu, gpu);
        }
    }
    gpu->ops->free(gpu);
    cpu->ops->free(cpu);
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0 || checks == 0;
}
