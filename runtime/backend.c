#include "backend.h"

#include <string.h>

lh_status lh_backend_open(const char *device, int32_t n_threads, lh_backend **out) {
    if (n_threads < 0 || n_threads > 1024)
        return lh_error(LH_ERR_ARGUMENT, "threads is %d, expected 1 to 1024", n_threads);
    if (!device || strcmp(device, "auto") == 0 || strcmp(device, "cpu") == 0)
        return lh_backend_open_cpu(n_threads, out);
    if (strncmp(device, "cuda", 4) == 0)
        return lh_error(LH_ERR_UNSUPPORTED,
                        "device \"%.32s\" was asked for, but this build has no CUDA backend: use \"cpu\"", device);
    return lh_error(LH_ERR_ARGUMENT, "device \"%.32s\" is not known: use \"auto\" or \"cpu\"", device);
}

void lh_backend_free(lh_backend *b) {
    if (b) b->ops->free(b);
}
