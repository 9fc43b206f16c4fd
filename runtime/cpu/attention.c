// Attention on the CPU: (token, head) -> chunks is turned into chunk -> rows, so that a chunk's keys and values are
// read once for all the queries that chose it.
//
// A unit of work is one KV head, a block of tokens, and a slice of the chunks they attend; a row is one query head of
// one token. Where a batch has few units (decoding has one block) the chunks are cut into slices, each with a softmax
// state of its own, merged afterwards. The cut depends on shapes only, never on the number of threads, so results do
// not depend on it either.
#include <math.h>
#include <string.h>

#include "cpu.h"

#define BLOCK_ROWS 768   // rows of a unit: many rows share a chunk, and their state still fits the L2 cache
#define MIN_UNITS 16
#define TILE_ROWS 96     // rows that are rotated and run at once
#define MERGED_ROWS 16   // up to so many, lists of chunks are merged, whatever the length of the text

// Where rows meet a chunk, all alike.
typedef struct meeting {
    int32_t row, n;    // the first one, and how many
    int32_t distance;  // in chunks
    float bias;        // of q . k
    int32_t done;      // of the rows
} meeting;

// The meetings of one chunk: [begin, end), of so many rows.
typedef struct run {
    int32_t chunk, begin, end, rows;
} run;

typedef struct job {
    lh_cpu *cpu;
    const lh_attention *a;
    int32_t group;           // query heads of a KV head
    int32_t stride;          // floats between rows: head_dim rounded up to LH_PAD
    int32_t block;           // tokens of a unit
    int32_t n_blocks, n_slices;
    size_t max_meetings;     // of a unit, with one row each
    int32_t end_chunk;       // of the batch
    float *states;           // (n_head_kv, n_blocks, n_slices) unit states, only where n_slices > 1
} job;

// --- append ----------------------------------------------------------------------------------------------------

typedef struct append_job {
    lh_cpu *cpu;
    const lh_attention *a;
} append_job;

#define APPEND_TOKENS 32  // at a time

static void append_task(void *arg, int64_t piece, int thread) {
    const append_job *j = arg;
    const lh_attention *a = j->a;
    const lh_attention_kernels *k = &j->cpu->attention;
    size_t dim = (size_t)a->head_dim, row = lh_kv_row_size(a->kv_type, a->head_dim);
    float *rotated = lh_cpu_scratch_of(j->cpu, thread);
    int32_t from = (int32_t)piece * APPEND_TOKENS, to = LH_MIN(from + APPEND_TOKENS, a->n);
    for (int32_t t = from; t < to; t++) {
        int32_t chunk = lh_chunk_of(a->pos + t, a->plan.chunk), offset = lh_offset_of(a->pos + t, a->plan.chunk);
        size_t in = (size_t)t * a->n_head_kv * dim, at = offset * row;
        k->rotate(a->new_k + in, a->n_head_kv, dim, a->rope_offset + 2 * dim * offset, 1, 1, a->head_dim, rotated);
        for (int32_t h = 0; h < a->n_head_kv; h++) {
            k->store(rotated + h * dim, a->head_dim, a->kv_type, lh_cpu_keys(a, h, chunk) + at);
            k->store(a->new_v + in + h * dim, a->head_dim, a->kv_type, lh_cpu_values(a, h, chunk) + at);
        }
    }
}

lh_status lh_cpu_append(lh_backend *b, const lh_attention *a) {
    append_job j = {(lh_cpu *)b, a};
    LH_TRY(lh_cpu_scratch_threads(j.cpu, (size_t)a->n_head_kv * a->head_dim * sizeof(float)));
    lh_threads_for(j.cpu->threads, (a->n + APPEND_TOKENS - 1) / APPEND_TOKENS, append_task, &j);
    return LH_OK;
}

// --- attend ----------------------------------------------------------------------------------------------------

// A unit's state: for every row its accumulator, then all tops, then all sums.
static size_t state_floats(const job *j) { return (size_t)j->block * j->group * (j->stride + 2); }

// What one thread works in.
typedef struct bench {
    float *state;      // see state_floats
    float *query;      // (rows, stride): rotated by the offset, scaled
    float *rotated;    // (TILE_ROWS, stride): rotated for the chunk at hand
    float *tile;       // scratch of the kernel
    meeting *meetings; // by chunk
    run *runs;
    int32_t *place;    // (end_chunk + 1): scratch of sorting
    int32_t *row, *limit;  // (TILE_ROWS): see lh_tile
    float *bias;           // (TILE_ROWS)
} bench;

// Lays a bench out at `memory`; returns the bytes it takes.
static size_t lay_out(const job *j, void *memory, bench *b) {
    lh_layout at = {.memory = memory};
    size_t rows = (size_t)j->block * j->group, chunks = (size_t)j->end_chunk + 1;
    b->state = lh_take(&at, state_floats(j), sizeof *b->state);
    b->query = lh_take(&at, rows * j->stride, sizeof *b->query);
    b->rotated = lh_take(&at, (size_t)TILE_ROWS * j->stride, sizeof *b->rotated);
    b->tile = lh_take(&at, lh_tile_scratch(TILE_ROWS, j->stride), sizeof *b->tile);
    b->meetings = lh_take(&at, j->max_meetings, sizeof *b->meetings);
    b->runs = lh_take(&at, LH_MIN(chunks, j->max_meetings), sizeof *b->runs);
    b->place = lh_take(&at, chunks, sizeof *b->place);
    b->row = lh_take(&at, TILE_ROWS, sizeof *b->row);
    b->limit = lh_take(&at, TILE_ROWS, sizeof *b->limit);
    b->bias = lh_take(&at, TILE_ROWS, sizeof *b->bias);
    return at.used;
}

typedef struct unit {
    int32_t kv_head, slice;
    int32_t first, n;       // tokens of the batch
} unit;

static unit unit_at(const job *j, int64_t index) {
    unit u = {.slice = (int32_t)(index % j->n_slices)};
    index /= j->n_slices;
    u.first = (int32_t)(index % j->n_blocks) * j->block;
    u.kv_head = (int32_t)(index / j->n_blocks);
    u.n = LH_MIN(j->block, j->a->n - u.first);
    return u;
}

// What some neighbouring rows attend, all the same.
typedef struct list {
    const int32_t *chosen;  // see lh_choice
    const float *bias;      // of the chosen
    int32_t c, n;           // their own chunk; how many are attended
    int32_t row, rows;
} list;

// The list that begins with this row: of the heads that choose together or, where nothing is chosen, of all heads and
// tokens up to the end of the chunk.
static list list_of(const job *j, const unit *u, int32_t row) {
    const lh_attention *a = j->a;
    int32_t together = a->n_head / a->n_select, t = row / j->group;
    int64_t position = a->pos + u->first + t;
    int32_t chooser = (u->kv_head * j->group + row % j->group) / together, c = lh_chunk_of(position, a->plan.chunk);
    list l = {
        .chosen = lh_choice(a, chooser, u->first + t, c), .bias = a->bias + lh_choice_at(a, chooser, u->first + t),
        .c = c, .n = lh_n_attended(lh_plan_of_choice(a, chooser), c), .row = row, .rows = together,
    };
    if (!l.chosen) l.rows = LH_MIN(u->n - t, a->plan.chunk - lh_offset_of(position, a->plan.chunk)) * j->group;
    return l;
}

static int32_t chunk_at(const list *l, int32_t r) { return l->chosen ? l->chosen[r] : lh_unchosen(l->c, l->n, r); }

// The list's r-th chunk is met: after those meetings of it that are there, or as part of the last.
static void meet(const job *j, const bench *b, const list *l, int32_t r, run *of) {
    meeting m = {
        .row = l->row, .n = l->rows, .distance = lh_chunk_distance(j->a->plan, l->c, chunk_at(l, r), r),
        .bias = l->chosen ? l->bias[r] : 0,
    };
    of->rows += m.n;
    meeting *last = of->end > of->begin ? &b->meetings[of->end - 1] : NULL;
    if (last && last->row + last->n == m.row && last->distance == m.distance && last->bias == m.bias) last->n += m.n;
    else b->meetings[of->end++] = m;
}

// Few rows: their lists are merged. Returns the number of runs.
static int32_t meet_few(const job *j, const unit *u, const bench *b) {
    int32_t n_lists = 0, next[MERGED_ROWS] = {0}, n_runs = 0, n = 0;
    list lists[MERGED_ROWS];
    for (int32_t row = 0; row < u->n * j->group; row += lists[n_lists++].rows) lists[n_lists] = list_of(j, u, row);
    for (;; n_runs++) {
        int32_t s = INT32_MAX;
        for (int32_t i = 0; i < n_lists; i++)
            if (next[i] < lists[i].n) s = LH_MIN(s, chunk_at(&lists[i], next[i]));
        if (s == INT32_MAX) return n_runs;
        b->runs[n_runs] = (run){s, n, n, 0};
        for (int32_t i = 0; i < n_lists; i++)
            if (next[i] < lists[i].n && chunk_at(&lists[i], next[i]) == s) meet(j, b, &lists[i], next[i]++, &b->runs[n_runs]);
        n = b->runs[n_runs].end;
    }
}

// Many: count, sum up, place.
static int32_t meet_many(const job *j, const unit *u, const bench *b) {
    int32_t rows = u->n * j->group, *place = b->place, n_runs = 0, n = 0;
    list l;
    memset(place, 0, ((size_t)j->end_chunk + 1) * sizeof *place);
    for (int32_t row = 0; row < rows; row += l.rows) {
        l = list_of(j, u, row);
        for (int32_t r = 0; r < l.n; r++) place[chunk_at(&l, r)]++;
    }
    for (int32_t s = 0; s <= j->end_chunk; s++) {
        if (!place[s]) continue;
        b->runs[n_runs] = (run){s, n, n, 0};
        n += place[s];
        place[s] = n_runs++;
    }
    for (int32_t row = 0; row < rows; row += l.rows) {
        l = list_of(j, u, row);
        for (int32_t r = 0; r < l.n; r++) meet(j, b, &l, r, &b->runs[place[chunk_at(&l, r)]]);
    }
    return n_runs;
}

static void rotate_queries(const job *j, const unit *u, bench *b) {
    const lh_attention *a = j->a;
    size_t rows = (size_t)u->n * j->group, dim = (size_t)a->head_dim;
    for (size_t i = 0; i < rows; i++) {
        size_t t = u->first + i / j->group, head = u->kv_head * (size_t)j->group + i % j->group;
        const float *table = a->rope_offset + 2 * dim * lh_offset_of(a->pos + (int64_t)t, a->plan.chunk);
        float *q = b->query + i * j->stride;
        j->cpu->attention.rotate(a->q + (t * a->n_head + head) * dim, 1, 0, table, 1, a->scale, a->head_dim, q);
        memset(q + dim, 0, (j->stride - dim) * sizeof *q);
    }
}

// Some rows that are ready to be run against the keys of a chunk. What else is known of each is in the bench.
typedef struct batch {
    int32_t n;
    const float *q;     // (n, stride)
    const float *turn;  // see lh_tile
    bool own;           // it is their own chunk, of which they see a part
} batch;

// next: the chunk that comes after it, or -1. before: what was run against this chunk last, or nothing.
static void attend_chunk(const job *j, const unit *u, const bench *b, int32_t chunk, int32_t next, const batch *now,
                         const batch *before) {
    const lh_attention *a = j->a;
    size_t key = lh_kv_row_size(a->kv_type, a->head_dim);
    const char *keys = lh_cpu_keys(a, u->kv_head, chunk), *values = lh_cpu_values(a, u->kv_head, chunk);
    size_t n_rows = (size_t)j->block * j->group;
    bool unpacked = before->n >= LH_MANY_ROWS && a->plan.chunk <= LH_TILE_KEYS;
    lh_tile tile = {
        .dim = a->head_dim, .stride = j->stride, .type = a->kv_type, .acc = b->state,
        .top = b->state + n_rows * j->stride, .sum = b->state + n_rows * (j->stride + 1), .turn = now->turn,
        .same_keys = unpacked && before->turn == now->turn, .same_values = unpacked,
    };
    // Rows are in the order of their tokens: those that see nothing of a later tile come first.
    int32_t skip = 0;
    for (int32_t first = 0; first < a->plan.chunk; first += LH_TILE_KEYS) {
        tile.n_keys = LH_MIN(LH_TILE_KEYS, a->plan.chunk - first);
        if (now->own) {
            while (skip < now->n && b->limit[skip] <= first) skip++;
            if (skip == now->n) return;
        }
        int32_t limit[TILE_ROWS];
        for (int32_t i = skip; now->own && i < now->n; i++) limit[i] = LH_MIN(b->limit[i] - first, tile.n_keys);
        tile.rows = now->n - skip;
        tile.q = now->q + (size_t)skip * j->stride;
        tile.row = b->row + skip;
        tile.bias = b->bias + skip;
        tile.limit = now->own ? limit + skip : NULL;
        tile.k = keys + first * key;
        tile.v = values + first * key;
        bool last = first + LH_TILE_KEYS >= a->plan.chunk;
        if (!last) tile.next_k = tile.k + LH_TILE_KEYS * key;
        else tile.next_k = next < 0 ? NULL : lh_cpu_keys(a, u->kv_head, next);
        j->cpu->attention.attend(&tile, b->tile);
    }
}

// Do so many rows meet the chunk alike that its keys are turned to them, once for all, not each of them to the keys?
static bool turns_keys(const job *j, const meeting *m) { return m->distance == 0 || m->n >= j->a->plan.chunk; }

// The next rows of a meeting become rows of the batch, as many as fit.
static void take(const job *j, const unit *u, const bench *b, meeting *m, batch *now) {
    const lh_attention *a = j->a;
    for (; m->done < m->n && now->n < TILE_ROWS; m->done++, now->n++) {
        int32_t row = b->row[now->n] = m->row + m->done;
        b->bias[now->n] = m->bias;
        if (now->own) b->limit[now->n] = lh_offset_of(a->pos + u->first + row / j->group, a->plan.chunk) + 1;
    }
}

// Up to TILE_ROWS rows of the meetings from *next on: of one that turns the keys, or of others.
static batch gather(const job *j, const unit *u, const bench *b, meeting **next, const meeting *end) {
    const lh_attention *a = j->a;
    size_t table = 2 * (size_t)a->head_dim;
    meeting *m = *next;
    batch now = {.own = m->distance == 0, .q = b->rotated};
    if (turns_keys(j, m)) {
        now.q = b->query + (size_t)(m->row + m->done) * j->stride;
        now.turn = now.own ? NULL : a->rope_chunk + table * m->distance;
        take(j, u, b, m, &now);
        m += m->done == m->n;
    } else {
        for (; m < end && now.n < TILE_ROWS && !turns_keys(j, m); m += m->done == m->n) {
            const float *q = b->query + (size_t)(m->row + m->done) * j->stride;
            j->cpu->attention.rotate(q, LH_MIN(m->n - m->done, TILE_ROWS - now.n), j->stride,
                                     a->rope_chunk + table * m->distance, 1, 1, a->head_dim,
                                     b->rotated + (size_t)now.n * j->stride);
            take(j, u, b, m, &now);
        }
    }
    *next = m;
    return now;
}

static void run_unit(const job *j, const unit *u, bench *b) {
    size_t rows = (size_t)j->block * j->group;
    memset(b->state, 0, state_floats(j) * sizeof *b->state);
    for (size_t i = 0; i < rows; i++) b->state[rows * j->stride + i] = -INFINITY;
    memset(b->rotated, 0, (size_t)LH_MIN(u->n * j->group, TILE_ROWS) * j->stride * sizeof *b->rotated);
    rotate_queries(j, u, b);
    int32_t n_runs = u->n * j->group <= MERGED_ROWS ? meet_few(j, u, b) : meet_many(j, u, b);
    // The slice's share: runs whose first row lies in its part of all of them.
    int64_t total = 0, before = 0;
    for (int32_t i = 0; i < n_runs; i++) total += b->runs[i].rows;
    int64_t from = total * u->slice / j->n_slices, to = total * (u->slice + 1) / j->n_slices;
    for (int32_t i = 0; i < n_runs && before < to; i++) {
        int64_t first = before;
        before += b->runs[i].rows;
        if (first < from) continue;
        meeting *next = b->meetings + b->runs[i].begin, *end = b->meetings + b->runs[i].end;
        for (batch last = {0}; next < end;) {
            batch now = gather(j, u, b, &next, end);
            attend_chunk(j, u, b, b->runs[i].chunk, before < to ? b->runs[i + 1].chunk : -1, &now, &last);
            last = now;
        }
    }
}

// out = sum of the slices' accumulators over the sum of their sums, all brought to one top.
static void finish_row(const job *j, const unit *u, const float *states, int32_t n_slices, int32_t row) {
    const lh_attention *a = j->a;
    size_t rows = (size_t)j->block * j->group, step = state_floats(j);
    int32_t t = u->first + row / j->group, head = u->kv_head * j->group + row % j->group;
    float *out = a->out + ((size_t)t * a->n_head + head) * a->head_dim;
    float top = -INFINITY, sum = 0;
    for (int32_t i = 0; i < n_slices; i++) top = fmaxf(top, states[i * step + rows * j->stride + row]);
    memset(out, 0, (size_t)a->head_dim * sizeof *out);
    for (int32_t i = 0; i < n_slices; i++) {
        const float *state = states + i * step, *acc = state + (size_t)row * j->stride;
        float weight = n_slices == 1 ? 1 : expf(state[rows * j->stride + row] - top);
        sum += weight * state[rows * (j->stride + 1) + row];
        for (int32_t x = 0; x < a->head_dim; x++) out[x] += weight * acc[x];
    }
    float inverse = 1 / sum;
    for (int32_t x = 0; x < a->head_dim; x++) out[x] *= inverse;
}

static void attend_task(void *arg, int64_t piece, int thread) {
    const job *j = arg;
    bench b;
    lay_out(j, lh_cpu_scratch_of(j->cpu, thread), &b);
    unit u = unit_at(j, piece);
    if (j->n_slices > 1) b.state = j->states + (size_t)piece * state_floats(j);
    run_unit(j, &u, &b);
    if (j->n_slices == 1)
        for (int32_t row = 0; row < u.n * j->group; row++) finish_row(j, &u, b.state, 1, row);
}

static void merge_task(void *arg, int64_t piece, int thread) {
    const job *j = arg;
    (void)thread;
    unit u = unit_at(j, piece * j->n_slices);
    const float *states = j->states + (size_t)piece * j->n_slices * state_floats(j);
    for (int32_t row = 0; row < u.n * j->group; row++) finish_row(j, &u, states, j->n_slices, row);
}

lh_status lh_cpu_attend(lh_backend *b, const lh_attention *a) {
    int32_t group = a->n_head / a->n_head_kv;
    job j = {
        .cpu = (lh_cpu *)b,
        .a = a,
        .group = group,
        .stride = LH_ROUND_UP(a->head_dim, LH_PAD),
        .block = LH_MIN(a->n, LH_MAX(BLOCK_ROWS / group, 1)),
        .end_chunk = lh_chunk_of(a->pos + a->n - 1, a->plan.chunk),
    };
    j.n_blocks = (a->n + j.block - 1) / j.block;
    int32_t unsliced = a->n_head_kv * j.n_blocks;
    int32_t most = LH_MAX(a->plan.k, a->near), dense = LH_MIN(a->plan.dense, j.end_chunk + 1);
    if (lh_is_dense(a->plan, j.end_chunk)) most = dense;
    else if (lh_is_dense(a->plan, lh_chunk_of(a->pos, a->plan.chunk))) most = LH_MAX(most, dense);
    j.n_slices = LH_MAX(1, LH_MIN((MIN_UNITS + unsliced - 1) / unsliced, most));
    j.max_meetings = (size_t)j.block * group * most;
    if (j.n_slices > 1) {
        j.states = lh_cpu_scratch_shared(j.cpu, (size_t)unsliced * j.n_slices * state_floats(&j) * sizeof(float));
        if (!j.states) return LH_ERR_MEMORY;
    }
    LH_TRY(lh_cpu_scratch_threads(j.cpu, lay_out(&j, NULL, &(bench){0})));
    lh_threads_for(j.cpu->threads, (int64_t)unsliced * j.n_slices, attend_task, &j);
    if (j.n_slices > 1) {
        // A row or two take less time than waking anyone.
        bool tiny = a->n * a->n_head <= TILE_ROWS;
        for (int32_t i = 0; tiny && i < unsliced; i++) merge_task(&j, i, 0);
        if (!tiny) lh_threads_for(j.cpu->threads, unsliced, merge_task, &j);
    }
    return LH_OK;
}
