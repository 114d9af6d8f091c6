"""An erased key leaves the disk: a state topic whose periods are seconds instead of hours, all else as in production."""

import os
import subprocess
import time
import unittest

from test_kafka_session import PARTITIONS, SessionCase

LIBS = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "openveil", "kafka-4.1.0")
KEY = "a-key-that-must-go-4711"


class ErasureTest(SessionCase):
    properties = ("log.cleaner.backoff.ms=500", "log.retention.check.interval.ms=1000")

    def send(self, text, partition=1):
        self.kcat("-P", "-t", "openveil.events", "-p", str(partition), "-D", "\n", data=text.encode())

    def alter(self, topic, settings):
        subprocess.run(["java", "-cp", LIBS + "/*", "kafka.admin.ConfigCommand", "--bootstrap-server", self.broker.address,
                        "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", settings],
                       check=True, capture_output=True, timeout=60)

    def on_disk(self):
        """Files of the state topic that hold the key or the value."""
        found = []
        data = os.path.join(self.broker.dir, "data")
        for name in os.listdir(data):
            if not name.startswith("openveil.state-"):
                continue
            for file in os.listdir(os.path.join(data, name)):
                try:
                    with open(os.path.join(data, name, file), "rb") as f:
                        if KEY.encode() in f.read():
                            found.append(os.path.join(name, file))
                except FileNotFoundError:
                    pass
        return found

    def test_an_erased_key_is_gone(self):
        self.assertEqual(self.driver("ensure", "state"), "0")
        # The same settings as the topic got, a thousand times shorter and more.
        self.alter("openveil.state",
                   "segment.ms=3000,max.compaction.lag.ms=3000,delete.retention.ms=2000,file.delete.delay.ms=500")
        engine = self.engine("a")
        engine.until("loaded", PARTITIONS)
        self.send(f"mark:{KEY}")
        engine.until("committed 1")
        self.assertNotEqual(self.on_disk(), [])
        self.send(f"erase:{KEY}")
        engine.until("committed 2")
        # Something is committed now and then, as the engine does at least once a day.
        deadline = time.monotonic() + 60
        number = 0
        while self.on_disk():
            self.assertLess(time.monotonic(), deadline, self.on_disk())
            number += 1
            self.send(f"mark:tick-{number}")
            time.sleep(1)
        self.assertGreater(number, 2)
        # What is not erased stays.
        out = self.kcat("-C", "-t", "openveil.state", "-o", "beginning", "-e", "-q", "-f", "%k\n").decode().split()
        self.assertEqual(sorted(set(out)), sorted(f"tick-{n}" for n in range(1, number + 1)))

    def test_topics_that_would_keep_or_lose_too_much_are_refused(self):
        for topic in ("events", "state"):
            self.assertEqual(self.driver("ensure", topic), "0")
        self.alter("openveil.events", "retention.ms=604800000")
        self.assertRegex(self.driver("ensure", "events"), "-9 .*retention.ms=604800000")
        self.alter("openveil.state", "delete.retention.ms=86400000")
        self.assertRegex(self.driver("ensure", "state"), "-9 .*longer than 72 hours")
        self.alter("openveil.state", "cleanup.policy=delete")
        self.assertRegex(self.driver("ensure", "state"), "-9 .*cleanup.policy=delete")
        self.assertRegex(self.engine("a").until("failed") and self.engines[0].lines[-1], "retention.ms")


if __name__ == "__main__":
    unittest.main()
