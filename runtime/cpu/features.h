// What the processor and the operating system allow. The environment variable LH_CPU lowers it, so that one machine
// tests every path: generic, avx2, avx512 (no VNNI), avx512vnni, neon; anything else is the best there is.
#ifndef LH_CPU_FEATURES_H
#define LH_CPU_FEATURES_H

enum {
    LH_CPU_AVX2 = 1,         // with FMA and F16C
    LH_CPU_AVX512 = 2,       // F, BW, DQ, VL
    LH_CPU_AVX512_VNNI = 4,
    LH_CPU_NEON = 8,
    LH_CPU_DOTPROD = 16,     // NEON sdot/udot
};

// Detected, then lowered by LH_CPU.
unsigned lh_cpu_features(void);
// "avx512+vnni", "generic", ... Static.
const char *lh_cpu_features_text(unsigned features);

#endif
