#include "common/consent_layouts.h"

#include <stdlib.h>

int layouts_add(struct layouts *layouts, const struct layout *layout) {
    if (layouts->n == layouts->room) {
        size_t room = layouts->room == 0 ? 64 : 2 * layouts->room;
        struct layout *more = realloc(layouts->at, room * sizeof *more);
        if (more == NULL)
            return ERR_NOMEM;
        layouts->at = more;
        layouts->room = room;
    }
    layouts->at[layouts->n++] = *layout;
    return 0;
}

static int layout_compare(const void *left, const void *right) {
    const struct layout *a = left, *b = right;
    if (a->partition != b->partition)
        return a->partition < b->partition ? -1 : 1;
    return a->tenant == b->tenant ? 0 : a->tenant < b->tenant ? -1 : 1;
}

void layouts_sort(struct layouts *layouts) {
    if (layouts->n > 0)
        qsort(layouts->at, layouts->n, sizeof *layouts->at, layout_compare);
}

bool layouts_kept(const struct layouts *was, const struct layouts *now) {
    size_t at = 0;
    for (size_t i = 0; i < was->n; i++) {
        const struct layout *layout = &was->at[i];
        while (at < now->n && layout_compare(&now->at[at], layout) < 0)
            at++;
        if (at == now->n || layout_compare(&now->at[at], layout) != 0 || now->at[at].bits != layout->bits)
            return false;
    }
    return true;
}
