// NEON with the dot product instructions of Armv8.2.
#include "matmul_neon.h"

void lh_matmul_kernels_dotprod(lh_matmul_kernels *k) {
    k->name = "neon+dotprod";
    set_float_kernels(k);
    set_quant_panels(k);
    set_quant_dots(k->dot);
}
