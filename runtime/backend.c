#include "backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Where there is no CUDA in the build this refuses, as CUDA itself does where there is no GPU.
#ifdef LONGHEADS_CUDA
lh_status lh_backend_open_cuda(int32_t index, lh_backend **out);
#else
static lh_status lh_backend_open_cuda(int32_t index, lh_backend **out) {
    (void)index, (void)out;
    return lh_error(LH_ERR_UNSUPPORTED,
                    "device \"cuda\" was asked for, but this build has no CUDA backend: use \"cpu\", or build it with "
                    "nvcc");
}
#endif

// The number in "cuda" or "cuda:N"; -1 for anything else.
static int32_t cuda_index(const char *device) {
    if (strcmp(device, "cuda") == 0) return 0;
    if (strncmp(device, "cuda:", 5) != 0 || strlen(device) > 8) return -1;
    const char *digits = device + 5;
    size_t n = strspn(digits, "0123456789");
    return n && !digits[n] ? atoi(digits) : -1;
}

static lh_status open_best(int32_t n_threads, lh_backend **out) {
    lh_status status = lh_backend_open_cuda(0, out);
    if (status == LH_OK) return LH_OK;
    char note[sizeof(*out)->note];
    // That there is no GPU is nothing to tell; that one fails is.
    snprintf(note, sizeof note, "%s", status == LH_ERR_UNSUPPORTED ? "" : lh_last_error());
    LH_TRY(lh_backend_open_cpu(n_threads, out));
    memcpy((*out)->note, note, sizeof note);
    return LH_OK;
}

lh_status lh_backend_open(const char *device, int32_t n_threads, lh_backend **out) {
    if (n_threads < 0 || n_threads > 1024)
        return lh_error(LH_ERR_ARGUMENT, "threads is %d, expected 1 to 1024", n_threads);
    if (!device || strcmp(device, "auto") == 0) return open_best(n_threads, out);
    if (strcmp(device, "cpu") == 0) return lh_backend_open_cpu(n_threads, out);
    int32_t index = cuda_index(device);
    if (index >= 0) return lh_backend_open_cuda(index, out);
    return lh_error(LH_ERR_ARGUMENT,
                    "device \"%.32s\" is not known: use \"auto\", \"cpu\", \"cuda\" or \"cuda:N\" with N from 0 on",
                    device);
}

void lh_backend_free(lh_backend *b) {
    if (b) b->ops->free(b);
}
