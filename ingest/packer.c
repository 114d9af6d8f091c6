#include "ingest/packer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MESSAGES_SIZE ((size_t)SEALED_BYTES_MAX + MESSAGE_BYTES_MAX)

// Large scratch memory costs nothing until it is touched.
static void *reserve(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static void release(void *memory, size_t size) {
    if (memory != NULL)
        CHECK(munmap(memory, size) == 0);
}

int packer_create(struct packer **packer, const struct spool_io *io, const char *dir, uint16_t partitions,
                  struct err *err) {
    struct packer *made = calloc(1, sizeof *made);
    if (made == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the spool");
    made->io = io;
    made->dir = dir;
    made->ledger = calloc(1, sizeof *made->ledger);
    made->after = calloc(1, sizeof *made->after);
    made->cache = calloc(1, sizeof *made->cache);
    made->raw = reserve(RAW_BYTES_MAX);
    made->loaded = reserve(BLOCK_EVENTS_MAX * sizeof *made->loaded);
    made->sorted = reserve(BLOCK_EVENTS_MAX * sizeof *made->sorted);
    made->partition_of = reserve(BLOCK_EVENTS_MAX * sizeof *made->partition_of);
    made->messages = reserve(MESSAGES_SIZE);
    made->out = reserve(SEALED_BYTES_MAX);
    if (made->ledger == NULL || made->after == NULL || made->cache == NULL || made->raw == NULL ||
        made->loaded == NULL || made->sorted == NULL || made->partition_of == NULL || made->messages == NULL ||
        made->out == NULL || message_codec_create(&made->codec) != 0) {
        packer_free(made);
        return err_set(err, ERR_NOMEM, "no memory for the spool");
    }
    made->cache->partitions = partitions;
    *packer = made;
    return 0;
}

void packer_free(struct packer *packer) {
    if (packer == NULL)
        return;
    free(packer->ledger);
    free(packer->after);
    free(packer->cache);
    release(packer->raw, RAW_BYTES_MAX);
    release(packer->loaded, BLOCK_EVENTS_MAX * sizeof *packer->loaded);
    release(packer->sorted, BLOCK_EVENTS_MAX * sizeof *packer->sorted);
    release(packer->partition_of, BLOCK_EVENTS_MAX * sizeof *packer->partition_of);
    release(packer->messages, MESSAGES_SIZE);
    release(packer->out, SEALED_BYTES_MAX);
    message_codec_free(packer->codec);
    free(packer);
}

int packer_read(struct packer *packer, int fd, const char *path, size_t len, struct err *err) {
    CHECK(len <= RAW_BYTES_MAX);
    if (read_full(fd, packer->raw, len, 0) != 0)
        return err_errno(err, ERR_IO, "cannot read %s", path);
    return 0;
}

static int group_loaded(void *arg, const struct group *group, const uint8_t *events) {
    struct packer *packer = arg;
    struct tally *tally = &packer->tally;
    bool valid = tally->events + group->n_events <= BLOCK_EVENTS_MAX;
    struct event *loaded = packer->loaded + (valid ? tally->events : 0);
    for (uint32_t i = 0; valid && i < group->n_events; i++) {
        group_event_load(events + (size_t)i * GROUP_EVENT_BYTES, &loaded[i]);
        valid = event_valid(&loaded[i]);
    }
    // The edge writes no such groups; intact by its checksum, but not by its content.
    if (!valid) {
        packer->damaged++;
        return 0;
    }
    for (uint32_t i = 0; i < group->n_events; i++) {
        uint32_t partition = partition_cached(packer->cache, loaded[i].tenant);
        packer->partition_of[tally->events++] = (uint16_t)partition;
        tally->recorded_by_partition[partition]++;
    }
    tally->outcomes += group->n_events;
    for (size_t i = 0; i < EDGE_DROPS_STORED; i++) {
        tally->drops[i] += group->drops[i];
        tally->outcomes += group->drops[i];
    }
    return 0;
}

void packer_scan(struct packer *packer, const struct segment_head *head, size_t header_len, size_t len) {
    CHECK(head->partitions == packer->cache->partitions);
    memset(&packer->tally, 0, sizeof packer->tally);
    packer->damaged = 0;
    int64_t damaged = raw_scan(packer->raw, len, head, header_len, group_loaded, packer);
    CHECK(damaged >= 0); // group_loaded never fails
    packer->damaged += (uint64_t)damaged;
}

static struct message_head message_head_of(const struct segment_head *head, uint16_t partition) {
    struct message_head message = {.kind = head->kind, .rehearsal = head->rehearsal, .epoch = head->epoch,
                                   .segment = head->segment, .epoch_first = head->epoch_first,
                                   .partition = partition, .partitions = head->partitions, .day = head->day};
    memcpy(message.edge, head->edge, sizeof message.edge);
    return message;
}

static int message_add(struct packer *packer, uint16_t partition, int64_t len, struct err *err) {
    if (len < 0)
        return err_set(err, (int)len, "cannot encode a message of a segment");
    packer->message_len[partition] = (uint32_t)len;
    packer->messages_len += (size_t)len;
    if (packer->messages_len > SEALED_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "a segment's messages do not fit %u bytes", SEALED_BYTES_MAX);
    return 0;
}

// Writes the sealed file with the ledger `after` and then takes it over.
static int seal(struct packer *packer, const struct segment_head *head, struct err *err) {
    char name[SEGMENT_NAME_SIZE];
    int64_t len = sealed_encode(head, packer->after, packer->message_len, packer->messages, packer->messages_len,
                                packer->out, SEALED_BYTES_MAX);
    CHECK(len > 0); // ledger_ranges_max and BLOCK_EVENTS_MAX see to that
    sealed_name(head->segment, name);
    int rc = io_create(packer->io, packer->dir, name, packer->out, (size_t)len, err);
    if (rc != 0)
        return rc;
    struct ledger *before = packer->ledger;
    packer->ledger = packer->after;
    packer->after = before;
    return 0;
}

// Groups the loaded events by partition, in packer->sorted; `first` gets where each begins.
static void events_distribute(struct packer *packer, uint16_t partitions, size_t first[LEDGER_PARTITIONS_MAX + 1]) {
    size_t next[LEDGER_PARTITIONS_MAX];
    first[0] = 0;
    for (size_t i = 0; i < partitions; i++) {
        next[i] = first[i];
        first[i + 1] = first[i] + packer->tally.recorded_by_partition[i];
    }
    CHECK(first[partitions] == packer->tally.events);
    for (size_t i = 0; i < packer->tally.events; i++)
        packer->sorted[next[packer->partition_of[i]]++] = packer->loaded[i];
}

int packer_seal_block(struct packer *packer, const struct segment_head *head, struct err *err) {
    size_t first[LEDGER_PARTITIONS_MAX + 1];
    CHECK(head->kind == MESSAGE_BLOCK && head->day == packer->ledger->day);
    events_distribute(packer, head->partitions, first);
    packer->messages_len = 0;
    for (uint16_t i = 0; i < head->partitions; i++) {
        struct message_head message = message_head_of(head, i);
        int64_t len = message_encode_block(packer->codec, &message, head->rules_hash, packer->sorted + first[i],
                                           first[i + 1] - first[i], packer->messages + packer->messages_len);
        int rc = message_add(packer, i, len, err);
        if (rc != 0)
            return rc;
    }
    ledger_copy(packer->after, packer->ledger);
    int rc = ledger_add(packer->after, head->partitions, head->epoch, head->segment, &packer->tally);
    if (rc != 0)
        return err_set(err, rc, "this edge was started too often today");
    return seal(packer, head, err);
}

int packer_seal_register(struct packer *packer, const struct segment_head *head, struct err *err) {
    CHECK(head->kind == MESSAGE_REGISTER && head->day == packer->ledger->day);
    packer->messages_len = 0;
    for (uint16_t i = 0; i < head->partitions; i++) {
        struct message_head message = message_head_of(head, i);
        int rc = message_add(packer, i, message_encode_register(&message, packer->messages + packer->messages_len), err);
        if (rc != 0)
            return rc;
    }
    memset(&packer->tally, 0, sizeof packer->tally);
    ledger_copy(packer->after, packer->ledger);
    int rc = ledger_add(packer->after, head->partitions, head->epoch, head->segment, &packer->tally);
    if (rc != 0)
        return err_set(err, rc, "this edge was started too often today");
    return seal(packer, head, err);
}

int packer_seal_close(struct packer *packer, const struct segment_head *head, struct ledger_closing closing,
                      struct err *err) {
    const struct ledger *ledger = packer->ledger;
    CHECK(head->kind == MESSAGE_CLOSE && head->day == closing.day);
    packer->messages_len = 0;
    for (uint16_t i = 0; i < head->partitions; i++) {
        struct message_head message = message_head_of(head, i);
        struct close_body body = {.from_day = closing.from_day, .counts = ledger->counts,
                                  .recorded_here = ledger->recorded_by_partition[i], .n_ranges = ledger->n_ranges,
                                  .ranges = ledger->ranges};
        int64_t len = message_encode_close(&message, &body, packer->messages + packer->messages_len);
        int rc = message_add(packer, i, len, err);
        if (rc != 0)
            return rc;
    }
    ledger_copy(packer->after, ledger);
    ledger_close(packer->after, closing);
    return seal(packer, head, err);
}
