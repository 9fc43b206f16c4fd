// NEON of every AArch64.
#include "matmul_neon.h"

void lh_matmul_kernels_neon(lh_matmul_kernels *k) {
    k->name = "neon";
    set_float_kernels(k);
    set_quant_panels(k);
    set_quant_dots(k->dot);
}
