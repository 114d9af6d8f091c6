"""A contact that left is not recorded by the edge, also while Redis comes and goes."""
import glob
import os
import shutil
import socket
import struct
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
import sample  # noqa: E402
from stack import Stack, http_get, wait_until  # noqa: E402

DAY = "2026-11-22"
TENANT = 7
NOT_ALLOWED = 2  # its place among the stored reasons


class DropList(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-drops-")
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], rehearsal=(DAY, 86400, -100),
                           extra={"ingest": {"workers": 2}, "spool": {"segment_ms": 100}})
        self.stack.write_config()
        self.stack.cli("keys", "init")
        self.stack.cli("tenant", "add", "--stream", "3=receipts", str(TENANT))
        lines = "".join(f"contact-{i}\ttransactional\t3\tgmail\t2026-11-01T00:00:00Z\n" for i in range(2))
        self.tokens = self.stack.cli("token", "mint", "--tenant", str(TENANT), stdin=lines).split()

    def tearDown(self):
        self.stack.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def consent(self, contact, state, day=DAY):
        notice = ["--notice", "v1"] if state == "granted" else []
        self.stack.cli("consent", "set", "--tenant", str(TENANT), "--contact", f"contact-{contact}", "--state", state,
                       "--since", day, *notice)

    def open(self, contact, n=1):
        """Answered as every pixel is, whoever it is about."""
        host, port = self.stack.pixel_address.rsplit(":", 1)
        request = f"GET /p/{self.tokens[contact]}.gif HTTP/1.1\r\nHost: p\r\nUser-Agent: Thunderbird\r\n\r\n".encode()
        with socket.create_connection((host, int(port)), 5) as link:
            reader = link.makefile("rb")
            for _ in range(n):
                link.sendall(request)
                self.assertEqual(sample.read_reply(reader), 200)

    def ledger(self):
        """(requests, recorded, not allowed) of the day so far, once all of it is sealed."""
        numbers = (0,) * 12
        for path in sorted(glob.glob(self.stack.path("spool", "sealed-*.seg")))[-1:]:
            with open(path, "rb") as file:
                data = file.read()
            at = 10 + 1 + data[10] + 62
            numbers = struct.unpack(">II10Q", data[at:at + 88])
        return numbers[2], numbers[3], numbers[4 + NOT_ALLOWED]

    def expect(self, *numbers):
        wait_until(f"ledger {numbers}", lambda: self.ledger()[0] >= numbers[0], 10)
        self.assertEqual(self.ledger(), numbers)

    def wait_use(self, wanted):
        line = f"openveil_edge_drop_list_in_use {wanted}\n"
        wait_until(line, lambda: line in http_get(self.stack.edge_admin, "/metrics")[1], 20)

    def test_a_contact_that_left(self):
        self.stack.start_redis()
        self.consent(0, "granted", "2026-11-20")
        self.consent(1, "objected", "2026-11-20")
        self.stack.start_edge()
        self.wait_use(1)
        self.open(0)
        self.open(1, 2)
        self.expect(3, 1, 2)
        self.consent(0, "withdrawn")
        time.sleep(1)
        self.open(0, 3)
        self.expect(6, 1, 5)
        self.consent(1, "granted", "2026-11-23")
        time.sleep(1)
        self.open(1)
        self.expect(7, 2, 5)

    def test_redis_away_and_back(self):
        process = self.stack.start_edge()
        self.open(0)
        self.expect(1, 1, 0)
        self.stack.start_redis()
        self.consent(0, "refused")
        self.wait_use(1)
        self.open(0)
        self.expect(2, 1, 1)
        self.stack.processes["redis"].stop()
        self.wait_use(0)
        self.open(0)
        self.expect(3, 2, 1)
        self.stack.start_redis()
        self.wait_use(1)
        self.open(0)
        self.expect(4, 2, 2)
        with open(process.log, encoding="utf-8") as log:
            self.assertIn("the drop list is not fresh", log.read())
        self.assertEqual(process.stop(), 0)


if __name__ == "__main__":
    unittest.main()
