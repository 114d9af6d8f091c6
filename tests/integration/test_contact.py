"""`openveil contact show` and `contact erase` on a single node: all that is held is shown, and none of it stays anywhere."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
import sample  # noqa: E402
from stack import Stack, wait_until  # noqa: E402

DAY, BEFORE = "2026-11-27", "2026-11-20"
TENANT = "7"
CONTACTS = ["gone@example.test", "stays@example.test", "last@example.test"]


class Contact(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-contact-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], rehearsal=(DAY, 86400, -100), partitions=2,
                           extra={"spool": {"segment_ms": 100}, "aggregator": {"commit_ms": 50}})
        self.addCleanup(self.stack.stop)
        self.stack.write_config()
        self.stack.start_redis()
        self.stack.cli("keys", "init")
        self.stack.cli("tenant", "add", TENANT, "--stream", "3=receipts", "--exemption-basis", "test")
        for contact in CONTACTS:
            self.consent(contact, "informed", BEFORE)
        lines = "".join(f"{contact}\ttransactional\t3\tgmail\t{DAY}T00:00:00Z\n" for contact in CONTACTS)
        self.tokens = dict(zip(CONTACTS, self.stack.cli("token", "mint", "--tenant", TENANT, stdin=lines).split()))
        self.stack.start_aggregator()
        self.stack.start_edge()

    def consent(self, contact, state, day):
        self.stack.cli("consent", "set", "--tenant", TENANT, "--contact", contact, "--state", state, "--since", day,
                       "--notice", "n1")

    def open(self, contact):
        host, port = self.stack.pixel_address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 5) as link:
            link.sendall(sample.request(self.tokens[contact], sample.AGENTS["gmail"], "pixel"))
            self.assertEqual(sample.read_reply(link.makefile("rb")), 200)

    def show(self, contact):
        return json.loads(self.stack.cli("contact", "show", "--json", "--tenant", TENANT, contact))

    def opened(self, contact):
        self.open(contact)
        wait_until("the open", lambda: self.show(contact)["last_open"] is not None, 20)
        return self.show(contact)

    def run_cli(self, *words):
        done = self.stack.cli(*words, check=False)
        return done.returncode, done.stdout.decode() + done.stderr.decode()

    def erase(self, contact, *more, code=0):
        status, text = self.run_cli("contact", "erase", "--tenant", TENANT, *more, contact)
        self.assertEqual(status, code, text)
        return text

    def files_with(self, pseudonym):
        """Files below the directory that hold the pseudonym: its bytes (in a bucket of Redis without the first), or as hex."""
        raw, words = bytes.fromhex(pseudonym)[1:], (pseudonym.encode(), pseudonym.upper().encode())
        found = set()
        for path, _, names in os.walk(self.dir):
            for name in names:
                try:
                    with open(os.path.join(path, name), "rb") as file:
                        data = file.read()
                except FileNotFoundError:
                    continue
                if raw in data or any(word in data for word in words):
                    found.add(os.path.relpath(os.path.join(path, name), self.dir).split(os.sep)[0])
        return found

    def redis_says(self, *words):
        done = subprocess.run(["redis-cli", "-p", str(self.stack.redis_port), *words], capture_output=True, check=True)
        return done.stdout.decode()

    def redis_rewrites(self):
        """What Redis would have on disk for good: a snapshot, and its append-only file written anew."""
        self.redis_says("SAVE")
        self.redis_says("BGREWRITEAOF")
        wait_until("Redis' files", lambda: "rewrite_in_progress:0" in self.redis_says("INFO", "persistence"), 20)

    def redis_keys_with(self, pseudonym):
        """Redis' keys that hold the pseudonym, or what a bucket's field leaves of it."""
        dump = ""
        for key in self.redis_says("KEYS", "*").split():
            kind = self.redis_says("TYPE", key).strip()
            words = {"hash": ("HGETALL", key), "stream": ("XRANGE", key, "-", "+")}[kind]
            dump += self.redis_says("--no-raw", *words)
        raw = "".join(f"\\x{byte:02x}" if not 32 < byte < 127 or byte in b'"\\' else chr(byte)
                      for byte in bytes.fromhex(pseudonym)[1:])
        return pseudonym in dump or raw in dump

    def grow_old(self):
        """A day passes for the journal; the aggregator stands still meanwhile."""
        done = subprocess.run([os.path.join(os.environ["OPENVEIL_BIN"], "state_driver"), self.stack.config],
                              input=b"meta\ngrow-old\n", capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode())

    def test_everything_is_shown_and_erased(self):
        gone, stays, last = CONTACTS
        self.redis_says("CONFIG", "SET", "rdbcompression", "no")
        self.opened(stays)
        shown = self.opened(gone)
        pseudonym = shown["pseudonym"]
        self.assertEqual(shown["consent"], {"state": "informed", "since": BEFORE, "allowed_since": BEFORE,
                                            "granted_since": None, "notice": "n1"})
        self.assertEqual(shown["last_open"], {"day": DAY, "frozen_days_since_open": "none-recorded"})
        self.assertEqual(shown["open_windows"],
                         [{"sent": DAY, "stream": 3, "provider": "gmail", "fetch": "person"}])
        change = {"change": 1, "state": "informed", "since": BEFORE, "notice": "n1"}
        self.assertEqual(shown["change_stream"], [change])
        wait_until("the log", lambda: self.show(gone)["consent_log"] == [change], 20)
        self.assertIn("state", self.files_with(pseudonym))
        self.assertTrue(self.redis_keys_with(pseudonym))
        self.redis_rewrites()
        self.assertIn("redis", self.files_with(pseudonym))
        text = self.stack.cli("contact", "show", "--tenant", TENANT, "--pseudonym", pseudonym)
        for word in (DAY, BEFORE, "informed", "n1", "gmail", "not held"):
            self.assertIn(word, text)
        kept = self.show(stays)

        text = self.erase(gone)
        self.assertIn("2026-11-30", text)
        self.assertIn("writes its append-only file anew", text)
        os.remove(self.stack.path("redis", "dump.rdb"))
        wait_until("Redis' own rewrite", lambda: "redis" not in self.files_with(pseudonym), 20)
        self.redis_rewrites()
        self.assertNotIn("redis", self.files_with(pseudonym))
        self.assertIn("redis", self.files_with(kept["pseudonym"]))
        empty = self.show(gone)
        self.assertEqual(empty["consent"]["state"], "unknown")
        self.assertEqual([empty[key] for key in ("last_open", "open_windows", "change_stream", "consent_log")],
                         [None, [], [], []])
        self.assertEqual(self.show(stays), kept)
        self.assertFalse(self.redis_keys_with(pseudonym))
        self.erase(gone)  # again, of nothing

        # The next day: the journal is compacted, the spool's next segment has replaced the last one.
        self.opened(last)
        self.stack.processes["openveil-aggregator"].stop()
        self.grow_old()
        wait_until("the files", lambda: not self.files_with(pseudonym), 20)
        self.assertIn("state", self.files_with(kept["pseudonym"]))
        self.stack.start_aggregator()
        self.assertEqual(self.show(stays), kept)
        with open(self.stack.path("state", "contact.log"), encoding="utf-8") as file:
            log = file.read()
        self.assertIn("erase tenant=7 result=erased\n", log)
        self.assertNotIn("example.test", log)
        self.assertNotIn(pseudonym, log)

    def test_an_objection_can_be_kept(self):
        self.opened(CONTACTS[0])
        self.consent(CONTACTS[0], "objected", DAY)
        self.erase(CONTACTS[0], "--keep-objection")
        shown = self.show(CONTACTS[0])
        self.assertEqual((shown["consent"]["state"], shown["consent"]["since"]), ("objected", DAY))
        self.assertEqual([shown["last_open"], shown["open_windows"]], [None, []])
        self.assertEqual([entry["state"] for entry in shown["change_stream"]], ["objected"])

    def test_redis_may_refuse_to_rewrite_its_file(self):
        """It is said, and the rest is done; without a file there is nothing to say."""
        self.redis_says("ACL", "SETUSER", "default", "-bgrewriteaof")
        text = self.erase(CONTACTS[0])
        self.assertIn("+info +bgrewriteaof", text)
        self.assertEqual(self.show(CONTACTS[0])["consent"]["state"], "unknown")
        self.redis_says("ACL", "SETUSER", "default", "+bgrewriteaof", "-info")
        self.assertIn('"redis_append_only_file":"not-rewritten"', self.erase(CONTACTS[1], "--json"))
        self.redis_says("ACL", "SETUSER", "default", "+info")
        self.assertIn('"redis_append_only_file":"rewriting"', self.erase(CONTACTS[1], "--json"))
        self.redis_says("CONFIG", "SET", "appendonly", "no")
        self.assertIn("no append-only file", self.erase(CONTACTS[1]))

    def test_the_least_rights_do(self):
        """Those of common/CONSENT.md."""
        rights = ("+fcall +function|load +hmget +hget +hset +hgetall +exists +xrange +xread +xadd +hlen +hdel +hrandfield "
                  "+unlink +xdel +xrevrange +xtrim +expire +persist +rename +info +bgrewriteaof")
        self.redis_says("ACL", "SETUSER", "tool", "on", ">secret", "~ov:*", *rights.split())
        with open(self.stack.path("password"), "w", encoding="ascii") as out:
            out.write("secret\n")
        os.chmod(self.stack.path("password"), 0o600)
        self.stack.extra["redis"] = {"username": "tool", "password_file": self.stack.path("password")}
        self.stack.write_config()
        self.opened(CONTACTS[0])
        self.assertIn("writes its append-only file anew", self.erase(CONTACTS[0]))

    def test_without_an_aggregator_nothing_is_said_to_be_erased(self):
        contact = CONTACTS[0]
        self.opened(contact)
        self.stack.processes["openveil-aggregator"].stop()
        text = self.erase(contact, "--wait", "1", code=69)
        self.assertIn("openveil-aggregator", text)
        shown = self.show(contact)
        self.assertEqual(shown["consent"]["state"], "withdrawn")
        self.assertIsNotNone(shown["last_open"])
        self.stack.start_aggregator()
        self.erase(contact)
        self.assertIsNone(self.show(contact)["last_open"])

    def test_who_withdraws_is_erased_within_seconds(self):
        contact = CONTACTS[0]
        self.opened(contact)
        self.consent(contact, "withdrawn", DAY)
        began = time.monotonic()
        wait_until("the erasure", lambda: self.show(contact)["last_open"] is None, 10)
        self.assertEqual(self.show(contact)["open_windows"], [])
        self.assertLess(time.monotonic() - began, 5)

    def test_words_are_checked(self):
        for words, code in (((), 64), (("--pseudonym", "xyz"), 64), (("a@b", "--pseudonym", "00" * 8), 64),
                            (("a\tb",), 64)):
            for verb in ("show", "erase"):
                status, text = self.run_cli("contact", verb, "--tenant", TENANT, *words)
                self.assertEqual(status, code, text)
        self.stack.processes["redis"].kill()
        self.assertEqual(self.run_cli("contact", "show", "--tenant", TENANT, "a@b")[0], 69)
        self.assertEqual(self.run_cli("contact", "erase", "--tenant", TENANT, "a@b")[0], 69)


if __name__ == "__main__":
    unittest.main()
