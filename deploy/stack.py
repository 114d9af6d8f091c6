"""Starts Redis, an edge, an aggregator and, if asked, a Kafka broker on loopback, in one directory, and stops them again.

Used by deploy/quickstart and by the integration tests; it is also an example of a complete configuration. Everything
runs as child processes of the caller: when it ends, they end (SIGTERM, then SIGKILL).
"""
import ctypes
import datetime
import http.client
import os
import random
import signal
import socket
import subprocess
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EPOCH = datetime.date(1970, 1, 1)


class StackError(Exception):
    """Something could not be started; the text says what to do about it."""


def free_port():
    """Not from the kernel: outgoing connections get those too, before a process is started or while it is restarted."""
    port = random.randrange(12000, 32000)
    while port_taken(port):
        port = random.randrange(12000, 32000)
    return port


def port_taken(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def day_number(text):
    return (datetime.date.fromisoformat(text) - EPOCH).days


def day_text(number):
    return (EPOCH + datetime.timedelta(days=number)).isoformat()


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _ending():
    """The kernel's "parent" is the thread that started the child, so only the main thread's children may follow it."""
    return _die_with_parent if threading.current_thread() is threading.main_thread() else None


class Process:
    """A child process whose output goes to a file."""

    def __init__(self, name, argv, log, env=None):
        self.name = name
        self.argv = argv
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env,
                                          preexec_fn=_ending(), start_new_session=True)

    @property
    def pid(self):
        return self.child.pid

    def alive(self):
        return self.child.poll() is None

    def tail(self, lines=5):
        with open(self.log, encoding="utf-8", errors="replace") as text:
            return "".join(text.readlines()[-lines:]).strip()

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self, timeout=20):
        """SIGTERM; the exit code, or None where it had to be killed."""
        if self.alive():
            self.child.terminate()
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


def http_get(address, path, timeout=5):
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode("utf-8", "replace")
    finally:
        connection.close()


def wait_until(what, condition, timeout, process=None):
    """Polls `condition` until it is true; StackError with the process's last words where it is not in time."""
    end = time.monotonic() + timeout
    while not condition():
        if process is not None and not process.alive():
            raise StackError(f"{what}: {process.name} stopped:\n{process.tail()}")
        if time.monotonic() > end:
            last = f"; the last lines of its log:\n{process.tail()}" if process is not None else ""
            raise StackError(f"{what}: not within {timeout} s{last}")
        time.sleep(0.02)


class Stack:
    def __init__(self, directory, binaries, *, kafka=False, rehearsal=None, pixel_port=None, partitions=8, release=None,
                 extra=None):
        """`rehearsal`: None or (start_day text, day_seconds, seconds from now until start_day begins).
        `extra`: {section: {key: value}} to add to the configuration; the value None leaves the key away."""
        self.dir = os.path.abspath(directory)
        self.binaries = os.path.abspath(binaries)
        self.kafka = kafka
        self.partitions = partitions
        self.release = release or {}
        self.extra = extra or {}
        self.rehearsal = rehearsal
        self.processes = {}
        self.members = {}  # edges and aggregators beside the first ones
        self.pixel_address = f"127.0.0.1:{pixel_port or free_port()}"
        self.edge_admin = f"127.0.0.1:{free_port()}"
        self.aggregator_admin = f"127.0.0.1:{free_port()}"
        self.redis_port = free_port()
        self.kafka_port = free_port() if kafka else None
        self.config = os.path.join(self.dir, "openveil.conf")
        self.start_unix_s = None
        os.makedirs(os.path.join(self.dir, "log"), exist_ok=True)

    # ---- configuration and clock

    def write_config(self):
        sections = {
            "ingest": {"listen": self.pixel_address, "admin_listen": self.edge_admin, "edge_id": "edge-1"},
            "spool": {"dir": self.path("spool")},
            "kafka": {"partitions": self.partitions},
            "redis": {"address": f"127.0.0.1:{self.redis_port}"},
            "aggregator": {"state_dir": self.path("state"), "admin_listen": self.aggregator_admin},
            "release": {"dir": self.path("releases"), **self.release},
            "keys": {"dir": self.path("keys")},
            "tenants": {"dir": self.path("tenants")},
        }
        if self.kafka:
            sections["kafka"]["brokers"] = f"127.0.0.1:{self.kafka_port}"
        if self.rehearsal:
            start_day, day_seconds, lead = self.rehearsal
            if self.start_unix_s is None:
                self.start_unix_s = int(time.time() + lead)
            sections["rehearsal"] = {"start_unix_s": self.start_unix_s, "start_day": start_day,
                                     "day_seconds": day_seconds}
        for section, values in self.extra.items():
            sections.setdefault(section, {}).update(values)
        self._write(self.config, sections)
        for member in self.members.values():
            self._write(member["config"], {section: {**values, **member["extra"].get(section, {})}
                                           for section, values in sections.items()})

    @staticmethod
    def _write(path, sections):
        with open(path, "w", encoding="utf-8") as out:
            for section, values in sections.items():
                out.write(f"[{section}]\n")
                out.writelines(f"{key} = {value}\n" for key, value in values.items() if value is not None)
                out.write("\n")

    def add_edge(self, name):
        """One more edge, with addresses and a spool of its own; write_config, then start_member(name)."""
        listen, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.members[name] = {
            "program": "openveil-ingest", "config": self.path(name + ".conf"), "address": listen, "admin": admin,
            "extra": {"ingest": {"listen": listen, "admin_listen": admin, "edge_id": name},
                      "spool": {"dir": self.path("spool-" + name)}}}

    def add_aggregator(self, name):
        """One more aggregator of the group, which shares no directory with the others."""
        admin = f"127.0.0.1:{free_port()}"
        self.members[name] = {
            "program": "openveil-aggregator", "config": self.path(name + ".conf"), "admin": admin,
            "extra": {"aggregator": {"state_dir": self.path("state-" + name), "admin_listen": admin},
                      "release": {"dir": self.path("releases-" + name)}}}

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def now_days(self):
        """The wall clock, rehearsed or not, as days since 1970 with a fraction."""
        if not self.rehearsal:
            return time.time() / 86400
        start_day, day_seconds, _ = self.rehearsal
        return day_number(start_day) + (time.time() - self.start_unix_s) / day_seconds

    def today(self):
        return day_text(int(self.now_days()))

    def wait_for_day(self, day, fraction=0.0):
        """Sleeps until that fraction of the day has passed."""
        _, day_seconds, _ = self.rehearsal
        left = (day_number(day) + fraction - self.now_days()) * day_seconds
        if left > 0:
            time.sleep(left)

    # ---- processes

    def program(self, name):
        return os.path.join(self.binaries, name)

    def start(self, name, argv, env=None):
        process = Process(name, argv, self.path("log", name + ".log"), env)
        self.processes[name] = process
        return process

    def start_redis(self):
        os.makedirs(self.path("redis"), exist_ok=True)
        process = self.start("redis", ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1",
                                       "--dir", self.path("redis"), "--save", "", "--appendonly", "yes",
                                       "--appendfsync", "everysec"])
        wait_until("starting Redis", self._redis_answers, 20, process)

    def _redis_answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.redis_port), 1) as link:
                link.sendall(b"PING\r\n")
                return link.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def start_kafka(self):
        process = self.start("kafka", [os.path.join(ROOT, "deploy", "kafka", "run"), "--port", str(self.kafka_port),
                                       "--dir", self.path("kafka")])
        wait_until("starting Kafka", lambda: port_taken(self.kafka_port), 240, process)

    def _daemon(self, program, name=None, config=None):
        argv = [self.program(program), "--config", config or self.config]
        return self.start(name or program, argv + (["--rehearsal"] if self.rehearsal else []))

    def start_member(self, name, wait=True):
        member = self.members[name]
        process = self._daemon(member["program"], name, member["config"])
        if wait:
            wait_until(f"starting {name}", lambda: ready(member["admin"]), 60, process)
        return process

    def start_edge(self, wait=True):
        process = self._daemon("openveil-ingest")
        if wait:
            wait_until("starting the edge", lambda: ready(self.edge_admin), 40, process)
        return process

    def start_aggregator(self, wait=True):
        process = self._daemon("openveil-aggregator")
        if wait:
            wait_until("starting the aggregator", lambda: ready(self.aggregator_admin), 60, process)
        return process

    def start_all(self):
        self.write_config()
        self.start_redis()
        if self.kafka:
            self.start_kafka()

    def stop(self):
        for name in (*self.members, "openveil-ingest", "openveil-aggregator", "kafka", "redis"):
            process = self.processes.pop(name, None)
            if process is not None:
                process.stop()

    # ---- the command line

    def cli(self, *words, stdin=None, check=True, binary=False):
        argv = [self.program("openveil"), "--config", self.config, *words]
        if self.rehearsal:
            argv.append("--rehearsal")
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(argv, input=data if data is not None else b"", stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False)
        if check and done.returncode != 0:
            raise StackError(f"openveil {' '.join(words)}: exit {done.returncode}: {done.stderr.decode().strip()}")
        if check:
            return done.stdout if binary else done.stdout.decode()
        return done


def ready(address):
    try:
        return http_get(address, "/ready", 2)[0] == 200
    except OSError:
        return False
