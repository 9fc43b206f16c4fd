// AMX: products of bfloat16 tiles.
#include "simd_avx512.h"
// The vectors come first.
#include "probe_kernels.h"
#include "simd_amx.h"

static void tiles_amx(int64_t rounds) {
    tile_config before;
    begin_tiles(&before);
    do {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    } while (--rounds > 0);
    end_tiles(&before);
}

void lh_probe_kernels_amx(lh_probe_kernels *k) {
    k->tile_ops = 4 * 2 * T_SIDE * T_SIDE * T_COLS;
    k->tiles = tiles_amx;
}
