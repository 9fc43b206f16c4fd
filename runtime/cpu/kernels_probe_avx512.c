// AVX-512, but for bytes: without VNNI those are AVX2's.
#include "simd_avx512.h"
// The vectors come first: the loops are written in them.
#include "probe_float_simd.h"

void lh_probe_kernels_avx512(lh_probe_kernels *k) { set_float_probes(k); }
