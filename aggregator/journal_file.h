// The files of the local journal, in [aggregator] state_dir/journal:
//   log-<generation>.ovj       header, then one frame a commit, appended
//   snapshot-<generation>.ovj  header, a table of partitions, then frames of records, ascending by key in each partition
//                              (a tenant's last opens: by contact_hash, as in the table that loads them): all that the
//                              logs below this generation held; the logs from it on follow
// Generations are 16 hex digits and have no gap. Both kinds appear under their names complete and synced; only the newest
// log grows, and only its end can be torn. A frame: "OVJF", payload length 4, sequence 8, XXH3 of these 4, payload,
// XXH3-64 of everything before it. The payload: number of positions 4, each partition 2 and position 8; then records,
// each partition 2, key length 1, value length 4, key, value. Big-endian. Pure, or over a file of the caller's.
#ifndef OPENVEIL_JOURNAL_FILE_H
#define OPENVEIL_JOURNAL_FILE_H

#include "aggregator/batch.h"

#define JOURNAL_HEAD_BYTES 40
#define JOURNAL_NAME_SIZE 64
#define FRAME_HEAD_BYTES 20
#define FRAME_SUM_BYTES 8
#define FRAME_BYTES_MAX (1u << 30)
#define FRAME_RECORD_BYTES 7 // beside key and value

enum journal_file_kind { JOURNAL_LOG, JOURNAL_SNAPSHOT };

struct journal_head {
    enum journal_file_kind kind;
    bool rehearsal;
    uint32_t partitions;
    uint64_t generation;
    uint64_t first_sequence; // of the log of this generation
};
void journal_head_encode(const struct journal_head *head, uint8_t out[JOURNAL_HEAD_BYTES]);
int journal_head_decode(const uint8_t in[JOURNAL_HEAD_BYTES], struct journal_head *head) MUST_CHECK;
void journal_name(enum journal_file_kind kind, uint64_t generation, char name[JOURNAL_NAME_SIZE]);
bool journal_name_parse(const char *name, enum journal_file_kind *kind, uint64_t *generation);

// Where a partition lies in a snapshot.
struct snapshot_part {
    uint64_t start, end; // offsets of its frames
    uint64_t records;
    int64_t position; // committed; -1: none yet
};
static inline size_t snapshot_table_bytes(uint32_t partitions) {
    return (size_t)partitions * 32 + 8;
}
void snapshot_table_encode(const struct snapshot_part *parts, uint32_t partitions, uint8_t *out);
int snapshot_table_decode(const uint8_t *in, uint32_t partitions, uint64_t file_size, struct snapshot_part *parts)
    MUST_CHECK;

// Frames. frame_seal: the payload already stands at out + FRAME_HEAD_BYTES; returns the frame's length. frame_head_parse:
// the whole frame's length, or ERR_CORRUPT. frame_check: ERR_CORRUPT where a frame of that length is not what was written.
size_t frame_seal(uint8_t *out, uint64_t sequence, size_t payload_len);
int64_t frame_head_parse(const uint8_t head[FRAME_HEAD_BYTES], uint64_t *sequence) MUST_CHECK;
int frame_check(const uint8_t *frame, size_t frame_len) MUST_CHECK;

struct frame_record {
    uint32_t partition;
    uint32_t key_len;
    uint32_t value_len;
    const uint8_t *key;
    const uint8_t *value;
    const uint8_t *at; // the record's first byte
};
// Walks a checked frame's payload: positions first, then records. NULL hooks are skipped; a hook that returns non-zero
// stops the walk with that. ERR_CORRUPT where the payload is not one.
struct frame_hooks {
    int (*position)(void *arg, uint32_t partition, int64_t position);
    int (*record)(void *arg, const struct frame_record *record);
    void *arg;
};
int frame_walk(const uint8_t *payload, size_t len, const struct frame_hooks *hooks) MUST_CHECK;
// The record at `at`, which frame_walk gave.
struct frame_record frame_record_at(const uint8_t *at);
size_t frame_record_write(uint8_t *out, const struct frame_record *record);
// Order of records in a snapshot.
int frame_key_compare(const struct frame_record *a, const struct frame_record *b);

// Reads the frames of a part of a file, one after the other, with pread.
struct frame_reader {
    int fd;
    uint64_t at, end;
    uint64_t sequence; // of the next frame
    uint8_t *buffer;
    size_t room;
};
// 1: `payload` is that of the next frame, good until the next call. 0: the end. ERR_CORRUPT, ERR_IO, ERR_NOMEM.
int frame_reader_next(struct frame_reader *reader, const uint8_t **payload, size_t *len) MUST_CHECK;
void frame_reader_free(struct frame_reader *reader);
// After ERR_CORRUPT: whether a later frame stands whole anywhere before the end. Then what the reader stopped at was not
// torn by a crash, but damaged. Leaves the reader where it is. ERR_IO, ERR_NOMEM.
int frame_follows(const struct frame_reader *reader, bool *follows) MUST_CHECK;

// The files that hold the state now, all open; what is removed or added later does not matter to who has them.
struct journal_log {
    int fd;
    uint64_t generation;
    uint64_t first_sequence;
};
struct journal_files {
    struct journal_head head; // of the snapshot, or of the first log
    int snapshot_fd;          // -1: there is none
    struct snapshot_part *parts;
    uint64_t snapshot_bytes;
    size_t n_logs;
    struct journal_log *logs; // ascending generations
};
// ERR_NOT_FOUND where the directory holds no journal (or is not there).
int journal_files_open(struct journal_files *files, const char *dir, struct err *err) MUST_CHECK;
void journal_files_close(struct journal_files *files);

#endif
