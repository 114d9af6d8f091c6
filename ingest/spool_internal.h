// What the spool's own files share: spool.c (life, ports, bookkeeping), spool_commit.c (the commit thread) and
// spool_seal.c (the packer thread). Not for others, but for tests that replace the system calls.
//
// Who owns what: `commit` belongs to the commit thread, `seal` to the packer thread, `shared` is under its mutex, a
// port's filling buffer to its worker, its other buffers are under the port's mutex. Nobody holds two mutexes.
#ifndef OPENVEIL_SPOOL_INTERNAL_H
#define OPENVEIL_SPOOL_INTERNAL_H

#include "ingest/packer.h"
#include "ingest/spool.h"
#include "ingest/spool_dir.h"

#include <pthread.h>
#include <stdatomic.h>

#define SPOOL_PORTS_MAX 256
#define PORT_EVENTS_MAX 16384
#define PORT_OUTCOMES_MAX (1u << 20)
#define SPOOL_QUEUE_MAX 64
#define SPOOL_RETRY_MS 1000

struct port_buffer {
    uint8_t *events; // PORT_EVENTS_MAX stored events
    uint32_t n_events;
    uint32_t n_outcomes;
    uint32_t drops[EDGE_DROPS_STORED];
    uint64_t ticket; // the newest in it
};

struct spool_port {
    struct spool *spool;
    spool_wake_fn wake;
    void *arg;
    struct port_buffer buffers[3];
    struct port_buffer *filling;
    uint64_t ticket; // of what is being filled
    pthread_mutex_t mutex;
    struct port_buffer *ready; // waits for the commit thread; NULL: none
    struct port_buffer *idle[2];
    size_t n_idle;
    _Atomic uint64_t durable;
};

// A finished raw segment to be sealed, or a close marker to be written.
struct spool_work {
    struct segment_head head;
    struct raw_file file;
    size_t header_len;
    size_t len;
    uint64_t outcomes;
    struct ledger_closing closing;
};

struct spool {
    const struct spool_io *io;
    char dir[PATH_SIZE];
    struct clock clock;
    struct segment_head identity; // edge, partitions, mode, epoch and epoch_first of this boot
    size_t segment_size;
    int64_t segment_ms;
    uint64_t group_us;
    uint64_t bytes_max;
    bool sync; // an answer waits for the disk
    int lock_fd;
    struct spool_port *ports[SPOOL_PORTS_MAX];
    size_t n_ports;
    spool_sealed_fn sealed;
    void *sealed_arg;
    pthread_t commit_thread;
    pthread_t packer_thread;
    bool started;
    bool stopped;
    _Atomic bool failed;
    _Atomic bool full_prepare; // no room for another raw segment
    _Atomic bool full_seal;    // no room for a sealed one
    _Atomic bool submitted;    // some port has something ready
    _Atomic uint64_t bytes;
    _Atomic uint64_t damaged;

    struct {
        pthread_mutex_t mutex;
        pthread_cond_t commit_cond;
        pthread_cond_t packer_cond;
        bool stop;
        bool commit_done;
        bool have_next;
        struct raw_file next; // prepared
        struct spool_work queue[SPOOL_QUEUE_MAX];
        size_t queue_first;
        size_t queue_n;
        struct numbers sealed;
        uint64_t newest_forgotten; // its consumer has it; deleted when it is the newest no more; 0: none
        uint8_t rules_hash[RULES_HASH_SIZE];
        struct err failure;
    } shared;

    struct {
        struct ledger *ledger; // before the open segment
        uint64_t next_number;  // of the open segment, or of the one to come
        bool open;
        struct raw_file file;
        struct segment_head head;
        size_t header_len;
        size_t offset;
        uint32_t sequence;
        int64_t began_ms; // of its first outcome
        struct tally tally;
        struct partition_cache *cache;
        uint8_t *header;
        uint8_t *group;
        size_t first_port; // where the next group begins to collect
        int64_t group_began_ns;
        uint64_t group_outcomes;
    } commit;

    struct {
        struct packer *packer;
        bool have_pool;
        struct raw_file pool; // wiped
        uint64_t free_number;
        int64_t prepare_at_ms;
        int64_t seal_at_ms;
        int64_t rescan_at_ms;
    } seal;
};

// spool_open with other system calls; `io` must outlive the spool.
int spool_open_io(struct spool **spool, const struct config *config, const uint8_t rules_hash[RULES_HASH_SIZE],
                  const struct spool_io *io, struct err *err) MUST_CHECK;

void spool_ports_free(struct spool *spool);
void *spool_commit_run(void *spool);
void *spool_packer_run(void *spool);
void spool_wake_ports(struct spool *spool);
// The end: keeps the first sentence, wakes everybody.
void spool_fail(struct spool *spool, const struct err *err);
// Hands work to the packer; waits while the queue is full. False: the spool has failed.
bool spool_queue(struct spool *spool, const struct spool_work *work) MUST_CHECK;
// The sealed file `segment` is there: takes it into the books and deletes what waited for it.
int spool_sealed_add(struct spool *spool, uint64_t segment) MUST_CHECK;
// Counts the directory anew: files may be deleted from outside.
int spool_rescan(struct spool *spool, struct err *err) MUST_CHECK;
// A condition's wait of at most `ms` of monotonic time.
void spool_wait(struct spool *spool, pthread_cond_t *cond, int64_t ms);

static inline void port_buffer_clear(struct port_buffer *buffer) {
    buffer->n_events = 0;
    buffer->n_outcomes = 0;
    memset(buffer->drops, 0, sizeof buffer->drops);
}
static inline void spool_lock(struct spool *spool) {
    CHECK(pthread_mutex_lock(&spool->shared.mutex) == 0);
}
static inline void spool_unlock(struct spool *spool) {
    CHECK(pthread_mutex_unlock(&spool->shared.mutex) == 0);
}

#endif
