"""`openveil last-open import`: what reaches the aggregator on a single node and through a real broker."""
import fcntl
import hashlib
import hmac
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from kafka_broker import KafkaBroker  # noqa: E402

BIN = os.environ.get("OPENVEIL_BIN", "build/dev/bin")
PARTITIONS = 8
ROWS_MAX = 65536
IMPORT = 4


def day_text(ago):
    return time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86400 * ago))


def today():
    return int(time.time()) // 86400


def partition_of(tenant):
    return struct.unpack(">I", hashlib.sha256(struct.pack(">I", tenant)).digest()[:4])[0] % PARTITIONS


def parse(message):
    """A message's head and an import's rows, by the layout in common/message.h."""
    magic, kind, flags, edge_len = struct.unpack_from(">4sBBB", message)
    edge = message[7:7 + edge_len].decode()
    epoch, segment, first, partition, partitions, day, body_len = struct.unpack_from(">QQQHHII", message, 7 + edge_len)
    body = message[43 + edge_len:-8]
    assert (magic, kind, first, len(body)) == (b"OVM1", IMPORT, 0, body_len)
    assert edge == f"import-{epoch:016x}"
    tenant, since, n = struct.unpack_from(">III", body)
    rows = [struct.unpack_from(">QI", body, 12 + 12 * i) for i in range(n)]
    assert len(body) == 12 + 12 * n
    return {"rehearsal": flags & 1, "epoch": epoch, "segment": segment, "partition": partition, "partitions": partitions,
            "day": day, "tenant": tenant, "since": since, "rows": rows}


class Case(unittest.TestCase):
    kafka = ""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-import-test-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.conf = os.path.join(self.dir, "openveil.conf")
        with open(self.conf, "w") as out:
            out.write(f"[keys]\ndir = {self.dir}/keys\n[tenants]\ndir = {self.dir}/tenants\n"
                      f"[aggregator]\nstate_dir = {self.dir}/state\n[kafka]\npartitions = {PARTITIONS}\n{self.kafka}")
        self.inbox = f"{self.dir}/state/inbox"
        self.run_cli("keys", "init")
        for tenant in (7, 4294967295):
            self.run_cli("tenant", "add", str(tenant), "--stream", "1=news")
        export = json.loads(self.run_cli("tenant", "export", "7"))
        self.contact_key = bytes.fromhex(export["contact_key"])

    def run_cli(self, *words, stdin="", code=0):
        done = subprocess.run([os.path.join(BIN, "openveil"), "--config", self.conf, *words], input=stdin.encode(),
                              capture_output=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stderr.decode())
        return done.stdout.decode() if code == 0 else done.stderr.decode()

    def load(self, *words, stdin="", code=0):
        return self.run_cli("last-open", "import", "--tenant", "7", *words, stdin=stdin, code=code)

    def pseudonym(self, contact):
        mac = hmac.new(self.contact_key, struct.pack(">I", 7) + contact.encode(), hashlib.sha256).digest()
        return int.from_bytes(mac[:8], "big")

    def queued(self):
        names = sorted(os.listdir(self.inbox)) if os.path.isdir(self.inbox) else []
        self.assertTrue(all(name.endswith(".msg") for name in names), names)
        messages = []
        for name in names:
            with open(f"{self.inbox}/{name}", "rb") as message:
                messages.append(parse(message.read()))
        return messages


class SingleNode(Case):
    def test_rows_reach_the_inbox(self):
        lines = f"zoé\t{day_text(3)}\nb\t{day_text(400)}\nb\t{day_text(9)}\nold\t{day_text(401)}\nzoé\t{day_text(5)}\n"
        result = json.loads(self.load("--json", stdin=lines + f"c d\t{day_text(0)}"))
        self.assertEqual(result, {"tenant": 7, "contacts": 3, "too_old": 1, "state": "queued for the aggregator"})
        message, = self.queued()
        expected = [(self.pseudonym("zoé"), today() - 3), (self.pseudonym("b"), today() - 9), (self.pseudonym("c d"), today())]
        self.assertEqual(message["rows"], sorted(expected))
        self.assertEqual((message["tenant"], message["partition"], message["partitions"]), (7, partition_of(7), PARTITIONS))
        self.assertEqual((message["day"], message["since"], message["rehearsal"]), (today(), 0, 0))
        self.assertEqual(os.stat(self.inbox).st_mode & 0o777, 0o700)
        with open(f"{self.dir}/state/declarations.log") as log:
            line = log.read()
        self.assertIn("tenant=7 measured_since=- lines=6", line)
        self.assertNotIn("zoé", line)

    def test_many_rows_come_in_parts(self):
        n = 2 * ROWS_MAX + 10
        path = f"{self.dir}/history"
        with open(path, "w") as out:
            out.writelines(f"contact-{i}\t{day_text(i % 7)}\n" for i in range(n))
        self.load("--measured-since", day_text(30), path)
        messages = self.queued()
        self.assertEqual([m["segment"] for m in messages], [0, 1, 2])
        self.assertEqual([len(m["rows"]) for m in messages], [ROWS_MAX, ROWS_MAX, 10])
        rows = [row for m in messages for row in m["rows"]]
        self.assertEqual(rows, sorted(rows))
        self.assertEqual(len(set(rows)), n)
        self.assertEqual({m["since"] for m in messages}, {today() - 30})
        self.assertEqual(len({m["epoch"] for m in messages}), 1)

    def test_a_bad_line_stops_all(self):
        good = f"a\t{day_text(1)}\n"
        for bad in ["a\n", "\n", f"\t{day_text(1)}\n", f"a\t{day_text(-1)}\n", "a\t2026-02-30\n", f"a\t{day_text(1)}\t\n",
                    f"a\t{day_text(1)}\r\n", f"{'x' * 257}\t{day_text(1)}\n", "a\t1970-01-01\n", f"a\t{day_text(1)}\0\n"]:
            self.assertIn("line 3: ", self.load("--measured-since", day_text(30), stdin=good + good + bad + good, code=1))
        self.assertIn("no tenant 8", self.run_cli("last-open", "import", "--tenant", "8", stdin=good, code=1))
        self.assertIn("cannot open", self.load(f"{self.dir}/none", code=1))
        self.load("--measured-since", day_text(-1), stdin=good, code=64)
        self.load("--measured-since", "1970-01-01", stdin=good, code=64)
        self.assertFalse(os.path.exists(f"{self.dir}/state"))

    def test_a_declaration_alone_is_sent(self):
        self.load(stdin="")
        self.assertEqual(self.queued(), [])
        self.load("--measured-since", day_text(100), stdin="")
        message, = self.queued()
        self.assertEqual((message["rows"], message["since"]), ([], today() - 100))
        with open(f"{self.dir}/state/declarations.log") as log:
            self.assertIn(f"measured_since={day_text(100)} lines=0", log.read())

    def test_waits_for_a_running_aggregator(self):
        os.makedirs(f"{self.dir}/state/journal")
        lock = open(f"{self.dir}/state/journal/lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.addCleanup(lock.close)
        taken = []

        def take():
            end = time.monotonic() + 30
            while not taken and time.monotonic() < end:
                time.sleep(0.05)
                for message in self.queued():
                    taken.append(message)
                    shutil.rmtree(self.inbox)
        thread = threading.Thread(target=take)
        thread.start()
        self.addCleanup(thread.join)
        result = json.loads(self.load("--json", stdin=f"a\t{day_text(1)}\n"))
        self.assertEqual(result["state"], "applied")
        started = time.monotonic()
        result = json.loads(self.load("--json", stdin=f"a\t{day_text(1)}\n"))
        self.assertEqual(result["state"], "queued for the aggregator")
        self.assertGreater(time.monotonic() - started, 9)

    def test_other_mode_is_refused(self):
        os.makedirs(f"{self.dir}/state")
        with open(f"{self.dir}/state/openveil-mode", "w") as mark:
            mark.write("rehearsal\n")
        self.assertIn("rehearsal", self.load(stdin=f"a\t{day_text(1)}\n", code=1))
        self.assertEqual(self.queued(), [])


class Kafka(Case):
    @classmethod
    def setUpClass(cls):
        cls.broker = KafkaBroker()
        cls.broker.start()
        cls.kafka = f"brokers = {cls.broker.address}\n"

    @classmethod
    def tearDownClass(cls):
        cls.broker.stop()

    def test_parts_go_to_the_tenants_partition(self):
        n = ROWS_MAX + 1
        result = json.loads(self.load("--json", "--measured-since", day_text(9),
                                      stdin="".join(f"{i}\t{day_text(2)}\n" for i in range(n))))
        self.assertEqual(result, {"tenant": 7, "contacts": n, "too_old": 0, "state": "sent"})
        out = subprocess.run(["kcat", "-b", self.broker.address, "-C", "-t", "openveil.events", "-o", "beginning", "-e", "-q",
                              "-f", "%p %T %S\n%s"], capture_output=True, timeout=60, check=True).stdout
        messages = []
        while out:
            words, out = out.split(b"\n", 1)
            partition, timestamp, size = map(int, words.split())
            self.assertEqual((partition, timestamp % 86400000), (partition_of(7), 0))
            messages.append(parse(out[:size]))
            out = out[size:]
        self.assertEqual([(m["segment"], len(m["rows"])) for m in messages], [(0, ROWS_MAX), (1, 1)])
        self.assertFalse(os.path.exists(self.inbox))


if __name__ == "__main__":
    unittest.main()
