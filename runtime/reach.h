// Who reads far: how strongly each head can match what tokens say, wherever it stands.
#ifndef LH_REACH_H
#define LH_REACH_H

#include "weights.h"

// Of each query head of a layer,
//   | Sq^T Sk |^2 / (sqrt(head_dim) |Wq| |Wk|)
// Wq and Wk are a head's rows times attn_norm, their first 1024 columns, which tell enough; Sq and Sk are those rows
// whose components rotations hardly turn (peak.h); | | is the Frobenius norm. |Sq^T Sk| is how far q . k spreads in these
// components over pairs of tokens, were their normed activations independent and of unit variance; once more, over
// |Wq| |Wk|, it is their share.
// out (n_head). Weights lie as in the file: no backend has them yet.
lh_status lh_reach(const lh_config *c, const lh_layer *layer, float *out);

#endif
