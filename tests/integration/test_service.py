"""The programs under a service manager: what they tell it (sd_notify), and the sockets it hands over (LISTEN_FDS)."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
from stack import Stack, StackError, free_port, http_get, port_taken, wait_until  # noqa: E402

BIN = os.path.abspath(os.environ.get("OPENVEIL_BIN", os.path.join(ROOT, "build/dev/bin")))
PIXEL = b"GET /p/x HTTP/1.1\r\nHost: pixel.example\r\nConnection: close\r\n\r\n"
WATCHDOG_US = 2000000
HAND_OVER = """
import os, sys
for i in range(int(sys.argv[1])):
    os.dup2(100 + i, 3 + i)
os.environ["LISTEN_PID"] = str(os.getpid())
os.closerange(100, 200)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """The socket that NOTIFY_SOCKET names, and what came."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.lines = []

    def wait(self, line, timeout=20):
        """Until this line comes (or begins one, where it ends in "="), and no longer; the whole line."""
        end = time.monotonic() + timeout
        while True:
            for i, seen in enumerate(self.lines):
                if seen == line or (line.endswith("=") and seen.startswith(line)):
                    del self.lines[:i + 1]
                    return seen
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                self.lines += self.socket.recv(4096).decode().splitlines()
            except TimeoutError as nothing:
                raise AssertionError(f"{line} was not told; after it came {self.lines}") from nothing

    def close(self):
        self.socket.close()


class Service(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-service-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.stack = Stack(self.dir, BIN, extra={
            "ingest": {"require_synced_clock": "no", "workers": 2, "drain_delay_ms": 300}})
        self.addCleanup(self.stack.stop)
        self.stack.write_config()
        self.stack.cli("keys", "init")
        os.makedirs(self.stack.path("tenants"), exist_ok=True)
        self.manager = Manager(os.path.join(self.dir, "notify"))
        self.addCleanup(self.manager.close)
        self.environment = {**os.environ, "NOTIFY_SOCKET": self.manager.path, "WATCHDOG_USEC": str(WATCHDOG_US)}

    def start(self, program):
        argv = [self.stack.program(program), "--config", self.stack.config]
        return self.stack.start(program, argv, self.environment)

    def pixel(self, address):
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 5) as client:
            client.sendall(PIXEL)
            got = b""
            while part := client.recv(4096):
                got += part
        return got

    # ---- what is told

    def test_an_edges_life(self):
        edge = self.start("openveil-ingest")
        self.manager.wait("STATUS=ready")
        self.manager.wait("READY=1")
        self.manager.wait("WATCHDOG=1", WATCHDOG_US / 1e6)
        os.kill(edge.pid, signal.SIGHUP)
        self.manager.wait("RELOADING=1")
        told = int(self.manager.wait("MONOTONIC_USEC=").split("=")[1])
        self.assertLess(abs(told / 1e6 - time.clock_gettime(time.CLOCK_MONOTONIC)), 5)
        self.manager.wait("READY=1")
        edge.child.terminate()
        self.manager.wait("STOPPING=1")
        self.manager.wait("STATUS=stopping")
        self.assertEqual(edge.child.wait(20), 0)

    def test_an_edge_that_cannot_register_is_not_ready_and_says_why(self):
        self.stack.extra["kafka"] = {"brokers": f"127.0.0.1:{free_port()}"}
        self.stack.write_config()
        edge = self.start("openveil-ingest")
        self.assertIn("registration", self.manager.wait("STATUS="))
        os.kill(edge.pid, signal.SIGHUP)  # READY=1 must not come from the end of a reload
        for _ in range(4):
            self.manager.wait("WATCHDOG=1", 5)
        edge.child.terminate()
        self.manager.wait("STOPPING=1")
        self.assertNotIn("READY=1", self.manager.lines)
        self.assertEqual(edge.child.wait(20), 0)

    def test_an_aggregator_is_ready_when_the_consent_store_answers(self):
        self.start("openveil-ingest")
        self.manager.wait("READY=1")
        self.stack.processes["openveil-ingest"].stop()
        self.manager.wait("STOPPING=1")
        aggregator = self.start("openveil-aggregator")
        while "consent store" not in self.manager.wait("STATUS="):
            pass
        self.assertNotIn("READY=1", self.manager.lines)
        self.stack.start_redis()
        self.manager.wait("READY=1")
        self.manager.wait("WATCHDOG=1", WATCHDOG_US / 1e6)
        aggregator.child.terminate()
        self.manager.wait("STOPPING=1")
        self.assertEqual(aggregator.child.wait(20), 0)

    def test_a_stopped_process_is_not_alive(self):
        edge = self.start("openveil-ingest")
        self.manager.wait("READY=1")
        edge.child.send_signal(signal.SIGSTOP)
        with self.assertRaises(AssertionError):
            for _ in range(100):
                self.manager.wait("WATCHDOG=1", 1.5)
        edge.child.send_signal(signal.SIGCONT)
        self.manager.wait("WATCHDOG=1")

    # ---- what is handed over

    def start_with(self, sockets, names):
        """As systemd does: descriptors from 3 on, their names, and the process they are for."""
        self.environment.update(LISTEN_FDS=str(len(sockets)), LISTEN_FDNAMES=":".join(names))
        high = [os.dup2(s.fileno(), 100 + i) for i, s in enumerate(sockets)]
        argv = [sys.executable, "-c", HAND_OVER, str(len(sockets)), self.stack.program("openveil-ingest"), "--config",
                self.stack.config]
        log = os.path.join(self.dir, "log", "openveil-ingest.log")
        with open(log, "ab") as out:
            child = subprocess.Popen(argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                     pass_fds=high)
        for fd in high:
            os.close(fd)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child

    def listener(self, kind=socket.SOCK_STREAM, listen=True):
        made = socket.socket(socket.AF_INET, kind)
        self.addCleanup(made.close)
        made.bind(("127.0.0.1", 0))
        if listen and kind == socket.SOCK_STREAM:
            made.listen(100)
        return made, "127.0.0.1:%d" % made.getsockname()[1]

    def log(self):
        with open(self.stack.path("log", "openveil-ingest.log"), encoding="utf-8") as text:
            return text.read()

    def test_inherited_sockets_serve_and_outlive_a_restart(self):
        one, one_at = self.listener()
        two, two_at = self.listener()
        admin, admin_at = self.listener()
        child = self.start_with([one, admin, two], ["pixel", "admin", "pixel"])
        self.manager.wait("READY=1")
        for address in (one_at, two_at):
            self.assertTrue(self.pixel(address).startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertEqual(http_get(admin_at, "/ready")[0], 200)
        for unused in (self.stack.pixel_address, self.stack.edge_admin):
            self.assertFalse(port_taken(int(unused.rsplit(":", 1)[1])), "bound beside what was handed over")
        child.terminate()
        self.manager.wait("STOPPING=1")
        self.assertEqual(child.wait(20), 0)
        # Nobody listens now, but the port is open: this client waits for the next process.
        with socket.create_connection(one.getsockname(), 5) as early:
            early.sendall(PIXEL)
            self.start_with([one, admin, two], ["pixel", "admin", "pixel"])
            early.settimeout(20)
            self.assertTrue(early.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n"))

    def test_sockets_that_cannot_be_meant_are_refused(self):
        good, _ = self.listener()
        for sockets, names, text in (
                ([good], ["pixels"], "name that is not known"),
                ([self.listener(socket.SOCK_DGRAM)[0]], ["pixel"], "not a listening TCP socket"),
                ([self.listener(listen=False)[0]], ["pixel"], "not a listening TCP socket"),
                ([good, self.listener()[0]], ["admin", "admin"], "more than one admin socket"),
                ([good] * 9, ["pixel"] * 9, "more than 8 sockets")):
            with self.subTest(names=names, text=text):
                child = self.start_with(sockets, names)
                self.assertNotEqual(child.wait(20), 0)
                self.assertIn(text, self.log().splitlines()[-1])

    def test_sockets_for_another_process_are_left_alone(self):
        given, _ = self.listener()
        self.environment.update(LISTEN_FDS="1", LISTEN_FDNAMES="pixel", LISTEN_PID=str(os.getpid()))
        self.start("openveil-ingest")
        self.manager.wait("READY=1")
        self.assertTrue(self.pixel(self.stack.pixel_address).startswith(b"HTTP/1.1 200 OK\r\n"))
        given.setblocking(False)
        self.assertRaises(BlockingIOError, given.accept)

    @unittest.skipUnless(shutil.which("systemd-socket-activate"), "systemd-socket-activate is not installed")
    def test_systemds_own_activation(self):
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        argv = ["systemd-socket-activate", "--fdname=pixel:admin", "-E", "NOTIFY_SOCKET=" + self.manager.path]
        for address in addresses:
            argv += ["-l", address]
        process = self.stack.start("openveil-ingest", argv + [self.stack.program("openveil-ingest"), "--config",
                                                              self.stack.config])
        try:
            wait_until("activation", lambda: port_taken(int(addresses[1].rsplit(":", 1)[1])), 20, process)
        except StackError as error:
            self.fail(str(error))
        self.assertTrue(self.pixel(addresses[0]).startswith(b"HTTP/1.1 200 OK\r\n"))  # the connection that starts it
        self.manager.wait("READY=1")
        self.assertEqual(http_get(addresses[1], "/live")[0], 200)


if __name__ == "__main__":
    unittest.main()
