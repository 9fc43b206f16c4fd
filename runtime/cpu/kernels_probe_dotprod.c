// NEON with the dot product instructions of Armv8.2.
#include "probe_neon.h"

void lh_probe_kernels_dotprod(lh_probe_kernels *k) {
    set_float_probes(k);
    set_int8_probe(k);
}
