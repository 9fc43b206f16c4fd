// Matrix products of the CPU backend. Few tokens: every thread prepares all of them for itself (that costs less than
// waiting for another) and streams runs of rows. Many tokens: threads prepare tiles of tokens together, then take
// panels of rows, so that a panel is unpacked once and used for all tokens while it is in cache. How many are many is for
// the kernels to say.
#include <string.h>

#include "cpu.h"
#include "prefetch.h"
#include "spans.h"

// Rows for one call of a dot kernel, so that they are still in cache for the next token.
#define DOT_ROWS 32
// Shares of the weights for each thread: enough that a thread which comes late leaves little to wait for.
#define SHARES 4
// Bytes of a share that are fetched before anything else: about what kernels, which fetch ahead, begin behind.
#define HEAD_BYTES 4096
// Columns of a row of embeddings that are decoded at a time: a multiple of every block length.
#define EMBED_COLS 256
// Weights, in bytes, under which waking the other threads costs more than it brings.
#define MIN_PARALLEL_BYTES (32 * 1024)

static bool is_integer(const lh_tensor *w) { return lh_type_get(w->type)->scale_len != 0; }

// --- preparing activations -------------------------------------------------------------------------------------

static size_t act_row_size(int64_t n_cols, bool integer) {
    size_t n = LH_ROUND_UP((size_t)n_cols, 256);  // keeps every part aligned
    return n * sizeof(float) + (integer ? 2 * n + n / 32 * 2 * sizeof(float) + n / 16 * 2 * sizeof(float) : 0);
}

static lh_act_row act_row_in(void *memory, int64_t n_cols, bool integer) {
    size_t n = LH_ROUND_UP((size_t)n_cols, 256);
    float *x = memory;
    lh_act_row row = {.x = x};
    if (integer) {
        row.scale = x + n;
        row.sum32 = row.scale + n / 32;
        row.sum16 = row.sum32 + n / 32;
        row.q_sum = (int32_t *)(row.sum16 + n / 16);
        row.q = (int8_t *)(row.q_sum + n / 16);
        row.halves = row.q + n;
    }
    return row;
}

// Floats between tokens of y[i].
static int64_t y_stride(const lh_project *p, int i) { return p->y_stride ? p->y_stride : p->w[i]->n_rows; }

static bool has_prologue(const lh_project *p) { return p->norm || p->gate; }

// Token t of p as it lies, or will lie, in act_row_size bytes of memory.
static lh_act_row row_of(const lh_project *p, int32_t t, bool integer, void *memory) {
    lh_act_row row = act_row_in(memory, p->n_cols, integer);
    if (!has_prologue(p)) row.x = p->x + (int64_t)t * p->n_cols;
    return row;
}

// Token t through its prologue, and quantised where that is asked for.
static lh_act_row prepare_row(const lh_matmul_kernels *k, const lh_project *p, int32_t t, bool integer, void *memory) {
    lh_act_row row = row_of(p, t, integer, memory);
    const float *x = p->x + (int64_t)t * p->n_cols;
    if (p->norm) k->rms_norm(x, p->norm, p->norm_eps, p->n_cols, memory);
    else if (p->gate) k->silu_mul(p->gate + (int64_t)t * p->n_cols, x, p->n_cols, memory);
    if (integer) k->quantise(row.x, p->n_cols, &row);
    return row;
}

// --- few tokens ------------------------------------------------------------------------------------------------

typedef struct stream_job {
    const lh_cpu *cpu;
    const lh_project *p;
    bool integer;      // some matrix wants quantised activations
    int64_t n_shares;  // pieces of work
    int64_t n_rows;    // of all matrices, one behind the other
    int64_t share;     // of these
} stream_job;

// Rows are unpacked once for several tokens where there is a kernel for that: a token is filled up to as many.
static void dot_tokens(const lh_matmul_kernels *k, const lh_tensor *w, int64_t row, int64_t n_rows, const lh_act_row *acts,
                       int32_t n, float *out) {
    int32_t t = 0;
    for (; k->dots[w->type] && t + 1 < n; t += LH_DOT_TOKENS) {
        lh_act_row four[LH_DOT_TOKENS];
        float room[LH_DOT_TOKENS * DOT_ROWS];
        int32_t some = LH_MIN(n - t, LH_DOT_TOKENS);
        for (int32_t i = 0; i < LH_DOT_TOKENS; i++) four[i] = acts[t + LH_MIN(i, some - 1)];
        k->dots[w->type](w, row, n_rows, four, room);
        memcpy(out + t * n_rows, room, (size_t)(some * n_rows) * sizeof *out);
    }
    for (; t < n; t++) k->dot[w->type](w, row, n_rows, &acts[t], out + t * n_rows);
}

static void stream_rows(const stream_job *job, int i, const lh_act_row *rows, int64_t first, int64_t end) {
    const lh_project *p = job->p;
    const lh_tensor *w = p->w[i];
    for (int64_t r = first; r < end; r += DOT_ROWS) {
        int64_t n_rows = LH_MIN(end - r, DOT_ROWS);
        float out[LH_MOST_STREAMED * DOT_ROWS];
        dot_tokens(&job->cpu->matmul, w, r, n_rows, rows, p->n, out);
        for (int32_t t = 0; t < p->n; t++) {
            float *y = p->y[i] + t * y_stride(p, i) + r;
            const float *bias = p->bias[i] ? p->bias[i] + r : NULL;
            for (int64_t j = 0; j < n_rows; j++) {
                float value = out[t * n_rows + j];
                if (bias) value += bias[j];
                y[j] = p->add ? y[j] + value : value;
            }
        }
    }
}

// A thread's scratch: which project its activations were prepared for, then the activations.
static size_t stream_size(const stream_job *job) {
    return LH_ALIGN + (size_t)job->p->n * act_row_size(job->p->n_cols, job->integer);
}

// Threads take pieces in turn. So that what one of them takes lies together, as far as that goes, and what was fetched
// ahead is its own, shares are dealt to them like cards: which one is a piece?
static int64_t share_of(int64_t piece, int64_t n_shares) {
    int64_t n_threads = LH_MAX(n_shares / SHARES, 1);
    return piece % n_threads * SHARES + piece / n_threads;
}

static void fetch_head(const lh_project *p, int64_t row) {
    int i = 0;
    for (; i < p->n_out && row >= p->w[i]->n_rows; i++) row -= p->w[i]->n_rows;
    if (i < p->n_out) lh_prefetch((const char *)p->w[i]->data + (size_t)row * p->w[i]->row_size, HEAD_BYTES);
}

static void run_share(const stream_job *job, int64_t piece, char *scratch) {
    int64_t first = share_of(piece, job->n_shares) * job->share, end = first + job->share;
    if (first >= job->n_rows) return;
    fetch_head(job->p, first);
    char *memory = scratch + LH_ALIGN;
    const stream_job *prepared;
    memcpy(&prepared, scratch, sizeof prepared);
    lh_act_row rows[LH_MOST_STREAMED];
    const lh_matmul_kernels *k = &job->cpu->matmul;
    for (int32_t t = 0; t < job->p->n; t++, memory += act_row_size(job->p->n_cols, job->integer)) {
        bool again = prepared == job;
        rows[t] = again ? row_of(job->p, t, job->integer, memory) : prepare_row(k, job->p, t, job->integer, memory);
        if (!again && job->integer && k->arrange) k->arrange(job->p->n_cols, &rows[t]);
    }
    memcpy(scratch, &job, sizeof job);
    for (int i = 0; i < job->p->n_out; i++) {
        int64_t n = job->p->w[i]->n_rows;
        stream_rows(job, i, rows, LH_MIN(LH_MAX(first, 0), n), LH_MIN(LH_MAX(end, 0), n));
        first -= n;
        end -= n;
    }
}

static void stream_task(void *arg, int64_t piece, int thread) {
    const stream_job *job = arg;
    run_share(job, piece, lh_cpu_scratch_of(job->cpu, thread));
}

static lh_status stream(lh_cpu *c, const lh_project *p, bool integer) {
    size_t bytes = 0;
    int n_threads = lh_threads_count(c->threads);
    stream_job job = {.cpu = c, .p = p, .integer = integer};
    for (int i = 0; i < p->n_out; i++) {
        bytes += (size_t)p->w[i]->n_rows * p->w[i]->row_size;
        job.n_rows += p->w[i]->n_rows;
    }
    job.n_shares = bytes < MIN_PARALLEL_BYTES ? 1 : SHARES * n_threads;
    job.share = LH_ROUND_UP((job.n_rows + job.n_shares - 1) / job.n_shares, 16);
    LH_TRY(lh_cpu_scratch_threads(c, stream_size(&job)));
    for (int t = 0; t < n_threads; t++) memset(lh_cpu_scratch_of(c, t), 0, LH_ALIGN);
    lh_threads_for(c->threads, job.n_shares, stream_task, &job);
    return LH_OK;
}

// --- many tokens -----------------------------------------------------------------------------------------------

static size_t bytes_of(int64_t n_cols, int32_t bytes) {
    return LH_ROUND_UP((size_t)n_cols, (size_t)256) / 32 * (size_t)bytes;
}

// Integer or float: the kernels, and all tokens laid out for them.
typedef struct side {
    const lh_panel_kernels *kernels;
    int64_t n_tiles;    // 0: no matrix is of this side
    size_t tile_size;
    char *tiles;        // (n_tiles, tile_size)
    int64_t max_cols;   // of a panel
} side;

typedef struct panel_job {
    const lh_cpu *cpu;
    const lh_project *p;
    side sides[2];             // [is_integer]
    int64_t n_slabs;           // runs of tiles: more than one where there are too few panels for the threads
    int64_t n_together;        // panels of a piece of work
    int64_t first_panel[4];    // of each matrix, and the end
} panel_job;

static int64_t n_panels(const panel_job *job, int i) {
    int32_t rows = job->sides[is_integer(job->p->w[i])].kernels->rows;
    return (job->p->w[i]->n_rows + rows - 1) / rows;
}

static void prepare_tile(const panel_job *job, const side *s, bool integer, int64_t tile, void *memory) {
    char *out = s->tiles + (size_t)tile * s->tile_size;
    for (int32_t t = 0; t < s->kernels->tokens; t++) {
        int64_t token = tile * s->kernels->tokens + t;
        if (token < job->p->n) {
            bool quantised = integer && !s->kernels->plain;
            lh_act_row row = prepare_row(&job->cpu->matmul, job->p, (int32_t)token, quantised, memory);
            s->kernels->pack_tokens(&row, job->p->n_cols, t, out);
        } else {
            s->kernels->pack_tokens(NULL, job->p->n_cols, t, out);
        }
    }
}

// One panel of matrix i against one slab of tiles.
static void multiply_panel(const panel_job *job, int i, int64_t panel, int64_t slab, void *memory) {
    const lh_project *p = job->p;
    const lh_tensor *w = p->w[i];
    const side *s = &job->sides[is_integer(w)];
    const lh_panel_kernels *k = s->kernels;
    const lh_type_traits *traits = lh_type_get(w->type);
    int64_t row = panel * k->rows;
    int64_t first = s->n_tiles * slab / job->n_slabs, end = s->n_tiles * (slab + 1) / job->n_slabs;
    for (int64_t col = 0; col < w->n_cols; col += s->max_cols) {
        int64_t n_cols = LH_MIN(s->max_cols, w->n_cols - col);
        k->pack(w, row, col, n_cols, memory);
        lh_tile_out out = {
            .stride = y_stride(p, i),
            .n_rows = (int32_t)LH_MIN(k->rows, w->n_rows - row),
            .bias = p->bias[i] && col == 0 ? p->bias[i] + row : NULL,
            .add = p->add || col > 0,
        };
        _Alignas(LH_ALIGN) char state[LH_PANEL_STATE];
        if (k->begin) k->begin(state);
        for (int64_t tile = first; tile < end; tile++) {
            int64_t token = tile * k->tokens;
            out.y = p->y[i] + token * out.stride + row;
            out.n_tokens = (int32_t)LH_MIN(k->tokens, p->n - token);
            k->multiply(traits, memory, s->tiles + (size_t)tile * s->tile_size, col, n_cols, &out);
        }
        if (k->end) k->end(state);
    }
}

static void prepare_task(void *arg, int64_t piece, int thread) {
    const panel_job *job = arg;
    int64_t n_real = job->sides[0].n_tiles;
    bool integer = piece >= n_real;
    prepare_tile(job, &job->sides[integer], integer, integer ? piece - n_real : piece,
                 lh_cpu_scratch_of(job->cpu, thread));
}

static void multiply_task(void *arg, int64_t piece, int thread) {
    const panel_job *job = arg;
    int64_t share = piece / job->n_slabs;
    if (job->n_together > 1) share = share_of(share, SHARES * lh_threads_count(job->cpu->threads));
    int64_t end = LH_MIN((share + 1) * job->n_together, job->first_panel[job->p->n_out]);
    int i = 0;
    for (int64_t panel = share * job->n_together; panel < end; panel++) {
        while (panel >= job->first_panel[i + 1]) i++;
        multiply_panel(job, i, panel - job->first_panel[i], piece % job->n_slabs, lh_cpu_scratch_of(job->cpu, thread));
    }
}

// Which kinds of kernels a projection needs: [is_integer].
static void kinds_of(const lh_project *p, bool uses[2]) {
    uses[0] = uses[1] = false;
    for (int i = 0; i < p->n_out; i++) uses[is_integer(p->w[i])] = true;
}

static const lh_panel_kernels *integer_kernels(const lh_matmul_kernels *k, const lh_project *p) {
    if (p->n > k->few_tokens) return &k->integer;
    bool one_tile = p->n <= k->very_few.tokens;
    for (int i = 0; i < p->n_out; i++) one_tile = one_tile && lh_type_get(p->w[i]->type)->scale_len != 16;
    return one_tile ? &k->very_few : &k->few;
}

// Everything of the job but the memory of its tiles. *thread_size: bytes that a thread needs; *shared_size: all tiles.
static void plan_panels(const lh_cpu *c, const lh_project *p, int n_threads, panel_job *job, size_t *thread_size,
                        size_t *shared_size) {
    bool uses[2];
    kinds_of(p, uses);
    *job = (panel_job){.cpu = c, .p = p};
    *thread_size = act_row_size(p->n_cols, uses[1]);
    *shared_size = 0;
    int64_t least_tiles = INT64_MAX;
    for (int integer = 0; integer < 2; integer++) {
        side *s = &job->sides[integer];
        s->kernels = integer ? integer_kernels(&c->matmul, p) : &c->matmul.real;
        s->max_cols = LH_MIN(p->n_cols, s->kernels->cols);
        if (!uses[integer]) continue;
        s->n_tiles = (p->n + s->kernels->tokens - 1) / s->kernels->tokens;
        s->tile_size = LH_ROUND_UP(bytes_of(p->n_cols, s->kernels->tile_bytes), (size_t)LH_ALIGN);
        *shared_size += (size_t)s->n_tiles * s->tile_size;
        *thread_size = LH_MAX(*thread_size, bytes_of(s->max_cols, s->kernels->panel_bytes));
        least_tiles = LH_MIN(least_tiles, s->n_tiles);
    }
    for (int i = 0; i < p->n_out; i++) job->first_panel[i + 1] = job->first_panel[i] + n_panels(job, i);
    // About four pieces for each thread, so that none waits long for the last.
    int64_t wanted = n_threads == 1 ? 1 : 4 * n_threads, panels = job->first_panel[p->n_out];
    job->n_slabs = LH_MIN(least_tiles, (wanted + panels - 1) / panels);
    // What a thread takes together lies together, and is fetched ahead, where fetching is what takes long.
    job->n_together = p->n <= c->matmul.few_tokens ? (panels + SHARES * n_threads - 1) / (SHARES * n_threads) : 1;
}

static void put_tiles(panel_job *job, char *memory) {
    job->sides[0].tiles = memory;
    job->sides[1].tiles = memory + (size_t)job->sides[0].n_tiles * job->sides[0].tile_size;
}

static lh_status multiply_panels(lh_cpu *c, const lh_project *p) {
    panel_job job;
    size_t thread_size, shared_size;
    plan_panels(c, p, lh_threads_count(c->threads), &job, &thread_size, &shared_size);
    LH_TRY(lh_cpu_scratch_threads(c, thread_size));
    char *shared = lh_cpu_scratch_shared(c, shared_size);
    if (!shared) return LH_ERR_MEMORY;
    put_tiles(&job, shared);
    lh_threads_for(c->threads, job.sides[0].n_tiles + job.sides[1].n_tiles, prepare_task, &job);
    int64_t n_shares = job.n_together > 1 ? SHARES * lh_threads_count(c->threads) : job.first_panel[p->n_out];
    lh_threads_for(c->threads, n_shares * job.n_slabs, multiply_task, &job);
    return LH_OK;
}

lh_status lh_cpu_project(lh_backend *b, const lh_project *p) {
    lh_cpu *c = (lh_cpu *)b;
    bool uses[2];
    kinds_of(p, uses);
    return p->n <= c->matmul.stream_tokens ? stream(c, p, uses[1]) : multiply_panels(c, p);
}

// --- one thread, one matrix ------------------------------------------------------------------------------------

size_t lh_cpu_multiply_size(const lh_cpu *c, const lh_project *p) {
    stream_job few = {c, p, is_integer(p->w[0]), 1, p->w[0]->n_rows, p->w[0]->n_rows};
    if (p->n <= c->matmul.stream_tokens) return stream_size(&few);
    panel_job many;
    size_t thread_size, shared_size;
    plan_panels(c, p, 1, &many, &thread_size, &shared_size);
    return LH_ROUND_UP(thread_size, (size_t)LH_ALIGN) + shared_size;
}

void lh_cpu_multiply(const lh_cpu *c, const lh_project *p, void *memory) {
    if (p->n <= c->matmul.stream_tokens) {
        stream_job job = {c, p, is_integer(p->w[0]), 1, p->w[0]->n_rows, p->w[0]->n_rows};
        memset(memory, 0, LH_ALIGN);
        run_share(&job, 0, memory);
        return;
    }
    panel_job job;
    size_t thread_size, shared_size;
    plan_panels(c, p, 1, &job, &thread_size, &shared_size);
    put_tiles(&job, (char *)memory + LH_ROUND_UP(thread_size, (size_t)LH_ALIGN));
    bool integer = is_integer(p->w[0]);
    for (int64_t tile = 0; tile < job.sides[integer].n_tiles; tile++)
        prepare_tile(&job, &job.sides[integer], integer, tile, memory);
    for (int64_t panel = 0; panel < job.first_panel[1]; panel++) multiply_panel(&job, 0, panel, 0, memory);
}

lh_status lh_cpu_embed(lh_backend *b, const lh_tensor *table, const int32_t *ids, int32_t n, float *x) {
    (void)b;
    const lh_type_traits *traits = lh_type_get(table->type);
    char room[EMBED_COLS * sizeof(float)];  // no type has more for a value
    for (int32_t t = 0; t < n; t++)
        for (int64_t col = 0; col < table->n_cols; col += EMBED_COLS) {
            int64_t cols = LH_MIN(table->n_cols - col, EMBED_COLS);
            traits->decode(lh_blocks_at(table, ids[t], col, cols, room), x + t * table->n_cols + col, cols);
        }
    return LH_OK;
}
