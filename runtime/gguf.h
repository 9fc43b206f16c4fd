// GGUF v2/v3 containers: a parse of memory, apart from opening files. Every offset, length and count is checked before
// use.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#ifndef LH_GGUF_H
#define LH_GGUF_H

#include "base.h"
#include "quant.h"

typedef enum lh_gguf_type {
    LH_GGUF_U8, LH_GGUF_I8, LH_GGUF_U16, LH_GGUF_I16, LH_GGUF_U32, LH_GGUF_I32, LH_GGUF_F32, LH_GGUF_BOOL,
    LH_GGUF_STRING, LH_GGUF_ARRAY, LH_GGUF_U64, LH_GGUF_I64, LH_GGUF_F64,
} lh_gguf_type;

typedef struct lh_gguf lh_gguf;

// A name that came from a file, made fit for a message: quoted, printable ASCII, the rest as \xNN, long ones cut.
// lh_quote(text, len).text lives until the end of the full expression.
typedef struct lh_quoted { char text[96]; } lh_quoted;
lh_quoted lh_quote(const char *text, size_t len);
lh_quoted lh_quote_name(const char *name);

// One tensor as the file describes it. ne[0] is the fastest-varying dimension (columns).
typedef struct lh_gguf_tensor {
    const char *name;    // a NUL-terminated copy
    int n_dims;          // 1 to 4
    int64_t ne[4];       // 1 where unused
    lh_type type;        // always one that quant.h knows; unknown types fail the parse, by name
    const void *data;    // size bytes inside the memory that was parsed, at least 8-byte aligned
    uint64_t size;       // bytes
} lh_gguf_tensor;

// Memory of a mapped file that is not read any more: it need not stay, and comes again where it is.
void lh_gguf_forget(const void *data, size_t bytes);
// Parse one container that lies whole in memory, 8-byte aligned as malloc's and mmap's is; memory must outlive *out.
// Every tensor lies inside, and all together take no more than there is. Keys and names are unique, not empty and hold no NUL.
lh_status lh_gguf_parse(const void *memory, size_t size, lh_gguf **out);
// mmap a file, or all files of a split when path is its first (NAME-00001-of-0000N.gguf). As with every mmap, cutting
// the file short while it is open kills the process: replace a model by renaming, not by writing over it.
lh_status lh_gguf_open(const char *path, lh_gguf **out);
void lh_gguf_free(lh_gguf *g);
// Ask the system to start reading the tensors of mmapped files, if memory can hold them.
void lh_gguf_prefetch(const lh_gguf *g);

int64_t lh_gguf_n_metadata(const lh_gguf *g);
const lh_metadata *lh_gguf_metadata_at(const lh_gguf *g, int64_t i);
const lh_metadata *lh_gguf_metadata(const lh_gguf *g, const char *key);  // NULL if absent; O(log n)

// Typed access. Absent: *out is left as it is and LH_OK returned (put the default there first). Present with another
// type: any integer (float) type is accepted where *out can hold the value, else LH_ERR_FORMAT naming key, found and
// expected.
lh_status lh_gguf_int(const lh_gguf *g, const char *key, int64_t *out);
lh_status lh_gguf_float(const lh_gguf *g, const char *key, float *out);
lh_status lh_gguf_bool(const lh_gguf *g, const char *key, bool *out);
lh_status lh_gguf_string(const lh_gguf *g, const char *key, const char **text, size_t *len);
// An array of exactly elem_type: data, count. Elements are as unaligned as the file has them: memcpy, do not cast.
// Strings: iterate with lh_gguf_next_string from data.
lh_status lh_gguf_array(const lh_gguf *g, const char *key, lh_gguf_type elem_type, const void **data, uint64_t *count);
// Reads one array string at *cursor (already validated by the parse) and moves it on.
void lh_gguf_next_string(const void **cursor, const char **text, size_t *len);

int64_t lh_gguf_n_tensors(const lh_gguf *g);
const lh_gguf_tensor *lh_gguf_tensor_at(const lh_gguf *g, int64_t i);
const lh_gguf_tensor *lh_gguf_find_tensor(const lh_gguf *g, const char *name);  // NULL if absent; O(log n)

#endif
