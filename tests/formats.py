"""What the integration tests of the fixed formats share: a stack with rehearsed days, mails and fetches in bulk."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
from stack import Stack, wait_until  # noqa: E402

READER = "Mozilla/5.0 (X11; Linux x86_64; rv:102.0) Gecko/20100101 Thunderbird/102.15.1"
GMAIL = ("Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 "
         "(via ggpht.com GoogleImageProxy)")
APPLE = "Mozilla/5.0"
CURL = "curl/7.88.1"
BROWSER = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0"
# |discrete Laplace noise| at epsilon = 1 exceeds 20 with a probability of 2e-9 a cell.
NOISE_BOUND = 20


def request(token, agent=READER, *, method="GET", extra=""):
    agent_line = f"User-Agent: {agent}\r\n" if agent is not None else ""
    return f"{method} /p/{token}.gif HTTP/1.1\r\nHost: x\r\n{agent_line}{extra}\r\n".encode()


def read_reply(stream, head_only=False):
    """(status, {name: value}, body) of one reply; status 0 where the connection ended."""
    line = stream.readline()
    if not line:
        return 0, {}, b""
    fields = {}
    for row in iter(stream.readline, b"\r\n"):
        name, value = row.decode("latin-1").rstrip("\r\n").split(":", 1)
        fields[name.lower()] = value.strip()
    size = 0 if head_only else int(fields.get("content-length", "0"))
    return int(line.split()[1]), fields, stream.read(size)


def fetch_all(address, requests):
    """Pipelines all GET requests over one connection; the replies' statuses."""
    host, port = address.rsplit(":", 1)
    statuses = []
    with socket.create_connection((host, int(port)), timeout=30) as link:
        stream = link.makefile("rb")
        sender = threading.Thread(target=link.sendall, args=(b"".join(requests),))
        sender.start()
        for _ in requests:
            statuses.append(read_reply(stream)[0])
        sender.join()
        stream.close()
    return statuses


class Scenario:
    """Mixed into a unittest.TestCase: setUp makes self.stack, tearDown stops it and keeps the files of a failure."""
    kafka = False
    start_day = "2026-11-28"
    day_seconds = 8
    lead = 10
    release = {"epsilon": "1/1", "threshold": 11, "horizon_days": 1}
    extra = {}

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-formats-")
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], kafka=self.kafka,
                           rehearsal=(self.start_day, self.day_seconds, self.lead), release=self.release,
                           extra=self.extra)

    def tearDown(self):
        self.stack.stop()
        if any(error for _, error in self._outcome.result.failures + self._outcome.result.errors):
            print(f"kept for a look: {self.dir}", file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def start_stores(self):
        """Redis and, if asked, Kafka; the rehearsed days begin `lead` seconds after that."""
        self.stack.start_all()
        self.stack.start_unix_s = None
        self.stack.write_config()

    def write(self, name, text):
        path = self.stack.path(name)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        return path

    def import_consent(self, tenant, lines):
        """`lines`: (contact, state, since)."""
        text = "".join(f"{contact}\t{state}\t{since}\tnotice-1\n" for contact, state, since in lines)
        self.stack.cli("consent", "import", "--tenant", str(tenant), self.write(f"consent-{tenant}.in", text))

    def mint(self, tenant, mails):
        """`mails`: (contact, class, stream, provider, sent, regime); tokens in the same order."""
        tokens = [None] * len(mails)
        for regime in {mail[5] for mail in mails}:
            places = [i for i, mail in enumerate(mails) if mail[5] == regime]
            lines = "".join("\t".join(str(field) for field in mails[i][:5]) + "\n" for i in places)
            argv = ("token", "mint", "--tenant", str(tenant), "--regime", str(regime))
            for i, token in zip(places, self.stack.cli(*argv, stdin=lines).split(), strict=True):
                tokens[i] = token
        return tokens

    def fetch(self, requests):
        self.assertEqual(set(fetch_all(self.stack.pixel_address, requests)), {200})

    def release_path(self, tenant, kind, period):
        return self.stack.path("releases", str(tenant), f"{kind}-{period}.json")

    def released(self, tenant, kind, period, timeout=None):
        """(text, parsed) of a release's file, waited for."""
        path = self.release_path(tenant, kind, period)
        wait_until(f"{kind} of {period}, tenant {tenant}", lambda: os.path.exists(path),
                   timeout or 3 * self.day_seconds, self.stack.processes["openveil-aggregator"])
        with open(path, encoding="utf-8") as file:
            text = file.read()
        return text, json.loads(text)

    def audit(self, day, timeout=20):
        done = None

        def closed():
            nonlocal done
            done = self.stack.cli("audit", "--day", day, "--exact", "--json", check=False)
            return done.returncode != 2
        wait_until(f"close of {day}", closed, timeout)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def kcat(self, topic, fields):
        return subprocess.run(["kcat", "-C", "-e", "-q", "-b", f"127.0.0.1:{self.stack.kafka_port}", "-t", topic,
                               "-X", "isolation.level=read_committed", "-f", fields],
                              check=True, stdout=subprocess.PIPE, timeout=60).stdout.decode()
