"""The consent topic: real Kafka, real Redis, the aggregator and `openveil consent follow`, which are killed on the way."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
from stack import Stack, http_get, wait_until  # noqa: E402

DAY, BEFORE = "2026-11-22", "2026-11-21"
TENANT = 7
OUTCOMES = ("applied", "superseded", "rejected", "contact")


class ConsentTopic(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="openveil-consent-topic-")
        cls.stack = Stack(cls.dir, os.environ["OPENVEIL_BIN"], kafka=True, rehearsal=(DAY, 86400, -100), partitions=4)
        cls.stack.start_all()
        cls.stack.cli("keys", "init")
        cls.stack.cli("tenant", "add", "--stream", "3=receipts", str(TENANT))

    @classmethod
    def tearDownClass(cls):
        cls.stack.stop()
        shutil.rmtree(cls.dir, ignore_errors=True)

    def setUp(self):
        self.seen = self.rejects()

    def tearDown(self):
        for name in ("openveil-aggregator", "follow"):
            if name in self.stack.processes:
                self.stack.processes.pop(name).stop()

    # ---- both ends of the topic

    def produce(self, *records):
        """Each with its contact as the key: so they come in order."""
        lines = []
        for record in records:
            text = record if isinstance(record, str) else json.dumps(record)
            key = str(record.get("contact", record.get("pseudonym", ""))) if isinstance(record, dict) else "bad"
            lines.append(f"{key}|{text}")
        subprocess.run(["kcat", "-P", "-b", f"127.0.0.1:{self.stack.kafka_port}", "-t", "openveil.consent", "-K", "|"],
                       input="\n".join(lines).encode(), check=True, timeout=60)

    def rejects(self):
        done = subprocess.run(["kcat", "-C", "-e", "-q", "-b", f"127.0.0.1:{self.stack.kafka_port}", "-t",
                               "openveil.consent.rejects"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
                              timeout=60)
        return [json.loads(line) for line in done.stdout.decode().splitlines()]

    def new_rejects(self, n):
        wait_until(f"{n} rejects", lambda: len(self.rejects()) - len(self.seen) >= n, 30)
        found = [row for row in self.rejects() if row not in self.seen]
        self.assertEqual(len(found), n, found)
        return found

    def start_aggregator(self):
        self.stack.start_aggregator()

    def start_follow(self):
        self.stack.start("follow", [self.stack.program("openveil"), "--config", self.stack.config, "--rehearsal",
                                    "consent", "follow"])

    def record(self, n, state="granted", since=BEFORE, **more):
        who = {} if "contact" in more else {"pseudonym": f"{n:016x}"}
        return {"tenant": TENANT, **who, "state": state, "since": since, "notice": "v1", **more}

    def state(self, n):
        who = ("--contact", n) if isinstance(n, str) else ("--pseudonym", f"{n:016x}")
        return json.loads(self.stack.cli("consent", "get", "--tenant", str(TENANT), *who, "--json"))["state"]

    def wait_state(self, n, state):
        wait_until(f"{n} {state}", lambda: self.state(n) == state, 40)

    def metrics(self):
        text = http_get(self.stack.aggregator_admin, "/metrics")[1]
        return {outcome: int(re.search(rf'consent_records_total{{outcome="{outcome}"}} (\d+)', text).group(1))
                for outcome in OUTCOMES}

    def epoch(self):
        done = subprocess.run(["redis-cli", "-p", str(self.stack.redis_port), "HGET", "ov:{0}:meta", "epoch"],
                              stdout=subprocess.PIPE, check=True)
        return int(done.stdout.strip() or 0)

    # ---- what must hold

    def test_good_and_bad(self):
        self.start_aggregator()
        self.produce(
            self.record(1), self.record(2, "withdrawn", notice="-"),
            {"tenant": TENANT, "pseudonym": f"{3:016x}", "state": "objected", "since": DAY, "change_id": 2**64 - 1},
            self.record(4, change_id=12), "{\"tenant\": 7, ", "[]", "", self.record(5, "maybe"),
            self.record(6, since="yesterday"), self.record(7, since="2026-12-24"), self.record(8, tenant=8),
            self.record(9, tenant=-1), self.record(10, change_id=2**64), self.record(11, change_id=1.5),
            self.record(12, surprise=1), {**self.record(13), "contact": "a"}, self.record(14, notice="x" * 33),
            self.record(15, since="x" * 5000), {**self.record(16), "pseudonym": "zz"},
            {"tenant": TENANT, "pseudonym": f"{17:016x}", "state": "granted", "since": DAY},
            '{"tenant":7,"tenant":7,"pseudonym":"0000000000000012","state":"granted","since":"2026-11-21","notice":"v"}',
            self.record(19, "informed"))
        self.wait_state(1, "granted")
        self.wait_state(2, "withdrawn")
        self.wait_state(3, "objected")
        self.wait_state(4, "granted")
        self.wait_state(19, "informed")
        found = self.new_rejects(17)
        reasons = " ".join(row["reason"] for row in found)
        for word in ("JSON object", "state must be", "since must be", "after tomorrow", "not configured", "tenant must be",
                     "change_id must be", "a field that is not", "either contact or pseudonym", "notice must be",
                     "longer than 4096", "16 hex digits", "notice is needed", "empty"):
            self.assertIn(word, reasons)
        for row in found:
            self.assertEqual(set(row), {"reason", "topic", "partition", "offset"})
            self.assertEqual(row["topic"], "openveil.consent")
        self.assertEqual(len({(row["partition"], row["offset"]) for row in found}), 17)
        for n in (5, 8, 12, 17):
            self.assertEqual(self.state(n), "unknown")

    def test_order(self):
        self.start_aggregator()
        self.produce(self.record(101, "granted", BEFORE), self.record(101, "withdrawn", DAY, notice="-"),
                     self.record(101, "granted", BEFORE), self.record(101, "granted", DAY),
                     self.record(102, "granted", BEFORE), self.record(102, "granted", BEFORE), self.record(103))
        self.produce(self.record(104, notice="v9", change_id=9), self.record(104, notice="v3", change_id=3),
                     self.record(104, notice="v9", change_id=9), self.record(105))
        self.wait_state(105, "granted")
        self.wait_state(103, "granted")
        self.wait_state(101, "withdrawn")
        wait_until("a change id", lambda: self.state(104) != "unknown", 20)
        time.sleep(1)
        notice = json.loads(self.stack.cli("consent", "get", "--tenant", str(TENANT), "--pseudonym", f"{104:016x}",
                                           "--json"))["notice"]
        self.assertEqual(notice, "v9", "the higher change id wins in any order")
        self.assertEqual(self.state(101), "withdrawn", "the older day and the same day lose")
        self.assertEqual(self.new_rejects(0), [], "a record that lost is not a bad one")

    def test_contacts_need_the_one_who_has_keys(self):
        self.start_aggregator()
        self.produce(self.record(0, contact="zoé@exemple.fr"), self.record(0, "maybe", contact="max@example.org"),
                     self.record(201))
        self.wait_state(201, "granted")
        self.assertEqual(self.state("zoé@exemple.fr"), "unknown")
        self.start_follow()
        self.wait_state("zoé@exemple.fr", "granted")
        rejected = self.new_rejects(1)[0]
        self.assertIn("state must be", rejected["reason"])
        follow = self.stack.processes.pop("follow")
        self.assertEqual(follow.stop(), 0)
        with open(follow.log, encoding="utf-8") as log:
            self.assertRegex(log.read(), r"applied 1\nsuperseded 0\nrejected 1\n")
        for name in ("openveil-aggregator", "follow"):
            with open(self.stack.path("log", name + ".log"), "rb") as log:
                self.assertNotIn(b"example", log.read())

    def test_killed_in_the_middle_and_redis_away(self):
        process = self.stack.start_aggregator()
        n = 20000
        contacts = range(1000000, 1000000 + n)
        before = self.epoch()
        self.produce(*(self.record(i, change_id=i) for i in contacts))
        for _ in range(3):
            wait_until("a part", lambda: self.epoch() > before, 40)
            before = self.epoch()
            process.kill()
            process = self.stack.start_aggregator(wait=False)
        self.stack.processes["redis"].child.send_signal(signal.SIGSTOP)
        time.sleep(4)
        self.stack.processes["redis"].child.send_signal(signal.SIGCONT)
        self.produce(*(self.record(i, "withdrawn", DAY, notice="-", change_id=n + i) for i in contacts[::7]))
        self.produce(self.record(300))
        self.wait_state(300, "granted")
        wait_until("the last one", lambda: self.state(contacts[::7][-1]) == "withdrawn", 60)

        def states():
            text = self.stack.cli("consent", "export", "--tenant", str(TENANT))
            rows = [line.split("\t") for line in text.splitlines()]
            return {int(row[0], 16): row[1] for row in rows if len(row) > 1 and len(row[0]) == 16}

        wanted = {i: "withdrawn" if (i - contacts[0]) % 7 == 0 else "granted" for i in contacts}
        wait_until("all of them", lambda: {i: s for i, s in states().items() if i in wanted} == wanted, 60)
        self.assertEqual(self.new_rejects(0), [])
        self.assertEqual(process.stop(), 0)


if __name__ == "__main__":
    unittest.main()
