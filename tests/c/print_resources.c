// What resources.c makes of control groups, for test_resources.py.
//
//   print_resources groups ROOT MEMBERSHIP    memory, memory_left and processors; - where there is no limit
//   print_resources promise BYTES             what lh_memory_available tells before and after so many are allocated
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base.h"
#include "resources.h"

static void print(uint64_t n) {
    if (n == UINT64_MAX) puts("-");
    else printf("%" PRIu64 "\n", n);
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "groups") == 0) {
        lh_limits limits = lh_limits_in(argv[2], argv[3]);
        print(limits.memory);
        print(limits.memory_left);
        print(limits.processors);
        return 0;
    }
    if (argc != 3) return 2;
    print(lh_memory_available());
    void *p = lh_alloc(strtoull(argv[2], NULL, 10), 1);
    if (!p) return 3;
    print(lh_memory_available());
    lh_free(p);
    return 0;
}
