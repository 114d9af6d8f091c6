"""`openveil contact erase` through Kafka, down to the bytes of the broker's files: topics whose periods are seconds instead of
hours, all else as in production."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
import sample  # noqa: E402
from stack import Stack, wait_until  # noqa: E402

LIBS = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "openveil", "kafka-4.1.0")
DAY, BEFORE = "2026-11-27", "2026-11-20"
TENANT = "7"
CONTACTS = [f"contact-{i}" for i in range(100)]
SHORT = "segment.ms=3000,max.compaction.lag.ms=3000,delete.retention.ms=2000,file.delete.delay.ms=500"


class ContactInKafka(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-contact-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], kafka=True, rehearsal=(DAY, 86400, -100), partitions=2,
                           extra={"spool": {"segment_ms": 100}, "aggregator": {"commit_ms": 50}})
        self.addCleanup(self.stack.stop)
        self.stack.start_all()
        self.stack.cli("keys", "init")
        self.stack.cli("tenant", "add", TENANT, "--stream", "3=receipts", "--exemption-basis", "test")
        for contact in CONTACTS[:2]:
            self.inform(contact)
        lines = "".join(f"{contact}\ttransactional\t3\tgmail\t{DAY}T00:00:00Z\n" for contact in CONTACTS)
        self.tokens = dict(zip(CONTACTS, self.stack.cli("token", "mint", "--tenant", TENANT, stdin=lines).split()))
        self.stack.start_aggregator()
        self.stack.start_edge()

    def inform(self, contact):
        self.stack.cli("consent", "set", "--tenant", TENANT, "--contact", contact, "--state", "informed", "--since",
                       BEFORE, "--notice", "n1")

    def open(self, contact):
        host, port = self.stack.pixel_address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 5) as link:
            link.sendall(sample.request(self.tokens[contact], sample.AGENTS["gmail"], "pixel"))
            self.assertEqual(sample.read_reply(link.makefile("rb")), 200)

    def show(self, contact):
        return json.loads(self.stack.cli("contact", "show", "--json", "--tenant", TENANT, contact))

    def shorten(self, topic):
        """The settings that the topic got, a thousand times shorter and more."""
        subprocess.run(["java", "-cp", LIBS + "/*", "kafka.admin.ConfigCommand", "--bootstrap-server",
                        f"127.0.0.1:{self.stack.kafka_port}", "--alter", "--entity-type", "topics", "--entity-name", topic,
                        "--add-config", SHORT], check=True, capture_output=True, timeout=60)

    def topics_with(self, pseudonym):
        """Topics in whose files the pseudonym's bytes or hex digits are."""
        raw, word = bytes.fromhex(pseudonym), pseudonym.encode()
        found = set()
        for path, _, names in os.walk(self.stack.path("kafka")):
            for name in names:
                try:
                    with open(os.path.join(path, name), "rb") as file:
                        data = file.read()
                except FileNotFoundError:
                    continue
                if raw in data or word in data:
                    found.add(os.path.basename(path).rsplit("-", 1)[0])
        return found

    def test_erased_down_to_the_broker_s_files(self):
        gone, stays = CONTACTS[:2]
        for contact in (gone, stays):
            self.open(contact)
            wait_until("the open", lambda c=contact: self.show(c)["last_open"] is not None, 60)
            wait_until("the log", lambda c=contact: self.show(c)["consent_log"] != [], 60)
        kept, pseudonym = self.show(stays), self.show(gone)["pseudonym"]
        for topic in ("openveil.state", "openveil.consent.log"):
            self.assertIn(topic, self.topics_with(pseudonym))
            self.shorten(topic)
        self.stack.cli("contact", "erase", "--tenant", TENANT, gone)
        shown = self.show(gone)
        self.assertEqual((shown["consent"]["state"], shown["last_open"], shown["open_windows"], shown["change_stream"],
                          shown["consent_log"]), ("unknown", None, [], [], []))
        # Something is committed, and changes, now and then, as it does at least once a day.
        deadline = time.monotonic() + 240
        others = iter(CONTACTS[2:])
        while self.topics_with(pseudonym):
            self.assertLess(time.monotonic(), deadline, self.topics_with(pseudonym))
            contact = next(others)
            self.inform(contact)
            self.open(contact)
            time.sleep(3)
        self.assertEqual(self.show(stays), kept)


if __name__ == "__main__":
    unittest.main()
