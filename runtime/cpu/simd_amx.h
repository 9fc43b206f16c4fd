// Tiles of AMX: eight of 16 lines of 64 bytes. Over simd_avx512.h, which comes first.
#ifndef LH_SIMD_AMX_H
#define LH_SIMD_AMX_H

#define T_SIDE 16                   // lines of a tile, and words of 32 bits of a line
#define T_COLS (2 * T_SIDE)         // bfloat16 of a line
#define T_BYTES (T_SIDE * 64)

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t line_bytes[16];
    uint8_t lines[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "LDTILECFG reads 64 bytes");

static const tile_config whole_tiles = {
    .palette = 1,
    .line_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .lines = {16, 16, 16, 16, 16, 16, 16, 16},
};

// Others in this process may have configured tiles on this thread, and count on that. The intrinsics of GCC 12 tell the
// compiler of the first 8 bytes only.
static inline void save_tiles(tile_config *before) { __asm__ volatile("sttilecfg %0" : "=m"(*before)); }
static inline void set_tiles(const tile_config *config) { __asm__ volatile("ldtilecfg %0" : : "m"(*config)); }

static inline void begin_tiles(tile_config *before) {
    save_tiles(before);
    set_tiles(&whole_tiles);
}

static inline void end_tiles(const tile_config *before) {
    if (before->palette == 0) __asm__ volatile("tilerelease");
    else set_tiles(before);
}

// GCC does not know that loads of tiles read memory: what was written before is written.
static inline void tiles_follow_stores(void) { __asm__ volatile("" : : : "memory"); }

// Tiles 0 to 3, where sums are kept.
static inline void zero_tiles(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

// Words of two bfloat16 each, as the second operand of a product has them.
static inline __m512i pair_words(vf low, vf high) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

#endif
