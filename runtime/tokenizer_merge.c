// The loop that SentencePiece BPE and byte-level BPE have in common, and the heap it runs on.
#include <string.h>

#include "tokenizer_impl.h"

lh_status lh_reserve(void *items, size_t *cap, size_t need, size_t used, size_t size) {
    if (need <= *cap) return LH_OK;
    size_t grown = LH_MAX(need, LH_MAX(*cap * 2, (size_t)64));
    void *old, *p = lh_alloc(grown, size);
    if (!p) return LH_ERR_MEMORY;
    // items is the address of a pointer of some type.
    memcpy(&old, items, sizeof old);
    if (used) memcpy(p, old, used * size);
    lh_free(old);
    memcpy(items, &p, sizeof p);
    *cap = grown;
    return LH_OK;
}

// Four children to a node: they lie side by side, and half as many levels miss the cache.
lh_status lh_heap_push(lh_heap *h, struct lh_heap_item item) {
    LH_TRY(lh_reserve(&h->items, &h->cap, h->n + 1, h->n, sizeof *h->items));
    size_t i = h->n++;
    for (size_t parent; i > 0 && h->items[parent = (i - 1) / 4].key > item.key; i = parent)
        h->items[i] = h->items[parent];
    h->items[i] = item;
    return LH_OK;
}

struct lh_heap_item lh_heap_pop(lh_heap *h) {
    struct lh_heap_item top = h->items[0], last = h->items[--h->n];
    size_t i = 0;
    for (size_t child; (child = 4 * i + 1) < h->n; i = child) {
        size_t end = LH_MIN(child + 4, h->n);
        for (size_t c = child + 1; c < end; c++)
            if (h->items[c].key < h->items[child].key) child = c;
        if (h->items[child].key >= last.key) break;
        h->items[i] = h->items[child];
    }
    h->items[i] = last;
    return top;
}

lh_status lh_symbols_add(lh_encoder *e, size_t start, size_t len, int32_t id) {
    LH_TRY(lh_reserve(&e->symbols, &e->cap_symbols, e->n_symbols + 1, e->n_symbols, sizeof *e->symbols));
    int32_t i = (int32_t)e->n_symbols++;
    if (i > 0) e->symbols[i - 1].next = i;
    e->symbols[i] = (lh_symbol){.start = (uint32_t)start, .len = (uint32_t)len, .prev = i - 1, .next = -1, .id = id};
    return LH_OK;
}

static lh_status offer(lh_encoder *e, const char *text, lh_merge_rule rule, int32_t left) {
    if (left < 0 || e->symbols[left].next < 0) return LH_OK;
    const lh_symbol *l = &e->symbols[left], *r = &e->symbols[l->next];
    uint32_t rank;
    int32_t merged;
    if (!rule(e->t, text, l, r, &rank, &merged)) return LH_OK;
    // The key orders by rank, then from left to right.
    uint64_t key = (uint64_t)rank << 32 | (uint32_t)left;
    return lh_heap_push(&e->heap, (struct lh_heap_item){key, l->len + r->len, merged});
}

lh_status lh_merge_symbols(lh_encoder *e, const char *text, lh_merge_rule rule) {
    e->heap.n = 0;
    for (size_t i = 0; i < e->n_symbols; i++) LH_TRY(offer(e, text, rule, (int32_t)i));
    while (e->heap.n > 0) {
        struct lh_heap_item best = lh_heap_pop(&e->heap);
        int32_t left = (int32_t)(uint32_t)best.key;
        lh_symbol *l = &e->symbols[left];
        // Symbols only grow, so a pair that is still a pair has the length it was offered with.
        if (l->len == 0 || l->next < 0 || l->len + e->symbols[l->next].len != best.len) continue;
        lh_symbol *r = &e->symbols[l->next];
        l->len = best.len;
        l->id = best.id;
        l->next = r->next;
        r->len = 0;
        if (l->next >= 0) e->symbols[l->next].prev = left;
        LH_TRY(offer(e, text, rule, l->prev));
        LH_TRY(offer(e, text, rule, left));
    }
    return LH_OK;
}
