#include "aggregator/command_send.h"

#include "common/files.h"
#include "common/kafka.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

enum { BROKER_MS = 15000, TAKEN_MS = 10000, LOOK_MS = 50 };

struct command_sender {
    const struct config *config;
    char name[EDGE_ID_MAX + 1]; // of the run
    uint32_t n; // messages sent
    char inbox[PATH_SIZE];
    rd_kafka_t *rk; // NULL on a single node
    uint32_t acknowledged;
    rd_kafka_resp_err_t refused; // why a message was not taken
};

// ---- single node -----------------------------------------------------------------------------------------------------

// What root puts there, the aggregator's own user must be able to read and remove.
static int own_as(const char *path, const char *like, struct err *err) {
    struct stat st;
    if (geteuid() != 0)
        return 0;
    if (stat(like, &st) != 0 || chown(path, st.st_uid, st.st_gid) != 0)
        return err_errno(err, ERR_IO, "cannot give %s to the owner of %s", path, like);
    return 0;
}

static int inbox_open(struct command_sender *sender, struct err *err) {
    const char *state_dir = sender->config->aggregator_state_dir;
    int rc = dir_mark(state_dir, sender->config->rehearsal, err);
    if (rc != 0 || (rc = path_join(sender->inbox, state_dir, "inbox", err)) != 0)
        return rc;
    if ((rc = dir_create(sender->inbox, 0700, err)) != 0)
        return rc;
    return own_as(sender->inbox, state_dir, err);
}

static int part_path(const struct command_sender *sender, uint32_t part, char path[PATH_SIZE], struct err *err) {
    char name[EDGE_ID_MAX + 16];
    snprintf(name, sizeof name, "%s-%08x.msg", sender->name, part);
    return path_join(path, sender->inbox, name, err);
}

static int inbox_send(struct command_sender *sender, const uint8_t *message, size_t len, struct err *err) {
    char path[PATH_SIZE];
    int rc = part_path(sender, sender->n, path, err);
    if (rc != 0 || (rc = file_create(path, 0600, message, len, err)) != 0)
        return rc;
    rc = own_as(path, sender->config->aggregator_state_dir, err);
    if (rc != 0)
        unlink(path);
    return rc;
}

// Whether an aggregator holds the journal's lock. Asked of the kernel's list, because trying the lock could keep one from
// starting. False where the list does not tell (another container's processes are not in it).
static bool aggregator_runs(const struct command_sender *sender) {
    char path[PATH_SIZE], wanted[64], line[256];
    struct stat st;
    bool found = false;
    int n = snprintf(path, sizeof path, "%s/journal/lock", sender->config->aggregator_state_dir);
    if (n < 0 || (size_t)n >= sizeof path || stat(path, &st) != 0)
        return false;
    snprintf(wanted, sizeof wanted, " %02x:%02x:%llu ", major(st.st_dev), minor(st.st_dev), (unsigned long long)st.st_ino);
    FILE *locks = fopen("/proc/locks", "re");
    while (locks != NULL && !found && fgets(line, sizeof line, locks) != NULL)
        found = strstr(line, "FLOCK") != NULL && strstr(line, "->") == NULL && strstr(line, wanted) != NULL;
    if (locks != NULL)
        fclose(locks);
    return found;
}

static int inbox_finish(const struct command_sender *sender, bool *applied, struct err *err) {
    int64_t until = clock_monotonic_ms() + TAKEN_MS;
    uint32_t part = 0;
    if (!aggregator_runs(sender))
        return 0;
    while (part < sender->n) {
        char path[PATH_SIZE];
        int rc = part_path(sender, part, path, err);
        if (rc != 0)
            return rc;
        if (access(path, F_OK) != 0) {
            part++;
            continue;
        }
        if (clock_monotonic_ms() >= until)
            return 0;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
    *applied = true;
    return 0;
}

// ---- Kafka -----------------------------------------------------------------------------------------------------------

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
    struct command_sender *sender = opaque;
    (void)rk;
    if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
        sender->acknowledged++;
    else
        sender->refused = message->err;
}

static int kafka_open(struct command_sender *sender, struct err *err) {
    static const char *const settings[][2] = {
        {"enable.idempotence", "true"}, {"acks", "all"}, {"compression.codec", "none"}, {"message.max.bytes", "2162688"}};
    char text[256];
    rd_kafka_conf_t *conf = NULL;
    int rc = kafka_conf(&conf, sender->config, "openveil-command", err);
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(settings); i++)
        rc = kafka_conf_set(conf, settings[i][0], settings[i][1], err);
    if (rc != 0) {
        if (conf != NULL)
            rd_kafka_conf_destroy(conf);
        return rc;
    }
    rd_kafka_conf_set_opaque(conf, sender);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    sender->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    if (sender->rk == NULL) {
        rd_kafka_conf_destroy(conf);
        return err_set(err, ERR_INVALID, "cannot start a Kafka producer: %.256s", text);
    }
    if ((rc = kafka_topic_ensure(sender->rk, sender->config, KAFKA_EVENTS, BROKER_MS, err)) != 0)
        return rc;
    return kafka_mode_check(sender->rk, sender->config, BROKER_MS, err);
}

static int kafka_send(struct command_sender *sender, uint32_t partition, const uint8_t *message, size_t len, struct err *err) {
    rd_kafka_resp_err_t code;
    for (;;) {
        code = rd_kafka_producev(sender->rk, RD_KAFKA_V_TOPIC(sender->config->kafka_topic_events),
                                 RD_KAFKA_V_PARTITION((int32_t)partition), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                 RD_KAFKA_V_VALUE((void *)(uintptr_t)message, len),
                                 RD_KAFKA_V_TIMESTAMP(kafka_timestamp_ms()), RD_KAFKA_V_END);
        if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL || sender->refused != RD_KAFKA_RESP_ERR_NO_ERROR)
            break;
        rd_kafka_poll(sender->rk, 100);
    }
    rd_kafka_poll(sender->rk, 0);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        return err_set(err, ERR_IO, "cannot send to the topic %.200s: %s", sender->config->kafka_topic_events,
                       rd_kafka_err2str(code));
    return 0;
}

static int kafka_finish(struct command_sender *sender, struct err *err) {
    // Ends: a message that no broker takes is given up after message.timeout.ms and reported to on_delivery.
    while (sender->acknowledged < sender->n && sender->refused == RD_KAFKA_RESP_ERR_NO_ERROR)
        rd_kafka_poll(sender->rk, 500);
    if (sender->refused == RD_KAFKA_RESP_ERR_NO_ERROR)
        return 0;
    return err_set(err, ERR_UNREACHABLE, "%u of %u messages were acknowledged, then: %s; the same command again is harmless",
                   sender->acknowledged, sender->n, rd_kafka_err2str(sender->refused));
}

// ---- both ------------------------------------------------------------------------------------------------------------

int command_sender_open(struct command_sender **out, const struct config *config, const char *name, struct err *err) {
    CHECK(strlen(name) <= EDGE_ID_MAX);
    struct command_sender *sender = calloc(1, sizeof *sender);
    if (sender == NULL)
        return err_set(err, ERR_NOMEM, "no memory");
    sender->config = config;
    memcpy(sender->name, name, strlen(name) + 1);
    int rc = config->kafka_brokers[0] != '\0' ? kafka_open(sender, err) : inbox_open(sender, err);
    if (rc != 0)
        command_sender_free(sender);
    else
        *out = sender;
    return rc;
}

int command_sender_send(struct command_sender *sender, uint32_t partition, const uint8_t *message, size_t len,
                       struct err *err) {
    CHECK(partition < sender->config->kafka_partitions && len > 0);
    int rc = sender->rk != NULL ? kafka_send(sender, partition, message, len, err) : inbox_send(sender, message, len, err);
    if (rc == 0)
        sender->n++;
    return rc;
}

int command_sender_finish(struct command_sender *sender, bool *applied, struct err *err) {
    *applied = false;
    return sender->rk != NULL ? kafka_finish(sender, err) : inbox_finish(sender, applied, err);
}

void command_sender_free(struct command_sender *sender) {
    if (sender == NULL)
        return;
    if (sender->rk != NULL)
        rd_kafka_destroy(sender->rk);
    free(sender);
}
