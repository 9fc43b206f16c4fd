// Opening GGUF files: mmap, and the parts of a split model.
#define _DEFAULT_SOURCE
#include "gguf_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "resources.h"

static lh_status map_fd(int fd, void **map, size_t *size) {
    struct stat st;
    if (fstat(fd, &st) != 0) return lh_error(LH_ERR_IO, "cannot be examined: %s", strerror(errno));
    if (S_ISDIR(st.st_mode)) return lh_error(LH_ERR_IO, "is a folder, expected a .gguf file; name the file inside it");
    if (!S_ISREG(st.st_mode))
        return lh_error(LH_ERR_IO, "is not a regular file, so it cannot be mapped; copy it to a disk");
    if (st.st_size == 0) return lh_error(LH_ERR_FORMAT, "the file is empty, expected a GGUF model");
    if ((uint64_t)st.st_size > SIZE_MAX)
        return lh_error(LH_ERR_MEMORY, "%" PRIu64 " bytes do not fit into the address space", (uint64_t)st.st_size);
    // Shared and read-only: all processes that use this model use the same pages.
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return lh_error(LH_ERR_IO, "cannot be mapped into memory: %s", strerror(errno));
    *map = p;
    *size = (size_t)st.st_size;
    return LH_OK;
}

// One file, whatever part of a split it is.
static lh_status open_one(const char *path, lh_gguf **out) {
    // O_NONBLOCK: a FIFO without a writer would hang before it could be refused.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return lh_error(LH_ERR_IO, "cannot be opened: %s", strerror(errno));
    void *map = NULL;
    size_t size = 0;
    lh_status s = map_fd(fd, &map, &size);
    close(fd);  // the mapping stays
    if (s != LH_OK) return s;
    s = lh_gguf_parse(map, size, out);
    if (s != LH_OK) {
        munmap(map, size);
        return s;
    }
    (*out)->map = map;
    (*out)->map_size = size;
    return LH_OK;
}

void lh_gguf_unmap(lh_gguf *g) {
    if (g->map) munmap(g->map, g->map_size);
    g->map = NULL;
}

void lh_gguf_prefetch(const lh_gguf *g) {
    uint64_t size = 0;
    for (const lh_gguf *part = g; part; part = part->next_part) size += part->map_size;
    if (size > lh_memory_available()) return;  // reading ahead would push out what is needed first
    for (const lh_gguf *part = g; part; part = part->next_part)
        if (part->map) madvise(part->map, part->map_size, MADV_WILLNEED);
}

void lh_gguf_forget(const void *data, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = LH_ROUND_UP((uintptr_t)data, page), end = ((uintptr_t)data + bytes) / page * page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

// --- split models ----------------------------------------------------------------------------------------------

#define MAX_PARTS 99999  // what the five digits of a part's name can count

typedef struct split {
    int64_t no, count, n_tensors;  // this part, from 0; all parts; tensors of all parts, -1 where the file does not say
} split;

static lh_status read_split(const lh_gguf *g, split *out) {
    *out = (split){.count = 1, .n_tensors = -1};
    LH_TRY(lh_gguf_int(g, "split.count", &out->count));
    LH_TRY(lh_gguf_int(g, "split.no", &out->no));
    LH_TRY(lh_gguf_int(g, "split.tensors.count", &out->n_tensors));
    if (out->count == 0) out->count = 1;  // written by some tools for a model that is not split
    if (out->count < 1 || out->count > MAX_PARTS || out->no < 0 || out->no >= out->count)
        return lh_error(LH_ERR_FORMAT,
                        "split.no %" PRId64 " of split.count %" PRId64 ", expected 0 to count - 1 of 1 to %d", out->no,
                        out->count, MAX_PARTS);
    return LH_OK;
}

// What the name of a part (from 0) ends in.
typedef struct suffix {
    char text[32];
} suffix;

static suffix part_suffix(int64_t no, int64_t count) {
    suffix s;
    snprintf(s.text, sizeof s.text, "-%05d-of-%05d.gguf", (int)no + 1, (int)count);
    return s;
}

// The path of another part of the model that `path` is part `no` of; NULL if its name does not say that, or if there is
// no memory. lh_free it.
static char *part_path(const char *path, int64_t no, int64_t count, int64_t other) {
    suffix own = part_suffix(no, count), wanted = part_suffix(other, count);
    size_t len = strlen(path), n = strlen(own.text);
    if (len < n || strcmp(path + len - n, own.text) != 0) return NULL;
    char *result = lh_alloc(len + 1, 1);
    if (result) memcpy(result, path, len - n);
    if (result) memcpy(result + len - n, wanted.text, n);  // five digits each: both are as long
    return result;
}

static lh_status refuse_later_part(const char *path, const split *sp) {
    char *first = part_path(path, sp->no, sp->count, 0);
    lh_error(LH_ERR_ARGUMENT, "is part %" PRId64 " of %" PRId64 " of a split model; open the first part, %s",
             sp->no + 1, sp->count, first ? first : part_suffix(0, sp->count).text);
    lh_free(first);
    return LH_ERR_ARGUMENT;
}

static lh_status open_part(const char *path, const split *first, int64_t no, lh_gguf **out) {
    LH_TRY(open_one(path, out));
    split sp;
    LH_TRY(read_split(*out, &sp));
    if (sp.no != no || sp.count != first->count)
        return lh_error(LH_ERR_FORMAT,
                        "says it is part %" PRId64 " of %" PRId64 ", expected part %" PRId64 " of %" PRId64
                        ": files of different models are mixed; download them again",
                        sp.no + 1, sp.count, no + 1, first->count);
    if (sp.n_tensors != -1 && first->n_tensors != -1 && sp.n_tensors != first->n_tensors)
        return lh_error(LH_ERR_FORMAT,
                        "belongs to a model of %" PRId64 " tensors, expected %" PRId64
                        ": files of different models are mixed; "
                        "download them again",
                        sp.n_tensors, first->n_tensors);
    return LH_OK;
}

// g is the first part, opened from path.
static lh_status open_rest(lh_gguf *g, const char *path, const split *sp) {
    lh_gguf **tail = &g->next_part;
    for (int64_t i = 1; i < sp->count; i++) {
        char *name = part_path(path, 0, sp->count, i);
        if (!name)
            return lh_error(LH_ERR_FORMAT,
                            "is the first of %" PRId64
                            " parts, but its name does not end in %s, so the others cannot be "
                            "found; give it its original name",
                            sp->count, part_suffix(0, sp->count).text);
        lh_status s = open_part(name, sp, i, tail);  // *tail is g's to free, opened well or not
        if (s != LH_OK) lh_error_context(s, "part %" PRId64 " of %" PRId64 ", %s", i + 1, sp->count, name);
        lh_free(name);
        if (s != LH_OK) return s;
        tail = &(*tail)->next_part;
    }
    LH_TRY(lh_gguf_join_parts(g));
    if (sp->n_tensors != -1 && g->n_tensors != sp->n_tensors)
        return lh_error(LH_ERR_FORMAT,
                        "the %" PRId64 " parts hold %" PRId64 " tensors, expected %" PRId64
                        " (split.tensors.count): files of "
                        "different models are mixed; download them again",
                        sp->count, g->n_tensors, sp->n_tensors);
    return LH_OK;
}

lh_status lh_gguf_open(const char *path, lh_gguf **out) {
    *out = NULL;
    lh_gguf *g = NULL;
    split sp;
    lh_status s = open_one(path, &g);
    if (s == LH_OK) s = read_split(g, &sp);
    if (s == LH_OK && sp.no != 0) s = refuse_later_part(path, &sp);
    if (s == LH_OK && sp.count > 1) s = open_rest(g, path, &sp);
    if (s != LH_OK) {
        lh_gguf_free(g);
        return lh_error_context(s, "%s", path);
    }
    *out = g;
    return LH_OK;
}
