// Vocabulary, special tokens, streaming UTF-8. The two algorithms lie beside it: tokenizer_spm, tokenizer_bpe.
#ifndef LH_TOKENIZER_H
#define LH_TOKENIZER_H

#include "gguf.h"

// Copies what it needs; g may be freed afterwards.
lh_status lh_tokenizer_from_gguf(const lh_gguf *g, lh_tokenizer **out);

#endif
