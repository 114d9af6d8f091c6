"""The forwarder against a real broker: outages, restarts, other modes, damaged files."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from kafka_broker import KafkaBroker

BIN = os.environ.get("OPENVEIL_BIN", "build/dev/bin")
DRIVER = os.path.join(BIN, "forwarder_driver")
PARTITIONS = 4


def topic_messages(broker, topic="openveil.events"):
    """(partition, offset, size, timestamp) of every retained record."""
    out = subprocess.run(["kcat", "-b", broker.address, "-C", "-t", topic, "-o", "beginning", "-e", "-q",
                          "-f", "%p %o %S %T\\n"], capture_output=True, text=True, timeout=30)
    return [tuple(int(word) for word in line.split()) for line in out.stdout.splitlines()]


class Forwarder:
    """One run of the forwarder over a directory."""

    def __init__(self, broker, spool, *words):
        self.process = subprocess.Popen([DRIVER, "run", broker.address, str(PARTITIONS), spool, *words],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.line = ""

    def until(self, *wanted, timeout_s=20):
        deadline = time.monotonic() + timeout_s
        while not all(word in self.line for word in wanted):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited for {wanted}, last was {self.line!r}")
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f"ended while waiting for {wanted}")
            self.line = line
        return self.line

    def wake(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
        return self.process.returncode

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class ForwarderTest(unittest.TestCase):
    def setUp(self):
        self.broker = KafkaBroker()
        self.spool = tempfile.mkdtemp(prefix="openveil-spool-")
        self.running = []

    def tearDown(self):
        for forwarder in self.running:
            if forwarder.process.returncode is None:
                forwarder.kill()
        self.broker.stop()
        shutil.rmtree(self.spool)

    def make(self, first, count, *words):
        subprocess.run([DRIVER, "make", self.spool, str(PARTITIONS), str(first), str(count), *words], check=True)

    def run_forwarder(self, *words):
        forwarder = Forwarder(self.broker, self.spool, *words)
        self.running.append(forwarder)
        return forwarder

    def test_a_broker_that_comes_and_goes(self):
        # Away at the start: nothing is sent, nothing fails.
        self.make(1, 3, "register")
        forwarder = self.run_forwarder()
        forwarder.until("registered=0 backlog=3 failed=0")
        self.broker.start()
        forwarder.until("registered=1 backlog=0 failed=0", timeout_s=30)
        messages = topic_messages(self.broker)
        self.assertEqual(sorted(m[0] for m in messages), sorted(list(range(PARTITIONS)) * 3))
        self.assertEqual({m[3] for m in messages}, {int(time.time()) // 86400 * 86400000})
        self.assertEqual(len(os.listdir(self.spool)), 1, "only the newest segment stays")
        # Idle: next to no CPU.
        before = forwarder.cpu_s()
        time.sleep(2)
        self.assertLess(forwarder.cpu_s() - before, 0.1)
        # kill -9 of the broker while segments arrive.
        self.broker.kill()
        self.make(4, 20)
        forwarder.wake()
        forwarder.until("backlog=20 failed=0")
        self.broker.start()
        forwarder.until("backlog=0 failed=0", timeout_s=40)
        self.assertEqual(len(topic_messages(self.broker)), PARTITIONS * 23)
        self.assertEqual(forwarder.stop(), 0)
        # A restart of the edge sends at most the newest again, and is registered at once.
        forwarder = self.run_forwarder()
        forwarder.until("registered=1 backlog=0")
        self.assertEqual(len(topic_messages(self.broker)), PARTITIONS * 24)
        # The other mode is refused and keeps its segments.
        forwarder.stop()
        self.make(24, 2, "rehearsal")
        os.unlink(os.path.join(self.spool, f"sealed-{23:016x}.seg"))
        forwarder = self.run_forwarder("rehearsal")
        self.assertIn("belongs to production", forwarder.until("failed=1"))
        self.assertIn("backlog=2", forwarder.line)
        forwarder.stop()
        self.assertEqual(len(os.listdir(self.spool)), 2)

    def test_damage_and_a_topic_with_other_partitions(self):
        self.broker.start()
        self.make(1, 3)
        with open(os.path.join(self.spool, f"sealed-{2:016x}.seg"), "r+b") as f:
            f.seek(-20, os.SEEK_END)
            f.write(b"\xff" * 8)
        forwarder = self.run_forwarder()
        forwarder.until("registered=1 backlog=1 failed=0")
        self.assertEqual(forwarder.stop(), 0)
        self.assertEqual(sorted(os.listdir(self.spool)), [f"sealed-{n:016x}.seg" for n in (2, 3)])
        self.assertEqual(len(topic_messages(self.broker)), PARTITIONS * 2)
        other = subprocess.Popen([DRIVER, "run", self.broker.address, str(PARTITIONS + 1), self.spool],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        lines = []
        while not any("failed=1" in line for line in lines) or "told of the failure\n" not in lines:
            lines.append(other.stdout.readline())
            self.assertTrue(lines[-1])
        self.assertIn(f"has {PARTITIONS} partitions and [kafka] partitions says {PARTITIONS + 1}", "".join(lines))
        self.assertEqual(lines.count("told of the failure\n"), 1)
        other.communicate("")


if __name__ == "__main__":
    unittest.main()
