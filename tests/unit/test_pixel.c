// What becomes of a pixel request: event or drop, for tokens good and bad and fetches of each class.
#include "ingest/pixel.h"

#include "common/cidr.h"
#include "common/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define TENANT 7
#define KID 1
#define SENT 29700000u
#define TOKEN "AQAAAAcBvi7p4Pf-6M_hGISvbd0yjfow8O3Dk_Aqk45l4UAjJHo" // FORMATS 2, the first vector
#define PSEUDONYM 0xd1c0605349147485u
#define LATER_MS ((SENT + 60 * 24) * 60000LL)

static struct pixel_keys *keys;
static struct fetch_classes *classes;
static struct drop_view drops;

static int set_up(void **state) {
    (void)state;
    static const char rules[] = "machine purpose-exact \"prefetch\" ; test ; 2026-11-23\n"
                                "scanner agent-contains \"bot\" ; test ; 2026-11-23\n"
                                "machine address \"17.0.0.0/8\" ; test ; 2026-11-23\n"
                                "machine any within-minute ; test ; 2026-11-23\n";
    static struct keys masters;
    char dir[] = "/tmp/openveil-pixel-XXXXXX", path[PATH_SIZE];
    struct tenant_table *tenants;
    struct tenant tenant = {.n_versions = 1};
    struct tenant_version version = {.from_day = 20000, .inactive_days = 180, .n_streams = 1,
                                     .streams = {{.number = 3, .name = "receipts"}}};
    struct err err;
    masters.has_token[KID] = masters.has_token[200] = true;
    for (uint8_t i = 0; i < KEY_SIZE; i++)
        masters.token[KID][i] = i;
    memset(masters.token[200], 9, KEY_SIZE);
    assert_non_null(mkdtemp(dir));
    tenant.versions = &version;
    for (uint32_t id = 1; id <= 40; id++) {
        tenant.id = id * id == 49 ? TENANT : id * 1000003u;
        assert_int_equal(tenant_store(&tenant, dir, true, &err), 0);
    }
    assert_int_equal(tenant_table_load(&tenants, dir, &err), 0);
    assert_int_equal(pixel_keys_create(&keys, &masters, tenants, &err), 0);
    for (size_t i = 0; i < tenant_table_count(tenants); i++) {
        char name[32];
        snprintf(name, sizeof name, "%u.json", tenant_table_at(tenants, i)->id);
        assert_int_equal(path_join(path, dir, name, &err), 0);
        unlink(path);
    }
    rmdir(dir);
    tenant_table_free(tenants);
    return fetch_classes_parse(&classes, "test", rules, strlen(rules), &err);
}

static int tear_down(void **state) {
    (void)state;
    pixel_keys_free(keys);
    fetch_classes_free(classes);
    return 0;
}

static struct text text_of(const char *text) {
    return (struct text){.at = text, .len = text == NULL ? 0 : strlen(text)};
}

static unsigned n_address_asked;

static void give_address(const void *arg, const struct http_request *request, uint8_t address[16]) {
    assert_non_null(request);
    n_address_asked++;
    memcpy(address, arg, 16);
}

static struct pixel_outcome decide(const char *path, const char *agent, const char *purpose, const char *from,
                                   int64_t wall_ms) {
    struct http_request request = {.path = text_of(path), .user_agent = text_of(agent), .purpose = text_of(purpose)};
    struct pixel_outcome outcome;
    uint8_t address[16];
    assert_int_equal(ip_parse(from, address), 0);
    assert_true(pixel_path(&request.path));
    pixel_decide(keys, classes, &drops, &request, give_address, address, wall_ms, &outcome);
    return outcome;
}

static void a_good_token_becomes_an_event(void **state) {
    (void)state;
    assert_int_equal(pixel_keys_count(keys), 2 * 40);
    struct pixel_outcome outcome = decide("/p/" TOKEN ".gif", "Mail", NULL, "192.0.2.1", LATER_MS);
    assert_true(outcome.recorded);
    assert_true(outcome.event.pseudonym == PSEUDONYM);
    assert_int_equal(outcome.event.tenant, TENANT);
    assert_int_equal(outcome.event.sent_day, SENT / 1440);
    assert_int_equal(outcome.event.stream, 3);
    assert_int_equal(outcome.event.provider, 1);
    assert_int_equal(event_class(&outcome.event), CLASS_TRANSACTIONAL);
    assert_int_equal(event_regime(&outcome.event), REGIME_EXEMPTION);
    assert_int_equal(outcome.event.fetch, FETCH_PERSON);
}

static void the_fetch_is_classified(void **state) {
    (void)state;
    const char *path = "/p/" TOKEN ".gif";
    assert_int_equal(decide(path, "Mail", "prefetch", "192.0.2.1", LATER_MS).event.fetch, FETCH_MACHINE);
    assert_int_equal(decide(path, "Mail", NULL, "17.1.2.3", LATER_MS).event.fetch, FETCH_MACHINE);
    struct pixel_outcome scanner = decide(path, "A Bot", NULL, "192.0.2.1", LATER_MS);
    assert_false(scanner.recorded);
    assert_int_equal(scanner.drop, EDGE_DROP_SCANNER);
}

static void who_left_is_not_recorded(void **state) {
    (void)state;
    static _Atomic bool in_use = true;
    const char *path = "/p/" TOKEN ".gif";
    struct drop_set *set;
    struct err err;
    assert_int_equal(drop_set_create(&set, 1, &err), 0);
    drops = (struct drop_view){.in_use = &in_use, .reader = drop_set_reader(set, 0)};
    assert_true(decide(path, "Mail", NULL, "192.0.2.1", LATER_MS).recorded);
    assert_int_equal(drop_set_add(set, TENANT, PSEUDONYM), 0);
    struct pixel_outcome dropped = decide(path, "Mail", NULL, "192.0.2.1", LATER_MS);
    assert_false(dropped.recorded);
    assert_int_equal(dropped.drop, EDGE_DROP_NOT_ALLOWED);
    assert_int_equal(decide(path, "A Bot", NULL, "192.0.2.1", LATER_MS).drop, EDGE_DROP_SCANNER);
    in_use = false;
    assert_true(decide(path, "Mail", NULL, "192.0.2.1", LATER_MS).recorded);
    drops = (struct drop_view){0};
    drop_set_free(set);
}

static void the_minute_of_sending(void **state) {
    (void)state;
    const char *path = "/p/" TOKEN ".gif";
    const struct {
        int64_t wall_ms;
        enum fetch fetch;
    } cases[] = {
        {(SENT - 1000) * 60000LL, FETCH_MACHINE}, {SENT * 60000LL, FETCH_MACHINE},
        {SENT * 60000LL + 119999, FETCH_MACHINE}, {SENT * 60000LL + 120000, FETCH_PERSON},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(decide(path, "Mail", NULL, "192.0.2.1", cases[i].wall_ms).event.fetch, cases[i].fetch);
}

static void everything_else_is_one_drop(void **state) {
    (void)state;
    const char *paths[] = {
        "/p/", "/p/.gif", "/p/x", "/p/" TOKEN, "/p/" TOKEN ".GIF", "/p/" TOKEN ".gif/", "/p/" TOKEN "A.gif",
        "/p/" TOKEN "/.gif", "/p//" TOKEN ".gif", "/p/AgAAAAcBvi7p4Pf-6M_hGISvbd0yjfow8O3Dk_Aqk45l4UAjJHo.gif",
        "/p/AQAAAAcBvi7p4Pf-6M_hGISvbd0yjfow8O3Dk_Aqk45l4UAjJHp.gif",  // another ending
        "/p/AQAAAAcBvi7p4Pf-6M_hGISvbd0yjfow8O3Dk_Aqk45l4UAjJHg.gif",  // a tampered tag or field
        "/p/AQAAAAgBvi7p4Pf-6M_hGISvbd0yjfow8O3Dk_Aqk45l4UAjJHo.gif",  // another tenant
        "/p/AQAAAAcAvi7p4Pf-6M_hGISvbd0yjfow8O3Dk_Aqk45l4UAjJHo.gif",  // a key id that there is not
        "/p/AQAAAAfIvi7p4Pf-6M_hGISvbd0yjfow8O3Dk_Aqk45l4UAjJHo.gif",  // and one of another key
        "/p/Af______O5ewLcZYWG7a9S84XF1KPyuoLtYBjZFwwFtydqcPnS0.gif",  // a tenant that there is not
    };
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct pixel_outcome outcome = decide(paths[i], "A Bot", NULL, "192.0.2.1", LATER_MS);
        assert_false(outcome.recorded);
        assert_int_equal(outcome.drop, EDGE_DROP_BAD_TOKEN);
    }
}

static void the_address_is_asked_for_where_a_rule_needs_it(void **state) {
    (void)state;
    static const char rules[] = "scanner address \"17.0.0.0/8\" within-minute ; test ; 2026-11-23\n";
    struct fetch_classes *before = classes;
    struct err err;
    unsigned asked = n_address_asked;
    decide("/p/x", NULL, NULL, "17.1.2.3", SENT * 60000LL);
    assert_int_equal(n_address_asked, asked);
    decide("/p/" TOKEN ".gif", NULL, NULL, "17.1.2.3", LATER_MS);
    assert_int_equal(n_address_asked, asked + 1);
    assert_int_equal(fetch_classes_parse(&classes, "test", rules, strlen(rules), &err), 0);
    assert_true(decide("/p/" TOKEN ".gif", NULL, NULL, "17.1.2.3", LATER_MS).recorded);
    assert_int_equal(n_address_asked, asked + 1);
    assert_false(decide("/p/" TOKEN ".gif", NULL, NULL, "17.1.2.3", SENT * 60000LL).recorded);
    assert_int_equal(n_address_asked, asked + 2);
    fetch_classes_free(classes);
    classes = before;
}

static void which_paths_are_pixels(void **state) {
    (void)state;
    const char *others[] = {"/", "/p", "/P/x", "/pp/x", "p/x", "//p/x", "/%70/x", "/x/p/"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        struct text path = text_of(others[i]);
        assert_false(pixel_path(&path));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_token_becomes_an_event), cmocka_unit_test(the_fetch_is_classified),
        cmocka_unit_test(the_minute_of_sending),         cmocka_unit_test(everything_else_is_one_drop),
        cmocka_unit_test(who_left_is_not_recorded),
        cmocka_unit_test(which_paths_are_pixels),        cmocka_unit_test(the_address_is_asked_for_where_a_rule_needs_it),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
