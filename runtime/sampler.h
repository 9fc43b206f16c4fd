// What scoring shares with the sampler.
#ifndef LH_SAMPLER_H
#define LH_SAMPLER_H

#include "base.h"

// ln softmax(logits)[id] of n logits. NaN counts as minus infinity, and infinities share all weight.
float lh_log_softmax(const float *logits, int32_t n, int32_t id);

#endif
