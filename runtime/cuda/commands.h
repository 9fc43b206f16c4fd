// What was asked of the backend and has not reached the device. See commands.cu.
#ifndef LH_CUDA_COMMANDS_H
#define LH_CUDA_COMMANDS_H

#include "cuda.h"

typedef enum lh_cuda_op {
    LH_CUDA_OP_EMBED, LH_CUDA_OP_PROJECT, LH_CUDA_OP_APPEND, LH_CUDA_OP_SUMMARIZE, LH_CUDA_OP_SELECT, LH_CUDA_OP_ATTEND,
} lh_cuda_op;

typedef struct lh_cuda_command {
    lh_cuda_op op;
    lh_tensor w[3];             // copies: the caller's structs may move
    lh_project project;         // w points at the above where the command runs
    lh_attention attention;
    const int32_t *ids;         // of embed: the caller's, read before submit returns
    int32_t n;                  // tokens
    float *x;
} lh_cuda_command;

lh_status lh_cuda_commands_new(lh_cuda *c);
void lh_cuda_commands_free(lh_cuda *c);
// Take a command. It runs now or by the next flush.
lh_status lh_cuda_submit(lh_cuda *c, lh_cuda_command *command);
// Enqueue all that waits.
lh_status lh_cuda_flush(lh_cuda *c);
// Forget the graphs: memory that they use is about to move.
void lh_cuda_drop_graphs(lh_cuda *c);

#endif
