"""A failover that loses withdrawals, and an emptied Redis: noticed, nobody counted, repaired from the log, counting resumes.

A real primary and its replica. The replica is cut off, withdrawals are confirmed at the primary, the primary is killed, and the
replica takes its address and is written to until its epoch has passed the old one.
"""
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
sys.path.insert(0, os.path.join(ROOT, "tests"))
import sample  # noqa: E402
from redis_server import RedisServer  # noqa: E402
from stack import Stack, http_get, wait_until  # noqa: E402

DAY, GRANTED = "2026-11-22", "2026-11-01"
TENANT = 7
# Counters on /metrics move in steps of 100.
COUNTED_BEFORE = range(0, 200)
WITHDRAWN = range(200, 300)
STILL_ALLOWED = range(300, 400)
NEW_AT_REPLICA = range(1000, 1400)
UNREACHABLE_S = 4


class Failover(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-failover-")
        self.primary, self.replica = RedisServer(), RedisServer()
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], rehearsal=(DAY, 86400, -100), partitions=2,
                           extra={"ingest": {"workers": 1}, "spool": {"segment_ms": 100},
                                  "redis": {"timeout_ms": 1000, "address": self.primary.address}})
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        for server in (self.primary, self.replica):
            self.addCleanup(server.stop)
            server.start()
        self.addCleanup(self.stack.stop)
        self.replica.call("REPLICAOF", "127.0.0.1", self.primary.port)
        self.stack.write_config()
        self.stack.cli("keys", "init")
        self.stack.cli("tenant", "add", "--stream", "3=receipts", "--exemption-basis", "test", str(TENANT))
        lines = "".join(f"contact-{i}\ttransactional\t3\tgmail\t{GRANTED}T00:00:00Z\n" for i in range(400))
        self.tokens = self.stack.cli("token", "mint", "--tenant", str(TENANT), stdin=lines).split()
        self.change(range(400), "granted", GRANTED)
        self.stack.start_edge()
        self.stack.start_aggregator()
        self.confirm("informed")

    # ---- what senders and contacts do

    def change(self, contacts, state, since):
        text = "".join(f"contact-{i}\t{state}\t{since}\tv1\n" for i in contacts)
        self.stack.cli("consent", "import", "--tenant", str(TENANT), "-", stdin=text)

    def confirm(self, state):
        """One more change, and with it all before are in the log."""
        self.stack.cli("consent", "set", "--tenant", str(TENANT), "--contact", f"last-{state}", "--state", state, "--since",
                       DAY, "--notice", "v1", "--wait")

    def state(self, contact):
        words = ("consent", "get", "--tenant", str(TENANT), "--contact", f"contact-{contact}", "--json")
        return json.loads(self.stack.cli(*words))["state"]

    def open(self, contacts):
        host, port = self.stack.pixel_address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 5) as link:
            reader = link.makefile("rb")
            for contact in contacts:
                token = self.tokens[contact]
                link.sendall(f"GET /p/{token}.gif HTTP/1.1\r\nHost: p\r\nUser-Agent: Thunderbird\r\n\r\n".encode())
                self.assertEqual(sample.read_reply(reader), 200)

    # ---- what can be seen

    def metric(self, name):
        text = http_get(self.stack.aggregator_admin, "/metrics")[1]
        return int(re.search(rf"^{name} (\d+)", text, re.M).group(1))

    def counted(self):
        return self.metric("openveil_aggregator_counted_total")

    def wait_counted(self, number):
        wait_until(f"{number} counted", lambda: self.counted() == number, 30,
                   self.stack.processes["openveil-aggregator"])

    def said(self):
        return self.stack.processes["openveil-aggregator"].tail(400)

    def restore(self, *words):
        return {p["partition"]: p for p in json.loads(self.stack.cli("consent", "restore", "--json", *words))}

    def nothing_counted(self, number):
        """For some seconds, and it is said why."""
        end = time.monotonic() + UNREACHABLE_S
        while time.monotonic() < end:
            self.assertEqual(self.counted(), number)
            time.sleep(0.2)
        self.assertIn("openveil consent restore repairs it", self.said())

    # ---- the tests

    def fail_over(self):
        """The replica gets the primary's address, and with it everybody."""
        self.primary.kill()
        self.replica.call("REPLICAOF", "NO", "ONE")
        self.replica.call("CONFIG", "SET", "port", self.primary.port)
        self.replica.disconnect()
        self.replica.port = self.primary.port

    def test_withdrawals_that_a_failover_lost_come_back(self):
        self.open(COUNTED_BEFORE)
        self.wait_counted(len(COUNTED_BEFORE))
        self.assertEqual(self.primary.call("WAIT", 1, 5000), 1)
        self.replica.call("REPLICAOF", "127.0.0.1", 1)  # cut off; it keeps what it has
        self.change(WITHDRAWN, "withdrawn", DAY)
        self.confirm("objected")
        self.fail_over()
        self.assertEqual(self.state(WITHDRAWN[5]), "granted")  # lost
        self.change(NEW_AT_REPLICA, "granted", GRANTED)
        self.change([*NEW_AT_REPLICA[:50]], "withdrawn", DAY)
        self.open([*WITHDRAWN, *STILL_ALLOWED])
        self.nothing_counted(len(COUNTED_BEFORE))
        would = self.restore("--dry-run")
        self.assertEqual([p["outcome"] for p in would.values() if p["changes"] > 0], ["to be restored"])
        self.assertEqual(self.state(WITHDRAWN[5]), "granted")
        done = [p for p in self.restore().values() if p["outcome"] == "restored"]
        self.assertEqual(len(done), 1)
        self.assertGreaterEqual(done[0]["applied"], len(WITHDRAWN))
        self.assertGreater(done[0]["redis_epoch"], done[0]["log_epoch"])  # it had passed
        self.assertEqual(done[0]["entered"], len(NEW_AT_REPLICA) + 50)
        self.assertEqual({self.state(contact) for contact in WITHDRAWN[::9]}, {"withdrawn"})
        self.assertEqual({self.state(contact) for contact in NEW_AT_REPLICA[:50:9]}, {"withdrawn"})
        self.wait_counted(len(COUNTED_BEFORE) + len(STILL_ALLOWED))
        self.go_on()

    def test_an_emptied_redis_is_filled(self):
        self.open(COUNTED_BEFORE)
        self.wait_counted(len(COUNTED_BEFORE))
        self.change(WITHDRAWN, "withdrawn", DAY)
        self.confirm("objected")
        self.primary.call("FLUSHALL")
        self.open([*WITHDRAWN, *STILL_ALLOWED])
        self.nothing_counted(len(COUNTED_BEFORE))
        self.restore()
        self.assertEqual({self.state(contact) for contact in WITHDRAWN[::9]}, {"withdrawn"})
        self.wait_counted(len(COUNTED_BEFORE) + len(STILL_ALLOWED))
        self.go_on()

    def go_on(self):
        """Changes are confirmed again, the log proves itself, and a second repair finds nothing to do."""
        self.confirm("withdrawn")
        self.assertEqual(self.counted(), len(COUNTED_BEFORE) + len(STILL_ALLOWED))
        self.assertNotIn("restored", [p["outcome"] for p in self.restore().values()])
        self.stack.cli("consent", "verify")


if __name__ == "__main__":
    unittest.main()
