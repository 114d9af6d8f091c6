"""`openveil clean`, `audit`, `releases` and `budget` against a real Redis and a state written for the purpose."""
import ctypes
import hashlib
import hmac
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "deploy"))
from stack import day_number, day_text, free_port  # noqa: E402

BIN = os.environ.get("OPENVEIL_BIN", "build/dev/bin")
TENANT, PARTITIONS = 7, 2
E_DAY = "2026-12-01"
N_DAYS = 180
AGE_0_30, AGE_31_89, AGE_NONE = 0, 1, 7


def before(days, day=E_DAY):
    return day_text(day_number(day) - days)


def partition_of(tenant):
    return struct.unpack(">I", hashlib.sha256(struct.pack(">I", tenant)).digest()[:4])[0] % PARTITIONS


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.port = free_port()
        cls.redis_dir = tempfile.mkdtemp(prefix="openveil-redis-")
        cls.addClassCleanup(shutil.rmtree, cls.redis_dir)
        cls.start_redis()
        cls.addClassCleanup(lambda: cls.stop_redis())

    @classmethod
    def start_redis(cls):
        cls.redis = subprocess.Popen(["redis-server", "--port", str(cls.port), "--bind", "127.0.0.1", "--save", "",
                                      "--dir", cls.redis_dir], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while cls.redis_says("PING") != "+PONG":
            assert time.monotonic() < end, "Redis did not start"
            time.sleep(0.02)

    @classmethod
    def stop_redis(cls):
        cls.redis.kill()
        cls.redis.wait()

    @classmethod
    def redis_says(cls, line):
        try:
            with socket.create_connection(("127.0.0.1", cls.port), 2) as link:
                link.sendall(line.encode() + b"\r\n")
                return link.makefile().readline().strip()
        except OSError:
            return None

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-commands-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.conf = os.path.join(self.dir, "openveil.conf")
        self.redis_says("FLUSHALL")
        self.write_config(E_DAY)
        self.cli("keys", "init")
        self.cli("tenant", "add", TENANT, "--stream", "1=receipts", "--exemption-basis", "test", "--inactive-days",
                 N_DAYS)

    def write_config(self, today, partitions=PARTITIONS):
        with open(self.conf, "w", encoding="utf-8") as out:
            out.write(f"[kafka]\npartitions = {partitions}\n[redis]\naddress = 127.0.0.1:{self.port}\n"
                      f"timeout_ms = 500\n[aggregator]\nstate_dir = {self.dir}/state\n"
                      f"[release]\ndir = {self.dir}/releases\n[keys]\ndir = {self.dir}/keys\n"
                      f"[tenants]\ndir = {self.dir}/tenants\n[rehearsal]\n"
                      f"start_unix_s = {int(time.time()) - 3600}\nstart_day = {today}\nday_seconds = 86400\n")

    def run_cli(self, *words, stdin=""):
        return subprocess.run([os.path.join(BIN, "openveil"), "--config", self.conf, "--rehearsal", *map(str, words)],
                              input=stdin.encode() if isinstance(stdin, str) else stdin, capture_output=True,
                              check=False, timeout=60)

    def cli(self, *words, stdin="", code=0):
        done = self.run_cli(*words, stdin=stdin)
        self.assertEqual(done.returncode, code, done.stdout.decode() + done.stderr.decode())
        return done.stdout.decode()

    def refused(self, code, *words, stdin="", says=""):
        """Exit status `code`, and nothing on standard output; returns what it said."""
        done = self.run_cli(*words, stdin=stdin)
        text = done.stderr.decode()
        self.assertEqual((done.returncode, done.stdout), (code, b""), text)
        self.assertIn(says, text)
        return text

    def give_state(self, *lines):
        done = subprocess.run([os.path.join(BIN, "state_driver"), self.conf], input="\n".join(lines).encode() + b"\n",
                              stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode())

    def give_consent(self, *changes):
        """(contact, state, since): one after the other."""
        for contact, state, since in changes:
            self.cli("consent", "set", "--tenant", TENANT, "--contact", contact, "--state", state, "--since", since,
                     "--notice", "n1")

    def pseudonym(self, contact, tenant=TENANT):
        with open(os.path.join(self.dir, "keys", "contact.key"), encoding="ascii") as file:
            master = bytes.fromhex(file.read().strip())
        key = hmac.new(master, b"openveil contact key v1" + struct.pack(">I", tenant), hashlib.sha256).digest()
        return hmac.new(key, struct.pack(">I", tenant) + contact.encode(), hashlib.sha256).hexdigest()[:16]

    def log(self, name):
        with open(os.path.join(self.dir, "state", name), encoding="utf-8") as file:
            return file.read().splitlines()

    # ---- clean

    def measured(self, first=before(N_DAYS), since="-", complete=N_DAYS):
        days = [f"day {before(back)} 1" for back in range(1, complete + 1)]
        return ["meta", f"tenant {TENANT} {first} {since}", *days]

    def clean(self, contacts, *more, code=0, **options):
        words = ("clean", "--tenant", TENANT, "--class", "requested", *more)
        stdin = contacts if isinstance(contacts, str) else "".join(c + "\n" for c in contacts)
        return self.refused(code, *words, stdin=stdin, **options) if code else self.cli(*words, stdin=stdin)

    def test_clean_tells_only_what_it_may(self):
        long_ago = before(N_DAYS + 1)
        open_days = {"opened-first": (before(N_DAYS), AGE_NONE), "opened-before": (before(N_DAYS + 1), AGE_NONE),
                     "opened-on-the-eve": (before(1), AGE_NONE), "opened-after": (before(-2), AGE_NONE),
                     "opened-then-after": (before(-2), AGE_31_89)}
        ones = {"silent", "opened-before", "opened-after", "granted"}
        contacts = [*open_days, "silent", "too-young", "withdrew", "objected", "unknown", "granted"]
        informed = [c for c in contacts if c not in ("unknown", "too-young", "granted")]
        self.give_consent(*((c, "informed", long_ago) for c in informed), ("too-young", "informed", before(N_DAYS)),
                          ("granted", "informed", long_ago), ("granted", "granted", before(20)),
                          ("withdrew", "withdrawn", before(30)), ("objected", "objected", before(0)))
        self.give_state(*self.measured(), *(f"open {TENANT} {self.pseudonym(c)} {day} {age}"
                                            for c, (day, age) in open_days.items()))
        expected = "".join(f"{c}\t{int(c in ones)}\n" for c in contacts)
        self.assertEqual(self.clean(contacts, "--max-share", "40"), expected)
        self.assertEqual(self.clean([self.pseudonym(c) for c in contacts], "--pseudonyms", "--accept-share"),
                         "".join(f"{self.pseudonym(c)}\t{int(c in ones)}\n" for c in contacts))
        self.assertEqual(self.clean("silent\t4\nsilent\t5\nsilent", "--accept-share"),
                         "silent\t0\nsilent\t1\nsilent\t1\n")
        # Under regime 1 and for prospecting only granted counts, and not for long enough.
        self.assertNotIn("\t1", self.clean(contacts, "--regime", "1"))
        words = ("clean", "--tenant", TENANT, "--accept-share", "--class")
        stdin = "".join(c + "\n" for c in contacts)
        self.assertEqual(self.cli(*words, "transactional", stdin=stdin), expected)
        self.assertNotIn("\t1", self.cli(*words, "prospecting", stdin=stdin))
        # Leaving acts at once.
        self.give_consent(("silent", "objected", before(0)))
        self.assertEqual(self.clean("silent\n"), "silent\t0\n")
        for line in self.log("clean.log"):
            self.assertRegex(line, rf"^{E_DAY} user=\S+ run=[0-9a-f]{{16}} tenant=7 class=\w+ regime=\d lines=\d+ result=\w+$")
        self.assertEqual(len(self.log("clean.log")), 7)

    def unpacked(self, path):
        """The bytes of a zstd file, by the library itself."""
        with open(path, "rb") as file:
            packed = file.read()
        zstd = ctypes.CDLL("libzstd.so.1")
        zstd.ZSTD_decompress.restype = ctypes.c_size_t
        room = ctypes.create_string_buffer(1 << 20)
        size = zstd.ZSTD_decompress(room, ctypes.c_size_t(len(room)), packed, ctypes.c_size_t(len(packed)))
        self.assertLessEqual(size, len(room))
        return hashlib.sha256(packed).hexdigest(), room.raw[:size].decode()

    def test_clean_writes_files_for_batch_jobs(self):
        contacts = [f"c{i}" for i in range(50)]
        self.give_consent(("c3", "informed", before(300)), ("c4", "informed", before(300)))
        self.give_state(*self.measured(), f"open {TENANT} {self.pseudonym('c4')} {before(3)} 7")
        folder = os.path.join(self.dir, "answers")
        words = ("--out", folder, "--shards", "4")
        self.clean(contacts, "--max-share", "1", *words, code=5)
        self.clean("c1\nc2\tx\n", *words, code=1, says="line 2")
        self.assertFalse(os.path.exists(folder))
        self.assertEqual(self.clean(contacts, *words), "")
        with open(os.path.join(folder, "_SUCCESS"), encoding="utf-8") as file:
            success = json.load(file)
        shards = success.pop("shards")
        self.assertIn("run=" + success.pop("run"), self.log("clean.log")[-1])
        self.assertEqual(success, {"schema": "openveil.clean.v1", "tenant": TENANT, "class": "requested", "regime": 0,
                                   "rehearsal": True, "E": E_DAY, "N": N_DAYS, "lines": 50, "ones": 1,
                                   "key": "pmod(xxhash64(contact), shards)"})
        self.assertEqual(sorted(os.listdir(folder)), ["_SUCCESS", *(shard["file"] for shard in shards)])
        self.assertEqual(shards[1]["file"], "part-00001-of-00004.tsv.zst")
        answers = []
        for shard in shards:
            path = os.path.join(folder, shard["file"])
            digest, text = self.unpacked(path)
            lines = text.splitlines()
            self.assertEqual((digest, os.path.getsize(path), len(lines)),
                             (shard["sha256"], shard["bytes"], shard["lines"]))
            self.assertEqual(lines, sorted(lines, key=lambda line: int(line.split("\t")[0][1:])))
            answers.extend(lines)
        self.assertEqual(sorted(answers), sorted(f"{c}\t{int(c == 'c3')}" for c in contacts))
        self.clean(contacts, *words, code=1, says="is not empty")
        self.assertEqual(len(self.log("clean.log")), 2)
        self.clean(contacts, "--shards", "4", code=64, says="--shards needs --out")
        self.clean(contacts, "--out", folder, "--shards", "501", code=64)

    def test_clean_refuses_shares_lines_and_days(self):
        self.give_consent(*((c, "informed", before(300)) for c in "abc"))
        self.give_state(*self.measured(), *(f"open {TENANT} {self.pseudonym(c)} {before(3)} 7" for c in "bc"))
        self.assertEqual(self.clean("a\nb\nc\nd\n"), "a\t1\nb\t0\nc\t0\nd\t0\n")
        self.clean("a\nb\nc\n", code=5, says="30 %")
        self.assertEqual(self.clean("a\nb\nc\n", "--accept-share"), "a\t1\nb\t0\nc\t0\n")
        self.assertEqual(self.log("clean.log")[1].split()[-1], "result=share")
        self.clean("a\nb\tx\n", code=1, says="line 2")
        self.clean("a\n\nb\n", code=1, says="line 2")
        self.clean("a\n" + "x" * 5000 + "\n", code=1, says="line 2")
        self.assertEqual(self.clean(""), "")
        self.refused(64, "clean", "--tenant", TENANT, "--class", "request", says="transactional, requested or")
        self.refused(64, "clean", "--tenant", TENANT, "--class", "requested", "--regime", "2")
        self.refused(1, "clean", "--tenant", 8, "--class", "requested", says="no tenant 8")
        self.write_config("2026-12-10")
        self.assertEqual(self.clean("a\nb\nc\nd\n"), "a\t1\nb\t0\nc\t0\nd\t0\n")
        self.write_config("2026-12-11")
        self.clean("a\n", code=3, says="2027-01-01")
        self.write_config("2026-11-30")
        self.clean("a\n", code=3, says=E_DAY)
        self.write_config("2027-01-01")
        self.clean("a\n", code=3, says="2026-12-31")  # E is over there, but its eve is not settled
        self.write_config(E_DAY, partitions=4)
        self.clean("a\n", code=1, says="partitions")

    def test_clean_needs_measured_days(self):
        self.give_consent(("a", "informed", before(300)))
        self.clean("a\n", code=4, says="nothing")
        self.give_state(*self.measured(first=before(N_DAYS - 1)))
        self.clean("a\n", code=4, says="measured only since")
        self.give_state(f"tenant {TENANT} {before(10)} {before(N_DAYS)}")
        self.assertEqual(self.clean("a\n", "--accept-share"), "a\t1\n")
        self.give_state(*(f"day {before(back)} 2" for back in range(1, 11)))  # 170 declared, 10 given up
        self.clean("a\n", code=4, says="only 170 of the 180 days")
        self.give_state(f"day {before(5)} 1")
        self.assertEqual(self.clean("a\n", "--accept-share"), "a\t1\n")
        self.give_state(f"day {before(1)} 0")
        self.clean("a\n", code=3, says="2026-11-30")

    def test_clean_waits_for_the_consent_store(self):
        self.give_consent(("a", "informed", before(300)), ("b", "informed", before(300)))
        partition = partition_of(TENANT)
        self.give_state(*self.measured(), f"stamp {partition} 1 {'ab' * 20}")  # a history that this store never had
        self.clean("a\n", "--accept-share", code=69)
        self.give_state(f"stamp {partition} 99 {'ab' * 20}")  # a later one: the store was restored to an older state
        self.clean("a\n", "--accept-share", code=69)
        self.stop_redis()
        try:
            self.clean("a\n", "--accept-share", code=69)
        finally:
            self.start_redis()
        self.assertFalse(os.path.exists(os.path.join(self.dir, "state", "clean.log")))

    # ---- audit

    def test_audit(self):
        day = before(3)
        audit = ("audit", "--day", day)
        self.assertEqual(self.cli(*audit, code=2), "")  # no journal at all
        self.assertEqual(json.loads(self.cli(*audit, "--json", code=2)), {"day": day, "closed": False})
        self.give_state("meta", f"edge edge-1 {before(5)} {before(4)}",
                        f"ledger 0 {day} 35 30 5 20 20 15 3 2", f"ledger 1 {day} 35 30 5 10 10 10 0 0")
        self.cli(*audit, code=2)  # not closed
        self.give_state(f"edge edge-1 {before(5)} {day}")
        text = self.cli(*audit)
        self.assertEqual(text.count("meets"), 3)
        self.assertNotIn("35", text)
        text = self.cli(*audit, "--exact")
        self.assertRegex(text, r"requests +35\n")
        self.assertRegex(text, r"not_allowed +2\n")
        self.assertRegex(self.log("audit.log")[0], rf"^{E_DAY} user=\S+ day={day} exact$")
        answer = json.loads(self.cli(*audit, "--json", "--exact"))
        self.assertEqual((answer["requests"], answer["recorded"], answer["edge_drops"]["scanner"], answer["received"],
                          answer["counted"], answer["repeated"], answer["aggregator_drops"]["not_allowed"]),
                         (35, 30, 5, 30, 25, 3, 2))
        self.assertNotIn("requests", json.loads(self.cli(*audit, "--json")))
        self.give_state(f"ledger 1 {day} 35 30 5 10 10 9 0 0")  # an event vanished
        self.assertIn("DOES NOT MEET", self.cli(*audit, code=1))
        answer = json.loads(self.cli(*audit, "--json", code=1))
        self.assertEqual([i["meets"] for i in answer["identities"]], [True, True, False])
        big = before(2)
        self.give_state(f"edge edge-1 {before(5)} {big}", f"ledger 0 {big} 1000 1000 0 1000 1000 1000 0 0",
                        f"ledger 1 {big} 1000 1000 0 0 0 0 0 0")
        self.assertRegex(self.cli("audit", "--day", big), r"requests +1000\n")
        self.assertEqual(len(self.log("audit.log")), 2)
        self.assertIn("YYYY-MM-DD", self.refused(64, "audit", "--day", "yesterday"))
        self.cli("audit", "--day", before(6), code=2)  # before the edge took part

    # ---- releases, budget

    def test_releases_and_budget(self):
        self.assertEqual(self.cli("releases", "--tenant", TENANT), "")
        self.refused(1, "releases", "--tenant", 8, says="no tenant 8")
        folder = os.path.join(self.dir, "releases", str(TENANT))
        os.makedirs(folder)
        lines = []
        for period, epsilon in (("2026-10-31", "1/4"), ("2026-11-01", "1/3"), ("2026-11-02", "0/1")):
            reason = {"reason": "budget"} if epsilon == "0/1" else {}
            cell = {"stream": 1, "stream_name": "receipts", "provider": "gmail", "fetch": "person",
                    "contacts": None if reason else 123}
            line = json.dumps({"schema": "openveil.release.v1", "kind": "deliverability", "tenant": TENANT,
                               "period": period, "complete": True, "rehearsal": True, "mechanism": "discrete-laplace",
                               "epsilon": epsilon, "threshold": 40, **reason, "rules": [],
                               "cells": [cell, {**cell, "fetch": "machine", "contacts": None}]}, separators=(",", ":"))
            lines.append(line + "\n")
            with open(os.path.join(folder, f"deliverability-{period}.json"), "w", encoding="utf-8") as out:
                out.write(line + "\n")
        self.assertEqual(self.cli("releases", "--tenant", TENANT, "--json"), "".join(lines))
        text = self.cli("releases", "--tenant", TENANT)
        self.assertRegex(text, r"2026-11-01 +yes +1 +receipts +gmail +123 +<40\n")
        self.assertRegex(text, r"2026-11-02 .* budget +budget\n")
        self.assertEqual(self.cli("releases", "--tenant", TENANT, "--kind", "inactivity"), "")
        months = [json.loads(line) for line in self.cli("budget", "--tenant", TENANT, "--json").splitlines()]
        self.assertEqual([(m["month"], m["lines"], m["withheld"], m["limit"]) for m in months],
                         [("2026-10", 1, 0, 8), ("2026-11", 2, 1, 8)])
        self.assertAlmostEqual(months[1]["spent"], 1 / 3)
        with open(os.path.join(folder, "deliverability-2026-11-03.json"), "w", encoding="utf-8") as out:
            out.write("{}\n")
        self.refused(1, "releases", "--tenant", TENANT, says="deliverability-2026-11-03.json is not a released line")


if __name__ == "__main__":
    unittest.main()
