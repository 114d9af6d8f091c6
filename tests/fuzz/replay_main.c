// Runs a target on files, or on all files of directories: each whole, and cut short at up to CUTS_MAX places, in memory
// of exactly its size so that AddressSanitizer sees a read beyond it.
#include "tests/fuzz/fuzz.h"

#include "common/files.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_BYTES_MAX (1u << 20)
#define CUTS_MAX 64

static void run(const char *data, size_t len) {
    uint8_t *copy = malloc(len + (len == 0));
    CHECK(copy != NULL);
    memcpy(copy, data, len);
    CHECK(LLVMFuzzerTestOneInput(copy, len) == 0);
    free(copy);
}

static void replay_file(const char *path) {
    struct err err;
    char *data;
    size_t len;
    if (file_read(path, INPUT_BYTES_MAX, &data, &len, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    // Named before it runs, so that a crash tells which input it was.
    printf("%s\n", path);
    fflush(stdout);
    size_t step = len / CUTS_MAX + 1;
    for (size_t cut = 0; cut < len; cut += step)
        run(data, cut);
    run(data, len);
    free(data);
}

static size_t replay_dir(const char *path) {
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);
    size_t n_files = 0;
    CHECK(n >= 0);
    for (int i = 0; i < n; i++) {
        char file[PATH_SIZE];
        CHECK(path_join(file, path, names[i]->d_name, NULL) == 0);
        if (names[i]->d_name[0] != '.') {
            replay_file(file);
            n_files++;
        }
        free(names[i]);
    }
    free(names);
    return n_files;
}

int main(int argc, char **argv) {
    size_t n_files = 0;
    for (int i = 1; i < argc; i++) {
        struct stat st;
        if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode)) {
            n_files += replay_dir(argv[i]);
        } else {
            replay_file(argv[i]);
            n_files++;
        }
    }
    printf("%zu inputs\n", n_files);
    if (n_files > 0)
        return 0;
    fprintf(stderr, "usage: %s FILE|DIRECTORY…: there is no input\n", argv[0]);
    return 64;
}
