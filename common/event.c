#include "common/event.h"

#include <string.h>

const char *const message_class_names[4] = {NULL, "transactional", "requested", "prospecting"};

int message_class_parse(const char *name) {
    for (int i = CLASS_TRANSACTIONAL; i <= CLASS_PROSPECTING; i++)
        if (strcmp(name, message_class_names[i]) == 0)
            return i;
    return -1;
}
