"""Longer faults for source_kafka.c and journal_kafka.c: killed brokers and processes, slow wake-ups, compaction."""

import random
import signal
import time
import unittest

from test_kafka_session import PARTITIONS, SessionCase


class LongSessionTest(SessionCase):
    # The coordinator ends a dead process's transaction soon after its 10 s; the cleaner runs often.
    properties = ("transaction.abort.timed.out.transaction.cleanup.interval.ms=1000",)

    def test_stopped_before_its_offsets(self):
        a = self.engine("a")
        a.until("loaded", PARTITIONS)
        self.produce(4000)
        self.assert_once()
        a.tell("stop-before-offsets")
        self.produce(4000)
        a.until("stopped before offsets")
        b = self.engine("b")
        b.until("loaded", PARTITIONS, timeout_s=60)
        self.assert_once()
        # It wakes as a member that is no more: nothing of it may be committed.
        a.process.send_signal(signal.SIGCONT)
        a.until("commit failed", timeout_s=60)
        a.until("assigned", 2, timeout_s=60)
        self.produce(4000)
        self.assert_once()

    def test_stopped_before_its_commit_for_too_long(self):
        a = self.engine("a")
        a.until("loaded", PARTITIONS)
        a.tell("stop-before-commit")
        self.produce(4000)
        a.until("stopped before commit")
        b = self.engine("b")
        b.until("loaded", PARTITIONS, timeout_s=60)
        self.assert_once()
        a.process.send_signal(signal.SIGCONT)
        a.until("commit failed", timeout_s=60)
        self.produce(4000)
        self.assert_once(timeout_s=60)

    def low(self, partition):
        out = self.kcat("-Q", "-t", f"openveil.events:{partition}:-2").decode()
        return int(out.split()[-1])

    def test_what_a_sleeper_would_read_is_deleted(self):
        """Others counted it meanwhile: the sleeper lets go, joins again and goes on, every time."""
        a = self.engine("a")
        a.until("loaded", PARTITIONS)
        self.produce(4000)
        self.assert_once()
        for turn in range(3):
            seen = len(a.lines)
            a.process.send_signal(signal.SIGSTOP)
            self.produce(4000)
            b = self.engine(f"b{turn}")
            b.until("loaded", PARTITIONS, timeout_s=60)
            self.produce(4000)
            self.assert_once()
            end = time.monotonic() + 30
            while any(self.low(p) < self.produced // PARTITIONS for p in range(PARTITIONS)):
                self.assertLess(time.monotonic(), end, "nothing is deleted")
                self.produce(PARTITIONS)
                time.sleep(1)
            a.process.send_signal(signal.SIGCONT)
            a.until("loaded", since=seen, timeout_s=60)
            self.assertEqual(a.count("failed", seen), 0, a.lines)
            b.end()
            a.until("loaded", PARTITIONS + 1, since=seen, timeout_s=60)
            self.produce(4000)
            self.assert_once()

    def test_what_was_deleted_before_it_was_counted_is_no_silence(self):
        a = self.engine("a")
        a.until("loaded", PARTITIONS)
        self.produce(4000)
        self.assert_once()
        a.process.send_signal(signal.SIGSTOP)
        for _ in range(2):  # the first ones come with the fetch that was under way
            self.produce(4000)
        self.driver("delete", "1")
        a.process.send_signal(signal.SIGCONT)
        a.until("failed cannot read on in the topic openveil.events, partition 1: ", timeout_s=30)
        self.assertIn("was deleted before it was counted", [line for line in a.lines if line.startswith("failed")][0])

    def test_processes_and_brokers_are_killed(self):
        chance = random.Random(4)
        names = ["a", "b", "c"]
        running = {name: self.engine(name) for name in names}
        running["a"].until("loaded", timeout_s=60)
        for _ in range(8):
            self.produce(3000)
            time.sleep(chance.uniform(0, 1.5))
            victim = chance.choice(names + ["broker"])
            if victim == "broker":
                self.broker.kill()
                time.sleep(chance.uniform(0, 2))
                self.broker.start()
            else:
                running[victim].end(chance.choice([signal.SIGKILL, None]))
                self.produce(3000)
                running[victim] = self.engine(victim)
        self.assert_once(timeout_s=120)


if __name__ == "__main__":
    unittest.main()
