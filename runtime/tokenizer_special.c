// Control and user-defined tokens that are written in a text.
#include <stdlib.h>
#include <string.h>

#include "tokenizer_impl.h"

static int compare_special(const void *a, const void *b) {
    const struct lh_special *x = a, *y = b;
    int order = memcmp(x->text, y->text, LH_MIN(x->len, y->len));
    if (order) return order;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

lh_status lh_special_build(lh_special_set *set, const struct lh_special *all, int32_t n, const bool *wanted) {
    set->items = lh_alloc((size_t)n, sizeof *set->items);
    if (!set->items) return LH_ERR_MEMORY;
    for (int32_t i = 0; i < n; i++)
        if (wanted[i]) set->items[set->n++] = all[i];
    qsort(set->items, (size_t)set->n, sizeof *set->items, compare_special);
    for (int32_t i = 0; i < set->n; i++) set->first[(uint8_t)set->items[i].text[0] + 1]++;
    for (int b = 0; b < 256; b++) set->first[b + 1] += set->first[b];
    return LH_OK;
}

// The first of items [low, high), which agree up to `depth`, whose byte there is not below `byte`.
static int32_t lower_bound(const lh_special_set *set, int32_t low, int32_t high, size_t depth, int byte) {
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if ((uint8_t)set->items[middle].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// The longest item that text[0, len) begins with; NULL if none.
static const struct lh_special *longest(const lh_special_set *set, const char *text, size_t len) {
    int32_t low = set->first[(uint8_t)text[0]], high = set->first[(uint8_t)text[0] + 1];
    const struct lh_special *found = NULL;
    // Items [low, high) agree with the text in their first `depth` bytes, the shortest of them first.
    for (size_t depth = 1; low < high; depth++) {
        if (set->items[low].len == depth) found = &set->items[low];
        while (low < high && set->items[low].len == depth) low++;  // one text twice: the lower id counts
        if (depth == len) break;
        uint8_t byte = (uint8_t)text[depth];
        low = lower_bound(set, low, high, depth, byte);
        high = lower_bound(set, low, high, depth, byte + 1);
    }
    return found;
}

static int compare_match(const void *a, const void *b) {
    const lh_special_match *x = a, *y = b;
    return x->start < y->start ? -1 : 1;
}

static lh_status offer(lh_heap *h, const struct lh_special *s, size_t start) {
    // The key orders by length, the longest first, then from left to right.
    uint64_t key = (uint64_t)(UINT32_MAX - s->len) << 32 | (uint32_t)start;
    return lh_heap_push(h, (struct lh_heap_item){key, s->len, s->id});
}

static lh_status find(const lh_special_set *set, const char *text, size_t len, lh_heap *h, bool **taken,
                      lh_special_match **matches, size_t *n) {
    for (size_t i = 0; i < len; i++) {
        if (set->first[(uint8_t)text[i]] == set->first[(uint8_t)text[i] + 1]) continue;
        const struct lh_special *s = longest(set, text + i, len - i);
        if (s) LH_TRY(offer(h, s, i));
    }
    if (h->n == 0) return LH_OK;
    *taken = lh_alloc(len, sizeof **taken);
    *matches = lh_alloc(h->n, sizeof **matches);
    if (!*taken || !*matches) return LH_ERR_MEMORY;
    while (h->n > 0) {
        struct lh_heap_item item = lh_heap_pop(h);
        size_t start = (uint32_t)item.key, room = 0;
        while (room < item.len && !(*taken)[start + room]) room++;
        if (room == item.len) {
            memset(*taken + start, true, item.len);
            (*matches)[(*n)++] = (lh_special_match){start, item.len, item.id};
        } else if (room > 0) {
            // A longer token took the end; a shorter one may fit before it, but has to wait for its turn.
            const struct lh_special *s = longest(set, text + start, room);
            if (s) LH_TRY(offer(h, s, start));
        }
    }
    qsort(*matches, *n, sizeof **matches, compare_match);
    return LH_OK;
}

lh_status lh_special_find(const lh_special_set *set, const char *text, size_t len, lh_special_match **matches,
                          size_t *n) {
    *matches = NULL;
    *n = 0;
    if (set->n == 0) return LH_OK;
    lh_heap h = {0};
    bool *taken = NULL;
    lh_status status = find(set, text, len, &h, &taken, matches, n);
    lh_free(h.items);
    lh_free(taken);
    if (status != LH_OK) {
        lh_free(*matches);
        *matches = NULL;
    }
    return status;
}
