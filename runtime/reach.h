// Which layers read far: how strongly the heads of each can match what tokens say, wherever it stands.
#ifndef LH_REACH_H
#define LH_REACH_H

#include "weights.h"

// Of each layer, that of its strongest head: how far q . k spreads over pairs of tokens in the components that rotations
// hardly turn (peak.h), were their normed activations independent and of unit variance:
//   | Wq' Wk'^T | / sqrt(head_dim), Wq' and Wk' the rows of these components times attn_norm, | | the Frobenius norm
// out (n_layer).
lh_status lh_reach(const lh_config *c, const lh_weights *w, float *out);

#endif
