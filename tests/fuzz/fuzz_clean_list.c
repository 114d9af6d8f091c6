// Lists for `openveil clean`, of contact ids and of pseudonyms: every accepted line comes back with its first field and
// one bit, in order; a refused one is named by its number.
#include "tests/fuzz/fuzz.h"

#include "aggregator/clean_list.h"

#include <string.h>

#define LINE_MAX_BYTES 4096

// How many lines were taken before one was refused, or all.
static size_t lines_add(struct clean_list *list, const char *text, size_t len) {
    size_t n = 0;
    while (len > 0) {
        const char *lf = memchr(text, '\n', len);
        size_t line = lf == NULL ? len : (size_t)(lf - text);
        char named[32];
        struct err err;
        snprintf(named, sizeof named, "line %zu: ", n + 1);
        if (line > LINE_MAX_BYTES)
            return n;
        if (clean_list_add(list, text, line, &err) != 0) {
            CHECK(strncmp(err.text, named, strlen(named)) == 0);
            return n;
        }
        n++;
        text += line + (lf != NULL);
        len -= line + (lf != NULL);
    }
    return n;
}

static void check_written(const char *written, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t field = strcspn(text, "\t\n");
        CHECK(strncmp(written, text, field) == 0 && written[field] == '\t' && written[field + 2] == '\n');
        CHECK(written[field + 1] == '0');
        written += field + 3;
        text += strcspn(text, "\n");
        text += *text == '\n';
    }
    CHECK(*written == '\0');
}

static int write_line(void *arg, const char *field, size_t len, bool inactive, struct err *err) {
    (void)err;
    return fprintf(arg, "%.*s\t%d\n", (int)len, field, inactive) > 0 ? 0 : ERR_IO;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = strndup((const char *)data, size);
    struct hmac_key key;
    CHECK(text != NULL);
    hmac_key_init(&key, "key", 3);
    for (int pseudonyms = 0; pseudonyms < 2; pseudonyms++) {
        struct clean_list *list;
        struct err err;
        char *written = NULL;
        size_t written_len = 0;
        CHECK(clean_list_create(&list, pseudonyms ? NULL : &key, 7) == 0);
        size_t n = lines_add(list, text, strlen(text));
        CHECK(clean_list_count(list) == n && !clean_list_share_above(list, 0));
        FILE *out = open_memstream(&written, &written_len);
        CHECK(out != NULL && clean_list_each(list, write_line, out, &err) == 0 && fclose(out) == 0);
        check_written(written, text, n);
        free(written);
        clean_list_free(list);
    }
    free(text);
    return 0;
}
