// Drives ingest/forwarder.c for test_kafka_parts.py, with a spool that is only a directory of sealed files:
//   forwarder_driver make DIR PARTITIONS FIRST COUNT [register] [rehearsal]
//   forwarder_driver run BROKER PARTITIONS DIR [rehearsal]
// `run` prints a line whenever something changes; a line on standard input wakes the forwarder, its end stops it.
#include "ingest/forwarder.h"

#include "common/log.h"
#include "common/segment.h"

#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <dirent.h>

#define EVENTS_A_MESSAGE 100

// The three calls of ingest/spool.h that the forwarder makes.
struct spool {
    const char *dir;
    uint64_t kept; // forgotten while it was the newest
};

int spool_sealed_next(struct spool *spool, uint64_t after, uint64_t *segment) {
    DIR *dir = opendir(spool->dir);
    CHECK(dir != NULL);
    uint64_t best = UINT64_MAX, number;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir))
        if (sealed_name_parse(entry->d_name, &number) && number > after && number < best)
            best = number;
    closedir(dir);
    *segment = best;
    return best == UINT64_MAX ? ERR_NOT_FOUND : 0;
}

int spool_sealed_path(const struct spool *spool, uint64_t segment, char path[PATH_SIZE]) {
    char name[SEGMENT_NAME_SIZE];
    sealed_name(segment, name);
    return path_join(path, spool->dir, name, NULL);
}

void spool_forget(struct spool *spool, uint64_t segment) {
    char path[PATH_SIZE];
    uint64_t newer;
    if (spool->kept != 0 && spool_sealed_path(spool, spool->kept, path) == 0)
        unlink(path);
    spool->kept = segment;
    if (spool_sealed_next(spool, segment, &newer) == 0 && spool_sealed_path(spool, segment, path) == 0) {
        unlink(path);
        spool->kept = 0;
    }
}

static int64_t message_make(struct message_codec *codec, const struct message_head *head, uint8_t *out) {
    static struct event events[EVENTS_A_MESSAGE];
    const uint8_t rules[RULES_HASH_SIZE] = {1};
    if (head->kind == MESSAGE_REGISTER)
        return message_encode_register(head, out);
    for (size_t i = 0; i < EVENTS_A_MESSAGE; i++)
        events[i] = (struct event){.pseudonym = i, .tenant = 1, .sent_day = head->day, .class_regime = 0x10};
    return message_encode_block(codec, head, rules, events, EVENTS_A_MESSAGE, out);
}

static void segment_make(const char *dir, struct segment_head *head) {
    static struct ledger ledger;
    static uint32_t message_len[LEDGER_PARTITIONS_MAX];
    struct message_codec *codec = NULL;
    uint8_t *messages = malloc(head->partitions * 65536u), *file = malloc(SEALED_BYTES_MAX);
    char name[SEGMENT_NAME_SIZE], path[PATH_SIZE];
    size_t used = 0;
    CHECK(messages != NULL && file != NULL && message_codec_create(&codec) == 0);
    ledger.day = ledger.closed_from = head->day;
    for (uint16_t p = 0; p < head->partitions; p++) {
        struct message_head message = {.kind = head->kind, .rehearsal = head->rehearsal, .epoch = head->epoch,
                                       .segment = head->segment, .epoch_first = head->epoch_first, .partition = p,
                                       .partitions = head->partitions, .day = head->day};
        memcpy(message.edge, head->edge, sizeof message.edge);
        int64_t len = message_make(codec, &message, messages + used);
        CHECK(len > 0);
        message_len[p] = (uint32_t)len;
        used += (size_t)len;
    }
    int64_t len = sealed_encode(head, &ledger, message_len, messages, used, file, SEALED_BYTES_MAX);
    CHECK(len > 0);
    sealed_name(head->segment, name);
    CHECK(path_join(path, dir, name, NULL) == 0 && file_replace(path, 0600, file, (size_t)len, NULL) == 0);
    message_codec_free(codec);
    free(messages);
    free(file);
}

static bool has_word(int argc, char **argv, const char *word) {
    for (int i = 2; i < argc; i++)
        if (strcmp(argv[i], word) == 0)
            return true;
    return false;
}

static int make(int argc, char **argv) {
    uint64_t first = strtoull(argv[4], NULL, 10), count = strtoull(argv[5], NULL, 10);
    struct clock clock = clock_real();
    for (uint64_t i = first; i < first + count; i++) {
        struct segment_head head = {.kind = MESSAGE_BLOCK, .rehearsal = has_word(argc, argv, "rehearsal"), .edge = "edge",
                                    .epoch = 7, .segment = i, .epoch_first = 1,
                                    .partitions = (uint16_t)strtoul(argv[3], NULL, 10), .day = clock_today(&clock)};
        if (i == first && has_word(argc, argv, "register"))
            head.kind = MESSAGE_REGISTER;
        segment_make(argv[2], &head);
    }
    return 0;
}

static bool show(struct forwarder *forwarder, char last[1024]) {
    char line[1024];
    struct err err = {0};
    bool failed = forwarder_failed(forwarder, &err);
    snprintf(line, sizeof line, "registered=%d backlog=%lu failed=%d %s", forwarder_registered(forwarder),
             (unsigned long)forwarder_backlog(forwarder), failed, err.text);
    if (strcmp(line, last) != 0)
        puts(line);
    memcpy(last, line, sizeof line);
    return failed;
}

static void tell_failed(void *arg) {
    CHECK(arg == NULL);
    puts("told of the failure");
}

static int run(int argc, char **argv) {
    struct config config = {.kafka_brokers = argv[2], .kafka_partitions = strtoul(argv[3], NULL, 10),
                            .kafka_properties = "", .kafka_topic_events = "openveil.events", .ingest_edge_id = "edge",
                            .rehearsal = has_word(argc, argv, "rehearsal")};
    struct spool spool = {.dir = argv[4]};
    struct forwarder *forwarder = NULL;
    struct err err;
    char last[1024] = "", input[64];
    CHECK(forwarder_start(&forwarder, &config, &spool, tell_failed, NULL, &err) == 0);
    for (;;) {
        struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&in, 1, 20) > 0) {
            if (read(STDIN_FILENO, input, sizeof input) <= 0)
                break;
            forwarder_wake(forwarder);
        }
        show(forwarder, last);
    }
    forwarder_stop(forwarder, 2000);
    puts("stopped");
    return 0;
}

int main(int argc, char **argv) {
    log_open("forwarder_driver", LOG_INFO);
    setlinebuf(stdout);
    CHECK(argc >= 5);
    return strcmp(argv[1], "make") == 0 ? make(argc, argv) : run(argc, argv);
}
