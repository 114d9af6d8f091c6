// Many contacts of the last-open table at once: look-ups whose memory is fetched ahead, and the load of a start.
#include "aggregator/last_open_parts.h"

#include "aggregator/contact_hash.h"
#include "aggregator/prefetch.h"

#define GROUP 64       // look-ups under way at once
#define LEAD 16        // puts between asking for memory and using it
#define PUT_BYTES_MAX 1024
#define SAMPLE_MIN 32  // contacts from which the number of all is estimated

void last_open_prefetch_far(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym) {
    const struct contacts *contacts = contacts_find(table, tenant);
    unsigned bits;
    if (contacts != NULL)
        prefetch(&contacts->buckets[bucket_number(contacts->n_buckets, contact_hash(pseudonym), &bits)]);
}

// The window of the search.
static void place_prefetch(const struct place *place) {
    if (place->bytes == NULL)
        return;
    const size_t guess = entries_guess(place->bucket->n, place->rest, place->bits);
    const uintptr_t window = (uintptr_t)place->bytes + (guess < SEARCH_WINDOW / 2 ? 0 : guess - SEARCH_WINDOW / 2) * place->width;
    const unsigned size = SEARCH_WINDOW * place->width;
    for (unsigned line = 0; line < size; line += POOL_UNIT)
        prefetch((const void *)(window + line));
    prefetch((const void *)(window + size - 1));
}

void last_open_prefetch_near(const struct last_open_table *table, uint32_t tenant, uint64_t pseudonym) {
    const struct contacts *contacts = contacts_find(table, tenant);
    if (contacts == NULL)
        return;
    struct place place = place_of(table, contacts, contact_hash(pseudonym));
    place_prefetch(&place);
}

void last_open_get_many(const struct last_open_table *table, struct last_open_lookup *lookups, size_t n) {
    struct place places[GROUP];
    const struct contacts *contacts = NULL;
    for (size_t from = 0; from < n; from += GROUP) {
        struct last_open_lookup *group = &lookups[from];
        size_t size = n - from < GROUP ? n - from : GROUP;
        for (size_t i = 0; i < size; i++) {
            if (contacts == NULL || contacts->tenant != group[i].tenant)
                contacts = contacts_find(table, group[i].tenant);
            places[i].bucket = NULL;
            if (contacts == NULL)
                continue;
            places[i] = place_begin(contacts, contact_hash(group[i].pseudonym));
            prefetch(places[i].bucket);
        }
        for (size_t i = 0; i < size; i++) {
            if (places[i].bucket == NULL)
                continue;
            place_reach(table, &places[i]);
            place_prefetch(&places[i]);
        }
        for (size_t i = 0; i < size; i++)
            group[i].found = places[i].bucket != NULL && place_get(&places[i], place_search(&places[i]), &group[i].value);
    }
}

// ---- puts -----------------------------------------------------------------------------------------------------------

// All of a bucket: a contact that is new moves those behind it, and every eighth or so the whole bucket.
static void put_prefetch(const struct last_open_table *table, const struct last_open_contact *contact) {
    const struct contacts *contacts = contacts_find(table, contact->tenant);
    if (contacts == NULL)
        return;
    struct place place = place_of(table, contacts, contact_hash(contact->pseudonym));
    for (size_t at = 0; place.bytes != NULL && at < place.bucket->n * place.width && at < PUT_BYTES_MAX; at += POOL_UNIT)
        prefetch(place.bytes + at);
}

static int put_ahead(struct last_open_table *table, const struct last_open_contact *contacts, size_t n) {
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n + LEAD; i++) {
        if (i < n)
            last_open_prefetch_far(table, contacts[i].tenant, contacts[i].pseudonym);
        if (i >= LEAD / 2 && i - LEAD / 2 < n)
            put_prefetch(table, &contacts[i - LEAD / 2]);
        if (i >= LEAD)
            rc = last_open_put(table, contacts[i - LEAD].tenant, contacts[i - LEAD].pseudonym, contacts[i - LEAD].value);
    }
    return rc;
}

static bool contacts_ascend(const struct last_open_contact *contacts, size_t n) {
    for (size_t i = 1; i < n; i++)
        if (contacts[i].tenant == contacts[i - 1].tenant &&
            contact_hash(contacts[i].pseudonym) <= contact_hash(contacts[i - 1].pseudonym))
            return false;
    return true;
}

// Gives an empty tenant the buckets that n contacts will need, so that none has to be split on the way.
static int contacts_reserve(struct contacts *contacts, uint64_t n) {
    CHECK(contacts->count == 0 && contacts->n_buckets == 1);
    uint64_t wanted = n / BUCKET_MEAN + 1;
    if (wanted > UINT32_MAX / 2)
        return ERR_NOMEM;
    struct bucket *moved = realloc(contacts->buckets, wanted * sizeof *moved);
    if (moved == NULL)
        return ERR_NOMEM;
    for (uint64_t i = 0; i < wanted; i++)
        moved[i] = (struct bucket){.ref = POOL_NONE};
    contacts->buckets = moved;
    contacts->n_buckets = contacts->room = (uint32_t)wanted;
    return 0;
}

// Hashes lie evenly: from the last of these ascending ones follows how many the whole tenant has.
static uint64_t contacts_expected(const struct last_open_table *table, uint64_t n, uint64_t last_hash) {
    unsigned __int128 expected = ((unsigned __int128)n << 64) / ((unsigned __int128)last_hash + 1);
    uint64_t most = table->limit->contacts_max;
    return expected > most ? most : (uint64_t)expected;
}

// Before a tenant's second bucket: what little it has is put again behind the reservation.
static int tenant_prepare(struct last_open_table *table, struct contacts *contacts, const struct last_open_contact *next,
                          size_t n) {
    struct last_open_contact before[SAMPLE_MIN];
    struct last_open_cursor cursor = {0};
    size_t n_before = (size_t)contacts->count;
    int rc = 0;
    if (contacts->n_buckets > 1 || n_before >= SAMPLE_MIN || n < SAMPLE_MIN)
        return 0;
    for (size_t i = 0; i < n_before; i++)
        CHECK(last_open_next_of(table, contacts->tenant, &cursor, &before[i]));
    for (size_t i = 0; i < n_before && rc == 0; i++)
        rc = last_open_erase(table, contacts->tenant, before[i].pseudonym);
    if (rc == 0)
        rc = contacts_reserve(contacts, contacts_expected(table, n_before + n, contact_hash(next[n - 1].pseudonym)));
    for (size_t i = 0; i < n_before && rc == 0; i++)
        rc = last_open_put(table, contacts->tenant, before[i].pseudonym, before[i].value);
    return rc;
}

// Appends as many of a tenant's ascending contacts as belong behind the last one of the first's bucket: their number, 0
// where the first must be put alone, or an error.
static int64_t run_append(struct last_open_table *table, struct contacts *contacts, const struct last_open_contact *next,
                          size_t n) {
    const uint64_t hash = contact_hash(next[0].pseudonym);
    struct place place = place_of(table, contacts, hash);
    const size_t before = place.bucket->n;
    if (before > 0 && entry_rest(entry_read(place.bytes, place.width, before - 1)) >= place.rest)
        return 0;
    const uint64_t begin = hash - place.rest, end = begin + (UINT64_MAX >> place.bits);
    size_t run = 1;
    while (run < n && contact_hash(next[run].pseudonym) <= end)
        run++;
    int rc = share_reserve(table);
    if (rc != 0)
        return rc;
    run = run > table->share ? (size_t)table->share : run;
    if (contacts->count + run > (uint64_t)contacts->n_buckets * BUCKET_MEAN)
        return 0;
    if ((rc = place_resize(table, contacts, &place, before + run)) != 0)
        return rc;
    for (size_t i = 0; i < run; i++)
        entry_write(place.bytes, place.width, before + i, entry_make(contact_hash(next[i].pseudonym) - begin, next[i].value));
    place.bucket->n += (uint32_t)run;
    contacts->count += run;
    table->count += run;
    table->share -= run;
    return (int64_t)run;
}

// As a snapshot holds them: all of one tenant after the other, ascending by their hash.
static int put_ascending(struct last_open_table *table, const struct last_open_contact *next, size_t n) {
    struct contacts *contacts;
    for (size_t at = 0, end; at < n; at = end) {
        for (end = at + 1; end < n && next[end].tenant == next[at].tenant; end++)
            continue;
        int rc = contacts_obtain(table, next[at].tenant, &contacts);
        if (rc == 0)
            rc = tenant_prepare(table, contacts, next + at, end - at);
        while (rc == 0 && at < end) {
            int64_t run = run_append(table, contacts, next + at, end - at);
            if (run == 0)
                rc = last_open_put(table, next[at].tenant, next[at].pseudonym, next[at].value);
            else if (run < 0)
                rc = (int)run;
            at += run > 1 ? (size_t)run : 1;
        }
        if (rc != 0)
            return rc;
    }
    return 0;
}

int last_open_put_many(struct last_open_table *table, const struct last_open_contact *contacts, size_t n) {
    return n > 1 && contacts_ascend(contacts, n) ? put_ascending(table, contacts, n) : put_ahead(table, contacts, n);
}
