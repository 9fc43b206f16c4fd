// Between the two halves of the emulator: threads.cpp runs a kernel, runtime.cpp is everything around it.
#ifndef LH_EMULATOR_SCHEDULER_H
#define LH_EMULATOR_SCHEDULER_H

#include "cuda_runtime.h"

void lh_emulator_run(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);
unsigned char *lh_emulator_shared_memory(size_t bytes);

#endif
