// Preloaded into a program that a soak kills: SIGKILL at the KILL_AT-th change to a file, counted from 1 over all threads,
// KILL_HOW = before | after | torn (a write stops half way). The file KILL_COUNT (8 bytes) says how many there were.
// Writes to what is no regular file, and to standard output and error, do not count.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t kill_at;
static const char *kill_how = "before";
static _Atomic uint64_t *count;

__attribute__((constructor)) static void prepare(void) {
    static _Atomic uint64_t nowhere;
    const char *at = getenv("KILL_AT"), *how = getenv("KILL_HOW"), *path = getenv("KILL_COUNT");
    kill_at = at == NULL ? 0 : strtoull(at, NULL, 10);
    if (how != NULL)
        kill_how = how;
    count = &nowhere;
    int fd = path == NULL ? -1 : open(path, O_RDWR);
    void *shared = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared != MAP_FAILED)
        count = shared;
    if (fd >= 0)
        close(fd);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

// True where this is the one; then the caller dies at the right moment.
static bool is_the_one(void) {
    bool one = atomic_fetch_add(count, 1) + 1 == kill_at;
    if (one && strcmp(kill_how, "before") == 0)
        die();
    return one;
}

static bool is_counted(int fd) {
    struct stat st;
    return fd > STDERR_FILENO && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

#define REAL(name) static __typeof__(&name) real; if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static size_t torn(bool one, size_t len) {
    return one && strcmp(kill_how, "torn") == 0 ? len / 2 : len;
}

ssize_t write(int fd, const void *data, size_t len) {
    REAL(write);
    bool one = is_counted(fd) && is_the_one();
    ssize_t result = real(fd, data, torn(one, len));
    if (one)
        die();
    return result;
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset) {
    REAL(pwrite64);
    bool one = is_counted(fd) && is_the_one();
    ssize_t result = real(fd, data, torn(one, len), offset);
    if (one)
        die();
    return result;
}

#define COUNTED_CALL(name, parameters, arguments, counted) \
    int name parameters {                                  \
        REAL(name);                                        \
        bool one = (counted) && is_the_one();              \
        int result = real arguments;                       \
        if (one)                                           \
            die();                                         \
        return result;                                     \
    }

COUNTED_CALL(fsync, (int fd), (fd), true)
COUNTED_CALL(fdatasync, (int fd), (fd), true)
COUNTED_CALL(ftruncate64, (int fd, off64_t len), (fd, len), true)
COUNTED_CALL(fallocate64, (int fd, int mode, off64_t offset, off64_t len), (fd, mode, offset, len), true)
COUNTED_CALL(rename, (const char *from, const char *to), (from, to), true)
COUNTED_CALL(link, (const char *from, const char *to), (from, to), true)
COUNTED_CALL(unlink, (const char *path), (path), true)
COUNTED_CALL(mkdir, (const char *path, mode_t mode), (path, mode), true)
