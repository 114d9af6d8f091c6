"""Position and effect commit together: source_kafka.c and journal_kafka.c against a real broker, with processes that are
killed, stopped in the middle of a transaction, and fenced. The driver's engine has nothing to drop duplicates with."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from kafka_broker import KafkaBroker

DRIVER = os.path.join(os.environ.get("OPENVEIL_BIN", "build/dev/bin"), "kafka_driver")
PARTITIONS = 4


class Engine:
    def __init__(self, broker, state_dir):
        self.process = subprocess.Popen([DRIVER, broker.address, str(PARTITIONS), "run", state_dir],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = []
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.strip())
                self.changed.notify_all()

    def count(self, start, since=0):
        return sum(line.startswith(start) for line in self.lines[since:])

    def until(self, start, times=1, since=0, timeout_s=40):
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while self.count(start, since) < times:
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self.thread.is_alive()):
                    raise AssertionError(f"no {start!r} within {timeout_s} s: {self.lines[-30:]}")
                self.changed.wait(min(left, 0.5))
        return len(self.lines)

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self, how=None):
        if self.process.returncode is not None:
            return
        if how is not None:
            self.process.send_signal(how)
        self.process.stdin.close()
        self.process.wait(60)
        self.thread.join(10)
        self.process.stdout.close()


class SessionCase(unittest.TestCase):
    properties = ()

    def setUp(self):
        self.broker = KafkaBroker(self.properties)
        self.broker.start()
        self.engines = []
        self.produced = 0

    def tearDown(self):
        for engine in self.engines:
            engine.end(signal.SIGKILL)
        self.broker.stop()

    def engine(self, state_dir):
        engine = Engine(self.broker, state_dir)
        self.engines.append(engine)
        return engine

    def driver(self, *words):
        out = subprocess.run([DRIVER, self.broker.address, str(PARTITIONS), *words], check=True, capture_output=True,
                             text=True, timeout=120)
        return out.stdout.strip()

    def produce(self, count):
        self.driver("produce", str(self.produced), str(count))
        self.produced += count

    def assert_once(self, timeout_s=40):
        """Every number that was produced is applied exactly once, soon."""
        deadline = time.monotonic() + timeout_s
        wanted = f"once {self.produced} more 0"
        while (got := self.driver("read")) != wanted:
            self.assertLess(time.monotonic(), deadline, f"{got}, wanted {wanted}")
            self.assertTrue(got.endswith("more 0"), got)
            time.sleep(0.3)

    def kcat(self, *words, data=None):
        return subprocess.run(["kcat", "-b", self.broker.address, *words], input=data, capture_output=True, check=True,
                              timeout=30).stdout


class SessionTest(SessionCase):
    def test_commits_and_what_else_is_in_the_topic(self):
        a = self.engine("a")
        seen = a.until("loaded", PARTITIONS)
        self.assertEqual(a.count("loaded 0 from -1"), 1)
        self.produce(20000)
        self.assert_once()
        # State dropped in the middle of everything and read again, several times.
        for _ in range(3):
            self.produce(3000)
            a.tell("reload")
            seen = a.until("loaded", PARTITIONS, seen)
        self.assert_once()
        # Not ours: large, empty, without a value.
        with tempfile.NamedTemporaryFile() as f:
            f.write(os.urandom(1500000))
            f.flush()
            self.kcat("-P", "-t", "openveil.events", "-p", "1", "-X", "message.max.bytes=2000000", f.name)
        self.kcat("-P", "-t", "openveil.events", "-p", "2", "-Z", "-K", ":", data=b"key:")
        a.until("foreign message of 1500000 bytes")
        a.until("foreign message of 0 bytes")
        # Another process with the same identity fences this one; it makes a new producer and goes on.
        seen = len(a.lines)
        twin = self.engine("a")
        twin.until("loaded", timeout_s=60)
        self.produce(4000)
        twin.end()
        self.produce(4000)
        self.assert_once()
        self.assertGreater(a.count("commit failed", seen), 0)
        # What is committed is deleted.
        deadline = time.monotonic() + 30
        while self.kcat("-C", "-t", "openveil.events", "-o", "beginning", "-e", "-q"):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.5)
        # A restart reads on where it was.
        a.end()
        self.assertIn("ended", a.lines)
        self.assertEqual(a.process.returncode, 0)
        self.produce(1000)
        a = self.engine("a")
        a.until("loaded", PARTITIONS)
        self.assertEqual(a.count("loaded 0 from -1"), 0)
        self.assert_once()

    def test_take_over(self):
        a = self.engine("a")
        a.until("loaded", PARTITIONS)
        b = self.engine("b")
        self.produce(20000)
        b.until("loaded", 2)
        theirs = {line.split()[1] for line in b.lines if line.startswith("assigned")}
        ours = [str(p) for p in range(PARTITIONS) if str(p) not in theirs]
        self.produce(20000)
        # The hole in the group's fencing: stopped between offsets and commit, woken after b took over. The commit is
        # accepted, and b has to wait for it.
        a.tell("stop-before-commit")
        self.produce(8000)
        a.until("stopped before commit")
        seen = len(b.lines)
        b.until("assigned", PARTITIONS, seen)
        time.sleep(0.5)
        for p in ours:
            self.assertEqual(b.count(f"loaded {p}", seen), 0, "b must not load before a's transaction is resolved")
        a.process.send_signal(signal.SIGCONT)
        self.assert_once()


if __name__ == "__main__":
    unittest.main()
