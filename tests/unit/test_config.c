// The configuration: defaults, the messages for bad files, and the parsers of single values.
#include "common/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "common/cli.h"
#include "common/config_table.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int parse(struct config *config, const char *text, bool rehearsal, struct err *err) {
    return config_parse(config, "test.conf", text, strlen(text), rehearsal, err);
}

static void empty_file_is_all_defaults(void **state) {
    (void)state;
    struct config config;
    struct err err;
    char host[256] = "";
    assert_int_equal(parse(&config, "", false, &err), 0);
    assert_string_equal(config.path, "test.conf");
    assert_string_equal(config.ingest_listen, "127.0.0.1:8080");
    assert_int_equal(config.spool_bytes_max, 1073741824);
    assert_true(config.ingest_require_synced_clock);
    assert_int_equal(config.release_epsilon.numerator, 1);
    assert_int_equal(config.release_epsilon.denominator, 4);
    assert_string_equal(config.kafka_brokers, "");
    assert_string_equal(config.consent_log_dir, "/var/lib/openveil/aggregator/consent-log");
    assert_false(config.clock.rehearsal);
    assert_int_equal(gethostname(host, sizeof host), 0);
    assert_int_equal(strlen(config.ingest_edge_id), strlen(host));
    assert_int_equal(config_provider_number(&config, "proton"), 13);
    assert_int_equal(config_provider_number(&config, "nobody"), -1);
    config_free(&config);
    config_free(&config);
    config_free(NULL);
}

static void every_default_parses_when_written_out(void **state) {
    (void)state;
    for (size_t i = 0; i < CONFIG_OPTIONS; i++) {
        struct config config;
        struct err err;
        char text[512];
        snprintf(text, sizeof text, "[%s]\n%s = %s\n", config_options[i].section, config_options[i].key,
                 config_options[i].initial);
        int rc = parse(&config, text, false, &err);
        if (rc != 0)
            print_error("%s", err.text);
        assert_int_equal(rc, 0);
        config_free(&config);
    }
}

static void values_reach_their_fields(void **state) {
    (void)state;
    struct config config;
    struct err err;
    const char *text = "\xef\xbb\xbf# comment\r\n"
                       "[ingest]\r\n"
                       "listen=[::1]:80\r\n"
                       "  ; an indented comment is fine\n"
                       "edge_id = paris-1\n"
                       "proxy_protocol = yes\n"
                       "trusted_cidrs = 10.0.0.0/8\n"
                       "[kafka]\n"
                       "brokers = a:9092,b:9092\n"
                       "properties = security.protocol=ssl ; ssl.ca.location=/ca # not a comment\n"
                       "[spool]\ndurability = page-cache\n"
                       "[release]\nproviders = 14=posteo, 255=mail.ru\nepsilon = 1/1\n"
                       "[rehearsal]\nstart_unix_s = 1700000000\nstart_day = 2026-11-22\nday_seconds = 20";
    assert_int_equal(parse(&config, text, true, &err), 0);
    assert_string_equal(config.ingest_listen, "[::1]:80");
    assert_string_equal(config.ingest_edge_id, "paris-1");
    assert_true(config.ingest_proxy_protocol);
    assert_string_equal(config.kafka_properties, "security.protocol=ssl ; ssl.ca.location=/ca # not a comment");
    assert_string_equal(config.spool_durability, "page-cache");
    assert_int_equal(config_provider_number(&config, "posteo"), 14);
    assert_string_equal(config.provider_names[255], "mail.ru");
    assert_null(config.provider_names[15]);
    assert_true(config.clock.rehearsal);
    assert_int_equal(config.clock.start_day, 20779);
    assert_int_equal(config.clock.day_seconds, 20);
    config_free(&config);
    assert_int_equal(parse(&config, text, false, &err), 0);
    assert_false(config.clock.rehearsal);
    config_free(&config);
}

static void long_values_survive(void **state) {
    (void)state;
    struct config config;
    struct err err;
    char text[6000], value[4100];
    memset(value, 'x', sizeof value);
    value[4000] = '\0';
    snprintf(text, sizeof text, "[kafka]\nproperties = %s\ngroup = after\n", value);
    assert_int_equal(parse(&config, text, false, &err), 0);
    assert_string_equal(config.kafka_properties, value);
    assert_string_equal(config.kafka_group, "after");
    config_free(&config);
}

struct bad_file {
    const char *text;
    const char *problems; // the whole of them
    bool rehearsal;
};

static const struct bad_file bad_files[] = {
    {"[ingest]\nlistn = 1.2.3.4:1\n",
     "test.conf:2: unknown key \"listn\" in [ingest]; did you mean \"listen\"?", false},
    {"\n[ingset]\nlisten = 1.2.3.4:1\nwhatever = 1\n",
     "test.conf:2: unknown section [ingset]; did you mean [ingest]?", false},
    {"[zzzzzzzz]\n", "test.conf:1: unknown section [zzzzzzzz]; there are ingest, spool, kafka, redis, aggregator, release, "
     "consent, keys, tenants, rehearsal, log", false},
    {"[keys]\nzzzzzzzz = 1\n", "test.conf:2: unknown key \"zzzzzzzz\" in [keys], which has dir", false},
    {"listen = 1.2.3.4:1\n", "test.conf:1: key \"listen\" stands before the first [SECTION]", false},
    {"[ingest]\nepsilon = 1/2\n", "test.conf:2: unknown key \"epsilon\" in [ingest]; it belongs to [release]", false},
    {"[ingest]\nworkers = 1\n\nworkers = 1\n",
     "test.conf:4: duplicate key \"workers\" in [ingest], first set in line 2", false},
    {"[ingest]\nworkers = 65\n", "test.conf:2: workers must be an integer from 0 to 64, not \"65\"", false},
    {"[ingest]\nworkers = -1\n", "test.conf:2: workers must be an integer from 0 to 64, not \"-1\"", false},
    {"[ingest]\nworkers = 0x1\n[log]\nlevel = loud\n",
     "test.conf:2: workers must be an integer from 0 to 64, not \"0x1\"\n"
     "test.conf:4: level must be one of error|warn|info|debug, not \"loud\"", false},
    {"[log]\nlevel = erro\n", "test.conf:2: level must be one of error|warn|info|debug, not \"erro\"", false},
    {"[log]\nlevel =\n", "test.conf:2: level must be one of error|warn|info|debug, not \"\"", false},
    {"[ingest]\nproxy_protocol = true\n", "test.conf:2: proxy_protocol must be yes or no, not \"true\"", false},
    {"[ingest]\nlisten = 8080\n",
     "test.conf:2: listen must be HOST:PORT or [IPV6]:PORT with a port from 0 to 65535, not \"8080\"", false},
    {"[spool]\ndir = \"/var/spool\"\n",
     "test.conf:2: dir must be a path of 1 to 900 bytes, without quotes, not \"\"/var/spool\"\"", false},
    {"[release]\nepsilon = 2/8\n",
     "test.conf:2: epsilon must be a reduced fraction A/B of positive integers, for instance 1/4, not \"2/8\"", false},
    {"[release]\nepsilon = 3/2\n", "test.conf:2: epsilon must be at most 1", false},
    {"[release]\nthreshold = 10\n",
     "test.conf:2: threshold must be an integer from 11 to 1000000000, not \"10\"", false},
    {"[rehearsal]\nstart_day = 2026-02-30\n",
     "test.conf:2: start_day must be a day as YYYY-MM-DD, not \"2026-02-30\"", false},
    {"[kafka]\nbrokers = a:1,\n  b:2\n",
     "test.conf:3: an indented line; values end with their line, so begin it at the margin", false},
    {"[kafka\nbrokers = a:1\n",
     "test.conf:1: a section's line is [NAME] and nothing else\n"
     "test.conf:2: key \"brokers\" stands before the first [SECTION]", false},
    {"[ingest]\nworkers: 1\n", "test.conf:2: neither [SECTION] nor KEY = VALUE nor a comment (#)", false},
    {"[ingest]\nworkers\n", "test.conf:2: neither [SECTION] nor KEY = VALUE nor a comment (#)", false},
    {"[ingest]\n= 1\n", "test.conf:2: neither [SECTION] nor KEY = VALUE nor a comment (#)", false},
    {"[ingest]\nedge_id = a\x01" "b\n", "test.conf:2: a control character (byte 12 of the line)", false},
    {"[ingest]\nedge_id = a b\n",
     "test.conf:2: edge_id must be made of letters, digits, dot, dash and underscore", false},
    {"[release]\nproviders = 13=x\n",
     "test.conf:2: providers must be NUMBER=NAME, comma separated, numbers from 14 to 255", false},
    {"[release]\nproviders = 14=a,\n",
     "test.conf:2: providers must be NUMBER=NAME, comma separated, numbers from 14 to 255", false},
    {"[release]\nproviders = 14=A\n",
     "test.conf:2: the name of provider 14 must be 1 to 32 of a-z 0-9 . -", false},
    {"[release]\nproviders = 14=a,14=b\n", "test.conf:2: provider 14 has two names", false},
    {"[release]\nproviders = 14=a,15=gmail\n", "test.conf:2: provider name \"gmail\" is taken by number 1", false},
    {"[spool]\nsegment_bytes = 16777216\nbytes_max = 16777216\n",
     "test.conf:3: bytes_max must be at least twice segment_bytes (16777216)", false},
    {"[ingest]\nlisten = h:1\nadmin_listen = h:1\n",
     "test.conf:3: listen and admin_listen must be two addresses", false},
    {"[ingest]\nproxy_protocol = yes\n", "test.conf:2: proxy_protocol needs trusted_cidrs", false},
    {"[ingest]\ntrusted_cidrs = 10.0.0.1/8\n",
     "test.conf:2: trusted_cidrs must be at most 64 ranges like 10.0.0.0/8 or 2001:db8::/32, comma separated", false},
    {"[redis]\naddress = localhost\n",
     "test.conf:2: address must be HOST:PORT or the path of a socket, or up to 64 different ones with commas between", false},
    {"[redis]\naddress = a:1, b:2,a:1\n",
     "test.conf:2: address must be HOST:PORT or the path of a socket, or up to 64 different ones with commas between", false},
    {"[redis]\naddress = a:1, b:2\n[kafka]\npartitions = 1\n",
     "test.conf:2: address names more servers than there are partitions", false},
    {"[redis]\nsentinels = a:1\n", "test.conf:2: sentinels and master go together", false},
    {"[redis]\nsentinels = a:1\nmaster = m\naddress = b:1\n",
     "test.conf:4: address must not be set: the sentinels name the primary", false},
    {"[redis]\nsentinels = a:1\nmaster = m\ncluster = yes\n", "test.conf:4: a Redis Cluster has no sentinels", false},
    {"[redis]\ntls = yes\n",
     "test.conf:2: tls must be no: this program's hiredis (0.14, as in Debian 12) has no TLS; put stunnel or a socket "
     "between, or use a network that encrypts", false},
    {"[kafka]\ntopic_state = x\ntopic_events = x\n",
     "test.conf:2: topic_events and topic_state must be two topics", false},
    {"[rehearsal]\nstart_unix_s = 1\nday_seconds = 5\n", "test.conf: --rehearsal needs start_day in [rehearsal]", true},
    {"[rehearsal]\nstart_unix_s = 1\nstart_day = 2026-01-01\nday_seconds =\n",
     "test.conf:4: day_seconds must not be empty in a rehearsal", true},
};

static void bad_files_are_explained(void **state) {
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad_files); i++) {
        struct config config;
        struct err err;
        assert_int_equal(parse(&config, bad_files[i].text, bad_files[i].rehearsal, &err), ERR_INVALID);
        assert_string_equal(err.text, bad_files[i].problems);
        assert_null(config.path);
        assert_null(config.ingest_listen);
    }
}

static void overlong_line_is_named(void **state) {
    (void)state;
    struct config config;
    struct err err;
    char text[6000] = "[kafka]\nproperties = ";
    memset(text + strlen(text), 'x', 4500);
    strcat(text, "\nbrokrs = x\n");
    assert_int_equal(parse(&config, text, false, &err), ERR_INVALID);
    assert_string_equal(err.text, "test.conf:2: a line of 4513 bytes; at most 4400 are allowed\n"
                                  "test.conf:3: unknown key \"brokrs\" in [kafka]; did you mean \"brokers\"?");
    assert_int_equal(config_parse(&config, "nul", "[log]\n\0", 7, false, &err), ERR_INVALID);
    assert_string_equal(err.text, "nul:2: a control character (byte 1 of the line)");
}

static void many_problems_are_counted(void **state) {
    (void)state;
    struct config config;
    struct err err;
    char text[4000] = "[ingest]\n";
    for (int i = 0; i < 100; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "qqqqqqqq%d = 1\n", i);
    assert_int_equal(parse(&config, text, false, &err), ERR_INVALID);
    const char *last = strrchr(err.text, '\n');
    unsigned shown = 0, more = 0;
    for (const char *c = err.text; *c != '\0'; c++)
        shown += *c == '\n';
    assert_non_null(last);
    assert_int_equal(sscanf(last, "\nand %u more", &more), 1);
    assert_int_equal(shown + more, 100);
    assert_int_equal(config_parse(&config, "no err", text, strlen(text), false, NULL), ERR_INVALID);
}

static void missing_file_says_how_to_get_one(void **state) {
    (void)state;
    struct config config;
    struct err err;
    assert_int_equal(config_load(&config, "/nonexistent/openveil.conf", false, &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "/nonexistent/openveil.conf"));
    assert_non_null(strstr(err.text, "openveil config sample"));
}

static void fractions(void **state) {
    (void)state;
    struct fraction f;
    assert_int_equal(fraction_parse("4294967295/4294967294", &f), 0);
    assert_int_equal(f.numerator, UINT32_MAX);
    const char *bad[] = {"", "1", "/", "1/", "/4", "0/1", "1/0", "2/4", "1/4 ", " 1/4", "+1/4", "01/4",
                         "4294967296/1", "1/4/1"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(fraction_parse(bad[i], &f), ERR_INVALID);
}

static void addresses(void **state) {
    (void)state;
    char host[256];
    uint16_t port;
    assert_int_equal(address_parse("[2001:db8::1]:65535", host, &port), 0);
    assert_string_equal(host, "2001:db8::1");
    assert_int_equal(port, 65535);
    assert_int_equal(address_parse("edge-1.example:0", host, &port), 0);
    assert_string_equal(host, "edge-1.example");
    const char *bad[] = {"", ":", "host", "host:", ":80", "host:65536", "host:-1", "host:+1", "::1:80", "[::1]80",
                         "[]:80", "[::g]:80", "ho st:80", "[host]:80", "[::1:80"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(address_parse(bad[i], host, &port), ERR_INVALID);
    char name[300];
    memset(name, 'a', sizeof name);
    memcpy(name + 256, ":80", 4);
    assert_int_equal(address_parse(name, host, &port), ERR_INVALID);
    memcpy(name + 255, ":80", 4);
    assert_int_equal(address_parse(name, host, &port), 0);
}

static void nearest_names(void **state) {
    (void)state;
    const char *names[] = {"listen", "workers", "dir", "token mint"};
    assert_string_equal(cli_nearest("lisetn", names, 4), "listen");
    assert_string_equal(cli_nearest("dri", names, 4), "dir");
    assert_string_equal(cli_nearest("tokn mint", names, 4), "token mint");
    assert_null(cli_nearest("elephant", names, 4));
    assert_null(cli_nearest("", names, 4));
    assert_null(cli_nearest("x", names, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_file_is_all_defaults),
        cmocka_unit_test(every_default_parses_when_written_out),
        cmocka_unit_test(values_reach_their_fields),
        cmocka_unit_test(long_values_survive),
        cmocka_unit_test(bad_files_are_explained),
        cmocka_unit_test(overlong_line_is_named),
        cmocka_unit_test(many_problems_are_counted),
        cmocka_unit_test(missing_file_says_how_to_get_one),
        cmocka_unit_test(fractions),
        cmocka_unit_test(addresses),
        cmocka_unit_test(nearest_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
