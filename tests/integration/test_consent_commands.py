"""`openveil consent …` and `openveil notice …` against a real Redis."""
import datetime
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
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
        self.assertEqual(self.redis.call("KEYS", "ov:*:c:*"), [])

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

    def test_bad_lines_are_listed_and_the_others_recorded(self):
        bad = {"a\tgranted\tv1\n": "4 fields", f"\tgranted\t{day(9)}\tv1\n": "contact",
               f"a\tyes\t{day(9)}\tv1\n": "state",
               "a\tgranted\t1/2/2026\tv1\n": "day must look", f"a\tgranted\t{day(-2)}\tv1\n": "tomorrow",
               f"a\tgranted\t{day(9)}\tv1\r\n": "CR LF", "\n": "4 fields",
               f"a\tgranted\t{day(9)}\tv1\tx\n": "change id", f"a\tgranted\t{day(9)}\tv1\t1\t1\n": "change id",
               f"a\tgranted\t{day(9)}\tv1\t18446744073709551616\n": "change id",
               f"a\tgran\0ted\t{day(9)}\tv1\n": "NUL",
               f"a\tgranted\t{day(9)}\t\n": "notice", "x" * 200000 + "\n": "longer", "x" * 5000: "longer"}
        path = self.write("bad", "".join(f"good-{i}\tgranted\t{day(9)}\tv1\n{line}" for i, line in enumerate(bad)))
        rejects = self.path("listed")
        done = self.run_words("consent", "import", "--tenant", "7", path, "--rejects", rejects, code=1)
        self.assertEqual(done.stdout, f"applied {len(bad)}, refused {len(bad)}, last receipt {len(bad)}\n")
        with open(rejects, encoding="utf-8") as text:
            listed = [line.rstrip("\n").split("\t") for line in text]
        self.assertEqual([int(line) for line, _ in listed], list(range(2, 2 * len(bad) + 1, 2)))
        for (_, reason), wanted in zip(listed, bad.values()):
            self.assertIn(wanted, reason)
        self.assertEqual(self.get(f"good-{len(bad) - 1}")["state"], "granted")
        self.assertFalse(os.path.exists(path + ".rejects"))

    def import_and_kill(self, words, until):
        process = subprocess.Popen([OPENVEIL, "--config", self.config, *words], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            while not until() and process.poll() is None:
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
        return process.returncode

    def test_a_killed_import_goes_on(self):
        n = 300000
        lines = [f"contact-{i}\t{'granted' if i % 1000 else 'perhaps'}\t{day(9)}\tv1\n" for i in range(n)]
        path, state = self.write("long", "".join(lines)), self.path("long.state")
        words = ("consent", "import", "--tenant", "7", path, "--resume", state)

        def done():
            try:
                with open(state, encoding="ascii") as text:
                    return int(text.read().split("done ")[1].split()[0])
            except FileNotFoundError:
                return 0

        kills = before = 0
        while kills < 2 and self.import_and_kill(words, lambda: done() > before) == -signal.SIGKILL:
            kills += 1
            self.assertGreater(done(), before)
            before = done()
        self.assertGreater(kills, 0)
        self.assertLess(before, n)
        changed = self.write("other", "".join(lines[:-1]))
        other = self.run_words("consent", "import", "--tenant", "7", changed, "--resume", state, code=1)
        self.assertIn("about another import", other.stderr)
        hits = int(self.redis.call("INFO", "commandstats").split("cmdstat_fcall:calls=")[1].split(",")[0])
        self.assertIn(f"applied {n - n // 1000}, refused {n // 1000}", self.run_words(*words, code=1).stdout)
        calls = int(self.redis.call("INFO", "commandstats").split("cmdstat_fcall:calls=")[1].split(",")[0]) - hits
        self.assertLess(calls, (n - before) / 500 + 20, "what is done is not done again")
        with open(path + ".rejects", encoding="utf-8") as text:
            self.assertEqual([int(line.split("\t")[0]) for line in text], list(range(1, n, 1000)))
        self.assertFalse(os.path.exists(state))
        self.assertEqual(self.counts(), {"granted": n - n // 1000})

    def test_change_ids_decide(self):
        self.import_lines([f"a\tgranted\t{day(9)}\tv1\t18446744073709551615\n", f"b\tgranted\t{day(9)}\tv1\t5\n"])
        done = self.import_lines([f"a\tgranted\t{day(9)}\tv2\t7\n", f"b\tgranted\t{day(9)}\tv2\t6\n"], code=1)
        self.assertIn("1\tthe record holds a later", done.stderr)
        self.assertEqual((self.get("a")["notice"], self.get("b")["notice"]), ("v1", "v2"))

    def test_a_state_file_of_something_else(self):
        path, state = self.write("one", f"a\tgranted\t{day(9)}\tv1\n"), self.write("state", "openveil import 1\ntenant 7\n")
        done = self.run_words("consent", "import", "--tenant", "7", path, "--resume", state, code=1)
        self.assertIn("is not the progress of an import", done.stderr)
        self.assertEqual(self.redis.call("KEYS", "ov:*:c:*"), [])

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

    # ---- a whole tenant

    def tenant_words(self, what, *more, **how):
        return self.run_words("consent", what, "--tenant", "7", *more, **how).stdout

    def import_lines(self, lines, code=0):
        return self.run_words("consent", "import", "--tenant", "7", "-", stdin="".join(lines), code=code)

    def counts(self):
        return {row["state"]: row["contacts"] for row in json.loads(self.tenant_words("count", "--json"))}

    def test_export_count_report(self):
        self.assertEqual(self.tenant_words("export"), "")
        self.assertEqual(self.tenant_words("count"), "")
        self.import_lines([f"a\tinformed\t{day(9)}\tv1\n", f"a\tgranted\t{day(5)}\tv2\n", f"b\tgranted\t{day(5)}\tv1\n",
                           f"c\tobjected\t{day(4)}\t-\n"])
        self.assertEqual(self.tenant_words("count"), "granted      2\nobjected     1\n")
        self.assertEqual(json.loads(self.tenant_words("report", "--json")), [
            {"state": "granted", "notice": "v1", "contacts": 1}, {"state": "granted", "notice": "v2", "contacts": 1},
            {"state": "objected", "notice": "-", "contacts": 1}])
        self.assertIn("granted      v2\t1\n", self.tenant_words("report"))
        rows = sorted(line.split("\t") for line in self.tenant_words("export").splitlines())
        self.assertEqual(sorted(row[1:] for row in rows), [["granted", day(5), "v1", day(5), day(5)],
                                                           ["granted", day(5), "v2", day(9), day(5)],
                                                           ["objected", day(4), "-", "-", "-"]])
        for row in rows:
            got = json.loads(self.run_words("consent", "get", "--tenant", "7", "--pseudonym", row[0], "--json").stdout)
            self.assertEqual((got["state"], got["notice"]), (row[1], row[3]))
        self.run_words("consent", "count", "--tenant", "8", code=1)

    def be_patient(self):
        """For calls that a busy machine's Redis may need long for."""
        with open(self.config, encoding="utf-8") as text:
            patient = self.write("patient.conf", text.read().replace("timeout_ms = 500", "timeout_ms = 20000"))
        self.addCleanup(setattr, type(self), "config", self.config)
        type(self).config = patient

    def test_rebucket(self):
        self.be_patient()
        lines = [f"contact-{i}\t{'granted' if i % 3 else 'withdrawn'}\t{day(9)}\tv1\n" for i in range(3000)]
        self.import_lines(lines)
        before, epoch = sorted(self.tenant_words("export").splitlines()), 3000
        self.assertEqual(len(before), 3000)
        self.assertEqual(self.tenant_words("rebucket", "--bits", "6"), f"{epoch}\n")  # as it is: nothing changes
        for bits in (7, 8, 9, 17, 10, 16, 6, 12):
            epoch += 1
            self.assertEqual(self.tenant_words("rebucket", "--bits", str(bits)), f"{epoch}\n")
            self.assertEqual(sorted(self.tenant_words("export").splitlines()), before, bits)
        self.assertEqual(self.get("contact-3")["state"], "withdrawn")
        self.assertEqual(self.counts(), {"granted": 2000, "withdrawn": 1000})
        self.assertIn("too few bits", self.run_words("consent", "rebucket", "--tenant", "7", "--bits", "1", code=1).stderr)
        self.run_words("consent", "rebucket", "--tenant", "7", "--bits", "21", code=1)
        self.import_lines(lines)  # all of it is there already
        self.assertEqual(self.tenant_words("rebucket", "--bits", "12"), f"{epoch}\n")

    def step(self, bits):
        days = (TODAY - datetime.date(1970, 1, 1)).days
        return self.redis.call("FCALL", "openveil_rebucket_step", 1, "ov:{0}:meta", "production", days, 7, bits)

    def test_rebucket_in_steps(self):
        """Changes before, in and behind what is copied already; the command takes over a move that was left."""
        self.be_patient()
        n = 260000
        self.import_lines([f"contact-{i}\tgranted\t{day(9)}\tv1\n" for i in range(n)])
        self.assertEqual(self.redis.call("XLEN", "ov:{0}:changes") // 1000, 250, "what the change stream keeps")
        self.assertEqual(self.step(12), n, "as it is")
        self.assertIn("too few bits", self.step(8))
        self.assertIn("20", self.step(21))
        withdrawn = 0
        for _ in range(3):
            self.assertEqual(self.step(15), 0)
            self.import_lines([f"contact-{i}\twithdrawn\t{day(1)}\t-\n" for i in range(withdrawn, withdrawn + 500)] +
                              [f"new-{i}\tgranted\t{day(1)}\tv1\n" for i in range(withdrawn, withdrawn + 500)])
            withdrawn += 500
        found = sorted(self.tenant_words("export").splitlines())
        for row in (found[0], found[-1]):
            self.redis.call("FCALL", "openveil_forget", 1, "ov:{0}:meta", "production", 20000, 7, row.split("\t")[0], "nothing")
        self.assertIn("a move to 15 bits", self.step(14))
        self.assertIn("longer move", self.redis.call("FCALL", "openveil_rebucket", 1, "ov:{0}:meta", "production", 20000, 7, 15))
        self.assertTrue(self.redis.call("EXISTS", "ov:{0}:moves"))
        before = sorted(self.tenant_words("export").splitlines())
        self.assertEqual(before, found[1:-1])
        self.tenant_words("rebucket", "--bits", "15")
        self.assertEqual(sorted(self.tenant_words("export").splitlines()), before)
        self.assertEqual(len(before), n + withdrawn - 2)
        self.assertEqual(self.redis.call("HGET", "ov:{0}:bits", "7"), "15")
        self.assertEqual(self.redis.call("KEYS", "ov:{0}:m*"), ["ov:{0}:meta"])
        self.assertEqual(self.get("contact-499")["state"], "withdrawn")
        # By the command alone, and erased while one is under way.
        self.tenant_words("rebucket", "--bits", "13")
        self.assertEqual(sorted(self.tenant_words("export").splitlines()), before)
        self.assertEqual(self.step(16), 0)
        self.tenant_words("erase-tenant")
        self.assertEqual(self.redis.call("KEYS", "ov:{0}:m*"), ["ov:{0}:meta"])
        self.assertEqual(self.redis.call("KEYS", "ov:{0}:c*"), ["ov:{0}:changes"])

    def test_erase_tenant(self):
        self.run_words("tenant", "add", "4294967295", "--stream", "1=x")
        self.import_lines([f"contact-{i}\tobjected\t{day(9)}\t-\n" for i in range(500)])
        self.run_words("consent", "set", "--tenant", "4294967295", "--contact", "a", "--state", "objected", "--since", day(2))
        self.assertEqual(self.tenant_words("erase-tenant"), "501\n")
        self.assertEqual(self.tenant_words("count"), "")
        self.assertEqual(self.get("contact-1")["state"], "unknown")
        self.assertEqual(self.redis.call("KEYS", "ov:*:c:7:*"), [])
        self.assertEqual(self.tenant_words("erase-tenant"), "501\n")
        self.assertIn("objected     1", self.run_words("consent", "count", "--tenant", "4294967295").stdout)
        self.set("contact-1", "granted", day(1), "--notice", "v1")
        self.assertEqual(self.counts(), {"granted": 1})

    # ---- notices

    def notice(self, version, purposes, since, *, text="We measure.", code=0):
        return self.run_words("notice", "add", version, "--purposes", purposes, "--language", "fr", "--from", since,
                              "--text", self.write("notice.txt", text), code=code)

    def test_notices(self):
        self.set("before", "informed", day(20), "--notice", "never added")
        self.assertEqual(self.run_words("notice", "list").stdout, "")
        self.notice("v1", "inactivity", day(10))
        self.notice("v1", "inactivity", day(10))
        self.assertIn("is another", self.notice("v1", "inactivity", day(10), text="Other words.", code=1).stderr)
        self.notice("v2", "inactivity,deliverability", day(5))
        listed = json.loads(self.run_words("notice", "list", "--json").stdout)
        self.assertEqual([(n["version"], n["purposes"], n["language"], n["from"]) for n in listed],
                         [("v1", "inactivity", "fr", day(10)), ("v2", "deliverability,inactivity", "fr", day(5))])
        self.assertEqual(listed[0]["sha256"], hashlib.sha256(b"We measure.").hexdigest())
        self.assertIn("not known", self.set("a", "informed", day(3), "--notice", "v3", code=1).stderr)
        self.assertIn("not known", self.set("a", "granted", day(3), "--notice", "v3", code=1).stderr)
        self.assertIn("later day", self.set("a", "informed", day(11), "--notice", "v1", code=1).stderr)
        self.set("a", "informed", day(9), "--notice", "v1")
        self.set("a", "informed", day(4), "--notice", "v2")  # names more: what it allows begins anew
        self.assertEqual(self.get("a")["allowed_since"], day(4))
        self.set("a", "granted", day(3), "--notice", "v1")  # names less: nothing is lost
        self.assertEqual(self.get("a")["allowed_since"], day(4))
        self.set("a", "objected", day(2), "--notice", "v3")
        self.notice("-", "inactivity", day(1), code=64)
        self.notice("v9", "statistics", day(1), code=64)

    def test_inform(self):
        self.notice("v1", "inactivity", day(10))
        self.import_lines([f"o\tobjected\t{day(9)}\t-\n", f"g\tgranted\t{day(9)}\tv1\n", f"i\tinformed\t{day(9)}\tv1\n",
                           f"late\tinformed\t{day(1)}\tv1\n"])
        path = self.write("base", "o\ng\ni\nlate\nnew\n")
        words = ("consent", "inform", "--tenant", "7", "--since", day(5))
        for _ in range(2):
            self.assertEqual(self.run_words(*words, "--notice", "v1", path).stdout,
                             "informed 2, stayed as they were 3, refused 0\n")
        self.assertEqual(self.counts(), {"informed": 3, "granted": 1, "objected": 1})
        self.assertEqual(self.get("i")["allowed_since"], day(9))
        done = self.run_words(*words, "--notice", "v7", "-", code=1, stdin="new\n")
        self.assertIn("notice is not known", done.stderr)
        self.assertIn("2\tthe contact", self.run_words(*words, "--notice", "v1", "-", code=1, stdin="a\nb\tc\n").stderr)
        self.run_words("consent", "inform", "--tenant", "7", "--since", day(-3), "--notice", "v1", path, code=64)


if __name__ == "__main__":
    unittest.main()
