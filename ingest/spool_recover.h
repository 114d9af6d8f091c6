// The start-up scan: makes out of whatever lies in a spool's directory a sequence of sealed segments and the ledger after
// them. Everything durable is sealed under the identity that it had; what is damaged is put aside and counted. Called
// once by spool_open, before any thread runs.
#ifndef OPENVEIL_SPOOL_RECOVER_H
#define OPENVEIL_SPOOL_RECOVER_H

#include "ingest/packer.h"

struct recovered {
    bool empty;       // nothing usable: the ledger is not set, the edge is to be registered
    uint64_t next;    // above every segment number seen; 0 where there was none
    uint64_t damaged; // files and groups that were not what was written
};

// `identity` says which edge, how many partitions and which mode the spool must belong to: ERR_REFUSED, with the way out,
// where it belongs to another. The ledger is packer->ledger.
int spool_recover(struct packer *packer, const struct segment_head *identity, struct recovered *recovered,
                  struct err *err) MUST_CHECK;

#endif
