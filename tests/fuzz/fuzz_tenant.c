// A tenant's file, of tenant 7: one that is accepted keeps to the rules, and written and read again it says the same.
#include "tests/fuzz/fuzz.h"

#include "common/tenant.h"

#include <jansson.h>
#include <string.h>

static void check_same(const struct tenant *a, const struct tenant *b) {
    CHECK(a->id == b->id && a->own_contact_key == b->own_contact_key && a->n_versions == b->n_versions);
    for (size_t i = 0; i < a->n_versions; i++) {
        const struct tenant_version *x = &a->versions[i], *y = &b->versions[i];
        CHECK(x->from_day == y->from_day && x->inactive_days == y->inactive_days && x->n_streams == y->n_streams);
        CHECK((x->exemption_basis == NULL) == (y->exemption_basis == NULL));
        CHECK(x->exemption_basis == NULL || strcmp(x->exemption_basis, y->exemption_basis) == 0);
        for (size_t j = 0; j < x->n_streams; j++)
            CHECK(x->streams[j].number == y->streams[j].number && strcmp(x->streams[j].name, y->streams[j].name) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tenant tenant, again;
    struct err err;
    if (tenant_parse(&tenant, 7, "7.json", (const char *)data, size, &err) != 0) {
        CHECK(strncmp(err.text, "7.json: ", 8) == 0 && tenant.versions == NULL);
        return 0;
    }
    CHECK(tenant_check(&tenant, &err) == 0);
    CHECK(tenant_version_on(&tenant, tenant_first_day(&tenant)) == tenant.versions);
    CHECK(tenant_first_day(&tenant) == 0 || tenant_version_on(&tenant, tenant_first_day(&tenant) - 1) == NULL);
    json_t *json = tenant_json(&tenant);
    char *text = json == NULL ? NULL : json_dumps(json, JSON_INDENT(2));
    CHECK(text != NULL && tenant_parse(&again, 7, "again", text, strlen(text), &err) == 0);
    check_same(&tenant, &again);
    tenant_free(&again);
    tenant_free(&tenant);
    json_decref(json);
    free(text);
    return 0;
}
