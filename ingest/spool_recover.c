#include "ingest/spool_recover.h"

#include "common/log.h"
#include "ingest/spool_dir.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct scan {
    struct packer *packer;
    const struct segment_head *identity;
    struct recovered *found;
    struct spool_listing listing;
    struct ledger *ledger; // of the header last read
    bool have_sealed;
    uint64_t newest; // sealed
    uint64_t lost;   // the highest number whose bytes are gone; 0: none
};

static int check_identity(const struct scan *scan, const struct segment_head *head, struct err *err) {
    const struct segment_head *want = scan->identity;
    const char *dir = scan->packer->dir;
    if (strcmp(head->edge, want->edge) != 0)
        return err_set(err, ERR_REFUSED,
                       "the spool %s belongs to the edge %s and this is %s: set [ingest] edge_id = %s or another "
                       "[spool] dir", dir, head->edge, want->edge, head->edge);
    if (head->partitions != want->partitions)
        return err_set(err, ERR_REFUSED,
                       "the spool %s was begun with %u partitions: set [kafka] partitions = %u or another [spool] dir",
                       dir, head->partitions, head->partitions);
    if (head->rehearsal != want->rehearsal)
        return err_set(err, ERR_REFUSED, "the spool %s belongs to %s: use another [spool] dir", dir,
                       head->rehearsal ? "a rehearsal" : "production");
    return 0;
}

static int put_aside(struct scan *scan, const char *name, uint64_t segment, struct err *err) {
    log_warn("the spool's file %s is damaged and was put into %s/corrupt", name, scan->packer->dir);
    scan->found->damaged++;
    if (segment > scan->lost)
        scan->lost = segment;
    return spool_put_aside(scan->packer->io, scan->packer->dir, name, err);
}

static bool messages_intact(const struct sealed *sealed) {
    const uint8_t *at = sealed->messages;
    for (size_t i = 0; i < sealed->head.partitions; i++) {
        struct message_head head;
        const uint8_t *body;
        size_t body_len;
        if (message_decode_head(at, sealed->message_len[i], &head, &body, &body_len) != 0)
            return false;
        at += sealed->message_len[i];
    }
    return true;
}

// A ledger speaks of segments up to `segment` only.
static bool ledger_fits(const struct ledger *ledger, uint64_t segment) {
    return ledger->n_ranges == 0 || ledger->ranges[ledger->n_ranges - 1].last <= segment;
}

// 0 where it is intact; then the ledger after it is the packer's.
static int sealed_try(struct scan *scan, uint64_t segment, struct err *err) {
    char name[SEGMENT_NAME_SIZE], path[PATH_SIZE], *data = NULL;
    size_t len;
    struct sealed *sealed = malloc(sizeof *sealed);
    if (sealed == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the spool");
    sealed_name(segment, name);
    int rc = path_join(path, scan->packer->dir, name, err);
    if (rc == 0)
        rc = file_read(path, SEALED_BYTES_MAX, &data, &len, err);
    if (rc == ERR_LIMIT || (rc == 0 && (sealed_decode((uint8_t *)data, len, sealed, scan->ledger) != 0 ||
                                        sealed->head.segment != segment || !ledger_fits(scan->ledger, segment) ||
                                        !messages_intact(sealed))))
        rc = ERR_CORRUPT;
    if (rc == 0)
        rc = check_identity(scan, &sealed->head, err);
    if (rc == 0)
        ledger_copy(scan->packer->ledger, scan->ledger);
    free(data);
    free(sealed);
    return rc;
}

static int newest_sealed(struct scan *scan, struct err *err) {
    for (size_t i = scan->listing.sealed.n; i-- > 0 && !scan->have_sealed;) {
        uint64_t segment = scan->listing.sealed.at[i];
        char name[SEGMENT_NAME_SIZE];
        int rc = sealed_try(scan, segment, err);
        sealed_name(segment, name);
        if (rc == ERR_CORRUPT)
            rc = put_aside(scan, name, segment, err);
        else if (rc == 0) {
            scan->have_sealed = true;
            scan->newest = segment;
        } else if (rc == ERR_NOT_FOUND) {
            rc = 0; // its consumer was quicker
        }
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int raw_read(struct scan *scan, const char *path, size_t *len, struct err *err) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int rc = err_errno(err, ERR_IO, "cannot open %s", path);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    *len = (uint64_t)st.st_size < RAW_BYTES_MAX ? (size_t)st.st_size : RAW_BYTES_MAX;
    int rc = packer_read(scan->packer, fd, path, *len, err);
    close(fd);
    return rc;
}

// A file that was being prepared when the process ended has no group, so nothing in it was ever acknowledged.
static bool holds_groups(const uint8_t *data, size_t len) {
    for (size_t at = 0; at + 4 <= len; at += SEGMENT_PAGE) {
        if (memcmp(data + at, "OVG1", 4) == 0)
            return true;
    }
    return false;
}

static int seal_close(struct scan *scan, const struct segment_head *raw, uint64_t segment, struct err *err) {
    struct segment_head head = *raw;
    struct ledger_closing closing = ledger_next_close(scan->packer->ledger, raw->day);
    head.kind = MESSAGE_CLOSE;
    head.segment = segment;
    head.day = closing.day;
    return packer_seal_close(scan->packer, &head, closing, err);
}

// Brings the ledger from the last sealed segment to just before the raw segment `head`. Between the two lie only the
// close markers of days that ended meanwhile, unless segments were lost; then the raw header's own ledger knows more.
static int bridge(struct scan *scan, const struct segment_head *head, struct err *err) {
    struct packer *packer = scan->packer;
    uint64_t next = scan->found->next;
    unsigned closes = scan->found->empty ? 0 : ledger_closes(packer->ledger, head->day);
    bool gap = head->segment > next + closes;
    if (scan->found->empty || head->segment < next + closes || packer->ledger->day > head->day || (gap && closes == 0)) {
        ledger_copy(packer->ledger, scan->ledger);
        return 0;
    }
    if (gap)
        ledger_lose(packer->ledger, head->segment - closes - 1);
    for (uint64_t segment = head->segment - closes; segment < head->segment; segment++) {
        int rc = seal_close(scan, head, segment, err);
        if (rc != 0)
            return rc;
    }
    CHECK(packer->ledger->day == head->day);
    return 0;
}

static int raw_seal(struct scan *scan, const struct segment_head *head, const char *name, const char *path,
                    struct err *err) {
    struct packer *packer = scan->packer;
    uint64_t damaged = packer->damaged;
    int rc = bridge(scan, head, err);
    if (rc == 0)
        rc = packer_seal_block(packer, head, err);
    if (rc != 0)
        return rc;
    scan->found->empty = false;
    scan->found->next = head->segment + 1;
    if (damaged == 0)
        return packer->io->unlink(path) == 0 ? 0 : err_errno(err, ERR_IO, "cannot delete %s", path);
    log_warn("%s: %llu commit groups were damaged and not counted; put into %s/corrupt", name,
             (unsigned long long)damaged, packer->dir);
    scan->found->damaged += damaged;
    return spool_put_aside(packer->io, packer->dir, name, err);
}

static int raw_take(struct scan *scan, uint64_t segment, struct err *err) {
    struct packer *packer = scan->packer;
    struct segment_head head;
    char name[SEGMENT_NAME_SIZE], path[PATH_SIZE];
    size_t len = 0;
    raw_name(segment, name);
    int rc = path_join(path, packer->dir, name, err);
    bool superseded = scan->have_sealed && segment <= scan->newest;
    if (rc == 0 && !superseded)
        rc = raw_read(scan, path, &len, err);
    if (rc != 0)
        return rc;
    int64_t header_len = superseded ? ERR_CORRUPT : raw_header_decode(packer->raw, len, &head, scan->ledger);
    bool whole = header_len > 0 && head.segment == segment && segment > 0 && head.day == scan->ledger->day &&
                 ledger_fits(scan->ledger, segment - 1);
    if (!superseded && !whole && holds_groups(packer->raw, len))
        return put_aside(scan, name, segment, err);
    if (whole) {
        if ((rc = check_identity(scan, &head, err)) != 0)
            return rc;
        packer_scan(packer, &head, (size_t)header_len, len);
        if (packer->tally.outcomes > 0 || packer->damaged > 0)
            return raw_seal(scan, &head, name, path, err);
    }
    return packer->io->unlink(path) == 0 ? 0 : err_errno(err, ERR_IO, "cannot delete %s", path);
}

int spool_recover(struct packer *packer, const struct segment_head *identity, struct recovered *recovered,
                  struct err *err) {
    struct scan scan = {.packer = packer, .identity = identity, .found = recovered};
    *recovered = (struct recovered){.empty = true};
    scan.ledger = calloc(1, sizeof *scan.ledger);
    if (scan.ledger == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the spool");
    int rc = spool_clean(packer->io, packer->dir, err);
    if (rc == 0)
        rc = spool_list(packer->dir, &scan.listing, err);
    if (rc == 0)
        rc = newest_sealed(&scan, err);
    if (rc == 0 && scan.have_sealed) {
        recovered->empty = false;
        recovered->next = scan.newest + 1;
    }
    for (size_t i = 0; rc == 0 && i < scan.listing.raw.n; i++)
        rc = raw_take(&scan, scan.listing.raw.at[i], err);
    if (rc == 0 && scan.lost >= recovered->next && scan.lost > 0) {
        recovered->next = scan.lost + 1;
        if (!recovered->empty)
            ledger_lose(packer->ledger, scan.lost);
    }
    if (rc == 0)
        rc = io_sync_dir(packer->io, packer->dir, err);
    spool_listing_free(&scan.listing);
    free(scan.ledger);
    return rc;
}
