// Blocks of quantised weights as GGUF files store them: layouts only. Header-only: backends share them.
//
// Every format reduces to w = scale * q (+ min) with a small signed integer q, one scale (and min) for each run of 16
// or 32 values. Blocks lie in an mmap at any even address or worse, hence packed.
#ifndef LH_QUANT_LAYOUT_H
#define LH_QUANT_LAYOUT_H

#include <assert.h>
#include <stdint.h>

#define LH_PACKED __attribute__((packed))

// Legacy formats: 32 values, one scale.
typedef struct LH_PACKED lh_block_q4_0 {
    uint16_t d;       // half: scale
    uint8_t qs[16];   // low nibbles: values 0..15, high: 16..31; all less 8
} lh_block_q4_0;
static_assert(sizeof(lh_block_q4_0) == 18, "Q4_0");

typedef struct LH_PACKED lh_block_q4_1 {
    uint16_t d, m;    // halves: scale, min
    uint8_t qs[16];   // as Q4_0, not less 8
} lh_block_q4_1;
static_assert(sizeof(lh_block_q4_1) == 20, "Q4_1");

typedef struct LH_PACKED lh_block_q5_0 {
    uint16_t d;
    uint8_t qh[4];    // bit i: the fifth bit of value i
    uint8_t qs[16];   // as Q4_0; all less 16
} lh_block_q5_0;
static_assert(sizeof(lh_block_q5_0) == 22, "Q5_0");

typedef struct LH_PACKED lh_block_q5_1 {
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
} lh_block_q5_1;
static_assert(sizeof(lh_block_q5_1) == 24, "Q5_1");

typedef struct LH_PACKED lh_block_q8_0 {
    uint16_t d;
    int8_t qs[32];
} lh_block_q8_0;
static_assert(sizeof(lh_block_q8_0) == 34, "Q8_0");

typedef struct LH_PACKED lh_block_iq4_nl {
    uint16_t d;
    uint8_t qs[16];   // as Q4_0, indices into lh_iq4_values
} lh_block_iq4_nl;
static_assert(sizeof(lh_block_iq4_nl) == 18, "IQ4_NL");

// K formats: 256 values, with scales of their own for runs of 16 or 32.
typedef struct LH_PACKED lh_block_q2_k {
    uint8_t scales[16];  // low nibble: scale, high: min, of each run of 16
    uint8_t qs[64];      // 2 bits: byte 32h + i holds values 128h + i + {0, 32, 64, 96}
    uint16_t d, dmin;    // halves
} lh_block_q2_k;
static_assert(sizeof(lh_block_q2_k) == 84, "Q2_K");

typedef struct LH_PACKED lh_block_q3_k {
    uint8_t hmask[32];   // byte i, bit j: value 32j + i is not less 4
    uint8_t qs[64];      // low 2 bits, as Q2_K
    uint8_t scales[12];  // 16 scales of 6 bits, less 32
    uint16_t d;
} lh_block_q3_k;
static_assert(sizeof(lh_block_q3_k) == 110, "Q3_K");

typedef struct LH_PACKED lh_block_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12];  // 8 scales and 8 mins of 6 bits, for runs of 32
    uint8_t qs[128];     // byte 32j + i: low nibble: value 64j + i, high: 64j + 32 + i
} lh_block_q4_k;
static_assert(sizeof(lh_block_q4_k) == 144, "Q4_K");

typedef struct LH_PACKED lh_block_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];      // byte i, bit j: the fifth bit of value 32j + i
    uint8_t qs[128];     // as Q4_K
} lh_block_q5_k;
static_assert(sizeof(lh_block_q5_k) == 176, "Q5_K");

typedef struct LH_PACKED lh_block_q6_k {
    uint8_t ql[128];     // byte 64h + i: low nibble: value 128h + i, high: 128h + 64 + i
    uint8_t qh[64];      // byte 32h + i: two high bits of values 128h + i + {0, 32, 64, 96}
    int8_t scales[16];   // of runs of 16
    uint16_t d;
} lh_block_q6_k;
static_assert(sizeof(lh_block_q6_k) == 210, "Q6_K");

typedef struct LH_PACKED lh_block_iq4_xs {
    uint16_t d;
    uint16_t scales_h;   // bits 2j: two high bits of scale j
    uint8_t scales_l[4]; // nibble j: low bits of scale j; less 32
    uint8_t qs[128];     // eight runs, each as IQ4_NL
} lh_block_iq4_xs;
static_assert(sizeof(lh_block_iq4_xs) == 136, "IQ4_XS");

static const int8_t lh_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

#endif
