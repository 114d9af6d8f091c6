"""A real redis-server for tests: `with RedisServer() as redis: … redis.address … redis.call("PING")`.

Each server has a free loopback port and a directory of its own and is gone after `stop`.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class RedisError(Exception):
    pass


class RedisServer:
    def __init__(self, args=(), config=None):
        """`args`: more words for redis-server's command line; `config`: the text of a configuration file."""
        self.dir = tempfile.mkdtemp(prefix="openveil-redis-")
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.args = list(args)
        self.process = None
        self.connection = None
        self.config = []
        if config is not None:
            self.config = [os.path.join(self.dir, "redis.conf")]
            with open(self.config[0], "w", encoding="ascii") as out:
                out.write(config)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.stop()

    def start(self, timeout_s=20):
        """Starts it (again with the data that `call("SAVE")` left) and waits until it answers."""
        assert self.process is None
        self.process = subprocess.Popen(
            ["redis-server"] + self.config + ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.dir,
                                              "--logfile", "redis.log"] +
            ([] if "--sentinel" in self.args else ["--save", ""]) + self.args, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError("redis-server ended with code %d" % self.process.returncode)
            try:
                if self.call("PING") == "PONG":
                    return
            except (OSError, RedisError):
                time.sleep(0.02)
        raise RuntimeError("no answer from redis-server")

    def signal(self, number):
        """For instance SIGSTOP, SIGCONT."""
        self.process.send_signal(number)

    def kill(self):
        """As a crash does; `start` brings it back."""
        self.disconnect()
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def disconnect(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def call(self, *words):
        """One command: str (or bytes where it is not UTF-8), int, None, or a list of these."""
        if self.connection is None:
            # The file keeps the socket open, and closes it, alone.
            with socket.create_connection(("127.0.0.1", self.port), timeout=20) as s:
                self.connection = s.makefile("rwb", 0)
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        try:
            self.connection.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
            return self._reply()
        except OSError:
            self.disconnect()
            raise

    def _line(self):
        line = self.connection.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("redis-server closed the connection")
        return line[:-2]

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            part = self.connection.read(size - len(data))
            if not part:
                raise ConnectionError("redis-server closed the connection")
            data += part
        return data

    def _reply(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if int(rest) < 0:
                return None
            data = self._exactly(int(rest) + 2)[:-2]
            try:
                return data.decode()
            except UnicodeDecodeError:
                return data
        if kind == b"*":
            return None if int(rest) < 0 else [self._element() for _ in range(int(rest))]
        raise RedisError("not the protocol of Redis")

    def _element(self):
        try:
            return self._reply()
        except RedisError as error:
            return error
