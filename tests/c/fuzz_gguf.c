// libFuzzer target: a GGUF file from memory, through parse, configuration, weights and vocabulary.
//
//     clang -std=c11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Iruntime \
//         tests/c/fuzz_gguf.c runtime/{base,quant,gguf*,config,weights,tokenizer*,unicode*}.c -lm -o fuzz_gguf
//     python tests/gguf_files.py seeds/
//     mkdir corpus; ./fuzz_gguf -max_len=65536 corpus/ seeds/
#include "exercise_gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    exercise_gguf(data, size);
    return 0;
}
