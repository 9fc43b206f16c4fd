// What quant.c makes of a type, for test_quant.py.
//
//   dump_quant decode TYPE < blocks > floats
//   dump_quant encode TYPE < floats > blocks
//   dump_quant unpack TYPE < blocks > floats     through unpack: scale * q (+ min)
//   dump_quant f16 < halves > floats             f16_from < floats > halves, bf16 < halves > floats
//   dump_quant types                             number, name, block_len and block_size of the supported types
//   dump_quant name NUMBER
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant.h"
#include "quant_encode.h"

static void *read_all(size_t *size) {
    size_t capacity = 1 << 16;
    char *data = malloc(capacity);
    for (*size = 0;;) {
        size_t got = fread(data + *size, 1, capacity - *size, stdin);
        if (!got) return data;
        *size += got;
        if (*size == capacity) data = realloc(data, capacity *= 2);
    }
}

static void decode(const lh_type_traits *traits, bool through_unpack) {
    size_t size;
    uint8_t *blocks = read_all(&size);
    int64_t n = (int64_t)(size / (size_t)traits->block_size) * traits->block_len;
    float *out = calloc((size_t)n + 1, sizeof *out);
    if (!through_unpack) {
        traits->decode(blocks, out, n);
    } else {
        int8_t *q = malloc((size_t)n + 1);
        float *scale = calloc((size_t)n + 1, sizeof *scale), *min = NULL;
        if (traits->has_min) min = calloc((size_t)n + 1, sizeof *min);
        traits->unpack(blocks, n, q, scale, min);
        for (int64_t i = 0; i < n; i++) {
            int64_t run = i / traits->scale_len;
            out[i] = scale[run] * (float)q[i];
            if (min) out[i] += min[run];
        }
        free(q);
        free(scale);
        free(min);
    }
    fwrite(out, sizeof *out, (size_t)n, stdout);
    free(out);
    free(blocks);
}

static void encode(int64_t type) {
    const lh_type_traits *traits = lh_type_get(type);
    size_t size;
    float *values = (float *)read_all(&size);
    size_t n_blocks = size / sizeof *values / (size_t)traits->block_len;
    uint8_t *blocks = malloc(n_blocks * (size_t)traits->block_size + 1);
    lh_encode_get(type)(values, blocks, (int64_t)n_blocks * traits->block_len);
    fwrite(blocks, (size_t)traits->block_size, n_blocks, stdout);
    free(blocks);
    free(values);
}

static void convert(const char *what) {
    size_t size;
    void *data = read_all(&size);
    if (strcmp(what, "f16_from") == 0) {
        for (size_t i = 0; i < size / 4; i++) {
            uint16_t h = lh_f32_to_f16(((float *)data)[i]);
            fwrite(&h, sizeof h, 1, stdout);
        }
    } else {
        for (size_t i = 0; i < size / 2; i++) {
            uint16_t h = ((uint16_t *)data)[i];
            float f = strcmp(what, "f16") == 0 ? lh_f16_to_f32(h) : lh_bf16_to_f32(h);
            fwrite(&f, sizeof f, 1, stdout);
        }
    }
    free(data);
}

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "";
    if (strcmp(command, "types") == 0) {
        for (int64_t type = -1; type < 100; type++) {
            const lh_type_traits *traits = lh_type_get(type);
            if (traits) printf("%lld %s %d %d\n", (long long)type, traits->name, traits->block_len, traits->block_size);
        }
    } else if (strcmp(command, "name") == 0 && argc == 3) {
        printf("%s\n", lh_type_name(atoll(argv[2])));
    } else if ((strcmp(command, "decode") == 0 || strcmp(command, "unpack") == 0) && argc == 3) {
        decode(lh_type_get(atoll(argv[2])), command[0] == 'u');
    } else if (strcmp(command, "encode") == 0 && argc == 3) {
        encode(atoll(argv[2]));
    } else {
        convert(command);
    }
    return 0;
}
