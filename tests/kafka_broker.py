"""A real Kafka broker for tests: `with KafkaBroker() as broker: … broker.address`.

Built on deploy/kafka/run; each broker has a port and a directory of its own and is gone after `stop`.
"""

import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "deploy", "kafka", "run")
API_VERSIONS = 18


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class KafkaBroker:
    def __init__(self, properties=(), heap="512m"):
        """`properties`: more lines NAME=VALUE of server.properties. The jars are fetched here, outside any time-out."""
        subprocess.run([RUN, "--fetch"], check=True)
        self.dir = tempfile.mkdtemp(prefix="openveil-kafka-")
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.args = ["--port", str(self.port), "--dir", self.dir, "--heap", heap]
        for line in properties:
            self.args += ["--set", line]
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.stop()

    def start(self, wait=True, timeout_s=60):
        assert self.process is None
        self.log = open(os.path.join(self.dir, "broker.log"), "ab")
        self.process = subprocess.Popen([RUN] + self.args, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        if wait:
            self.wait_ready(timeout_s)

    def wait_ready(self, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError("the broker ended:\n" + self.log_text())
            if self.answers():
                return
            time.sleep(0.1)
        raise RuntimeError("no answer from the broker:\n" + self.log_text())

    def answers(self):
        """True when the broker is registered and unfenced: it then answers an ApiVersions request."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as s:
                body = struct.pack(">hhih", API_VERSIONS, 0, 1, -1)
                s.sendall(struct.pack(">i", len(body)) + body)
                s.settimeout(5)
                return len(s.recv(4)) == 4
        except OSError:
            return False

    def log_text(self):
        with open(os.path.join(self.dir, "broker.log"), errors="replace") as f:
            return f.read()[-4000:]

    def terminate(self, how=signal.SIGTERM):
        """Ends the broker but keeps its data; `start` brings it back at the same address."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(how)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        self.log.close()

    def kill(self):
        self.terminate(signal.SIGKILL)

    def restart(self):
        self.terminate()
        self.start()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
