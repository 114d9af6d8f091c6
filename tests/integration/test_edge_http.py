"""The pixel edge from outside: the bytes of its answers, what it refuses, slow and greedy clients, restarts, reloads."""
import glob
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
from stack import Stack, http_get, wait_until  # noqa: E402

DAY = "2026-11-22"
PASSED_S = 100  # of that day when the stack starts
TENANT = 7
GIF = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")
HEAD = re.compile(rb"HTTP/1\.1 200 OK\r\nContent-Type: image/gif\r\nContent-Length: 43\r\n"
                  rb"Cache-Control: private, max-age=(\d+)\r\n"
                  rb"Date: (Sun), 22 Nov 2026 00:(\d\d):(\d\d) GMT\r\n(Connection: [a-z-]+\r\n)?\r\n")
HOST = b"Host: pixel.example\r\n"
AGENT = b"User-Agent: Thunderbird\r\n"

# Bytes and the status that answers them, after RFC 9112; the number in brackets is the rule's section. Every refusal
# closes the connection, so that what follows it can never be taken for a request.
CORPUS = [
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    (b"\r\nGET /p/x HTTP/1.1\r\n" + HOST + b"\r\n", 200),                                # [2.2] one empty line before
    (b"\r\n\r\nGET /p/x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /p/x HTTP/1.0\r\n\r\n", 200),
    (b"GET /p/x HTTP/1.1\r\n\r\n", 400),                                                 # [3.2] no Host
    (b"GET /p/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),                           # [3.2] two
    (b"GET /p/x HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\nHost:\r\n\r\n", 200),                                        # [3.2] empty is allowed
    (b"GET http://other.example/p/x HTTP/1.1\r\n" + HOST + b"\r\n", 200),                # [3.2.2] absolute-form
    (b"GET HTTP://other.example:80/p/x?q HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    (b"GET http://other.example HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    (b"GET http:///p/x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET other.example:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),                        # [3.2.3] authority-form
    (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),                                       # [3.2.4] asterisk-form
    (b"GET /p/x#y HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /p/\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /p/x\x00 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET  /p/x HTTP/1.1\r\n" + HOST + b"\r\n", 400),                                   # [3] one space
    (b"GET /p/x HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    (b" GET /p/x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /p/x\r\n" + HOST + b"\r\n", 400),                                             # HTTP/0.9
    (b"GET /p/x HTTP/0.9\r\n" + HOST + b"\r\n", 400),
    (b"GET /p/x HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    (b"GET /p/x HTTP/2.0\r\n" + HOST + b"\r\n", 400),
    (b"GET /p/x http/1.1\r\n" + HOST + b"\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),                          # TLS
    (b"GET /p/x HTTP/1.1\n" + HOST + b"\r\n", 400),                                      # [2.2] bare LF
    (b"GET /p/x HTTP/1.1\r\nHost: a\n\n", 400),
    (b"GET /p/x HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),                                # [2.2] bare CR
    (b"GET /p/x HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\nHost : a\r\n\r\n", 400),                                     # [5.1] space before the colon
    (b"GET /p/x HTTP/1.1\r\n Host: a\r\n\r\n", 400),                                     # [2.2] space before a field
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", 400),                      # [5.2] obs-fold
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"X\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b": a\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"X: a\x0bb\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"X: a\tb \xe9\r\n\r\n", 200),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),  # [6.1]
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"transfer-encoding:\x0bchunked\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST /p/x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", 200),               # [6.2]
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\nbody", 400),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nContent-Length: 28\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"Content-Length: 0, 0\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"Content-Length: +0\r\n\r\n", 400),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    (b"HEAD /p/x HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx", 400),
    (b"POST /p/x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", 405),
    (b"POST /p/x HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n\r\nbody", 405),
    (b"DELETE /p/x HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    (b"CONNECT pixel.example:80 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    (b"BREW /p/x HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    (b"get /p/x HTTP/1.1\r\n" + HOST + b"\r\n", 405),                                    # [3.1] case matters
    (b"G@T /p/x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    (b"GET /p HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    (b"GET /P/x HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    (b"HEAD /robots.txt HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    (b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    (b"GET /p/" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    (b"GET /p/" + b"x" * 8000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 17000 + b"\r\n\r\n", 431),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 16000 + b"\r\n\r\n", 200),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 101 + b"\r\n", 431),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 200),
    (b"GET /p/x HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n\r\n", 200),
]


def request(path, method=b"GET", more=b"", version=b"1.1"):
    return method + b" " + path + b" HTTP/" + version + b"\r\n" + HOST + AGENT + more + b"\r\n"


class Client:
    """A raw connection that takes answers apart."""

    def __init__(self, edge, receive_bytes=None):
        host, port = edge.stack.pixel_address.rsplit(":", 1)
        self.link = socket.socket()
        if receive_bytes:
            self.link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.link.settimeout(10)
        self.data = b""
        try:
            self.link.connect((host, int(port)))
        except OSError:
            self.link.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.link.close()

    def send(self, data):
        self.link.sendall(data)

    def _more(self):
        got = self.link.recv(65536)
        self.data += got
        return bool(got)

    def answer(self, head_only=False):
        """(status, head, body) of the next answer, or None at the connection's end."""
        while b"\r\n\r\n" not in self.data:
            if not self._more():
                assert not self.data, self.data
                return None
        head, rest = self.data.split(b"\r\n\r\n", 1)
        length = 0 if head_only else int(re.search(rb"\r\nContent-Length: (\d+)", head).group(1))
        while len(rest) < length:
            assert self._more(), "the body ends early"
            rest = self.data.split(b"\r\n\r\n", 1)[1]
        self.data = rest[length:]
        return int(head.split(b" ", 2)[1]), head + b"\r\n\r\n", rest[:length]

    def ended(self):
        try:
            return not self.data and not self._more()
        except ConnectionResetError:
            return not self.data


class Edge(unittest.TestCase):
    ingest = {}
    spool = {}

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-edge-")
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], rehearsal=(DAY, 86400, -PASSED_S),
                           extra={"ingest": {"workers": 2, **self.ingest}, "spool": self.spool})
        self.stack.write_config()
        self.stack.cli("keys", "init")
        self.stack.cli("tenant", "add", "--stream", "3=receipts", str(TENANT))
        self.process = self.start()
        self.good = self.mint(TENANT, 1)[0]

    def tearDown(self):
        self.stack.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self):
        return self.stack.start_edge()

    def mint(self, tenant, n):
        lines = "".join(f"contact-{i}\ttransactional\t3\tgmail\t2026-11-01T00:00:00Z\n" for i in range(n))
        return [f"/p/{token}.gif".encode() for token in
                self.stack.cli("token", "mint", "--tenant", str(tenant), stdin=lines).split()]

    def pixel(self, path, **more):
        with Client(self, 0) as client:
            client.send(request(path, **more))
            return client.answer()

    def stop(self):
        self.assertEqual(self.process.stop(), 0, self.process.tail())

    def ledger(self):
        """(requests, recorded, drops) of the newest sealed segment, whose header repeats the day's counts."""
        path = sorted(glob.glob(self.stack.path("spool", "sealed-*.seg")))[-1]
        with open(path, "rb") as file:
            data = file.read()
        at = 4 + 4 + 2
        at += 1 + data[at] + 8 + 8 + 8 + 2 + 4 + 32
        numbers = struct.unpack(">II10Q", data[at:at + 88])
        return numbers[2], numbers[3], list(numbers[4:])


class Answers(Edge):
    ingest = {"header_timeout_ms": 1500, "write_timeout_ms": 1000, "idle_timeout_ms": 4000}

    def test_every_byte(self):
        status, head, body = self.pixel(self.good)
        match = HEAD.fullmatch(head)
        self.assertTrue(status == 200 and match, head)
        self.assertEqual(body, GIF)
        passed = int(match.group(3)) * 60 + int(match.group(4))
        self.assertEqual(int(match.group(1)), 86400 - passed)
        self.assertTrue(PASSED_S <= passed <= PASSED_S + 60)
        self.assertIsNone(match.group(5))

    def test_every_token_gets_the_same(self):
        forged = self.good[:20] + (b"B" if self.good[20:21] != b"B" else b"C") + self.good[21:]
        paths = [self.good, forged, b"/p/", b"/p/x", b"/p/" + b"A" * 51 + b".gif", self.good[:-4], self.good + b"?a=b",
                 b"/p/../../etc/passwd", b"/p/%00", b"/p/<script>"]
        with Client(self) as client:
            answers = []
            for path in paths:
                client.send(request(path))
                answers.append(client.answer())
        for answer in answers:
            self.assertEqual(re.sub(rb"max-age=\d+|Date: [^\r]+", b"", answer[1]) + answer[2],
                             re.sub(rb"max-age=\d+|Date: [^\r]+", b"", answers[0][1]) + GIF)

    def test_head(self):
        with Client(self) as client:
            for path in (self.good, b"/p/x"):
                client.send(request(path, method=b"HEAD"))
                status, head, _ = client.answer(head_only=True)
                self.assertTrue(status == 200 and HEAD.fullmatch(head))
                self.assertEqual(client.data, b"")
            client.send(request(self.good, more=b"Connection: close\r\n"))
            self.assertEqual(client.answer()[2], GIF)
            self.assertTrue(client.ended())

    def test_corpus(self):
        for data, status in CORPUS:
            for pieces in ([data], [data[:17], data[17:]]):
                with self.subTest(data=data[:120], pieces=len(pieces)), Client(self) as client:
                    for piece in pieces:
                        client.send(piece)
                        time.sleep(0.002 if len(pieces) > 1 else 0)
                    answer = client.answer(head_only=data.startswith(b"HEAD"))
                    self.assertEqual(answer[0], status)
                    if status != 200:
                        self.assertIn(b"\r\nConnection: close\r\n", answer[1])
                        self.assertNotIn(b"Server", answer[1])
                        self.assertIsNone(client.answer())
                    if status == 405:
                        self.assertIn(b"\r\nAllow: GET, HEAD\r\n", answer[1])

    def test_nothing_after_a_refusal_is_a_request(self):
        hidden = request(b"/p/hidden")
        for data, status in CORPUS:
            if status == 200 or data.startswith(b"\x16"):
                continue
            with self.subTest(data=data[:120]), Client(self) as client:
                client.send(data + hidden)
                self.assertEqual(client.answer(head_only=data.startswith(b"HEAD"))[0], status)
                self.assertIsNone(client.answer())

    def test_pipelining_keeps_the_order(self):
        with Client(self) as client:
            client.send(request(self.good) * 300)
            for _ in range(300):
                status, head, body = client.answer()
                self.assertTrue(status == 200 and HEAD.fullmatch(head) and body == GIF)
            client.send(request(self.good) + request(b"/p/x") + request(b"/p/x", method=b"HEAD") + request(self.good) +
                        request(b"/p/x", version=b"1.0", more=b"Connection: keep-alive\r\n") + request(self.good) +
                        request(b"/other") + request(self.good))
            kinds = []
            for i in range(7):
                status, head, body = client.answer(head_only=i == 2)
                kinds.append((status, len(body), re.search(rb"Connection: (\S+)", head)))
            self.assertEqual([(status, size) for status, size, _ in kinds],
                             [(200, 43), (200, 43), (200, 0), (200, 43), (200, 43), (200, 43), (404, 0)])
            self.assertEqual([kind[2] and kind[2].group(1) for kind in kinds],
                             [None, None, None, None, b"keep-alive", None, b"close"])
            self.assertIsNone(client.answer())

    def test_connection_fields(self):
        cases = [(b"1.1", b"", None), (b"1.1", b"Connection: close\r\n", b"close"), (b"1.0", b"", b"close"),
                 (b"1.0", b"Connection: Keep-Alive\r\n", b"keep-alive"), (b"1.1", b"Connection: x, Close\r\n", b"close")]
        for version, field, expected in cases:
            with self.subTest(version=version, field=field), Client(self) as client:
                client.send(request(b"/p/x", version=version, more=field))
                found = re.search(rb"Connection: (\S+)", client.answer()[1])
                self.assertEqual(found and found.group(1), expected)
                if expected == b"close":
                    self.assertTrue(client.ended())
                else:
                    client.send(request(b"/p/x"))
                    self.assertEqual(client.answer()[0], 200)

    def test_a_request_byte_by_byte(self):
        with Client(self) as client:
            client.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request(self.good):
                client.send(bytes([byte]))
            self.assertEqual(client.answer()[2], GIF)

    def test_half_a_request_is_not_waited_for(self):
        begin = time.monotonic()
        with Client(self) as slow:
            slow.send(b"GET /p/x HTTP/1.1\r\n")
            time.sleep(0.8)
            slow.send(b"Ho")  # does not win time
            self.assertTrue(slow.ended())
        self.assertTrue(1.4 < time.monotonic() - begin < 3.5)
        with Client(self) as idle:
            idle.send(request(b"/p/x"))
            self.assertEqual(idle.answer()[0], 200)
            begin = time.monotonic()
            self.assertTrue(idle.ended())
            self.assertTrue(3.5 < time.monotonic() - begin < 6)

    def test_half_closed_clients_are_answered(self):
        with Client(self) as client:
            client.send(request(self.good) * 3)
            client.link.shutdown(socket.SHUT_WR)
            for _ in range(3):
                self.assertEqual(client.answer()[2], GIF)
            self.assertTrue(client.ended())

    def test_a_client_that_takes_nothing(self):
        with Client(self, receive_bytes=2048) as client:
            client.link.setblocking(False)
            sent, end, data = 0, time.monotonic() + 8, request(self.good) * 500
            closed = False
            while time.monotonic() < end and not closed:
                try:
                    sent += client.link.send(data)
                except BlockingIOError:
                    time.sleep(0.05)
                except OSError:
                    closed = True
            self.assertTrue(closed, f"{sent} bytes were taken and nobody minded")
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            resident = int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))
        self.assertLess(resident, 64 * 1024)
        self.assertEqual(self.pixel(self.good)[0], 200)

    def test_counts_are_exact(self):
        for path in [self.good] * 5 + [b"/p/x"] * 3 + [b"/other"]:
            self.pixel(path)
        with Client(self) as client:
            client.send(request(self.good, method=b"HEAD"))
            client.answer(head_only=True)
            client.send(b"GET " + self.good + b" HTTP/1.1\r\n" + HOST + b"User-Agent: curl/8.5.0\r\n\r\n")
            self.assertEqual(client.answer()[2], GIF)
        self.stop()
        requests, recorded, drops = self.ledger()
        self.assertEqual((requests, recorded, drops[:2]), (9, 5, [3, 1]))

    def test_metrics_tell_events_from_drops(self):
        with Client(self) as client:
            for path in [self.good] * 10 + [b"/p/x"] * 10:
                client.send(request(path) * 10)
                for _ in range(10):
                    client.answer()
        metrics = http_get(self.stack.edge_admin, "/metrics")[1]
        self.assertIn("openveil_edge_requests_total 200\n", metrics)
        self.assertIn("openveil_edge_recorded_total 100\n", metrics)
        self.assertIn('openveil_edge_drops_total{reason="bad_token"} 100\n', metrics)

    def test_nothing_of_a_client_is_written_down(self):
        agent = b"User-Agent: planted-agent-4711\r\nX-Forwarded-For: 203.0.113.77\r\n"
        for path in (self.good, b"/p/planted-token"):
            with Client(self) as client:
                client.send(b"GET " + path + b" HTTP/1.1\r\n" + HOST + agent + b"\r\n")
                client.answer()
        metrics = http_get(self.stack.edge_admin, "/metrics")[1]
        self.stop()
        written = metrics.encode()
        for folder in ("spool", "log"):
            for name in glob.glob(self.stack.path(folder, "*")):
                with open(name, "rb") as file:
                    written += file.read()
        for planted in (b"planted", b"203.0.113", self.good[3:-4], b"contact-"):
            self.assertNotIn(planted, written)


class Life(Edge):
    ingest = {"connections_max": 40, "drain_delay_ms": 300, "drain_timeout_ms": 3000}

    def load(self, answered, stop):
        """Asks until it is told to stop or the edge is gone; `answered` gets the number of whole answers."""
        n = 0
        try:
            with Client(self) as client:
                while not stop.is_set():
                    client.send(request(self.good) * 4)
                    for _ in range(4):
                        if client.answer() is None:
                            return
                        n += 1
        except (OSError, AssertionError):
            pass
        finally:
            answered.append(n)

    def loaded(self, end):
        answered, stop = [], threading.Event()
        threads = [threading.Thread(target=self.load, args=(answered, stop)) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.6)
        end()
        stop.set()
        for thread in threads:
            thread.join()
        return sum(answered)

    def test_what_was_answered_survives_kill_9(self):
        total = 0
        for _ in range(3):
            total += self.loaded(self.process.kill)
            self.process = self.start()
        self.stop()
        requests, recorded, drops = self.ledger()
        self.assertGreater(total, 500)
        self.assertGreaterEqual(requests, total)
        self.assertLessEqual(requests - total, 3 * 8 * 4)  # asked, durable, and the answer not sent
        self.assertEqual((recorded, sum(drops)), (requests, 0))

    def test_sigterm_under_load_loses_nothing(self):
        codes = []
        total = self.loaded(lambda: codes.append(self.process.stop()))
        self.assertEqual(codes, [0], self.process.tail())
        self.assertEqual(self.ledger()[0], total)

    def test_drain(self):
        with Client(self) as idle, Client(self) as half:
            idle.send(request(b"/p/x"))
            self.assertEqual(idle.answer()[0], 200)
            half.send(b"GET /p/x HTTP/1.1\r\n")
            time.sleep(0.1)
            self.process.child.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            self.assertEqual(http_get(self.stack.edge_admin, "/ready")[0], 503)
            self.assertEqual(http_get(self.stack.edge_admin, "/live")[0], 200)
            self.assertEqual(self.pixel(self.good)[0], 200)  # not ready any more, and still served
            self.assertTrue(idle.ended())
            half.send(HOST + b"\r\n")
            status, head, _ = half.answer()
            self.assertEqual(status, 200)
            self.assertIn(b"\r\nConnection: close\r\n", head)
            self.assertTrue(half.ended())
        self.assertEqual(self.process.child.wait(5), 0)

    def test_connections_beyond_the_limit_are_closed(self):
        clients = [Client(self) for _ in range(40)]
        for client in clients:
            client.send(request(b"/p/x"))
            self.assertEqual(client.answer()[0], 200)
        for _ in range(120):
            with Client(self) as more:
                self.assertTrue(more.ended())
        metrics = http_get(self.stack.edge_admin, "/metrics")[1]
        self.assertIn("openveil_edge_connections_refused_total 100\n", metrics)
        self.assertIn("openveil_edge_connections 40\n", metrics)
        for client in clients:
            client.send(request(self.good))
            self.assertEqual(client.answer()[2], GIF)
            client.link.close()
        wait_until("room again", lambda: "openveil_edge_connections 0\n" in http_get(self.stack.edge_admin, "/metrics")[1],
                   5)
        self.assertEqual(self.pixel(self.good)[0], 200)

    def test_the_ports_are_taken(self):
        other = Stack(os.path.join(self.dir, "other"), os.environ["OPENVEIL_BIN"], rehearsal=self.stack.rehearsal,
                      extra={"keys": {"dir": self.stack.path("keys")}, "ingest": {"listen": self.stack.pixel_address}})
        other.write_config()
        argv = [other.program("openveil-ingest"), "--config", other.config, "--rehearsal"]
        done = subprocess.run(argv, stderr=subprocess.PIPE, timeout=20, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"cannot listen on {self.stack.pixel_address}: it is taken".encode(), done.stderr)
        argv[2] = self.stack.config
        done = subprocess.run(argv, stderr=subprocess.PIPE, timeout=20, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"spool", done.stderr)

    def wait_for_log(self, text, times=1):
        def there():
            with open(self.process.log, encoding="utf-8") as log:
                return log.read().count(text) >= times
        wait_until(text, there, 10, self.process)

    def test_tenants_and_keys_without_a_restart(self):
        self.stack.cli("tenant", "add", "--stream", "3=receipts", "8")
        self.wait_for_log("loaded again: 2 token keys")
        self.stack.cli("keys", "add")
        self.wait_for_log("loaded again: 4 token keys")
        for path in self.mint(8, 3):
            self.pixel(path)
        with open(self.stack.path("tenants", "9.json"), "w", encoding="utf-8") as broken:
            broken.write("{")
        self.wait_for_log("those in force stay")
        self.pixel(self.good)
        self.stop()
        self.assertEqual(self.ledger()[:2], (4, 4))

    def test_sighup(self):
        rules = self.stack.path("rules.txt")
        with open(os.path.join(ROOT, "common", "data", "fetch-classes.txt"), encoding="utf-8") as built_in:
            known = built_in.read()
        one = 'scanner agent-contains "thunderbird" ; test ; 2026-11-23\n'
        with open(rules, "w", encoding="utf-8") as out:
            out.write(one + known)
        self.stack.extra["ingest"]["fetch_classes"] = rules
        self.stack.extra["log"] = {"level": "debug"}
        self.stack.write_config()
        self.process.child.send_signal(signal.SIGHUP)
        self.wait_for_log("they hold from the next UTC day on")
        self.assertEqual(self.pixel(self.good)[0], 200)
        for bad, said in (("nonsense\n", "a rule begins with"), (one, "lost more than half of its rules")):
            with open(rules, "w", encoding="utf-8") as out:
                out.write(bad)
            self.process.child.send_signal(signal.SIGHUP)
            self.wait_for_log(said)
        self.stop()
        self.assertEqual(self.ledger()[:2], (1, 1))


class Proxied(Edge):
    ingest = {"trusted_cidrs": "127.0.0.0/8", "proxy_protocol": "yes", "header_timeout_ms": 1000}

    def test_headers(self):
        v2 = b"\r\n\r\n\x00\r\nQUIT\n"
        good = [b"PROXY TCP4 192.0.2.1 127.0.0.1 5000 80\r\n", b"PROXY UNKNOWN\r\n",
                v2 + b"\x21\x11\x00\x0c\xc0\x00\x02\x01\x7f\x00\x00\x01\x13\x88\x00\x50", v2 + b"\x20\x00\x00\x00"]
        for header in good:
            for pieces in ([header + request(self.good)], [header[:9], header[9:] + request(self.good)[:30],
                                                           request(self.good)[30:]]):
                with self.subTest(header=header, pieces=len(pieces)), Client(self) as client:
                    for piece in pieces:
                        client.send(piece)
                        time.sleep(0.01)
                    self.assertEqual(client.answer()[2], GIF)
                    client.send(request(self.good))
                    self.assertEqual(client.answer()[2], GIF)
        for bad in (request(self.good), b"PROXY TCP4 x y 1 2\r\n" + request(self.good), v2 + b"\x31\x11\x00\x00"):
            with self.subTest(header=bad), Client(self) as client:
                client.send(bad)
                self.assertTrue(client.ended())
        with Client(self) as silent:
            self.assertTrue(silent.ended())


class Full(Edge):
    spool = {"bytes_max": 16777216}

    def test_full_is_503_and_nothing_else(self):
        self.stop()
        ballast = self.stack.path("spool", "sealed-0000000000000001.seg")
        with open(ballast, "wb") as out:
            out.write(b"x" * 17000000)
        self.process = self.stack.start_edge(wait=False)
        wait_until("an answer", lambda: self.answers() is not None, 20, self.process)
        self.assertEqual(http_get(self.stack.edge_admin, "/ready")[0], 503)
        for method, path in ((b"GET", self.good), (b"GET", b"/p/x"), (b"HEAD", self.good)):
            with Client(self) as client:
                client.send(request(path, method=method))
                status, head, body = client.answer()
                self.assertEqual((status, body), (503, b""))
                self.assertRegex(head, rb"\r\nRetry-After: \d+\r\n")
                self.assertIn(b"\r\nConnection: close\r\n", head)
                self.assertTrue(client.ended())
        with Client(self) as client:
            client.send(request(b"/other"))
            self.assertEqual(client.answer()[0], 404)
        os.unlink(ballast)
        wait_until("room again", lambda: self.answers() == 200, 20, self.process)
        self.stop()

    def answers(self):
        try:
            return self.pixel(self.good)[0]
        except OSError:
            return None


if __name__ == "__main__":
    unittest.main()
