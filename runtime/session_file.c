// Sessions on disk: a header that names the model and the settings, the ids, the logits, the cache, a checksum.
#define _XOPEN_SOURCE 700
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model.h"

#define STAGE_BYTES ((size_t)1 << 20)
#define SAMPLE_BYTES ((size_t)256)

typedef struct header {
    char magic[8];
    uint64_t model;       // fingerprint
    uint64_t whole;       // hash of which KV heads keep the whole text
    uint64_t payload;     // bytes after the header, checksum included
    int64_t position;
    int32_t chunk, budget, near_budget, window, local, dense_until;
    int32_t scheme, select_per, attention, kv_type;
    int32_t has_logits, rope_scaling;
    float rope_scale, far_bias;
    int32_t far_heads, n_whole, lost, unused;
} header;
_Static_assert(sizeof(header) == 112, "on-disk layout");

static const char magic[8] = "LHSESS9";  // a name, then the version
#define MAGIC_NAME 6

// FNV-1a over 8-byte words, the last one padded with zeros.
static uint64_t hash(uint64_t h, const void *data, size_t bytes) {
    const char *p = data;
    for (; bytes > 0;) {
        uint64_t word = 0;
        size_t here = LH_MIN(bytes, sizeof word);
        memcpy(&word, p, here);
        h = (h ^ word) * 0x100000001b3u;
        h ^= h >> 29;  // lets high bits reach low ones, which the multiplication alone does not
        p += here;
        bytes -= here;
    }
    return h;
}

// Names, types and shapes of all tensors, some bytes of each, and the numbers that say how they are used: enough to tell
// two models apart without reading them.
_Static_assert(sizeof(lh_config) == 88, "fingerprint takes its numbers one by one: padding is no part of a model");
static uint64_t fingerprint(const lh_model *m) {
    uint64_t h = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < lh_gguf_n_tensors(m->gguf); i++) {
        const lh_gguf_tensor *t = lh_gguf_tensor_at(m->gguf, i);
        h = hash(h, t->name, strlen(t->name));
        h = hash(h, t->ne, sizeof t->ne);
        h = hash(h, &t->type, sizeof t->type);
        size_t sample = LH_MIN((size_t)t->size, SAMPLE_BYTES);
        h = hash(h, t->data, sample);
        h = hash(h, (const char *)t->data + (t->size - sample) / 2, sample);
    }
    const lh_config *c = &m->config;
    const int64_t counts[] = {
        c->n_vocab, c->n_layer, c->n_head, c->n_head_kv, c->head_dim, c->n_embd, c->n_ff, c->trained_ctx, c->rope_dim,
        c->rope_scaling, c->rope_original_ctx,
    };
    const float factors[] = {
        c->norm_eps, c->rope_base, c->rope_factor, c->rope_attn_factor, c->yarn_ext_factor, c->yarn_beta_fast,
        c->yarn_beta_slow,
    };
    return hash(hash(h, counts, sizeof counts), factors, sizeof factors);
}

static header header_of(const lh_session *s, int64_t position, bool has_logits) {
    const lh_session_options *o = &s->options;
    header h = {
        .model = fingerprint(s->model),
        .whole = hash(0, s->kv.whole, (size_t)lh_kv_n_heads(&s->kv.shape)),
        .position = position,
        .chunk = o->chunk,
        .budget = o->budget,
        .near_budget = o->near_budget,
        .window = o->window,
        .local = o->local,
        .dense_until = o->dense_until,
        .scheme = (int32_t)o->scheme,
        .select_per = (int32_t)o->select_per,
        // What is stored is what the session was made with, however it attends now.
        .attention = s->kv.shape.n_summary ? LH_ATTENTION_LONGHEADS : LH_ATTENTION_DENSE,
        .kv_type = (int32_t)o->kv_type,
        .has_logits = has_logits,
        .rope_scaling = (int32_t)o->rope_scaling,
        .rope_scale = o->rope_scale,
        .far_heads = o->far_heads,
        .far_bias = LH_MAX(o->far_bias, 0.0f),
        .n_whole = s->kv.shape.n_whole,
        .lost = s->kv.lost,
    };
    memcpy(h.magic, magic, sizeof magic);
    return h;
}

typedef struct stream {
    FILE *f;
    const char *path;
    lh_backend *backend;
    char *stage;
    uint64_t sum;
    const lh_progress *progress;
    uint64_t done, total;  // bytes
} stream;

static lh_status not_written(const char *path) {
    return lh_error(LH_ERR_IO, "%s could not be written: %s", path, strerror(errno));
}

// Whoever is told may use other sessions, or Python free them: they have their turn meanwhile.
static lh_status passed(stream *s, size_t bytes) {
    const lh_backend_ops *ops = s->backend->ops;
    s->done += bytes;
    ops->end(s->backend);
    lh_status status = lh_report(s->progress, s->done, s->total);
    ops->begin(s->backend);
    return status;
}

static lh_status put(stream *s, const void *data, size_t bytes) {
    if (bytes && fwrite(data, 1, bytes, s->f) != bytes) return not_written(s->path);
    s->sum = hash(s->sum, data, bytes);
    return passed(s, bytes);
}

static lh_status get(stream *s, void *data, size_t bytes) {
    if (bytes && fread(data, 1, bytes, s->f) != bytes)
        return ferror(s->f) ? lh_error(LH_ERR_IO, "%s cannot be read: %s", s->path, strerror(errno))
                            : lh_error(LH_ERR_FORMAT, "%s ends early: it is damaged", s->path);
    s->sum = hash(s->sum, data, bytes);
    return passed(s, bytes);
}

static lh_status put_device(void *arg, void *device, size_t bytes) {
    stream *s = arg;
    for (size_t at = 0; at < bytes; at += STAGE_BYTES) {
        size_t here = LH_MIN(bytes - at, STAGE_BYTES);
        LH_TRY(s->backend->ops->read(s->backend, s->stage, (char *)device + at, here));
        LH_TRY(put(s, s->stage, here));
    }
    return LH_OK;
}

static lh_status get_device(void *arg, void *device, size_t bytes) {
    stream *s = arg;
    for (size_t at = 0; at < bytes; at += STAGE_BYTES) {
        size_t here = LH_MIN(bytes - at, STAGE_BYTES);
        LH_TRY(get(s, s->stage, here));
        if (!device) continue;  // older than what is kept here
        LH_TRY(s->backend->ops->write(s->backend, (char *)device + at, s->stage, here));
    }
    return LH_OK;
}

static lh_status count(void *arg, void *device, size_t bytes) {
    (void)device;
    *(uint64_t *)arg += bytes;
    return LH_OK;
}

static uint64_t payload_bytes(const lh_session *s, const header *h) {
    uint64_t bytes = (uint64_t)h->position * sizeof *s->ids + sizeof(uint64_t);
    if (h->has_logits) bytes += (uint64_t)s->model->config.n_vocab * sizeof *s->logits;
    lh_kv_each(&s->kv, h->position, h->lost, count, &bytes);
    return bytes;
}

static lh_status write_all(lh_session *s, stream *out) {
    header h = header_of(s, s->kv.position, false);
    // Logits of an attention that the file does not name are left to be asked for anew.
    h.has_logits = s->has_logits && h.attention == (int32_t)s->options.attention;
    h.payload = payload_bytes(s, &h);
    out->total = sizeof h + h.payload;
    LH_TRY(put(out, &h, sizeof h));
    LH_TRY(put(out, s->ids, (size_t)h.position * sizeof *s->ids));
    if (h.has_logits) LH_TRY(put(out, s->logits, (size_t)s->model->config.n_vocab * sizeof *s->logits));
    LH_TRY(lh_kv_each(&s->kv, h.position, h.lost, put_device, out));
    uint64_t sum = out->sum;
    return put(out, &sum, sizeof sum);
}

// A new file beside `path`, which is to take its place, with the rights that it has; its name to partial, of NAME_BYTES
// more than the path. NULL: there can be none.
#define NAME_BYTES sizeof ".1000.partial"

static FILE *create_beside(const char *path, char *partial) {
    struct stat old;
    int fd = -1;
    for (int i = 0; fd < 0 && i < 1000; i++) {
        sprintf(partial, "%s.%d.partial", path, i);
        fd = open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) return NULL;
    }
    if (fd < 0) return NULL;
    if (stat(path, &old) == 0) fchmod(fd, old.st_mode & 0777);
    FILE *f = fdopen(fd, "wb");
    if (f) return f;
    close(fd);
    remove(partial);
    return NULL;
}

static lh_status save_as(lh_session *s, const char *path, const lh_progress *progress) {
    // Under its final name only when whole.
    char *partial = lh_alloc(strlen(path) + NAME_BYTES, 1), *stage = lh_alloc(1, STAGE_BYTES);
    lh_status status = partial && stage ? LH_OK : LH_ERR_MEMORY;
    FILE *f = NULL;
    if (status == LH_OK && !(f = create_beside(path, partial)))
        status = lh_error(LH_ERR_IO, "%s cannot be created: %s", path, strerror(errno));
    if (f) {
        stream out = {.f = f, .path = path, .backend = s->model->backend, .stage = stage, .progress = progress};
        status = write_all(s, &out);
        // On the disk before it takes the other's place, which a loss of power must not cost.
        if (status == LH_OK && (fflush(f) != 0 || fsync(fileno(f)) != 0)) status = not_written(path);
        if (fclose(f) != 0 && status == LH_OK) status = not_written(path);
        if (status == LH_OK && rename(partial, path) != 0)
            status = lh_error(LH_ERR_IO, "%s cannot be replaced: %s", path, strerror(errno));
        if (status != LH_OK) remove(partial);
    }
    lh_free(stage);
    lh_free(partial);
    return status;
}

static lh_status save(lh_session *s, const char *path, const lh_progress *progress) {
    struct stat old;
    if (stat(path, &old) == 0 && !S_ISREG(old.st_mode))
        return lh_error(LH_ERR_IO, "%s is not a regular file: give another name", path);
    char *target = realpath(path, NULL);  // where a link leads, if there is a file
    lh_status status = save_as(s, target ? target : path, progress);
    free(target);
    return status;
}

static lh_status damaged_header(const char *path) {
    return lh_error(LH_ERR_FORMAT, "%s has a damaged header", path);
}

static lh_status differs(const char *path, const char *option, const char *found, const char *expected) {
    return lh_error(LH_ERR_ARGUMENT,
                    "%s was saved with %s %s, this session has %s: open the model with the same settings, or save to "
                    "another file",
                    path, option, found, expected);
}

static lh_status differs_in_number(const char *path, const char *option, double found, double expected) {
    char texts[2][16];
    snprintf(texts[0], sizeof texts[0], "%.9g", found);
    snprintf(texts[1], sizeof texts[1], "%.9g", expected);
    return differs(path, option, texts[0], texts[1]);
}

_Static_assert(LH_KV_TYPES == 4, "check_header names them one by one");
static lh_status check_header(const lh_session *s, const char *path, const header *h) {
    if (memcmp(h->magic, magic, MAGIC_NAME) != 0) return lh_error(LH_ERR_FORMAT, "%s is not a saved session", path);
    if (memcmp(h->magic, magic, sizeof magic) != 0)
        return lh_error(LH_ERR_FORMAT, "%s was saved by another version of longheads: read the text again", path);
    header own = header_of(s, 0, false);
    if (h->model != own.model) return lh_error(LH_ERR_ARGUMENT, "%s was saved from another model", path);
    const struct {
        const char *option;
        int32_t found, expected;
    } lengths[] = {
        {"chunk", h->chunk, own.chunk}, {"budget", h->budget, own.budget},
        {"near_budget", h->near_budget, own.near_budget}, {"window", h->window, own.window},
        {"local", h->local, own.local}, {"dense_until", h->dense_until, own.dense_until},
        {"far_heads", h->far_heads, own.far_heads},
    };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        if (lengths[i].found != lengths[i].expected)
            return differs_in_number(path, lengths[i].option, lengths[i].found, lengths[i].expected);
    if (h->rope_scale != own.rope_scale) return differs_in_number(path, "rope_scale", h->rope_scale, own.rope_scale);
    if (h->far_bias != own.far_bias)
        return differs_in_number(path, "far_bias", h->far_bias, own.far_bias);
    const struct {
        const char *option;
        int32_t found, expected, n;
        const char *names[LH_KV_TYPES];
    } choices[] = {
        {"scheme", h->scheme, own.scheme, 3, {"peak", "bounds", "paper"}},
        {"select_per", h->select_per, own.select_per, 2, {"kv_head", "head"}},
        {"attention", h->attention, own.attention, 2, {"longheads", "dense"}},
        {"kv_type", h->kv_type, own.kv_type, LH_KV_TYPES,
         {lh_kv_formats[0].name, lh_kv_formats[1].name, lh_kv_formats[2].name, lh_kv_formats[3].name}},
        {"rope_scaling", h->rope_scaling, own.rope_scaling, 4, {"of the model", "none", "linear", "yarn"}},
    };
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        int32_t found = choices[i].found, expected = choices[i].expected;
        if (found < 0 || found >= choices[i].n) return damaged_header(path);
        if (found != expected)
            return differs(path, choices[i].option, choices[i].names[found], choices[i].names[expected]);
    }
    if (h->position < 0 || h->position > s->options.ctx)
        return lh_error(LH_ERR_CONTEXT, "%s holds %lld tokens, this session has room for %lld: raise ctx", path,
                        (long long)h->position, (long long)s->options.ctx);
    if (h->n_whole != own.n_whole)
        return lh_error(LH_ERR_ARGUMENT,
                        "%s keeps the whole text in %d KV heads, this session in %d: open the model with the same "
                        "far_heads and keep_all",
                        path, h->n_whole, own.n_whole);
    if (h->whole != own.whole)
        return lh_error(LH_ERR_ARGUMENT, "%s keeps the whole text in other KV heads than this session: read it again",
                        path);
    // Where all keep the whole text nothing is lost.
    int32_t most_lost = h->n_whole < lh_kv_n_heads(&s->kv.shape) ? INT32_MAX : 1;
    if (h->lost < 1 || h->lost > most_lost || lh_longheads_oldest(&s->longheads, h->lost) > h->position)
        return damaged_header(path);
    if (h->payload != payload_bytes(s, h)) return damaged_header(path);
    return LH_OK;
}

static lh_status skip_device(void *arg, void *device, size_t bytes) {
    stream *s = arg;
    (void)device;
    for (size_t at = 0; at < bytes; at += STAGE_BYTES) LH_TRY(get(s, s->stage, LH_MIN(bytes - at, STAGE_BYTES)));
    return LH_OK;
}

static lh_status check_sum(stream *in) {
    uint64_t expected = in->sum, found;
    LH_TRY(get(in, &found, sizeof found));
    return found == expected ? LH_OK : lh_error(LH_ERR_FORMAT, "%s is damaged: its checksum does not fit", in->path);
}

// Everything that can be wrong with a file is found before the session is touched: this reads it to its end and goes
// back to where the cache begins. ids and logits are the session's next ones.
static lh_status verify(lh_session *s, stream *in, header *h, int32_t *ids, float *logits) {
    if (fread(h, 1, sizeof *h, in->f) != sizeof *h)
        return lh_error(LH_ERR_FORMAT, "%s is not a saved session: it is too short", in->path);
    LH_TRY(check_header(s, in->path, h));
    in->sum = hash(0, h, sizeof *h);
    in->total = 2 * (sizeof *h + h->payload);
    in->done = sizeof *h;
    int32_t n_vocab = s->model->config.n_vocab;
    LH_TRY(get(in, ids, (size_t)h->position * sizeof *ids));
    for (int64_t i = 0; i < h->position; i++)
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return lh_error(LH_ERR_FORMAT, "%s holds an id outside the vocabulary: it is damaged", in->path);
    if (h->has_logits) LH_TRY(get(in, logits, (size_t)n_vocab * sizeof *logits));
    long cache_at = ftell(in->f);
    uint64_t sum = in->sum;
    LH_TRY(lh_kv_each(&s->kv, h->position, h->lost, skip_device, in));
    LH_TRY(check_sum(in));
    if (fgetc(in->f) != EOF) return lh_error(LH_ERR_FORMAT, "%s goes on after its end: it is damaged", in->path);
    if (fseek(in->f, cache_at, SEEK_SET) != 0)
        return lh_error(LH_ERR_IO, "%s cannot be read twice: it is not a regular file", in->path);
    in->sum = sum;
    in->done += (uint64_t)cache_at;
    return LH_OK;
}

static lh_status take_over(lh_session *s, stream *in, const header *h) {
    lh_session_clear(s);
    LH_TRY(lh_kv_each(&s->kv, h->position, h->lost, get_device, in));
    LH_TRY(check_sum(in));  // again: it may have been written to
    LH_TRY(lh_kv_written(&s->kv));
    s->kv.position = h->position;
    s->kv.lost = lh_kv_lost_at(&s->kv, h->position, h->lost);
    // Logits of another attention than the one in force are left to be asked for anew.
    s->has_logits = h->has_logits && h->attention == (int32_t)s->options.attention;
    if (s->has_logits) lh_session_keep_logits(s);
    return LH_OK;
}

static FILE *open_regular(const char *path) {
    // O_NONBLOCK: a FIFO without a writer would hang before it could be refused.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    FILE *f = NULL;
    if (fd < 0) lh_error(LH_ERR_IO, "%s cannot be opened: %s", path, strerror(errno));
    else if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) lh_error(LH_ERR_IO, "%s is not a regular file", path);
    else if (!(f = fdopen(fd, "rb"))) lh_error(LH_ERR_IO, "%s cannot be read: %s", path, strerror(errno));
    if (fd >= 0 && !f) close(fd);
    return f;
}

static lh_status load(lh_session *s, const char *path, const lh_progress *progress) {
    FILE *f = open_regular(path);
    if (!f) return LH_ERR_IO;
    stream in = {
        .f = f, .path = path, .backend = s->model->backend, .stage = lh_alloc(1, STAGE_BYTES), .progress = progress,
    };
    int32_t *ids = lh_alloc((size_t)s->options.ctx, sizeof *ids);
    float *logits = lh_alloc((size_t)s->model->config.n_vocab, sizeof *logits);
    header h;
    lh_status status = in.stage && ids && logits ? verify(s, &in, &h, ids, logits) : LH_ERR_MEMORY;
    if (status == LH_OK) {
        // From here the file is known to be good.
        int32_t *old_ids = s->ids;
        float *old_logits = s->logits;
        s->ids = ids;
        s->logits = logits;
        ids = old_ids;
        logits = old_logits;
        status = take_over(s, &in, &h);
    }
    lh_free(logits);
    lh_free(ids);
    lh_free(in.stage);
    fclose(f);
    return status;
}

lh_status lh_session_save(lh_session *s, const char *path, const lh_progress *progress) {
    LH_TRY(lh_session_enter(s));
    lh_status status = save(s, path, progress);
    lh_session_leave(s);
    return status;
}

lh_status lh_session_load(lh_session *s, const char *path, const lh_progress *progress) {
    LH_TRY(lh_session_enter(s));
    lh_status status = load(s, path, progress);
    lh_session_leave(s);
    return status;
}
