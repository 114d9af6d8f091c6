// Sends blocks to the events topic as an edge does: bench-blocks CONFIG TENANT CONTACTS REPEATS SEGMENT EVENTS CLASS
// registers an edge and sends an open of today of each of contact-0, contact-1 …, so many times over, of mail of a class, up
// to EVENTS in a block, in segments from SEGMENT on, of which the registration has the first.
#include "aggregator/command_send.h"
#include "common/clock.h"
#include "common/contact_key.h"
#include "common/message.h"
#include "common/token.h"

#include <string.h>

#define EPOCH 1

static void check_rc(int64_t rc, const struct err *err) {
    if (rc >= 0)
        return;
    fprintf(stderr, "bench-blocks: %s\n", err->text);
    exit(1);
}

static struct event *events_make(const struct config *config, uint32_t tenant, size_t n, uint32_t day,
                                 enum message_class message_class) {
    struct event *events = calloc(n, sizeof *events);
    struct hmac_key key;
    struct err err = {""};
    CHECK(events != NULL);
    check_rc(contact_key_load(&key, config, tenant, &err), &err);
    for (size_t i = 0; i < n; i++) {
        char id[32];
        int len = snprintf(id, sizeof id, "contact-%zu", i);
        events[i] = (struct event){.pseudonym = pseudonym_of(&key, tenant, id, (size_t)len),
                                   .tenant = tenant,
                                   .sent_day = day,
                                   .stream = 1,
                                   .provider = PROVIDER_OTHER,
                                   .class_regime = (uint8_t)(message_class << 4 | REGIME_EXEMPTION),
                                   .fetch = FETCH_PERSON};
    }
    return events;
}

static void send_all(struct command_sender *sender, const struct config *config, struct event *events, size_t n,
                     uint64_t repeats, size_t block_events, struct message_head head) {
    static uint8_t out[MESSAGE_BYTES_MAX];
    static const uint8_t rules[RULES_HASH_SIZE];
    struct message_codec *codec;
    struct err err = {"a message cannot be encoded"};
    CHECK(message_codec_create(&codec) == 0);
    uint16_t ours = head.partition;
    for (head.partition = 0; head.partition < config->kafka_partitions; head.partition++) {
        head.kind = MESSAGE_REGISTER;
        int64_t len = message_encode_register(&head, out);
        check_rc(len, &err);
        check_rc(command_sender_send(sender, head.partition, out, (size_t)len, &err), &err);
    }
    head.kind = MESSAGE_BLOCK;
    head.segment++;
    head.partition = ours;
    for (uint64_t repeat = 0; repeat < repeats; repeat++)
        for (size_t from = 0; from < n; from += block_events) {
            size_t size = n - from < block_events ? n - from : block_events;
            int64_t len = message_encode_block(codec, &head, rules, events + from, size, out);
            check_rc(len, &err);
            check_rc(command_sender_send(sender, ours, out, (size_t)len, &err), &err);
            head.segment++;
        }
    message_codec_free(codec);
}

int main(int argc, char **argv) {
    static struct config loaded;
    const struct config *config = &loaded;
    struct command_sender *sender;
    struct err err = {""};
    bool applied;
    CHECK(argc == 8);
    check_rc(config_load(&loaded, argv[1], false, &err), &err);
    uint32_t tenant = (uint32_t)strtoul(argv[2], NULL, 10), day = clock_today(&config->clock);
    size_t n = strtoull(argv[3], NULL, 10), block_events = strtoull(argv[6], NULL, 10);
    int message_class = atoi(argv[7]);
    CHECK(block_events >= 1 && block_events <= BLOCK_EVENTS_MAX);
    CHECK(message_class >= CLASS_TRANSACTIONAL && message_class <= CLASS_PROSPECTING);
    struct message_head head = {.edge = "bench", .epoch = EPOCH, .epoch_first = 1, .day = day};
    head.segment = strtoull(argv[5], NULL, 10);
    head.partitions = (uint16_t)config->kafka_partitions;
    head.partition = (uint16_t)partition_of(tenant, (uint32_t)config->kafka_partitions);
    check_rc(command_sender_open(&sender, config, "bench", &err), &err);
    struct event *events = events_make(config, tenant, n, day, (enum message_class)message_class);
    send_all(sender, config, events, n, strtoull(argv[4], NULL, 10), block_events, head);
    check_rc(command_sender_finish(sender, &applied, &err), &err);
    command_sender_free(sender);
    free(events);
    config_free(&loaded);
    return 0;
}
