"""Planted identities, as one test case for both modes: contacts, pseudonyms, tokens, addresses and agents that stand out go
through the whole pipeline while edge and aggregator are killed and Redis stands still; then everything that leaves, and
everything that stays where it should not, is searched for them in every form in which a program might write them.
"""
import base64
import ipaddress
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "deploy"), os.path.join(ROOT, "tests", "integration")]
import sample  # noqa: E402
from stack import Stack, day_number, http_get, wait_until  # noqa: E402
from test_minting_elsewhere import mint, pseudonym  # noqa: E402

TENANT, STREAM, GMAIL = 7, 1, 1
START_DAY, LAST_DAY, CLEAN_DAY = "2026-11-29", "2026-11-30", "2026-12-01"
NOTICE = "notice-1"
HEAD = 8  # bytes: a needle is looked up by its first ones
STORES = ("spool", "state", "redis", "kafka")  # may hold pseudonyms, and nothing else of ours


def forms(secret):
    """What bytes look like where they are written: as they are, in hex, in base64 wherever in a longer text they stand."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + secret)
        whole = coded[4 if shift else 0:(shift + len(secret)) // 3 * 4]  # in which no neighbour has a part
        yield whole
        yield whole.replace(b"+", b"-").replace(b"/", b"_")


class Needles:
    """Many byte strings, looked for at every position of some data in one pass."""

    def __init__(self):
        self.by_head = {}

    def add(self, what, secret):
        for form in forms(secret):
            assert len(form) >= HEAD, what
            self.by_head.setdefault(form[:HEAD], []).append((form, what))

    def find(self, data):
        """What of ours is in it, or None."""
        for part in re.split(rb"\0{64,}", data):  # files that are preallocated
            for at in range(len(part) - HEAD + 1):
                for form, what in self.by_head.get(part[at:at + HEAD], ()):
                    if part.startswith(form, at):
                        return what
        return None


class Identity:
    """One recipient with everything that could single it out. Every part of it is random, so nothing holds it by chance."""

    def __init__(self, number, rng, keys):
        self.number = number
        self.name = "".join(rng.choices("bcdfghjkmnpqrstvwxz", k=16))
        self.contact = f"{self.name}@example.test"
        self.agent_mark = "".join(rng.choices("BCDFGHJKLMNPQRSTVWXZ", k=16))
        self.address = ipaddress.IPv6Address(0x20010db8 << 96 | rng.getrandbits(96))
        self.pseudonym = pseudonym(bytes.fromhex(keys["contact_key"]), TENANT, self.contact)
        sent_day = day_number(START_DAY) + number % 2
        self.sent_day = sent_day
        self.token = mint(bytes.fromhex(keys["token_key"]), keys["key_id"], TENANT, self.pseudonym, sent_day * 1440,
                          STREAM, GMAIL, 1 + number // 2 % 2, 0)

    def request(self, rng):
        """Most are people's; the rest scanners, forged tokens and unknown paths: what is refused leaves no trace either."""
        agent = sample.SCANNER_AGENT if self.number % 20 == 3 else sample.AGENTS["orange"]
        token = self.token
        if self.number % 20 == 7:
            token = token[:10] + ("A" if token[10] != "A" else "B") + token[11:]
        path = f"/p/{token}.gif" if self.number % 20 != 11 else f"/p/{token}.png?{self.contact}"
        name = rng.choice(("X-Forwarded-For", "x-forwarded-for"))
        return (f"GET {path} HTTP/1.1\r\nHost: pixel\r\n{name}: {self.address}\r\nReferer: https://{self.contact}/\r\n"
                f"Cookie: id={self.contact}\r\nUser-Agent: {agent} {self.agent_mark}\r\n\r\n").encode()

    def plant(self, needles, with_pseudonym):
        needles.add("a contact id", self.name.encode())
        needles.add("an agent", self.agent_mark.encode())
        needles.add("an address", str(self.address).encode())
        needles.add("an address", self.address.packed)
        needles.add("a token", self.token[:24].encode())
        needles.add("a token", self.token[24:].encode())
        needles.add("a token", base64.urlsafe_b64decode(self.token + "=")[6:22])
        if with_pseudonym:
            self.plant_pseudonym(needles)

    def plant_pseudonym(self, needles):
        needles.add("a pseudonym", self.pseudonym)
        needles.add("a pseudonym", self.pseudonym[::-1])
        needles.add("a pseudonym", f"{int.from_bytes(self.pseudonym, 'big'):020d}".lstrip("0").encode())


class Planted:
    """Mix-in of a TestCase: `kafka`, `n_identities`, `day_seconds`."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-planted-")
        self.rng = random.Random(19)
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], kafka=self.kafka,
                           rehearsal=(START_DAY, self.day_seconds, 10),
                           release={"horizon_days": 0, "epsilon": "1/1", "threshold": 11},
                           extra={"ingest": {"trusted_cidrs": "127.0.0.0/8"}, "log": {"level": "debug"}})
        self.outputs = []  # (what it is, bytes)

    def tearDown(self):
        self.stack.stop()
        if any(error for _, error in self._outcome.result.failures + self._outcome.result.errors):
            print(f"kept for a look: {self.dir}", file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    # ---- the sender

    def prepare(self):
        cli = self.stack.cli
        cli("keys", "init")
        cli("tenant", "add", str(TENANT), "--stream", f"{STREAM}=receipts", "--exemption-basis", "test",
            "--inactive-days", "90")
        keys = json.loads(cli("tenant", "export", str(TENANT)))
        self.identities = [Identity(i, self.rng, keys) for i in range(self.n_identities)]
        states = ["informed"] * 8 + ["granted", "objected"]
        lines = "".join(f"{i.contact}\t{states[i.number % 10]}\t2026-01-01\t{NOTICE}\n" for i in self.identities)
        self.run_command("consent", "import", "--tenant", str(TENANT), "-", stdin=lines)

    def bring_history(self):
        lines = "".join(f"{i.contact}\t2026-0{7 + i.number % 3}-15\n" for i in self.identities)
        self.run_command("last-open", "import", "--tenant", str(TENANT), "--measured-since", "2026-06-01", "-", stdin=lines)

    def run_command(self, *words, stdin=None):
        """Whatever a command says is searched, also where it fails."""
        done = self.stack.cli(*words, stdin=stdin, check=False)
        self.outputs.append((" ".join(words[:2]), done.stdout + done.stderr))
        return done

    def send_all(self, identities):
        left = [i.request(self.rng) for i in identities]
        end = time.monotonic() + 120
        while left:
            self.assertLess(time.monotonic(), end, "the edge does not answer")
            try:
                left = left[self.send_some(left[:64]):]
            except OSError:
                time.sleep(0.05)

    def send_some(self, requests):
        host, port = self.stack.pixel_address.rsplit(":", 1)
        answered = 0
        with socket.create_connection((host, int(port)), 5) as link:
            link.sendall(b"".join(requests))
            reader = link.makefile("rb")
            while answered < len(requests) and sample.read_reply(reader) == 200:
                answered += 1
        return answered

    # ---- faults

    def trouble(self, stop):
        """kill -9 of edge and aggregator in turn, and a Redis that answers nobody for a moment."""
        starts = {"openveil-ingest": self.stack.start_edge, "openveil-aggregator": self.stack.start_aggregator}
        while not stop.wait(self.rng.uniform(0.4, 1.2)):
            turn = self.faults % 3
            self.faults += 1
            if turn == 2:
                redis = self.stack.processes["redis"].child
                redis.send_signal(signal.SIGSTOP)
                stop.wait(0.7)
                redis.send_signal(signal.SIGCONT)
                continue
            name = list(starts)[turn]
            self.stack.processes[name].kill()
            starts[name](wait=False)

    def send_in_trouble(self, day):
        """All mails of that day of sending, and the scanners' and forgers' requests with them."""
        identities = [i for i in self.identities if i.sent_day == day_number(day)]
        stop = threading.Event()
        thread = threading.Thread(target=self.trouble, args=(stop,))
        thread.start()
        try:
            for at in range(0, len(identities), max(1, len(identities) // 8)):
                self.send_all(identities[at:at + max(1, len(identities) // 8)])
                time.sleep(self.day_seconds / 25)
        finally:
            stop.set()
            thread.join()

    # ---- what leaves

    def collect(self):
        counted = 0
        for day in (START_DAY, LAST_DAY):
            words = ("audit", "--day", day, "--exact", "--json")
            wait_until(f"close of {day}", lambda words=words: self.run_command(*words).returncode != 2, 6 * self.day_seconds)
            done = self.run_command(*words)
            self.assertEqual(done.returncode, 0, done.stdout.decode() + done.stderr.decode())
            counted += json.loads(done.stdout)["counted"]
            path = self.stack.path("releases", str(TENANT), f"deliverability-{day}.json")
            wait_until(f"release of {day}", lambda path=path: os.path.exists(path), 6 * self.day_seconds)
        self.assertGreaterEqual(counted, self.n_identities * 3 // 4)  # the others object, are scanners or forged
        lists = "".join(i.contact + "\n" for i in self.identities)
        words = ("clean", "--tenant", str(TENANT), "--class", "requested", "--accept-share")
        wait_until("the frozen answer", lambda: self.run_command(*words, stdin="x\n").returncode == 0, 6 * self.day_seconds)
        done = self.stack.cli(*words, stdin=lists, check=False)
        self.outputs.append(("what clean says", done.stderr))
        rows = done.stdout.decode().splitlines()
        self.assertEqual([row.split("\t", 1)[0] for row in rows], [i.contact for i in self.identities])
        for row in rows:
            self.assertIn(row.split("\t", 1)[1], ("0", "1"))
        self.run_command(*words, "--pseudonyms", stdin="0123456789abcdef\n")
        for words in (("verify", "--tenant", str(TENANT), "--ledger"), ("audit", "--retention"), ("edge", "list"),
                      ("releases", "--tenant", str(TENANT)), ("budget", "--tenant", str(TENANT)),
                      ("consent", "count", "--tenant", str(TENANT))):
            self.run_command(*words)
        self.make_mistakes()
        for address in (self.stack.edge_admin, self.stack.aggregator_admin):
            for path in ("/metrics", "/ready", "/live"):
                self.outputs.append((path, http_get(address, path)[1].encode()))
        self.check_counters(http_get(self.stack.aggregator_admin, "/metrics")[1])

    def check_counters(self, text):
        """Nobody sees one person's outcome in the aggregator's numbers."""
        found = re.findall(r"^openveil_aggregator_(\w+)(?:\{reason=\"\w+\"\})? (\d+)$", text, re.M)
        numbers = [(name, value) for name, value in found if name.endswith("_total") or name == "contacts"]
        self.assertGreater(len(numbers), 10)
        self.assertEqual([pair for pair in numbers if int(pair[1]) % 100 != 0], [])

    def make_mistakes(self):
        """A message about a bad line names its number, not what is in it."""
        one = self.identities[0]
        for words, line in ((("clean", "--tenant", str(TENANT), "--class", "requested"), f"{one.contact}\tmany\n"),
                            (("clean", "--tenant", str(TENANT), "--class", "requested", "--pseudonyms"), f"{one.name}\n"),
                            (("consent", "import", "--tenant", str(TENANT), "-"), f"{one.contact}\tinformed\tsoon\tv\n"),
                            (("last-open", "import", "--tenant", str(TENANT), "-"), f"{one.contact}\tlately\n"),
                            (("token", "mint", "--tenant", str(TENANT)), f"{one.contact}\tother\n")):
            self.assertNotEqual(self.run_command(*words, stdin=line).returncode, 0, words)

    def check_topics(self):
        """No timestamp is more precise than a day; the releases topic as anybody may read it."""
        def read(topic, fields, isolation):
            return subprocess.run(["kcat", "-C", "-e", "-q", "-b", f"127.0.0.1:{self.stack.kafka_port}", "-t", topic, "-X",
                                   f"isolation.level={isolation}", "-f", fields], check=True, stdout=subprocess.PIPE,
                                  timeout=120).stdout
        self.outputs.append(("the releases topic", read("openveil.releases", "%k %s %h\n", "read_uncommitted")))
        for topic in ("openveil.events", "openveil.state", "openveil.releases"):
            times = {int(row) for row in read(topic, "%T\n", "read_uncommitted").split()}
            self.assertTrue(times or topic == "openveil.events", topic)  # events are deleted once they are committed
            self.assertTrue(all(time_ms % 86400000 == 0 for time_ms in times), topic)

    # ---- the search

    def files(self):
        for folder, _, names in os.walk(self.dir):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and os.path.basename(folder) != "keys":
                    with open(path, "rb") as file:
                        yield os.path.relpath(path, self.dir), file.read()

    def search(self):
        anywhere, outside, pseudonyms = Needles(), Needles(), Needles()
        for identity in self.identities:
            identity.plant(anywhere, with_pseudonym=False)
            identity.plant(outside, with_pseudonym=True)
            identity.plant_pseudonym(pseudonyms)
        self.check_search(outside)
        stored = 0
        for path, data in self.files():
            in_store = path.startswith(STORES)
            self.assertIsNone((anywhere if in_store else outside).find(data), path)
            self.assertIsNone(outside.find(path.encode()), "in a file's name")
            stored += in_store and stored == 0 and pseudonyms.find(data) is not None
            self.assertNotRegex(os.path.basename(path), r"^core\b")
        self.assertGreater(stored, 0, "the search finds no pseudonym even where they must be")
        for what, data in self.outputs:
            self.assertIsNone(outside.find(data), what)

    def check_search(self, needles):
        """It would find any of them."""
        for identity in self.rng.sample(self.identities, 50):
            noise = self.rng.randbytes(self.rng.randrange(100))
            for secret in (identity.contact.encode(), identity.token.encode(), identity.address.packed, identity.pseudonym,
                           str(identity.address).encode(), identity.agent_mark.encode()):
                for text in (secret, base64.b64encode(noise + secret + b"!"), secret.hex().encode()):
                    self.assertIsNotNone(needles.find(b"\0" * 100 + noise + text + noise))

    def test_no_identity_leaves(self):
        self.faults = 0
        self.stack.start_all()
        self.stack.start_unix_s = None
        self.stack.write_config()
        self.prepare()
        self.stack.start_edge()
        self.stack.start_aggregator()
        self.bring_history()
        for day in (START_DAY, LAST_DAY):
            self.stack.wait_for_day(day, 0.02)
            self.send_in_trouble(day)
        self.assertGreater(self.faults, 5)
        self.stack.wait_for_day(CLEAN_DAY, 0.02)
        self.collect()
        if self.kafka:
            self.check_topics()
        for name in ("openveil-ingest", "openveil-aggregator"):
            self.assertEqual(self.stack.processes[name].stop(), 0, name)
        self.search()
