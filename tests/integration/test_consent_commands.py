"""`openveil consent set|get|import` against a real Redis."""
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from redis_server import RedisServer  # noqa: E402

OPENVEIL = os.path.join(os.environ["OPENVEIL_BIN"], "openveil")
TODAY = datetime.datetime.now(datetime.timezone.utc).date()


def day(ago):
    return (TODAY - datetime.timedelta(days=ago)).isoformat()


class ConsentCommands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="openveil-consent-")
        cls.redis = RedisServer()
        cls.redis.start()
        cls.config = cls.path("openveil.conf")
        with open(cls.config, "w", encoding="utf-8") as out:
            out.write(f"[redis]\naddress = {cls.redis.address}\ntimeout_ms = 500\n[keys]\ndir = {cls.path('keys')}\n"
                      f"[tenants]\ndir = {cls.path('tenants')}\n")
        cls.run_words("keys", "init")
        cls.run_words("tenant", "add", "7", "--stream", "1=receipts")

    @classmethod
    def tearDownClass(cls):
        cls.redis.stop()
        shutil.rmtree(cls.dir)

    def setUp(self):
        self.redis.call("FLUSHALL")

    @classmethod
    def path(cls, name):
        return os.path.join(cls.dir, name)

    @classmethod
    def run_words(cls, *words, code=0, stdin=""):
        done = subprocess.run([OPENVEIL, "--config", cls.config, *words], input=stdin, capture_output=True, text=True,
                              timeout=60, check=False)
        if done.returncode != code:
            raise AssertionError(f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def set(self, contact, state, since, *more, code=0):
        return self.run_words("consent", "set", "--tenant", "7", "--contact", contact, "--state", state,
                              "--since", since, *more, code=code)

    def get(self, contact):
        return json.loads(self.run_words("consent", "get", "--tenant", "7", "--contact", contact, "--json").stdout)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8", newline="") as out:
            out.write(text)
        return self.path(name)

    def test_set_and_get(self):
        self.assertEqual(self.get("zoé@exemple.fr")["state"], "unknown")
        self.assertEqual(self.set("zoé@exemple.fr", "informed", day(20), "--notice", "v1").stdout, "1\n")
        receipt = json.loads(self.set("zoé@exemple.fr", "granted", day(10), "--notice", "v2", "--json").stdout)
        self.assertEqual(receipt["receipt"], 2)
        self.assertEqual(self.get("zoé@exemple.fr"), {"state": "granted", "since": day(10), "allowed_since": day(20),
                                                      "granted_since": day(10), "notice": "v2"})
        refused = self.set("zoé@exemple.fr", "withdrawn", day(11), code=1)
        self.assertIn("later day", refused.stderr)
        self.set("zoé@exemple.fr", "withdrawn", day(10))
        self.assertEqual(self.get("zoé@exemple.fr"), {"state": "withdrawn", "since": day(10), "allowed_since": None,
                                                      "granted_since": None, "notice": "-"})
        text = self.run_words("consent", "get", "--tenant", "7", "--contact", "zoé@exemple.fr").stdout
        self.assertIn("state          withdrawn\n", text)
        for output in (refused.stderr, text):
            self.assertNotIn("exemple", output)

    def test_pseudonym_instead_of_contact(self):
        self.set("customer-1", "informed", day(3), "--notice", "v1")
        token = self.run_words("token", "mint", "--tenant", "7", "--contact", "customer-1", "--class", "requested",
                               "--stream", "1", "--provider", "gmail").stdout.strip()
        pseudonym = json.loads(self.run_words("token", "open", token, "--json").stdout)["pseudonym"]
        self.run_words("consent", "set", "--tenant", "7", "--pseudonym", pseudonym, "--state", "objected",
                       "--since", day(2))
        self.assertEqual(self.get("customer-1")["state"], "objected")

    def test_wrong_words(self):
        self.set("c", "informed", day(1), code=64)
        self.set("c", "granted", "2026-02-30", "--notice", "v1", code=64)
        self.assertIn("did you mean granted?", self.set("c", "grantd", day(1), "--notice", "v1", code=64).stderr)
        self.set("c", "granted", day(-2), "--notice", "v1", code=1)
        self.set("c", "granted", day(1), "--notice", "v" * 33, code=64)
        self.run_words("consent", "get", "--tenant", "7", code=64)
        self.run_words("consent", "get", "--tenant", "7", "--pseudonym", "12", code=64)
        self.assertIn("8", self.run_words("consent", "get", "--tenant", "8", "--contact", "c", code=1).stderr)
        self.assertEqual(self.redis.call("DBSIZE"), 0)

    def test_import(self):
        lines = "".join(f"contact-{i}\t{'granted' if i % 2 else 'informed'}\t{day(i % 300 + 1)}\tv1\n"
                        for i in range(9000))
        path = self.write("good", lines)
        self.assertEqual(self.run_words("consent", "import", "--tenant", "7", path).stdout,
                         "applied 9000, refused 0, last receipt 9000\n")
        self.assertEqual(self.get("contact-8999")["since"], day(8999 % 300 + 1))
        encodings = {self.redis.call("OBJECT", "ENCODING", key) for key in self.redis.call("KEYS", "ov:*:c:7:*")}
        self.assertEqual(encodings, {"listpack"})
        # Again: nothing changes. And through standard input.
        again = self.run_words("consent", "import", "--tenant", "7", "-", "--json", stdin=lines)
        self.assertEqual(json.loads(again.stdout), {"applied": 9000, "refused": 0, "receipt": 9000})
        self.assertFalse(os.path.exists(path + ".rejects"))

    def test_import_lists_what_the_rules_refuse(self):
        self.set("b", "withdrawn", day(5))
        path = self.write("some", f"a\tgranted\t{day(9)}\tv1\nb\tinformed\t{day(4)}\tv1\nb\tgranted\t{day(5)}\tv1\n"
                                  f"c\tobjected\t{day(4)}\t-")
        done = self.run_words("consent", "import", "--tenant", "7", path, code=1)
        self.assertEqual(done.stdout, "applied 2, refused 2, last receipt 3\n")
        with open(path + ".rejects", encoding="utf-8") as rejects:
            listed = rejects.read().splitlines()
        self.assertEqual([line.split("\t")[0] for line in listed], ["2", "3"])
        self.assertIn("left on that day", listed[1])
        self.assertEqual(self.get("c")["state"], "objected")
        done = self.run_words("consent", "import", "--tenant", "7", "-", code=1, stdin=f"b\tinformed\t{day(4)}\tv1\n")
        self.assertIn("1\tinformed can follow only", done.stderr)

    def test_a_bad_line_changes_nothing(self):
        good = f"a\tgranted\t{day(9)}\tv1\n"
        bad = {"a\tgranted\tv1\n": "4 fields", f"\tgranted\t{day(9)}\tv1\n": "contact",
               f"a\tyes\t{day(9)}\tv1\n": "state",
               "a\tgranted\t1/2/2026\tv1\n": "day", f"a\tgranted\t{day(-2)}\tv1\n": "tomorrow",
               f"a\tgranted\t{day(9)}\tv1\r\n": "CR LF", "\n": "4 fields", f"a\tgranted\t{day(9)}\tv1\tx\n": "4 fields",
               f"a\tgranted\t{day(9)}\t\n": "notice", "x" * 5000 + "\n": "longer"}
        for line, reason in bad.items():
            path = self.write("bad", good * 2 + line + good)
            done = self.run_words("consent", "import", "--tenant", "7", path, code=1)
            self.assertIn("line 3", done.stderr)
            self.assertIn(reason, done.stderr)
        self.assertEqual(self.redis.call("DBSIZE"), 0)

    def test_redis_away(self):
        self.set("a", "granted", day(9), "--notice", "v1")
        path = self.write("one", f"a\twithdrawn\t{day(1)}\t-\n")
        self.redis.signal(signal.SIGSTOP)
        try:
            self.set("a", "withdrawn", day(1), code=69)
            done = self.run_words("consent", "import", "--tenant", "7", path, code=69)
            self.assertIn("0 of 1 lines", done.stderr)
        finally:
            self.redis.signal(signal.SIGCONT)
        self.redis.kill()
        self.run_words("consent", "get", "--tenant", "7", "--contact", "a", code=69)
        self.redis.start()
        self.run_words("consent", "import", "--tenant", "7", path)


if __name__ == "__main__":
    unittest.main()
