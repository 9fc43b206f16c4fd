// Splits texts as a pre-tokenizer does, for tests/test_tokenizer.py.
//
//     pretokenize NAME < texts > pieces
//
// Both are sequences of a 32-bit length and bytes; an empty piece ends the pieces of a text.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer_impl.h"

static lh_status print(void *arg, const char *word, size_t len) {
    (void)arg;
    uint32_t n = (uint32_t)len;
    return fwrite(&n, sizeof n, 1, stdout) == 1 && fwrite(word, 1, len, stdout) == len ? LH_OK : LH_ERR_IO;
}

int main(int argc, char **argv) {
    const lh_pretokenizer *p = argc == 2 ? lh_pretokenizer_find(argv[1], strlen(argv[1])) : NULL;
    if (!p) {
        char names[1000];
        lh_pretokenizer_names(names, sizeof names);
        fprintf(stderr, "pretokenize needs one of %s\n", names);
        return 2;
    }
    for (uint32_t len; fread(&len, sizeof len, 1, stdin) == 1;) {
        // Allocated to the byte, so that a sanitizer sees a read past the end.
        char *text = malloc(len ? len : 1);
        if (!text || fread(text, 1, len, stdin) != len || lh_pretokenize(p, text, len, print, NULL) != LH_OK) return 1;
        free(text);
        if (print(NULL, "", 0) != LH_OK) return 1;
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
