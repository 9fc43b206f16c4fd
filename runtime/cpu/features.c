#define _DEFAULT_SOURCE  // syscall
#include "features.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

// The operating system must save the registers too: XCR0 tells which state it switches.
static unsigned long long xcr0(void) {
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (unsigned long long)hi << 32 | lo;
}

// Tiles are for processes that have asked for them; threads and children have what their process has. It is refused
// where a signal stack is too small for what a signal would save.
static bool may_use_tiles(void) {
#ifdef LH_NO_AMX
    return false;
#endif
    const long ask = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
    return (xcr0() & 0x60000) == 0x60000 && syscall(SYS_arch_prctl, ask, tile_data) == 0;
}

// wanted: tiles are not asked for in vain, since afterwards the system refuses small signal stacks to the process.
static unsigned detect(unsigned wanted) {
    unsigned a, b, c, d, features = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    if ((c & (fma | osxsave | avx | f16c)) != (fma | osxsave | avx | f16c)) return 0;
    unsigned long long state = xcr0();
    if ((state & 0x6) != 0x6) return 0;  // xmm, ymm
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (b >> 5 & 1) features |= LH_CPU_AVX2;
    const unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    if (features && (b & (f | dq | bw | vl)) == (f | dq | bw | vl) && (state & 0xe0) == 0xe0) {
        features |= LH_CPU_AVX512;
        if (!(c >> 11 & 1)) return features;
        features |= LH_CPU_AVX512_VNNI;
        const unsigned tiles = 1u << 25 | 1u << 24 | 1u << 22, bf16 = 1u << 5;  // of bytes and bfloat16
        if ((d & tiles) == tiles && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bf16) && (wanted & LH_CPU_AMX) &&
            may_use_tiles())
            features |= LH_CPU_AMX;
    }
    return features;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

static unsigned detect(unsigned wanted) {
    (void)wanted;
    const unsigned long asimddp = 1ul << 20;  // HWCAP_ASIMDDP
    return LH_CPU_NEON | (getauxval(AT_HWCAP) & asimddp ? LH_CPU_DOTPROD : 0);
}
#else
static unsigned detect(unsigned wanted) { return 0 & wanted; }
#endif

static const struct {
    const char *name;
    unsigned features;
} levels[] = {
    {"generic", 0},
    {"avx2", LH_CPU_AVX2},
    {"avx512", LH_CPU_AVX2 | LH_CPU_AVX512},
    {"avx512vnni", LH_CPU_AVX2 | LH_CPU_AVX512 | LH_CPU_AVX512_VNNI},
    {"amx", LH_CPU_AVX2 | LH_CPU_AVX512 | LH_CPU_AVX512_VNNI | LH_CPU_AMX},
    {"neon", LH_CPU_NEON},
};

// What LH_CPU leaves; all where it is not set, or is none of the levels: *known is false then.
static unsigned allowed(bool *known) {
    const char *level = getenv("LH_CPU");
    *known = true;
    for (size_t i = 0; level && i < sizeof levels / sizeof *levels; i++)
        if (strcmp(level, levels[i].name) == 0) return levels[i].features;
    *known = !level;
    return ~0u;
}

unsigned lh_cpu_features(void) {
    bool known;
    unsigned wanted = allowed(&known);
    return detect(wanted) & wanted;
}

lh_status lh_cpu_features_check(void) {
    bool known;
    allowed(&known);
    if (known) return LH_OK;
    return lh_error(LH_ERR_ARGUMENT, "the environment's LH_CPU is %.40s: expected generic, avx2, avx512, avx512vnni, amx "
                    "or neon, or none", getenv("LH_CPU"));
}

const char *lh_cpu_features_text(unsigned features) {
    if (features & LH_CPU_AMX) return "amx";
    if (features & LH_CPU_AVX512) return features & LH_CPU_AVX512_VNNI ? "avx512+vnni" : "avx512";
    if (features & LH_CPU_AVX2) return "avx2";
    if (features & LH_CPU_NEON) return features & LH_CPU_DOTPROD ? "neon+dotprod" : "neon";
    return "generic";
}
