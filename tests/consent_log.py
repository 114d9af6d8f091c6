"""The log of consent changes outside Redis, as one test case for both modes: what is confirmed is in it, whatever is killed;
it proves itself, also after an erasure; what was altered is named."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
from stack import Stack, http_get, wait_until  # noqa: E402

DAY = "2026-11-22"
TENANT, OTHER = 7, 11


class ConsentLog:
    """Mixed into a unittest.TestCase that sets `kafka`."""
    kafka = False

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-consent-log-")
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], kafka=self.kafka, partitions=2,
                           rehearsal=(DAY, 86400, -100))
        self.stack.write_config()
        self.stack.start_redis()
        if self.kafka:
            self.stack.start_kafka()
        self.stack.cli("keys", "init")
        for tenant in (TENANT, OTHER):
            self.stack.cli("tenant", "add", "--stream", "3=receipts", str(tenant))

    def tearDown(self):
        self.stack.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def set(self, contact, state, *words, tenant=TENANT, check=True):
        notice = ["--notice", "v1"] if state in ("granted", "informed") else []
        return self.stack.cli("consent", "set", "--tenant", str(tenant), "--contact", contact, "--state", state,
                              "--since", DAY, *notice, *words, check=check)

    def receipt(self, number, *words, tenant=TENANT, check=True):
        return self.stack.cli("consent", "receipt", str(number), "--tenant", str(tenant), "--json", *words, check=check)

    def applied(self, number):
        return json.loads(self.receipt(number))["applied"]

    def verify(self):
        """By partition, what the command says, and its exit code."""
        done = self.stack.cli("consent", "verify", "--json", check=False)
        done.stderr = done.stderr.decode()
        return {p["partition"]: p for p in json.loads(done.stdout)} if done.stdout else {}, done

    def redis(self, *words):
        subprocess.run(["redis-cli", "-p", str(self.stack.redis_port), *words], check=True, stdout=subprocess.DEVNULL)

    def start_edge_with_least_rights(self):
        """The user of common/CONSENT.md."""
        self.redis("ACL", "SETUSER", "edge", "on", ">secret", "~ov:*", "+hmget", "+hgetall", "+xrange", "+xread", "+fcall",
                   "(~ov:*:applied +xadd)")
        with open(self.stack.path("password"), "w", encoding="ascii") as out:
            out.write("secret\n")
        os.chmod(self.stack.path("password"), 0o600)
        self.stack.add_edge("edge-2")
        self.stack.members["edge-2"]["extra"]["redis"] = {"username": "edge", "password_file": self.stack.path("password")}
        self.stack.write_config()
        self.stack.start_member("edge-2")

    def test_a_change_is_confirmed_and_proved(self):
        number = self.set("contact-1", "granted").strip()
        self.assertEqual(self.receipt(number, check=False).returncode, 1)
        self.assertEqual(self.receipt(99, check=False).returncode, 2)
        self.stack.start_aggregator()
        told = json.loads(self.receipt(number, "--wait"))
        self.assertEqual((told["state"], told["notice"], told["tenant"]), ("granted", "v1", TENANT))
        self.assertIsNotNone(told["confirmed"])
        self.start_edge_with_least_rights()
        number = self.set("contact-1", "withdrawn", "--wait").strip()
        wait_until("edge and aggregator apply it", lambda: len(self.applied(number)) == 2, 10)
        self.assertIn("edge/edge-2", self.applied(number))
        self.set("contact-2", "objected", "--wait", tenant=OTHER)
        found, done = self.verify()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sum(p["changes"] for p in found.values()), 3)
        self.assertEqual(sum(p["compared"] for p in found.values()), 2)
        self.assertEqual(http_get(self.stack.aggregator_admin, "/metrics")[1].count("consent_log_waiting 0"), 1)

    def test_nothing_confirmed_is_lost_when_the_aggregator_is_killed(self):
        self.stack.start_aggregator()
        lines = "".join(f"contact-{i}\t{'granted' if i % 2 else 'objected'}\t{DAY}\tv1\n" for i in range(1000))
        stop = threading.Event()

        def kill_often():
            while not stop.wait(0.15):
                self.stack.processes["openveil-aggregator"].kill()
                self.stack.start_aggregator(wait=False)

        killer = threading.Thread(target=kill_often)
        killer.start()
        try:
            for first in range(0, 1000, 10):
                part = "".join(lines.splitlines(True)[first:first + 10])
                self.stack.cli("consent", "import", "--tenant", str(TENANT), "-", stdin=part)
        finally:
            stop.set()
            killer.join()
        found, done = self.verify()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.stack.processes["openveil-aggregator"].kill()
        self.stack.start_aggregator()
        last = self.set("contact-1", "objected", "--wait").strip()
        found, done = self.verify()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(max(p["log"] for p in found.values()), int(last))
        self.assertEqual(sum(p["changes"] for p in found.values()), int(last))
        self.assertEqual(sum(p["damaged"] + p["forks"] for p in found.values()), 0)

    def test_a_store_that_lost_changes_is_noticed(self):
        self.stack.start_aggregator()
        for i in range(5):
            last = self.set(f"contact-{i}", "objected", "--wait").strip()
        self.redis("FLUSHALL")
        found, done = self.verify()
        self.assertEqual(done.returncode, 1)
        self.assertIn("openveil consent restore", done.stderr)
        for i in range(7):
            self.set(f"contact-{i}", "granted")
        # The emptied store has passed the log's end by now, and nothing of it is confirmed.
        time.sleep(6)
        self.assertEqual(self.receipt(7, check=False).returncode, 1)
        found, done = self.verify()
        self.assertEqual(done.returncode, 1)
        self.assertEqual(max(p["log"] for p in found.values()), int(last))
        self.assertIn("consent_log_waiting 1", http_get(self.stack.aggregator_admin, "/metrics")[1])
        self.stack.cli("consent", "restore")
        number = int(self.set("contact-9", "objected", "--wait").strip())
        self.assertGreater(number, int(last))
        found, done = self.verify()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(max(p["log"] for p in found.values()), number)
        self.assertEqual(sum(p["baselines"] for p in found.values()), 0)
        self.assertIn("consent_log_waiting 0", http_get(self.stack.aggregator_admin, "/metrics")[1])
        # What the emptied store had lost holds again, and what it was told meanwhile does not undo it.
        state = json.loads(self.stack.cli("consent", "get", "--tenant", str(TENANT), "--contact", "contact-1", "--json"))
        self.assertEqual(state["state"], "objected")

    def test_what_is_erased_still_verifies(self):
        self.stack.start_aggregator()
        first = self.set("contact-1", "granted").strip()
        self.set("contact-2", "granted")
        self.set("contact-1", "withdrawn", "--wait")
        self.stack.cli("contact", "erase", "--tenant", str(TENANT), "contact-1")
        found, done = self.verify()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sum(p["erased"] for p in found.values()), 2)
        told = json.loads(self.receipt(first))
        self.assertTrue(told["erased"])
        self.assertNotIn("pseudonym", told)
        self.assertIsNotNone(told["confirmed"])
        # The next owner goes on behind it.
        self.stack.processes["openveil-aggregator"].stop()
        self.stack.start_aggregator()
        self.set("contact-2", "withdrawn", "--wait")
        found, done = self.verify()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sum(p["baselines"] + p["forks"] for p in found.values()), 0)

    def test_a_stream_that_was_trimmed_begins_anew(self):
        for i in range(20):
            self.set(f"contact-{i}", "granted")
        for p in range(2):
            self.redis("XTRIM", f"ov:{{{p}}}:changes", "MAXLEN", "3")
        self.stack.start_aggregator()
        number = self.set("contact-1", "withdrawn", "--wait").strip()
        self.assertEqual(number, "21")
        found, done = self.verify()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sum(p["baselines"] for p in found.values()), 1)
        self.assertEqual(sum(p["compared"] for p in found.values()), 20)
