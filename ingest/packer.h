// Seals segments: reads a raw one back, sorts its events into partitions, encodes one message for each, and writes the
// sealed file with the ledger after it. The same bytes come out whoever does it, now or at the next start. One thread at
// a time: spool_open's first, then the packer thread's. No state but the ledger and scratch memory.
#ifndef OPENVEIL_PACKER_H
#define OPENVEIL_PACKER_H

#include "ingest/ledger.h"
#include "ingest/spool_io.h"

// Larger than any raw segment that a configuration allows.
#define RAW_BYTES_MAX (20u << 20)

struct packer {
    const struct spool_io *io;
    const char *dir;
    struct ledger *ledger; // after the last sealed segment
    struct ledger *after;  // scratch: while one is being sealed
    struct message_codec *codec;
    struct partition_cache *cache;
    struct tally tally;       // of the raw segment last loaded
    uint64_t damaged;         // groups of it that were not what was written
    uint8_t *raw;             // its bytes, RAW_BYTES_MAX
    struct event *loaded;     // its events, as they came
    struct event *sorted;     // by partition
    uint16_t *partition_of;   // of each loaded event
    uint8_t *messages;
    size_t messages_len;
    uint32_t message_len[LEDGER_PARTITIONS_MAX];
    uint8_t *out;
};

// `io` and `dir` are borrowed.
int packer_create(struct packer **packer, const struct spool_io *io, const char *dir, uint16_t partitions,
                  struct err *err) MUST_CHECK;
void packer_free(struct packer *packer);

// Reads the first `len` bytes (at most RAW_BYTES_MAX) of a raw segment into packer->raw.
int packer_read(struct packer *packer, int fd, const char *path, size_t len, struct err *err) MUST_CHECK;
// The groups after the header in packer->raw: fills loaded, tally and damaged.
void packer_scan(struct packer *packer, const struct segment_head *head, size_t header_len, size_t len);
// Seals what packer_scan found. On any error the ledger is as before and the call may be repeated.
int packer_seal_block(struct packer *packer, const struct segment_head *head, struct err *err) MUST_CHECK;
int packer_seal_register(struct packer *packer, const struct segment_head *head, struct err *err) MUST_CHECK;
// head->day is the closing's.
int packer_seal_close(struct packer *packer, const struct segment_head *head, struct ledger_closing closing,
                      struct err *err) MUST_CHECK;

#endif
