// A list of commands that waits on the host, and graphs of those that come again.
//
// A prompt's batch (n > 1) is enqueued command by command. Decoding asks for hundreds of small operations a token,
// always the same ones: those are kept until the token's results are wanted. A list that came before is captured as a
// CUDA graph, and from then on one launch replays it. What differs between its tokens, the position and the id, is in
// device memory, written ahead of the replay; everything else is compared.
#include "commands.h"

#include <stdio.h>
#include <stdlib.h>

#include <tuple>

#define GRAPHS 16  // sessions that take turns, or dense and sparse tokens of one, have lists of their own

typedef struct command_list {
    lh_cuda_command *items;
    int32_t n, capacity;
} command_list;

typedef struct token_graph {
    command_list list;         // what it does; n is 0: unused
    cudaGraphExec_t exec;      // NULL: came once so far
    bool refused;              // cannot be captured: is always enqueued
    uint64_t used;             // when
} token_graph;

struct lh_cuda_list {
    command_list waiting;
    bool is_token;             // begins with embed, so that it is a whole token's
    int32_t id;                // of the token
    bool no_graphs;            // LH_CUDA_GRAPHS=0: so that tests can tell the two ways apart
    bool told;                 // that there are none
    token_graph graphs[GRAPHS];
    uint64_t clock;
};

// --- the device's parameter block --------------------------------------------------------------------------------

static __global__ void set_params_kernel(lh_cuda_params *params, int64_t pos, int32_t id) {
    params->pos = pos;
    params->id = id;
}

static lh_status set_params(lh_cuda *c, int64_t pos, int32_t id) {
    c->pos = pos;
    LH_CUDA_RUN(c, set_params_kernel, 1, 1, 0, c->params, pos, id);
    return LH_OK;
}

// --- running one command -----------------------------------------------------------------------------------------

static bool is_attention(const lh_cuda_command *m) { return m->op >= LH_CUDA_OP_APPEND; }

static lh_status run(lh_cuda *c, lh_cuda_command *m) {
    for (int i = 0; i < m->project.n_out; i++) m->project.w[i] = &m->w[i];
    switch (m->op) {
        case LH_CUDA_OP_EMBED: return lh_cuda_embed(c, &m->w[0], m->ids, m->n, m->x);
        case LH_CUDA_OP_PROJECT: return lh_cuda_project(c, &m->project);
        case LH_CUDA_OP_APPEND: return lh_cuda_append(c, &m->attention);
        case LH_CUDA_OP_SUMMARIZE: return lh_cuda_summarize(c, &m->attention);
        case LH_CUDA_OP_SELECT: return lh_cuda_select(c, &m->attention);
        case LH_CUDA_OP_ATTEND: return lh_cuda_attend(c, &m->attention);
    }
    return LH_OK;
}

// As it comes, not as part of a token's list. A batch's append is what says where the batch begins.
static lh_status run_alone(lh_cuda *c, lh_cuda_command *m) {
    if (is_attention(m) && m->op == LH_CUDA_OP_APPEND && m->attention.pos != c->pos)
        LH_TRY(set_params(c, m->attention.pos, 0));
    return run(c, m);
}

static lh_status run_list(lh_cuda *c, command_list *list) {
    for (int32_t i = 0; i < list->n; i++) LH_TRY(run(c, &list->items[i]));
    return LH_OK;
}

// --- are two lists the same work? --------------------------------------------------------------------------------

static bool same_tensor(const lh_tensor *a, const lh_tensor *b) {
    return a->type == b->type && a->n_rows == b->n_rows && a->n_cols == b->n_cols && a->device == b->device;
}

static bool same_project(const lh_cuda_command *a, const lh_cuda_command *b) {
    const lh_project *p = &a->project, *q = &b->project;
    auto shape = [](const lh_project *x) {
        return std::tie(x->n, x->n_cols, x->x, x->gate, x->norm, x->norm_eps, x->n_out, x->y_stride, x->add);
    };
    if (shape(p) != shape(q)) return false;
    for (int i = 0; i < p->n_out; i++)
        if (p->bias[i] != q->bias[i] || p->y[i] != q->y[i] || !same_tensor(&a->w[i], &b->w[i])) return false;
    return true;
}

// But for the position.
static bool same_attention(const lh_attention *a, const lh_attention *b) {
    auto plan = [](const lh_attention *x) {
        return std::tie(x->plan.chunk, x->plan.k, x->plan.window, x->plan.local, x->plan.dense, x->plan.far_bias,
                        x->near);
    };
    auto cache = [](const lh_attention *x) {
        return std::tie(x->n_head, x->n_head_kv, x->head_dim, x->n_chunk, x->scale, x->kv_type, x->heads, x->cache,
                        x->scheme, x->n_summary, x->summary_dim, x->summary_type, x->summary_size, x->detail_size,
                        x->queries);
    };
    auto batch = [](const lh_attention *x) {
        return std::tie(x->rope_offset, x->rope_chunk, x->rope_far, x->rope_dim, x->n, x->q, x->new_k, x->new_v, x->n_select,
                        x->leader, x->chosen, x->bias, x->out);
    };
    return plan(a) == plan(b) && cache(a) == cache(b) && batch(a) == batch(b);
}

static bool same_command(const lh_cuda_command *a, const lh_cuda_command *b) {
    if (a->op != b->op) return false;
    if (a->op == LH_CUDA_OP_EMBED) return a->n == b->n && a->x == b->x && same_tensor(&a->w[0], &b->w[0]);
    return a->op == LH_CUDA_OP_PROJECT ? same_project(a, b) : same_attention(&a->attention, &b->attention);
}

static bool same_list(const command_list *a, const command_list *b) {
    if (a->n != b->n) return false;
    for (int32_t i = 0; i < a->n; i++)
        if (!same_command(&a->items[i], &b->items[i])) return false;
    return true;
}

// --- graphs ------------------------------------------------------------------------------------------------------

static void drop_graph(token_graph *g) {
    if (g->exec) cudaGraphExecDestroy(g->exec);
    g->exec = NULL;
}

void lh_cuda_drop_graphs(lh_cuda *c) {
    for (token_graph &g : c->list->graphs) {
        drop_graph(&g);
        g.list.n = 0;
    }
}

static token_graph *find_graph(struct lh_cuda_list *l) {
    for (token_graph &g : l->graphs)
        if (g.list.n && same_list(&g.list, &l->waiting)) return &g;
    return NULL;
}

// Keep the list that waits where the least used graph was; the list of that one is reused.
static void remember(struct lh_cuda_list *l) {
    token_graph *oldest = &l->graphs[0];
    for (token_graph &g : l->graphs)
        if (!g.list.n || (oldest->list.n && g.used < oldest->used)) oldest = &g;
    drop_graph(oldest);
    command_list spare = oldest->list;
    oldest->list = l->waiting;
    oldest->refused = false;
    oldest->used = ++l->clock;
    l->waiting = spare;
}

// Once, on standard error: nothing else would tell.
static void tell_refused(struct lh_cuda_list *l, const char *why) {
    if (!l->told)
        fprintf(stderr, "longheads: note: no CUDA graph could be made (%s): writing is slower than it could be\n", why);
    l->told = true;
}

// The stream's work as a graph. What the driver will not capture is enqueued as before: slower, not wrong.
static void capture(lh_cuda *c, token_graph *g) {
    cudaGraph_t graph = NULL;
    cudaError_t error = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal);
    bool was_lost = c->lost;
    int32_t n = g->list.n;
    lh_status status = LH_OK;
    if (error == cudaSuccess) {
        status = run_list(c, &g->list);
        error = cudaStreamEndCapture(c->stream, &graph);
    }
    c->lost = was_lost;  // a capture that failed did nothing; if the device did, the next call will tell
    // Scratch that had to grow drops all graphs, this one included.
    bool whole = status == LH_OK && error == cudaSuccess && g->list.n == n;
    if (whole) error = cudaGraphInstantiateWithFlags(&g->exec, graph, 0);
    g->refused = !whole || error != cudaSuccess;
    if (g->refused) g->exec = NULL;
    if (error != cudaSuccess) tell_refused(c->list, cudaGetErrorString(error));
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
}

// A list as wide as a token: its first attention says where.
static int64_t position_of(const command_list *list) {
    for (int32_t i = 0; i < list->n; i++)
        if (is_attention(&list->items[i])) return list->items[i].attention.pos;
    return 0;
}

static lh_status run_token(lh_cuda *c) {
    struct lh_cuda_list *l = c->list;
    LH_TRY(set_params(c, position_of(&l->waiting), l->id));
    if (l->no_graphs) return run_list(c, &l->waiting);
    token_graph *g = find_graph(l);
    if (!g) {
        LH_TRY(run_list(c, &l->waiting));
        remember(l);
        return LH_OK;
    }
    g->used = ++l->clock;
    if (!g->exec && !g->refused) {
        // The commands' positions must be those of now: a command finds its first token from the difference.
        for (int32_t i = 0; i < g->list.n; i++) g->list.items[i].attention.pos = l->waiting.items[i].attention.pos;
        capture(c, g);
    }
    if (!g->exec) return run_list(c, &l->waiting);
    return lh_cuda_check(c, cudaGraphLaunch(g->exec, c->stream), "launching a graph");
}

lh_status lh_cuda_flush(lh_cuda *c) {
    struct lh_cuda_list *l = c->list;
    lh_status status = LH_OK;
    if (l->waiting.n && l->is_token) {
        status = run_token(c);
    } else {
        for (int32_t i = 0; i < l->waiting.n && status == LH_OK; i++) status = run_alone(c, &l->waiting.items[i]);
    }
    l->waiting.n = 0;
    l->is_token = false;
    return status;
}

// --- taking commands ---------------------------------------------------------------------------------------------

static lh_status push(command_list *list, const lh_cuda_command *m) {
    if (list->n == list->capacity) {
        int32_t capacity = LH_MAX(256, 2 * list->capacity);
        lh_cuda_command *items = (lh_cuda_command *)lh_alloc((size_t)capacity, sizeof *items);
        if (!items) return LH_ERR_MEMORY;
        if (list->n) memcpy(items, list->items, (size_t)list->n * sizeof *items);
        lh_free(list->items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->n++] = *m;
    return LH_OK;
}

lh_status lh_cuda_submit(lh_cuda *c, lh_cuda_command *m) {
    struct lh_cuda_list *l = c->list;
    if (m->n == 1 && m->op == LH_CUDA_OP_EMBED) {
        LH_TRY(lh_cuda_flush(c));
        l->is_token = true;
        l->id = m->ids[0];
    }
    if (m->n == 1 && l->is_token) {
        m->ids = NULL;
        return push(&l->waiting, m);
    }
    LH_TRY(lh_cuda_flush(c));
    return run_alone(c, m);
}

lh_status lh_cuda_commands_new(lh_cuda *c) {
    c->list = (struct lh_cuda_list *)lh_alloc(1, sizeof *c->list);
    if (!c->list) return LH_ERR_MEMORY;
    const char *wanted = getenv("LH_CUDA_GRAPHS");
    c->list->no_graphs = wanted && strcmp(wanted, "0") == 0;
    return LH_OK;
}

void lh_cuda_commands_free(lh_cuda *c) {
    if (!c->list) return;
    lh_cuda_drop_graphs(c);
    for (token_graph &g : c->list->graphs) lh_free(g.list.items);
    lh_free(c->list->waiting.items);
    lh_free(c->list);
    c->list = NULL;
}
