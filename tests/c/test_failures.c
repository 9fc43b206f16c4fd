// A backend whose operations fail, each in turn: a session that was reading goes on as if that had not happened.
//
//   test_failures MODEL
#include <math.h>
#include <stdio.h>

#include "model.h"

// Logits after the same tokens read in other pieces; logits spread over a few units.
#define ROUNDING 2e-4f
#define CHUNK 16
#define TOKENS 300

static const lh_backend_ops *real;
static int countdown = -1;  // operations until one fails; negative: none does

static lh_status fail(void) {
    return countdown-- == 0 ? lh_error(LH_ERR_MEMORY, "this operation fails") : LH_OK;
}

static lh_status embed(lh_backend *b, const lh_tensor *table, const int32_t *ids, int32_t n, float *x) {
    LH_TRY(fail());
    return real->embed(b, table, ids, n, x);
}

static lh_status project(lh_backend *b, const lh_project *p) {
    LH_TRY(fail());
    return real->project(b, p);
}

static lh_status append(lh_backend *b, const lh_attention *a) {
    LH_TRY(fail());
    return real->append(b, a);
}

static lh_status summarize(lh_backend *b, const lh_attention *a, int32_t first, int32_t end) {
    LH_TRY(fail());
    return real->summarize(b, a, first, end);
}

static lh_status choose(lh_backend *b, const lh_attention *a) {
    LH_TRY(fail());
    return real->select(b, a);
}

static lh_status attend(lh_backend *b, const lh_attention *a) {
    LH_TRY(fail());
    return real->attend(b, a);
}

static int32_t ids[TOKENS];

static lh_status feed_to(lh_session *s, int64_t end) {
    int64_t at = lh_session_position(s);
    return lh_session_feed(s, ids + at, end - at, NULL);
}

static lh_status fill_to(lh_session *s, int64_t end) { return lh_session_fill(s, end - lh_session_position(s), 7, NULL); }

// Every head attends the last token's own chunk.
static int wrong_choices(lh_session *s) {
    int32_t k, chosen[4096], own = (int32_t)((lh_session_position(s) - 1) / CHUNK);
    const lh_config *c = &s->model->config;
    if (lh_session_position(s) == 0) return 0;
    if (lh_session_selected(s, chosen, 4096, &k) != LH_OK) return 1;
    int wrong = 0;
    for (int32_t h = 0; h < c->n_layer * c->n_head; h++) {
        int32_t last = -1;
        for (int32_t r = 0; r < k; r++)
            if (chosen[h * k + r] >= 0) last = chosen[h * k + r];
        wrong += last != own;
    }
    return wrong;
}

typedef lh_status (*read_to)(lh_session *s, int64_t end);

// Reads in two pieces, then what is left as ids; the second piece fails at operation `at` and is tried again, unless the
// operation is none of its own: then *done.
static int run(lh_session *s, read_to read, int64_t first, int64_t second, int at, bool *done, const float **logits) {
    int wrong = 0;
    if (lh_session_rewind(s, lh_session_position(s)) != LH_OK || read(s, first) != LH_OK) return 1;
    countdown = at;
    lh_status status = read(s, second);
    *done = status == LH_OK;
    countdown = -1;
    int64_t position = lh_session_position(s);
    // One that failed may have been the last, for the logits.
    wrong += !*done && position > first && position != second;
    // What is chosen for random keys is asked for by reading ids in their place.
    if (!*done && read == feed_to) wrong += wrong_choices(s);
    if (read(s, second) != LH_OK || feed_to(s, TOKENS) != LH_OK || lh_session_logits(s, logits) != LH_OK) return 1;
    return wrong;
}

static const lh_session_options options = {
    .ctx = 5120, .chunk = CHUNK, .budget = 96, .near_budget = 48, .window = 160, .local = 2, .batch = 64,
    .kv_type = LH_KV_F32,
};

static float largest_difference(const lh_model *m, const float *a, const float *b) {
    float worst = 0;
    for (int32_t i = 0; i < m->config.n_vocab; i++) worst = fmaxf(worst, fabsf(a[i] - b[i]));
    return worst;
}

static int compare(const lh_model *m, lh_scheme scheme, read_to read, int64_t first, int64_t second) {
    lh_session_options o = options;
    lh_session *plain, *failing;
    const float *expected, *found;
    bool done = false;
    o.scheme = scheme;
    if (lh_session_new(m, &o, &plain) != LH_OK || lh_session_new(m, &o, &failing) != LH_OK) return 1;
    int failures = run(plain, read, first, second, -1, &done, &expected);
    done = false;
    for (int at = 0; failures == 0 && !done; at++) {
        failures = run(failing, read, first, second, at, &done, &found);
        if (failures == 0) failures = !(largest_difference(m, found, expected) < ROUNDING);
        if (failures)
            printf("scheme %d, %s from %d to %d: wrong after operation %d\n", (int)scheme,
                   read == feed_to ? "feed" : "fill", (int)first, (int)second, at);
    }
    lh_session_free(failing);
    lh_session_free(plain);
    return failures;
}

// As far back as one can go: the start of that chunk is too far for KV heads that have lost what came before it.
static int from_the_oldest(const lh_model *m) {
    lh_session_options o = options;
    lh_session *s;
    o.scheme = LH_SCHEME_PAPER;
    o.far_heads = 1;
    if (lh_session_new(m, &o, &s) != LH_OK || fill_to(s, 4300) != LH_OK) return 1;
    int64_t oldest = lh_session_oldest(s);
    int failures = oldest == 0 || lh_session_rewind(s, 4300 - oldest) != LH_OK;
    countdown = 2;
    failures += fill_to(s, oldest + 32) == LH_OK || lh_session_position(s) != 0 || lh_session_oldest(s) != 0;
    countdown = -1;
    if (failures) printf("wrong at the oldest position, %d\n", (int)oldest);
    lh_session_free(s);
    return failures;
}

int main(int argc, char **argv) {
    lh_model *m;
    lh_model_options how = {.device = "cpu", .n_threads = 1, .mmap = true};
    if (argc != 2 || lh_model_open(argv[1], &how, &m) != LH_OK) return 2;
    real = m->backend->ops;
    lh_backend_ops ops = *real;
    ops.embed = embed;
    ops.project = project;
    ops.append = append;
    ops.summarize = summarize;
    ops.select = choose;
    ops.attend = attend;
    m->backend->ops = &ops;
    for (int i = 0; i < TOKENS; i++) ids[i] = 3 + i * 7919 % 290;
    int failures = from_the_oldest(m);
    for (lh_scheme scheme = LH_SCHEME_PEAK; scheme <= LH_SCHEME_PAPER; scheme++)
        for (int fill = 0; fill < 2; fill++) {
            read_to read = fill ? fill_to : feed_to;
            failures += compare(m, scheme, read, 138, 202);  // out of a chunk that is unfinished
            failures += compare(m, scheme, read, 10, 74);    // out of the first one
            failures += compare(m, scheme, read, 131, 142);  // inside of one
        }
    m->backend->ops = real;
    lh_model_free(m);
    printf("%d failures\n", failures);
    return failures != 0;
}
