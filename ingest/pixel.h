// What one pixel request means: its token opened, its fetch classified, and from that an event or a reason to drop it.
// Nothing of the request is kept. Pure; no allocation when deciding; prepared keys are immutable and shareable.
#ifndef OPENVEIL_PIXEL_H
#define OPENVEIL_PIXEL_H

#include "common/event.h"
#include "common/keys.h"
#include "common/reasons.h"
#include "common/tenant.h"
#include "ingest/drop_list.h"
#include "ingest/fetch_class.h"
#include "ingest/http_request.h"

// The token keys of all tenants and key ids, ready to use: about 0.5 KB each.
struct pixel_keys;
int pixel_keys_create(struct pixel_keys **keys, const struct keys *masters, const struct tenant_table *tenants,
                      struct err *err) MUST_CHECK;
void pixel_keys_free(struct pixel_keys *keys); // wipes them
size_t pixel_keys_count(const struct pixel_keys *keys);

struct pixel_outcome {
    bool recorded;
    enum edge_drop drop; // where not recorded
    struct event event;  // where recorded
};

// A path that gets the pixel, whatever follows "/p/".
bool pixel_path(const struct text *path);
// Finds out where a request came from.
typedef void (*pixel_address_fn)(const void *arg, const struct http_request *request, uint8_t address[16]);
// `wall_ms` is the moment of the request; `drops` knows the contacts that are not to be recorded. The address is asked
// for only where a rule may look at it.
void pixel_decide(const struct pixel_keys *keys, const struct fetch_classes *classes, const struct drop_view *drops,
                  const struct http_request *request, pixel_address_fn address_of, const void *arg, int64_t wall_ms,
                  struct pixel_outcome *outcome);

#endif
