#include "common/reasons.h"

#define NAME(name, text, help) #text,
const char *const edge_drop_names[EDGE_DROPS] = {EDGE_REASONS(NAME)};
const char *const agg_drop_names[AGG_DROPS] = {AGGREGATOR_REASONS(NAME)};
_Static_assert((int)EDGE_DROPS <= EDGE_DROPS_STORED, "stored formats have no room for another edge reason");
_Static_assert((int)AGG_DROPS <= AGG_DROPS_STORED, "stored formats have no room for another aggregator reason");
