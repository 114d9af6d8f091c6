// A real redis-server of a test's own: on a free loopback port, in a directory of its own, gone when the test ends.
#ifndef OPENVEIL_TESTS_REDIS_SERVER_H
#define OPENVEIL_TESTS_REDIS_SERVER_H

#include "common/check.h"

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct redis_server {
    pid_t pid;
    uint16_t port; // 0: a free one is chosen at the first start, and kept
    char dir[64];  // made at the first start, and kept until redis_server_remove
    const char *password; // NULL: none
};

// A loopback port that nobody listened on a moment ago.
static inline uint16_t free_port(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    close(fd);
    return ntohs(address.sin_port);
}

// A blocking connection for the test's own commands, or NULL.
static inline redisContext *redis_server_connect(const struct redis_server *server) {
    struct timeval timeout = {.tv_sec = 5};
    redisContext *redis = redisConnectWithTimeout("127.0.0.1", server->port, timeout);
    if (redis != NULL && redis->err != 0) {
        redisFree(redis);
        return NULL;
    }
    if (redis != NULL && server->password != NULL)
        freeReplyObject(redisCommand(redis, "AUTH %s", server->password));
    return redis;
}

static inline bool redis_server_answers(const struct redis_server *server) {
    redisContext *redis = redis_server_connect(server);
    if (redis == NULL)
        return false;
    redisReply *reply = redisCommand(redis, "PING");
    bool answers = reply != NULL && reply->type == REDIS_REPLY_STATUS;
    if (reply != NULL)
        freeReplyObject(reply);
    redisFree(redis);
    return answers;
}

// Starts it, again with the data that SAVE left, and waits until it answers.
static inline void redis_server_start(struct redis_server *server) {
    CHECK(server->pid == 0);
    if (server->dir[0] == '\0') {
        strcpy(server->dir, "/tmp/openveil-redis-XXXXXX");
        CHECK(mkdtemp(server->dir) != NULL);
    }
    if (server->port == 0)
        server->port = free_port();
    char port[8];
    snprintf(port, sizeof port, "%u", server->port);
    pid_t parent = getpid();
    server->pid = fork();
    CHECK(server->pid >= 0);
    if (server->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        execlp("redis-server", "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir",
               server->dir, "--logfile", "redis.log", "--requirepass",
               server->password == NULL ? "" : server->password, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 1000 && !redis_server_answers(server); i++) {
        CHECK(waitpid(server->pid, NULL, WNOHANG) == 0);
        usleep(10000);
    }
    CHECK(redis_server_answers(server));
}

static inline void redis_server_kill(struct redis_server *server) {
    if (server->pid == 0)
        return;
    CHECK(kill(server->pid, SIGKILL) == 0);
    CHECK(waitpid(server->pid, NULL, 0) == server->pid);
    server->pid = 0;
}

// Kills it and removes its directory.
static inline void redis_server_remove(struct redis_server *server) {
    char path[128];
    redis_server_kill(server);
    const char *const files[] = {"redis.log", "dump.rdb"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", server->dir, files[i]);
        unlink(path);
    }
    rmdir(server->dir);
    *server = (struct redis_server){0};
}

#endif
