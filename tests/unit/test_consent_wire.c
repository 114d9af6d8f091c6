// A Redis that says something else than it should, or nothing, or half of it: the look-up is unreachable, never an
// answer and never a crash. A fake server plays each conversation from a list of replies.
#include "tests/consent_fixture.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>

#define PLACE "*1\r\n$-1\r\n"
#define VERSION ":4\r\n"
#define STIRRED ":1\r\n"
#define PLACE "*1\r\n$-1\r\n"
#define HASH "$40\r\n00112233445566778899aabbccddeeff00112233\r\n"
#define META_OF(epoch) "*6\r\n$10\r\nproduction\r\n$1\r\n" epoch "\r\n" HASH "$1\r\n1\r\n$-1\r\n$-1\r\n"
#define META META_OF("1")
#define BITS "*1\r\n$1\r\n8\r\n"
#define RECORD "*1\r\n$10\r\n\x01\x02\x4a\x38\x4a\x38\x4a\x38v1\r\n"
// The closing check proves that it leads on from the opening one.
#define CHANGES                                                                                                      \
    "*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nh\r\n$40\r\n00112233445566778899aabbccddeeff00112233\r\n"
#define NOTICES "*0\r\n"
#define CONVERSATION VERSION, STIRRED, META, BITS, NOTICES, RECORD, META, CHANGES, BITS
// What was known before the entry was erased: a link says that the store leads on.
#define META_9 META_OF("9")
#define LINK "$1\r\n-\r\n"
#define LINK_PLACE 6
#define LINKED \
    VERSION, STIRRED, META_9, "*0\r\n", BITS, NOTICES, LINK, RECORD, META_9, "*0\r\n", BITS
#define APPLIED "*1\r\n:10\r\n"
#define CHANGE VERSION, STIRRED, APPLIED
#define REPLIES_MAX 12
#define PATIENT_MS 5000 // where the answer must come
#define HASTY_MS 60     // where it must not

struct fake {
    pthread_t thread;
    int listener;
    uint16_t port;
    const char *replies[REPLIES_MAX];
    size_t lens[REPLIES_MAX];
    size_t bytes_max;  // what may be said on a connection before it is closed
    bool at_once;      // everything at the first command instead of a reply a command
    unsigned slow_ms;  // before each reply
    const struct consent_stamp *known;
    _Atomic bool stop;
};

// Commands are counted by their heads: no argument of a look-up holds "\r\n*".
static size_t commands_in(const char *data, size_t len, bool *line_start) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        n += *line_start && data[i] == '*';
        *line_start = data[i] == '\n';
    }
    return n;
}

static bool say(int fd, const char *data, size_t len, size_t *left) {
    size_t n = len < *left ? len : *left;
    *left -= n;
    return send(fd, data, n, MSG_NOSIGNAL) == (ssize_t)n && n == len;
}

// One segment, so that no reply can be late enough to meet its question.
static bool say_everything(const struct fake *fake, int fd, size_t *left) {
    char all[4096];
    size_t len = 0;
    for (size_t i = 0; i < REPLIES_MAX && fake->replies[i] != NULL; i++) {
        CHECK(len + fake->lens[i] <= sizeof all);
        memcpy(all + len, fake->replies[i], fake->lens[i]);
        len += fake->lens[i];
    }
    return say(fd, all, len, left);
}

static void fake_serve(struct fake *fake, int fd) {
    char data[4096];
    size_t next = 0, left = fake->bytes_max;
    bool line_start = true, open = true;
    while (open && !fake->stop) {
        struct pollfd waiting = {.fd = fd, .events = POLLIN};
        if (poll(&waiting, 1, 20) == 0)
            continue;
        ssize_t n = recv(fd, data, sizeof data, 0);
        if (n <= 0)
            return;
        size_t commands = commands_in(data, (size_t)n, &line_start);
        // The first question of every connection, for the server's place among several, is not part of the conversations.
        if (memmem(data, (size_t)n, "ov:place", 8) != NULL) {
            open = send(fd, PLACE, strlen(PLACE), MSG_NOSIGNAL) == (ssize_t)strlen(PLACE);
            commands--;
            if (commands == 0)
                continue;
        }
        if (fake->at_once && next++ == 0)
            open = say_everything(fake, fd, &left);
        for (; !fake->at_once && open && commands > 0 && next < REPLIES_MAX && fake->replies[next] != NULL; next++) {
            usleep(fake->slow_ms * 1000);
            open = say(fd, fake->replies[next], fake->lens[next], &left);
            commands--;
        }
        open = open && left > 0;
    }
}

static void *fake_run(void *arg) {
    struct fake *fake = arg;
    while (!fake->stop) {
        struct pollfd waiting = {.fd = fake->listener, .events = POLLIN};
        int fd = poll(&waiting, 1, 20) > 0 ? accept(fake->listener, NULL, NULL) : -1;
        if (fd < 0)
            continue;
        CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) == 0);
        fake_serve(fake, fd);
        close(fd);
    }
    return NULL;
}

static void fake_start(struct fake *fake) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    for (size_t i = 0; i < REPLIES_MAX && fake->replies[i] != NULL; i++)
        fake->lens[i] = strlen(fake->replies[i]);
    fake->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fake->listener >= 0);
    assert_int_equal(bind(fake->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fake->listener, 16), 0);
    assert_int_equal(getsockname(fake->listener, (struct sockaddr *)&address, &len), 0);
    fake->port = ntohs(address.sin_port);
    assert_int_equal(pthread_create(&fake->thread, NULL, fake_run, fake), 0);
}

static void fake_stop(struct fake *fake) {
    fake->stop = true;
    assert_int_equal(shutdown(fake->listener, SHUT_RDWR), 0);
    assert_int_equal(pthread_join(fake->thread, NULL), 0);
    close(fake->listener);
}

// What a look-up at this server ends with, and what the client says is wrong.
static int ask_fake(struct fake *fake, struct consent_query *query, char problem[512]) {
    struct asked asked;
    fake_start(fake);
    server.port = fake->port;
    asked_begin(&asked, "[kafka]\npartitions = 1\n");
    int status = ask(&asked, 0, query, 1, fake->known);
    snprintf(problem, 512, "%s", consent_client_problem(asked.client));
    asked_end(&asked);
    fake_stop(fake);
    return status;
}

static void the_conversation_itself_works(void **unused) {
    (void)unused;
    struct fake fake = {.replies = {CONVERSATION}, .bytes_max = SIZE_MAX};
    struct consent_query query = {.tenant = 7, .pseudonym = 5};
    char problem[512];
    assert_int_equal(ask_fake(&fake, &query, problem), 0);
    assert_int_equal(query.record.state, CONSENT_GRANTED);
    assert_int_equal(query.record.since, 19000);
    assert_string_equal(problem, "");
}

static void cut_at_every_byte(void **unused) {
    (void)unused;
    const char *const replies[] = {CONVERSATION};
    size_t total = 0;
    for (size_t i = 0; i < ARRAY_LEN(replies); i++)
        total += strlen(replies[i]);
    for (size_t cut = 0; cut <= total; cut++) {
        struct fake fake = {.replies = {CONVERSATION}, .bytes_max = cut};
        struct consent_query query = {.tenant = 7, .pseudonym = 5};
        char problem[512];
        timeout_ms = cut == total ? PATIENT_MS : HASTY_MS;
        int status = ask_fake(&fake, &query, problem);
        if (status != (cut == total ? 0 : ERR_UNREACHABLE))
            fail_msg("cut at %zu of %zu: %d", cut, total, status);
        assert_int_equal(problem[0] == '\0', cut == total);
    }
}

static void everything_at_once_is_too_early(void **unused) {
    (void)unused;
    struct fake fake = {.replies = {CONVERSATION}, .bytes_max = SIZE_MAX, .at_once = true};
    struct consent_query query = {.tenant = 7, .pseudonym = 5};
    char problem[512];
    assert_int_equal(ask_fake(&fake, &query, problem), ERR_UNREACHABLE);
    assert_non_null(strstr(problem, "nobody asked"));
}

static const char *const wrong[] = {
    "-LOADING Redis is loading the dataset in memory\r\n",
    "-NOAUTH Authentication required.\r\n",
    "-NOPERM this user has no permissions\r\n",
    "-READONLY You can't write against a read only replica.\r\n",
    "-MOVED 3999 127.0.0.1:6381\r\n",
    "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "-MASTERDOWN Link with MASTER is down\r\n",
    "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    "-ERR max number of clients reached\r\n",
    "-\r\n",
    "+OK\r\n",
    ":7\r\n",
    ":-1\r\n",
    "$-1\r\n",
    "$3\r\nabc\r\n",
    "*-1\r\n",
    "*0\r\n",
    "*2\r\n:1\r\n:2\r\n",
    "*1\r\n*0\r\n",
    "*1\r\n-ERR within\r\n",
    "*4\r\n$-1\r\n$1\r\n1\r\n$-1\r\n$-1\r\n",
    "*2147483647\r\n",
    "*99999999999999999999\r\n",
    "*-7\r\n",
    "$999999999\r\nx",
    "$-9\r\n",
    "$70000\r\n",
    "HTTP/1.1 400 Bad Request\r\n\r\n",
    "\r\n",
    "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
    ":1:1\r\n",
};

// Every wrong reply in the place of every right one.
static void a_wrong_reply_in_every_place(void **unused) {
    (void)unused;
    const char *const right[] = {CONVERSATION};
    for (size_t place = 0; place < ARRAY_LEN(right); place++) {
        for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
            struct fake fake = {.replies = {CONVERSATION}, .bytes_max = SIZE_MAX};
            struct consent_query query = {.tenant = 7, .pseudonym = 5};
            char problem[512];
            // The same epoch and hash need no proof: what the stream says then is only looked at for its form.
            bool harmless = place == 7 && wrong[i][0] == '*' && wrong[i][1] >= '0' && wrong[i][1] <= '4' &&
                            wrong[i][2] == '\r' && strstr(wrong[i], "*1\r\n*1\r\n") == NULL;
            harmless |= place == 4 && strcmp(wrong[i], NOTICES) == 0;
            harmless |= place == 1 && wrong[i][0] == ':' && strstr(wrong[i], ":1:1") == NULL; // any number will do
            fake.replies[place] = wrong[i];
            int status = ask_fake(&fake, &query, problem);
            if (status != ERR_UNREACHABLE && !harmless)
                fail_msg("place %zu, reply %zu: %d", place, i, status);
            assert_true(problem[0] != '\0' || harmless);
        }
    }
}

static void a_link_leads_on_and_nothing_else_does(void **unused) {
    (void)unused;
    const struct consent_stamp known = {.epoch = 5, .hash = {1}};
    struct consent_query query = {.tenant = 7, .pseudonym = 5};
    char problem[512];
    struct fake good = {.replies = {LINKED}, .bytes_max = SIZE_MAX, .known = &known};
    timeout_ms = PATIENT_MS;
    assert_int_equal(ask_fake(&good, &query, problem), 0);
    assert_int_equal(query.record.state, CONSENT_GRANTED);
    timeout_ms = HASTY_MS;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct fake fake = {.replies = {LINKED}, .bytes_max = SIZE_MAX, .known = &known};
        fake.replies[LINK_PLACE] = wrong[i];
        bool text = strcmp(wrong[i], "$3\r\nabc\r\n") == 0; // what a link says is for others
        if (ask_fake(&fake, &query, problem) != (text ? 0 : ERR_UNREACHABLE))
            fail_msg("reply %zu", i);
    }
}

static void a_slow_redis(void **unused) {
    (void)unused;
    struct consent_query query = {.tenant = 7, .pseudonym = 5};
    char problem[512];
    struct fake patiently = {.replies = {CONVERSATION}, .bytes_max = SIZE_MAX, .slow_ms = 30};
    timeout_ms = PATIENT_MS;
    assert_int_equal(ask_fake(&patiently, &query, problem), 0);
    struct fake hastily = {.replies = {CONVERSATION}, .bytes_max = SIZE_MAX, .slow_ms = 2 * HASTY_MS};
    timeout_ms = HASTY_MS;
    assert_int_equal(ask_fake(&hastily, &query, problem), ERR_UNREACHABLE);
}

// ---- changes --------------------------------------------------------------------------------------------------------
static void on_changed(void *arg, int status, const struct consent_stamp *stamp) {
    struct asked *asked = arg;
    assert_null(stamp);
    asked->n_done++;
    asked->status = status;
}

static int change_at_fake(struct fake *fake, struct consent_change *change) {
    struct asked asked;
    fake_start(fake);
    server.port = fake->port;
    asked_begin(&asked, "[kafka]\npartitions = 1\n");
    assert_int_equal(consent_client_apply(asked.client, 0, change, 1, 20000, on_changed, &asked), 0);
    asked_wait(&asked, 1);
    asked_end(&asked);
    fake_stop(fake);
    return asked.status;
}

// Whatever else Redis says, or says in part, to a change: it is never taken for done.
static void a_change_is_done_or_unknown(void **unused) {
    (void)unused;
    struct consent_change change = change_of(7, 5, CONSENT_WITHDRAWN, 19000, "-");
    struct fake good = {.replies = {CHANGE}, .bytes_max = SIZE_MAX};
    timeout_ms = PATIENT_MS;
    assert_int_equal(change_at_fake(&good, &change), 0);
    assert_int_equal(change.result, 10);
    timeout_ms = HASTY_MS;
    size_t total = strlen(VERSION) + strlen(STIRRED) + strlen(APPLIED);
    for (size_t cut = 0; cut < total; cut++) {
        struct fake fake = {.replies = {CHANGE}, .bytes_max = cut};
        if (change_at_fake(&fake, &change) != ERR_UNREACHABLE)
            fail_msg("cut at %zu", cut);
    }
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct fake fake = {.replies = {CHANGE}, .bytes_max = SIZE_MAX};
        fake.replies[2] = wrong[i];
        if (change_at_fake(&fake, &change) != ERR_UNREACHABLE)
            fail_msg("reply %zu", i);
    }
}

static int patient(void **state) {
    (void)state;
    timeout_ms = PATIENT_MS;
    return 0;
}

static int hasty(void **state) {
    (void)state;
    timeout_ms = HASTY_MS;
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_conversation_itself_works, patient),
        cmocka_unit_test(cut_at_every_byte),
        cmocka_unit_test_setup(everything_at_once_is_too_early, patient),
        cmocka_unit_test_setup(a_wrong_reply_in_every_place, hasty),
        cmocka_unit_test(a_link_leads_on_and_nothing_else_does),
        cmocka_unit_test(a_slow_redis),
        cmocka_unit_test(a_change_is_done_or_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
