// Block formats of weights: one row of traits per type, and scalar reference decoding, the oracle of every kernel.
// Layouts are those of ggml's block_* structs; numbers of types are GGUF's.
#ifndef LH_QUANT_H
#define LH_QUANT_H

#include "base.h"

typedef enum lh_type {
    LH_TYPE_F32 = 0, LH_TYPE_F16 = 1, LH_TYPE_Q4_0 = 2, LH_TYPE_Q4_1 = 3, LH_TYPE_Q5_0 = 6, LH_TYPE_Q5_1 = 7,
    LH_TYPE_Q8_0 = 8, LH_TYPE_Q2_K = 10, LH_TYPE_Q3_K = 11, LH_TYPE_Q4_K = 12, LH_TYPE_Q5_K = 13, LH_TYPE_Q6_K = 14,
    LH_TYPE_IQ4_NL = 20, LH_TYPE_IQ4_XS = 23, LH_TYPE_BF16 = 30,
    LH_TYPE_COUNT = 31,
} lh_type;

typedef struct lh_type_traits {
    const char *name;        // "Q4_K"; NULL: a number that is no supported type
    int32_t block_len;       // values in a block
    int32_t block_size;      // bytes of a block
    void (*decode)(const void *blocks, float *out, int64_t n);  // n values, a multiple of block_len
    // Quantised types: w = scale * q (+ min), a scale and a min for each run of scale_len values.
    int32_t scale_len;       // 16 or 32; 0: floats, and no unpack
    bool has_min;            // false: min may be NULL
    int32_t bits;            // of q: 0 <= q < 2^bits with mins, -2^(bits-1) <= q < 2^(bits-1) without
    void (*unpack)(const void *blocks, int64_t n, int8_t *q, float *scale, float *min);
} lh_type_traits;

// NULL for a number that is no supported type.
const lh_type_traits *lh_type_get(int64_t type);
// The name of any GGUF type number, supported or not, for messages ("IQ2_XXS", "type 99").
const char *lh_type_name(int64_t type);

// A matrix of weights: n_rows rows of n_cols values, each row whole blocks, rows contiguous.
typedef struct lh_tensor {
    lh_type type;
    int64_t n_rows, n_cols;
    const void *data;        // n_rows * row_size bytes, on the host: in the mmap, or the backend's copy
    size_t row_size;         // bytes
    void *device;            // the backend's copy; NULL where it reads data
    bool spans;              // rows lie as the backend that copied them likes to read them; false: as in the file
} lh_tensor;

float lh_f16_to_f32(uint16_t h);
uint16_t lh_f32_to_f16(float f);   // round to nearest even
float lh_bf16_to_f32(uint16_t h);

#endif
