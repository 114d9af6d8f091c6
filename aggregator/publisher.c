#include "aggregator/publisher.h"

#include "common/log.h"

#include <string.h>
#include <uv.h>

#define LINES_A_RUN 64

struct line {
    struct line *next;
    struct release_record release;
    uint8_t bytes[];
};

struct publisher {
    uv_loop_t *loop;
    const char *dir;
    struct line *first, **end; // waiting
    size_t bytes;
    uv_work_t work;
    bool running;
    struct line *taken; // by the run under way, whose thread alone uses these until it has settled
    size_t bytes_done;
    int rc;
    struct err err;
    bool failing; // what the last settled run came to
    struct err problem;
};

int publisher_create(struct publisher **out, struct uv_loop_s *loop, const char *dir) {
    struct publisher *publisher = calloc(1, sizeof *publisher);
    if (publisher == NULL)
        return ERR_NOMEM;
    publisher->loop = loop;
    publisher->dir = dir;
    publisher->end = &publisher->first;
    publisher->work.data = publisher;
    *out = publisher;
    return 0;
}

static void lines_free(struct line *line) {
    while (line != NULL) {
        struct line *next = line->next;
        free(line);
        line = next;
    }
}

void publisher_free(struct publisher *publisher) {
    if (publisher == NULL)
        return;
    CHECK(!publisher->running);
    lines_free(publisher->first);
    free(publisher);
}

int publisher_add(struct publisher *publisher, const struct release_record *release) {
    struct line *line = malloc(sizeof *line + release->line_len);
    if (line == NULL)
        return ERR_NOMEM;
    line->next = NULL;
    line->release = *release;
    memcpy(line->bytes, release->line, release->line_len);
    line->release.line = line->bytes;
    *publisher->end = line;
    publisher->end = &line->next;
    publisher->bytes += release->line_len;
    return 0;
}

void publisher_move(struct publisher *publisher, struct publisher *from) {
    CHECK(!from->running);
    if (from->first == NULL)
        return;
    *publisher->end = from->first;
    publisher->end = from->end;
    publisher->bytes += from->bytes;
    from->first = NULL;
    from->end = &from->first;
    from->bytes = 0;
}

size_t publisher_bytes(const struct publisher *publisher) {
    return publisher->bytes;
}

bool publisher_failing(const struct publisher *publisher, struct err *err) {
    if (publisher->failing)
        *err = publisher->problem;
    return publisher->failing;
}

// On the worker's thread: the taken lines, until one fails.
static void lines_publish(struct publisher *publisher) {
    publisher->rc = 0;
    publisher->bytes_done = 0;
    while (publisher->taken != NULL) {
        struct line *line = publisher->taken;
        struct err err;
        int rc = release_publish(publisher->dir, &line->release, &err);
        if (rc != 0) {
            publisher->err = err;
            if (rc != ERR_REFUSED) {
                publisher->rc = rc;
                return;
            }
            log_error("%s", err.text);
        }
        publisher->bytes_done += line->release.line_len;
        publisher->taken = line->next;
        free(line);
    }
}

static void run_on_worker(uv_work_t *work) {
    lines_publish(work->data);
}

// What was taken and not done goes back to the front.
static void run_settle(struct publisher *publisher) {
    CHECK(publisher->bytes >= publisher->bytes_done);
    publisher->bytes -= publisher->bytes_done;
    if (publisher->taken != NULL) {
        struct line **last = &publisher->taken;
        while (*last != NULL)
            last = &(*last)->next;
        *last = publisher->first;
        if (publisher->first == NULL)
            publisher->end = last;
        publisher->first = publisher->taken;
        publisher->taken = NULL;
    }
    if (publisher->rc != 0 && !publisher->failing)
        log_error("a released line waits for its file: %s", publisher->err.text);
    publisher->failing = publisher->rc != 0;
    publisher->problem = publisher->err;
}

static void run_after(uv_work_t *work, int status) {
    struct publisher *publisher = work->data;
    CHECK(status == 0 || status == UV_ECANCELED);
    publisher->running = false;
    run_settle(publisher);
    if (!publisher->failing)
        publisher_run(publisher);
}

static void lines_take(struct publisher *publisher, size_t n) {
    struct line **last = &publisher->first;
    while (*last != NULL && n-- > 0)
        last = &(*last)->next;
    publisher->taken = publisher->first;
    publisher->first = *last;
    *last = NULL;
    if (publisher->first == NULL)
        publisher->end = &publisher->first;
}

void publisher_run(struct publisher *publisher) {
    if (publisher->running || publisher->first == NULL)
        return;
    lines_take(publisher, LINES_A_RUN);
    publisher->rc = 0;
    publisher->bytes_done = 0;
    if (uv_queue_work(publisher->loop, &publisher->work, run_on_worker, run_after) == 0) {
        publisher->running = true;
        return;
    }
    publisher->rc = ERR_NOMEM;
    err_set(&publisher->err, ERR_NOMEM, "the worker threads take no work");
    run_settle(publisher);
}

void publisher_stop(struct publisher *publisher) {
    if (publisher->running || publisher->first == NULL)
        return;
    lines_take(publisher, SIZE_MAX);
    lines_publish(publisher);
    run_settle(publisher);
}
