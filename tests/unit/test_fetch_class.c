// Who fetched the pixel: what clients really send, row by row of the built-in file, and what a file may say.
#include "ingest/fetch_class.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "common/cidr.h"
#include "common/hmac.h"

#include <string.h>

static struct text text_of(const char *text) {
    return (struct text){text, text == NULL ? 0 : strlen(text)};
}

static struct fetch_facts facts_of(const char *agent, const char *address, bool within_minute) {
    struct fetch_facts facts = {.user_agent = text_of(agent), .within_minute = within_minute};
    assert_int_equal(ip_parse(address == NULL ? "192.0.2.7" : address, facts.address), 0);
    return facts;
}

static struct fetch_classes *parse(const char *text) {
    struct fetch_classes *classes;
    struct err err;
    int rc = fetch_classes_parse(&classes, "rules.txt", text, strlen(text), &err);
    if (rc != 0)
        fail_msg("%s", err.text);
    return classes;
}

#define PROVENANCE " ; somebody ; 2026-01-01\n"
#define CHROME_TAIL "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
#define CHROME "Mozilla/5.0 (Windows NT 10.0; Win64; x64) " CHROME_TAIL

struct recorded {
    const char *agent;
    enum fetch fetch;
};

static const struct recorded recorded[] = {
    // Apple Mail Privacy Protection and Gmail's prefetch: exactly these.
    {"Mozilla/5.0", FETCH_MACHINE},
    {"mozilla/5.0", FETCH_MACHINE},
    {"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 "
     "Safari/537.36 Edge/12.246 Mozilla/5.0", FETCH_MACHINE},
    {"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 "
     "Safari/537.36 Edge/12.246", FETCH_PERSON},
    // Image proxies.
    {"Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)", FETCH_PERSON},
    {"YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", FETCH_PERSON},
    {"Mozilla/4.0 (compatible; MSIE 5.5; Windows NT 5.0) FastmailUA/1.0", FETCH_PERSON},
    {"hey.com/imageproxy", FETCH_PERSON},
    {"SeznamEmailProxy/2.0.172", FETCH_PERSON},
    {"Mozilla/5.0 (compatible; RamblerMail/6.0; +http://mail.rambler.ru)", FETCH_PERSON},
    {"Mozilla/5.0 (Windows NT 6.1) (via secureurl.fwdcdn.com)", FETCH_PERSON},
    // Mail clients.
    {"Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; WOW64; Trident/7.0; .NET4.0C; .NET4.0E; Microsoft Outlook "
     "16.0.5266; ms-office; MSOffice 16)", FETCH_PERSON},
    {"Outlook-iOS/709.2226530.prod.iphone (3.24.1)", FETCH_PERSON},
    {"Outlook-Android/2.0", FETCH_PERSON},
    {"MacOutlook/16.29.0.190825 (Intelx64 Mac OS X Version 10.14.6 (Build 18G95))", FETCH_PERSON},
    {"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.3.1", FETCH_PERSON},
    {"Mozilla/5.0 (X11; Linux x86_64; rv:10.0.11) Gecko/20121122 Icedove/10.0.11", FETCH_PERSON},
    {"Mozilla/5.0 (Windows; U; Windows NT 6.1; en-US) eM Client/6.0.24928.0", FETCH_PERSON},
    {"Mailbird/2.9.58.0", FETCH_PERSON},
    {"BlueMail/1.9.8.126 (Linux; U; Android 12)", FETCH_PERSON},
    {"Airmail/2.6.1 (Mac OS X 10.11)", FETCH_PERSON},
    {"Mail/3445.104.11 CFNetwork/976 Darwin/18.2.0 (x86_64)", FETCH_PERSON},
    {"Android-Gmail/2023.01", FETCH_PERSON},
    {"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)", FETCH_PERSON},
    // Browsers.
    {CHROME, FETCH_PERSON},
    {"Mozilla/5.0 (iPhone; CPU iPhone OS 17_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.6 "
     "Mobile/15E148 Safari/604.1", FETCH_PERSON},
    {"Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0", FETCH_PERSON},
    // Phones called Cubot are no bots.
    {"Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 Chrome/83.0 Mobile Safari/537.36", FETCH_PERSON},
    {"Mozilla/5.0 (Linux; Android 7.0; CUBOT_NOTE_S) AppleWebKit/537.36 Chrome/67 Mobile Safari/537.36", FETCH_PERSON},
    {"Mozilla/5.0 (Linux; Android 9; CUBOT X19; compatible; SomeBot/1.0)", FETCH_SCANNER},
    // Office documents, security products, link previews.
    {"Mozilla/4.0 (compatible; ms-office; MSOffice rmj)", FETCH_SCANNER},
    {"Microsoft Office Existence Discovery", FETCH_SCANNER},
    {"Microsoft Office Protocol Discovery", FETCH_SCANNER},
    {"Barracuda Sentinel (EE)", FETCH_SCANNER},
    {CHROME " BingPreview/1.0b", FETCH_SCANNER},
    {CHROME " MicrosoftPreview/2.0 +https://aka.ms/MicrosoftPreview", FETCH_SCANNER},
    {"Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5", FETCH_SCANNER},
    {"Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", FETCH_SCANNER},
    {"Slack-ImgProxy (+https://api.slack.com/robots)", FETCH_SCANNER},
    {"facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", FETCH_SCANNER},
    {"WhatsApp/2.23.20.0", FETCH_SCANNER},
    {"Twitterbot/1.0", FETCH_SCANNER},
    {"Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)", FETCH_SCANNER},
    {"TelegramBot (like TwitterBot)", FETCH_SCANNER},
    // Scripts and bots.
    {"curl/8.5.0", FETCH_SCANNER},
    {"Wget/1.21.3", FETCH_SCANNER},
    {"python-requests/2.31.0", FETCH_SCANNER},
    {"Go-http-client/2.0", FETCH_SCANNER},
    {"okhttp/4.12.0", FETCH_SCANNER},
    {"axios/1.6.8", FETCH_SCANNER},
    {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/130.0.0.0 Safari/537.36",
     FETCH_SCANNER},
    {"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", FETCH_SCANNER},
    {"Mozilla/5.0 (compatible; MJ12bot/v1.4.8; http://mj12bot.com/)", FETCH_SCANNER},
    {"Googlebot-Image/1.0", FETCH_SCANNER},
    {"my own crawler", FETCH_SCANNER},
    {"Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)", FETCH_SCANNER},
    {"Robotics Browser/1.0 (bottles)", FETCH_PERSON},
};

static void recorded_agents(void **state) {
    for (size_t i = 0; i < ARRAY_LEN(recorded); i++) {
        struct fetch_facts facts = facts_of(recorded[i].agent, NULL, false);
        unsigned line;
        enum fetch fetch = fetch_classify(*state, &facts, &line);
        if (fetch != recorded[i].fetch)
            fail_msg("%s: class %d by line %u", recorded[i].agent, (int)fetch, line);
        // Surrounding blanks are no part of a header's value.
        char padded[512];
        int n = snprintf(padded, sizeof padded, " \t%s ", recorded[i].agent);
        facts.user_agent = (struct text){padded, (size_t)n};
        assert_int_equal(fetch_classify(*state, &facts, NULL), recorded[i].fetch);
    }
}

static void prefetches_say_so(void **state) {
    struct fetch_facts facts = facts_of(CHROME, NULL, false);
    assert_int_equal(fetch_classify(*state, &facts, NULL), FETCH_PERSON);
    facts.sec_purpose = text_of("prefetch;anonymous-client-ip");
    assert_int_equal(fetch_classify(*state, &facts, NULL), FETCH_MACHINE);
    facts.sec_purpose = text_of("Prefetch;prerender");
    assert_int_equal(fetch_classify(*state, &facts, NULL), FETCH_MACHINE);
    facts.sec_purpose = text_of("prefetc");
    assert_int_equal(fetch_classify(*state, &facts, NULL), FETCH_PERSON);
    facts.purpose = text_of("prefetch");
    assert_int_equal(fetch_classify(*state, &facts, NULL), FETCH_MACHINE);
    facts.purpose = text_of("prefetch-not");
    assert_int_equal(fetch_classify(*state, &facts, NULL), FETCH_PERSON);
    facts.x_moz = text_of("prefetch");
    assert_int_equal(fetch_classify(*state, &facts, NULL), FETCH_MACHINE);
    // Even from a bot or a proxy: the first line decides.
    facts.user_agent = text_of("Googlebot/2.1 GoogleImageProxy");
    assert_int_equal(fetch_classify(*state, &facts, NULL), FETCH_MACHINE);
}

static void proxies_come_before_bots_and_minutes(void **state) {
    struct fetch_facts facts = facts_of("Twitterbot crawler (via ggpht.com GoogleImageProxy)", "40.94.1.1", true);
    unsigned line, other;
    assert_int_equal(fetch_classify(*state, &facts, &line), FETCH_PERSON);
    facts.user_agent = text_of("GoogleImageProxy ggpht.com");
    assert_int_equal(fetch_classify(*state, &facts, &other), FETCH_PERSON);
    assert_int_equal(line, other); // the first of the lines that match, not the first word of the agent
    assert_true(line > 0);
}

static void minutes_addresses_and_missing_agents(void **state) {
    static const struct {
        const char *agent, *address;
        bool within_minute;
        enum fetch fetch;
    } cases[] = {
        {CHROME, "40.94.0.0", true, FETCH_SCANNER},
        {CHROME, "40.94.255.255", true, FETCH_SCANNER},
        {CHROME, "104.47.127.255", true, FETCH_SCANNER},
        {CHROME, "104.47.128.0", true, FETCH_MACHINE},
        {CHROME, "40.94.0.0", false, FETCH_PERSON},
        {CHROME, "2001:db8::1", true, FETCH_MACHINE},
        {CHROME, NULL, false, FETCH_PERSON},
        {NULL, NULL, false, FETCH_MACHINE},
        {"", NULL, false, FETCH_MACHINE},
        {"  ", NULL, false, FETCH_MACHINE},
        {NULL, "40.94.3.4", true, FETCH_SCANNER},
        {"curl/8.0", NULL, true, FETCH_SCANNER},
        {"YahooMailProxy", NULL, true, FETCH_PERSON},
        {"Mozilla/5.0 (iPad) AppleWebKit/605.1.15 (KHTML, like Gecko)", NULL, true, FETCH_PERSON},
        {"x", NULL, false, FETCH_PERSON},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fetch_facts facts = facts_of(cases[i].agent, cases[i].address, cases[i].within_minute);
        assert_int_equal(fetch_classify(*state, &facts, NULL), cases[i].fetch);
    }
    struct fetch_facts facts = facts_of(CHROME, NULL, false);
    unsigned line = 99;
    assert_int_equal(fetch_classify(*state, &facts, &line), FETCH_PERSON);
    assert_int_equal(line, 0);
}

static void conditions_and_precedence(void **state) {
    (void)state;
    struct fetch_classes *classes = parse(
        "# a comment\n"
        "scanner agent-contains \"alpha\" with \"beta\" unless \"gamma\" unless \"delta\" within-minute" PROVENANCE
        "machine agent-contains \"alphabet\"" PROVENANCE
        "\r\n"
        "scanner agent-prefix \"alp\"" PROVENANCE
        "person agent-suffix \"end\" with \"alpha\"" PROVENANCE
        "machine agent-word-suffix \"end\" unless \"friend\" unless \"bend\"" PROVENANCE
        "scanner any\t; somebody; else ; 2026-01-01");
    static const struct {
        const char *agent;
        bool within_minute;
        unsigned line;
    } cases[] = {
        {"alpha beta", true, 2},        {"alpha beta", false, 5},      {"beta alpha", true, 2},
        {"alpha gamma beta", true, 5},  {"alpha beta delta", true, 5}, {"ALPHABET", true, 3},
        {"alphabeta", true, 2},         {"x alphabet", false, 3},      {"an alpha end", false, 6},
        {"weekend trip", false, 7},     {"my friend", false, 8},       {"friend bend", false, 8},
        {"friend trend!", false, 7},    {"friendend", false, 7},       {"ending", false, 8},
        {"", false, 8},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fetch_facts facts = facts_of(cases[i].agent, NULL, cases[i].within_minute);
        unsigned line;
        (void)fetch_classify(classes, &facts, &line);
        if (line != cases[i].line)
            fail_msg("%s: line %u, not %u", cases[i].agent, line, cases[i].line);
    }
    fetch_classes_free(classes);
}

static void bad_files_are_explained(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "rules.txt:1: the file has no rule"},
        {"# nothing\n\n", "rules.txt:3: the file has no rule"},
        {"\nhuman any" PROVENANCE, "rules.txt:2: a rule begins with person, machine or scanner"},
        {"person agent-contain \"abc\"" PROVENANCE,
         "rules.txt:1: unknown kind \"agent-contain\"; did you mean agent-contains?"},
        {"person agent-contains abc" PROVENANCE, "rules.txt:1: agent-contains needs a value in double quotes"},
        {"person agent-contains \"abc" PROVENANCE, "rules.txt:1: agent-contains needs a value in double quotes"},
        {"person agent-contains \"ab\"" PROVENANCE,
         "rules.txt:1: the value of agent-contains must have 3 to 255 bytes"},
        {"person agent-exact \"\"" PROVENANCE, "rules.txt:1: the value of agent-exact must have 1 to 255 bytes"},
        {"person agent-exact \"a\";s;2026-01-01", "rules.txt:1: a space must follow the value of agent-exact"},
        {"person any", "rules.txt:1: a rule ends with \"; SOURCE ; DATE\""},
        {"person any ; 2026-01-01", "rules.txt:1: a rule ends with \"; SOURCE ; DATE\""},
        {"person any ; ; 2026-01-01", "rules.txt:1: the rule names no source"},
        {"person any ; me too ; 2026-02-30", "rules.txt:1: the rule's date must be a day as YYYY-MM-DD"},
        {"person any ; me too ; yesterday", "rules.txt:1: the rule's date must be a day as YYYY-MM-DD"},
        {"person any within-hour" PROVENANCE,
         "rules.txt:1: only with, unless, within-minute or a semicolon may follow here"},
        {"person any with \"abc\"" PROVENANCE, "rules.txt:1: with does not go with any"},
        {"person agent-word-suffix \"bot\" with \"abc\"" PROVENANCE,
         "rules.txt:1: with does not go with agent-word-suffix"},
        {"person address \"10.0.0.1/8\"" PROVENANCE,
         "rules.txt:1: the value of address must be a range like \"192.0.2.0/24\" or \"2001:db8::/32\""},
        {"person any\x01" PROVENANCE, "rules.txt:1: a control character (byte 11 of the line)"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct fetch_classes *classes;
        struct err err;
        assert_int_equal(fetch_classes_parse(&classes, "rules.txt", bad[i].text, strlen(bad[i].text), &err),
                         ERR_INVALID);
        assert_null(classes);
        assert_string_equal(err.text, bad[i].message);
    }
    struct fetch_classes *classes;
    struct err err;
    assert_int_equal(fetch_classes_parse(&classes, "n", "a\0b", 3, &err), ERR_INVALID);
    assert_int_equal(fetch_classes_load(&classes, "/nonexistent/rules", &err), ERR_NOT_FOUND);
    assert_null(classes);
}

static char *many_rules(size_t n, size_t *len) {
    char *text = calloc(n, 80);
    assert_non_null(text);
    *len = 0;
    for (size_t i = 0; i < n; i++)
        *len += (size_t)snprintf(text + *len, 80, "scanner agent-contains \"b%zu!\"" PROVENANCE, i);
    return text;
}

static void limits_and_shrinking(void **state) {
    (void)state;
    struct fetch_classes *most, *half, *less;
    struct err err;
    size_t len;
    char *text = many_rules(4097, &len);
    assert_int_equal(fetch_classes_parse(&most, "n", text, len, &err), ERR_INVALID);
    assert_string_equal(err.text, "n:4097: more than 4096 rules");
    free(text);
    text = many_rules(4096, &len);
    assert_int_equal(fetch_classes_parse(&most, "n", text, len, &err), 0);
    free(text);
    struct fetch_facts facts = facts_of("B4095!", NULL, false);
    unsigned line;
    assert_int_equal(fetch_classify(most, &facts, &line), FETCH_SCANNER);
    assert_int_equal(line, 4096);
    text = many_rules(2048, &len);
    assert_int_equal(fetch_classes_parse(&half, "n", text, len, &err), 0);
    free(text);
    text = many_rules(2047, &len);
    assert_int_equal(fetch_classes_parse(&less, "n", text, len, &err), 0);
    free(text);
    assert_false(fetch_classes_shrunk(most, half));
    assert_true(fetch_classes_shrunk(most, less));
    assert_false(fetch_classes_shrunk(less, most));
    assert_int_equal(fetch_classes_count(most, FETCH_SCANNER), 4096);
    assert_int_equal(fetch_classes_count(most, FETCH_PERSON), 0);
    fetch_classes_free(most);
    fetch_classes_free(half);
    fetch_classes_free(less);
    fetch_classes_free(NULL);
    size_t size = FETCH_CLASSES_BYTES_MAX + 1;
    text = malloc(size);
    assert_non_null(text);
    memset(text, '\n', size);
    assert_int_equal(fetch_classes_parse(&most, "n", text, size, &err), ERR_INVALID);
    free(text);
}

static void the_hash_is_the_files(void **state) {
    size_t len;
    const char *text = fetch_classes_builtin(&len);
    uint8_t hash[SHA256_SIZE];
    sha256(text, len, hash);
    assert_memory_equal(fetch_classes_hash(*state), hash, sizeof hash);
    assert_true(fetch_classes_count(*state, FETCH_MACHINE) >= 7);
}

static int load(void **state) {
    struct err err;
    struct fetch_classes *classes;
    int rc = fetch_classes_load(&classes, "", &err);
    if (rc != 0)
        print_error("%s\n", err.text);
    *state = classes;
    return rc;
}

static int unload(void **state) {
    fetch_classes_free(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_agents),
        cmocka_unit_test(prefetches_say_so),
        cmocka_unit_test(proxies_come_before_bots_and_minutes),
        cmocka_unit_test(minutes_addresses_and_missing_agents),
        cmocka_unit_test(conditions_and_precedence),
        cmocka_unit_test(bad_files_are_explained),
        cmocka_unit_test(limits_and_shrinking),
        cmocka_unit_test(the_hash_is_the_files),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
