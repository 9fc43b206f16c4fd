// What the processor and the operating system allow. The environment variable LH_CPU lowers it, so that one machine
// tests every path: generic, avx2, avx512 (no VNNI), avx512vnni (no AMX), amx, neon.
#ifndef LH_CPU_FEATURES_H
#define LH_CPU_FEATURES_H

#include "base.h"

enum {
    LH_CPU_AVX2 = 1,         // with FMA and F16C
    LH_CPU_AVX512 = 2,       // F, BW, DQ, VL
    LH_CPU_AVX512_VNNI = 4,
    LH_CPU_NEON = 8,
    LH_CPU_DOTPROD = 16,     // NEON sdot/udot
    LH_CPU_AMX = 32,         // bfloat16 tiles, with AVX512_BF16 and all of the above
};

// Detected, then lowered by LH_CPU, where it is one of these.
unsigned lh_cpu_features(void);
// Is it?
lh_status lh_cpu_features_check(void);
// "avx512+vnni", "generic", ... Static.
const char *lh_cpu_features_text(unsigned features);

#endif
