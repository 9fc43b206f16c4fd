// What the files of the GGUF loader share: gguf.c parses, gguf_open.c opens, gguf_values.c reads values.
#ifndef LH_GGUF_IMPL_H
#define LH_GGUF_IMPL_H

#include "gguf.h"

struct lh_gguf {
    lh_metadata *metadata;                   // (n_metadata), in file order
    const lh_metadata **metadata_by_key;     // (n_metadata), sorted
    int64_t n_metadata;
    lh_gguf_tensor *tensors;                 // (n_tensors), in file order, part after part
    const lh_gguf_tensor **tensors_by_name;  // (n_tensors), sorted
    int64_t n_tensors;
    struct lh_name_block *names;             // the copies that keys and tensor names point to
    void *map;                               // the mmapped file; NULL where the caller owns the memory
    size_t map_size;
    lh_gguf *next_part;                      // of a split: keeps names and mappings of the parts behind this one
};

// "u32", "array", ...; "type 99" does not occur: the parse refuses unknown types.
const char *lh_gguf_type_name(int32_t type);

// Make the tensors of all parts behind g (g->next_part, ...) tensors of g. Refuses a name that two parts share.
lh_status lh_gguf_join_parts(lh_gguf *g);

// Give the mapping back, if there is one.
void lh_gguf_unmap(lh_gguf *g);

#endif
