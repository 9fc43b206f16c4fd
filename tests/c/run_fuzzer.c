// Runs a libFuzzer target without libFuzzer, on inputs from a seed: some of any bytes, most of a few bytes that mean
// something to what is fuzzed.
//
//     run_fuzzer N SEED
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state;

static uint32_t next(void) {
    // xorshift64*
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * 0x2545F4914F6CDD1Du) >> 32);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    static const uint8_t few[] = "aab  '12\n\xe2\x96\x81\xc3\xa9";
    long n = atol(argv[1]);
    state = strtoull(argv[2], NULL, 10) * 2 + 1;
    for (long i = 0; i < n; i++) {
        size_t size = next() % 600;
        uint8_t *data = malloc(size ? size : 1);
        if (!data) return 1;
        uint32_t any = next() % 8;  // in eighths
        for (size_t k = 0; k < size; k++) data[k] = next() % 8 < any ? (uint8_t)next() : few[next() % (sizeof few - 1)];
        LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    return 0;
}
