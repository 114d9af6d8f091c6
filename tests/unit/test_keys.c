// Key files: creation, permissions, and what is refused.
#include "common/keys.h"

#include "common/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/openveil-keys-XXXXXX";
static char keys_dir[PATH_SIZE];

static char *at(const char *name) {
    static char path[PATH_SIZE];
    assert_int_equal(path_join(path, keys_dir, name, NULL), 0);
    return path;
}

static int set_up(void **state) {
    (void)state;
    strcpy(dir + sizeof dir - 7, "XXXXXX");
    assert_non_null(mkdtemp(dir));
    return path_join(keys_dir, dir, "new/keys", NULL);
}

static int tear_down(void **state) {
    (void)state;
    char command[PATH_SIZE];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static void init_makes_two_keys_once(void **state) {
    (void)state;
    struct keys keys;
    struct err err;
    struct stat st;
    assert_int_equal(keys_load(&keys, keys_dir, true, &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "openveil keys init"));
    assert_int_equal(keys_add(keys_dir, &err), ERR_NOT_FOUND);
    assert_int_equal(keys_create(keys_dir, &err), 0);
    assert_int_equal(keys_create(keys_dir, &err), ERR_EXISTS);
    assert_int_equal(stat(at("token-1.key"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_size, 65);
    assert_int_equal(stat(at("contact.key"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(keys_load(&keys, keys_dir, false, &err), 0);
    assert_int_equal(keys.newest, 1);
    assert_true(keys.has_token[1] && !keys.has_token[0] && !keys.has_contact);
    assert_int_equal(keys_load(&keys, keys_dir, true, &err), 0);
    assert_true(keys.has_contact);
    assert_memory_not_equal(keys.contact, keys.token[1], KEY_SIZE);
    keys_wipe(&keys);
    assert_false(keys.has_contact);
}

static void interrupted_init_is_completed(void **state) {
    (void)state;
    struct keys keys;
    uint8_t before[KEY_SIZE];
    assert_int_equal(keys_create(keys_dir, NULL), 0);
    assert_int_equal(key_file_read(at("contact.key"), before, NULL), 0);
    assert_int_equal(unlink(at("token-1.key")), 0);
    assert_int_equal(keys_create(keys_dir, NULL), 0);
    assert_int_equal(keys_load(&keys, keys_dir, true, NULL), 0);
    assert_memory_equal(keys.contact, before, KEY_SIZE);
}

static void add_goes_up_to_255(void **state) {
    (void)state;
    struct keys keys;
    assert_int_equal(keys_create(keys_dir, NULL), 0);
    assert_int_equal(keys_add(keys_dir, NULL), 2);
    assert_int_equal(keys_load(&keys, keys_dir, true, NULL), 0);
    assert_int_equal(keys.newest, 2);
    char last[PATH_SIZE];
    strcpy(last, at("token-255.key"));
    assert_int_equal(rename(at("token-2.key"), last), 0);
    assert_int_equal(keys_add(keys_dir, NULL), ERR_LIMIT);
    assert_int_equal(file_replace(at("token-01.key"), 0644, "x", 1, NULL), 0); // not a key's name: left alone
    assert_int_equal(file_replace(at("token-256.key"), 0644, "x", 1, NULL), 0);
    assert_int_equal(keys_load(&keys, keys_dir, true, NULL), 0);
    assert_int_equal(keys.newest, 255);
    assert_true(keys.has_token[1] && !keys.has_token[2]);
}

static void open_permissions_are_refused(void **state) {
    (void)state;
    struct keys keys;
    struct err err;
    assert_int_equal(keys_create(keys_dir, NULL), 0);
    const mode_t bad[] = {0640, 0604, 0610, 0620, 0602, 0666};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(chmod(at("token-1.key"), bad[i]), 0);
        assert_int_equal(keys_load(&keys, keys_dir, false, &err), ERR_REFUSED);
        assert_non_null(strstr(err.text, "token-1.key"));
    }
    assert_int_equal(chmod(at("token-1.key"), 0400), 0);
    assert_int_equal(keys_load(&keys, keys_dir, false, &err), 0);
    // Only who asks for the contact key looks at its file.
    assert_int_equal(chmod(at("contact.key"), 0644), 0);
    assert_int_equal(keys_load(&keys, keys_dir, false, &err), 0);
    assert_int_equal(keys_load(&keys, keys_dir, true, &err), ERR_REFUSED);
    assert_false(keys.has_token[1]);
}

static void other_contents_are_refused(void **state) {
    (void)state;
    struct keys keys;
    char good[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1F\n";
    const struct {
        const char *text;
        size_t len;
        int rc;
    } cases[] = {
        {good, 65, 0}, {good, 64, 0}, {good, 63, ERR_INVALID}, {"", 0, ERR_INVALID},
        {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fx", 65, ERR_INVALID},
        {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n\n", 66, ERR_INVALID},
        {"g00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n", 65, ERR_INVALID},
        {"0000000000000000000000000000000000000000000000000000000000000000\n", 65, ERR_INVALID},
    };
    assert_int_equal(keys_create(keys_dir, NULL), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(file_replace(at("token-1.key"), 0600, cases[i].text, cases[i].len, NULL), 0);
        assert_int_equal(keys_load(&keys, keys_dir, false, NULL), cases[i].rc);
    }
    assert_int_equal(unlink(at("token-1.key")), 0);
    assert_int_equal(mkdir(at("token-1.key"), 0700), 0);
    assert_int_equal(keys_load(&keys, keys_dir, false, NULL), ERR_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(init_makes_two_keys_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(interrupted_init_is_completed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(add_goes_up_to_255, set_up, tear_down),
        cmocka_unit_test_setup_teardown(open_permissions_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_contents_are_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
