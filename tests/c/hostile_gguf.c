// Damages a valid GGUF file in every way it knows and loads what is left. Meant for sanitizers: a crash is the finding.
//
//     hostile_gguf truncate FILE          every length of the header, and around every end of a tensor
//     hostile_gguf mutate FILE SEED N     N files with a few random mutations each
//     hostile_gguf load FILE              the file as it is; prints how far it came, and the time of the parse
#include <inttypes.h>
#include <time.h>

#include "exercise_gguf.h"

typedef struct file {
    uint8_t *data;
    size_t size;
    size_t header;  // bytes in front of the data of the first tensor
    size_t end;     // behind the last byte of any tensor
} file;

static file read_file(const char *path) {
    file f = {0};
    FILE *in = fopen(path, "rb");
    CHECK(in && fseek(in, 0, SEEK_END) == 0);
    f.size = (size_t)ftell(in);
    f.data = malloc(f.size);
    rewind(in);
    CHECK(f.data && fread(f.data, 1, f.size, in) == f.size);
    fclose(in);
    return f;
}

// The file must be valid.
static void find_sections(file *f) {
    lh_gguf *g = NULL;
    CHECK(lh_gguf_parse(f->data, f->size, &g) == LH_OK);
    f->header = f->size;
    for (int64_t i = 0; i < lh_gguf_n_tensors(g); i++) {
        const lh_gguf_tensor *t = lh_gguf_tensor_at(g, i);
        size_t begin = (size_t)((const uint8_t *)t->data - f->data);
        f->header = LH_MIN(f->header, begin);
        f->end = LH_MAX(f->end, begin + t->size);
    }
    lh_gguf_free(g);
}

// The first n bytes, in memory that ends where they end.
static exercised exercise_copy(const uint8_t *data, size_t n) {
    uint8_t *copy = malloc(n);
    if (n) memcpy(copy, data, n);
    exercised e = exercise_gguf(copy, n);
    free(copy);
    return e;
}

// --- truncations -----------------------------------------------------------------------------------------------

static int64_t truncate_at(const file *f, size_t n) {
    exercised e = exercise_copy(f->data, n);
    // Only padding may be missing.
    CHECK(n >= f->end ? e.level == 3 : e.level == 0);
    return 1;
}

static void run_truncations(const file *f) {
    int64_t count = 0;
    for (size_t n = 0; n <= f->header; n++) count += truncate_at(f, n);
    lh_gguf *g = NULL;
    CHECK(lh_gguf_parse(f->data, f->size, &g) == LH_OK);
    for (int64_t i = 0; i < lh_gguf_n_tensors(g); i++) {
        const lh_gguf_tensor *t = lh_gguf_tensor_at(g, i);
        size_t end = (size_t)((const uint8_t *)t->data - f->data) + t->size;
        for (size_t n = end - 1; n <= LH_MIN(end + 1, f->size); n++) count += truncate_at(f, n);
    }
    lh_gguf_free(g);
    printf("{\"truncations\": %" PRId64 "}\n", count);
}

// --- mutations -------------------------------------------------------------------------------------------------

static uint64_t random_state;

static uint64_t random_u64(void) {  // splitmix64
    uint64_t z = random_state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static size_t random_below(size_t n) { return (size_t)(random_u64() % n); }

// Numbers that break arithmetic, or nearly fit.
static uint64_t hostile_number(size_t size) {
    static const uint64_t numbers[] = {0,
                                       1,
                                       2,
                                       3,
                                       4,
                                       7,
                                       8,
                                       9,
                                       12,
                                       13,
                                       31,
                                       32,
                                       33,
                                       64,
                                       255,
                                       256,
                                       65535,
                                       65536,
                                       INT32_MAX,
                                       (uint64_t)INT32_MAX + 1,
                                       UINT32_MAX,
                                       (uint64_t)UINT32_MAX + 1,
                                       INT64_MAX - 31,
                                       INT64_MAX,
                                       (uint64_t)INT64_MAX + 1,
                                       UINT64_MAX / 4 + 1,
                                       UINT64_MAX / 8,
                                       UINT64_MAX / 8 + 1,
                                       UINT64_MAX - 7,
                                       UINT64_MAX - 1,
                                       UINT64_MAX};
    switch (random_below(4)) {
    case 0: return size - random_below(64);
    case 1: return UINT64_C(1) << random_below(64);
    default: return numbers[random_below(sizeof numbers / sizeof *numbers)];
    }
}

// Mostly in the header, where the structure is.
static size_t random_place(const file *f, size_t size) {
    size_t limit = random_below(8) != 0 ? LH_MIN(f->header, size) : size;
    return limit ? random_below(limit) : 0;
}

// Changes data (capacity twice the file) and returns the new size.
static size_t mutate(const file *f, uint8_t *data, size_t size) {
    size_t at = random_place(f, size), from = random_place(f, size);
    size_t room = size - at, n = 1 + random_below(64);
    n = LH_MIN(n, LH_MIN(room, size - from));
    uint64_t number = hostile_number(size);
    switch (random_below(8)) {
    case 0: data[at] ^= (uint8_t)(1 << random_below(8)); break;
    case 1: data[at] = (uint8_t)random_u64(); break;
    case 2: memcpy(data + at, &number, LH_MIN(room, 4)); break;
    case 3: memcpy(data + at, &number, LH_MIN(room, 8)); break;
    case 4:  // a number that is there, made slightly wrong
        memcpy(&number, data + at, LH_MIN(room, 4));
        number += random_below(9) - 4;
        memcpy(data + at, &number, LH_MIN(room, 4));
        break;
    case 5: memmove(data + at, data + from, n); break;
    case 6:  // cut out
        memmove(data + at, data + at + n, room - n);
        return size - n;
    default:  // repeat
        if (size + n > f->size * 2) break;
        memmove(data + at + n, data + at, room);
        return size + n;
    }
    return size;
}

static void run_mutations(const file *f, uint64_t seed, int64_t count) {
    uint8_t *data = malloc(f->size * 2);
    CHECK(data);
    int64_t levels[4] = {0}, tokenizers = 0;
    for (int64_t i = 0; i < count; i++) {
        random_state = seed + (uint64_t)i;  // so that file i of a seed can be made again alone
        memcpy(data, f->data, f->size);
        size_t size = f->size;
        for (size_t k = 1 + random_below(3); k > 0 && size > 0; k--) size = mutate(f, data, size);
        exercised e = exercise_copy(data, size);
        levels[e.level]++;
        tokenizers += e.tokenizer;
    }
    free(data);
    printf("{\"refused\": %" PRId64 ", \"parsed\": %" PRId64 ", \"configured\": %" PRId64 ", \"loaded\": %" PRId64
           ", \"tokenizers\": %" PRId64 "}\n",
           levels[0], levels[1], levels[2], levels[3], tokenizers);
}

// --- as it is --------------------------------------------------------------------------------------------------

static double seconds(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run_load(const file *f) {
    double start = seconds();
    lh_gguf *g = NULL;
    lh_status s = lh_gguf_parse(f->data, f->size, &g);
    double parse = seconds() - start;
    if (s == LH_OK) CHECK(lh_gguf_n_metadata(g) >= 0);
    lh_gguf_free(g);
    exercised e = exercise_copy(f->data, f->size);
    printf("{\"level\": %d, \"tokenizer\": %s, \"parse_seconds\": %.6f}\n", e.level, e.tokenizer ? "true" : "false",
           parse);
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    file f = read_file(argv[2]);
    if (strcmp(argv[1], "load") == 0) {
        run_load(&f);
    } else {
        find_sections(&f);
        CHECK(exercise_copy(f.data, f.size).level == 3);
        if (strcmp(argv[1], "truncate") == 0) run_truncations(&f);
        if (strcmp(argv[1], "mutate") == 0 && argc == 5)
            run_mutations(&f, strtoull(argv[3], NULL, 10), strtoll(argv[4], NULL, 10));
    }
    free(f.data);
    return 0;
}
