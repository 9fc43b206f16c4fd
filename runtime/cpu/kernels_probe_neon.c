// NEON of every AArch64.
#include "probe_neon.h"

void lh_probe_kernels_neon(lh_probe_kernels *k) {
    set_float_probes(k);
    set_int8_probe(k);
}
