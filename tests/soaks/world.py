"""What the soaks share: a sender whose every request is of another contact, clients that note what they were answered,
and the comparison of that with what was committed, contact by contact, and with the accounting, day by day."""
import argparse
import collections
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(os.path.dirname(TESTS), "deploy"), os.path.join(TESTS, "integration")]
import sample  # noqa: E402
from stack import Stack, day_number, day_text, ready, wait_until  # noqa: E402,F401
from test_minting_elsewhere import mint, pseudonym  # noqa: E402

STREAM, GMAIL = 1, 1
BINARIES = os.environ.get("OPENVEIL_BIN", os.path.join(os.path.dirname(TESTS), "build", "dev", "bin"))
OPEN, ANSWERED, REFUSED = "open", "answered", "refused"
COUNTED_KINDS = ("transactional", "requested")
KINDS = COUNTED_KINDS + ("stranger", "forged", "scanner")
KIND_WEIGHTS = [40, 30, 10, 10, 10]


class Request:
    """One pixel request; `state` stays OPEN where no answer came: then it may have been recorded, or not."""
    __slots__ = ("kind", "tenant", "contact", "asked_day", "state", "end_day")

    def __init__(self, kind, tenant, contact, asked_day):
        self.kind = kind
        self.tenant = tenant
        self.contact = contact  # (tenant, pseudonym); None of a forged token
        self.asked_day = asked_day
        self.state = OPEN
        self.end_day = asked_day


class Sender:
    """Tenants whose contacts 0 … n-1 were informed long ago, in turn of each tenant; everybody else has no record."""

    def __init__(self, stack, n_contacts, tenants=(7,)):
        self.n_contacts = n_contacts
        self.tenants = tenants
        self.keys = {}
        stack.cli("keys", "init")
        for turn, tenant in enumerate(tenants):
            stack.cli("tenant", "add", str(tenant), "--stream", f"{STREAM}=receipts", "--exemption-basis", "test")
            self.keys[tenant] = json.loads(stack.cli("tenant", "export", str(tenant)))
            path = stack.path("consent.in")
            with open(path, "w", encoding="utf-8") as out:
                out.writelines(f"contact-{i}\tinformed\t2026-01-01\tnotice-1\n"
                               for i in range(turn, n_contacts, len(tenants)))
            stack.cli("consent", "import", "--tenant", str(tenant), path)
        self.numbers = {kind: itertools.count() for kind in ("contact", "stranger")}

    def request(self, kind, day):
        """(Request, bytes) of a mail of that day."""
        if kind == "forged":
            return Request(kind, None, None, day), sample.request("A" * 51, sample.AGENTS["gmail"], "pixel")
        who = "stranger" if kind in ("stranger", "scanner") else "contact"
        number = next(self.numbers[who])
        if who == "contact" and number >= self.n_contacts:
            raise AssertionError("more requests than contacts: give the sender more")
        tenant = self.tenants[number % len(self.tenants)]
        keys = self.keys[tenant]
        name = pseudonym(bytes.fromhex(keys["contact_key"]), tenant, f"{who}-{number}")
        token = mint(bytes.fromhex(keys["token_key"]), keys["key_id"], tenant, name, day * 1440, STREAM, GMAIL,
                     2 if kind == "requested" else 1, 0)
        agent = sample.SCANNER_AGENT if kind == "scanner" else sample.AGENTS["gmail"]
        return Request(kind, tenant, (tenant, name.hex()), day), sample.request(token, agent, "pixel")


class Load:
    """Keep-alive clients with pipelining; nothing is ever sent twice."""

    def __init__(self, stack, sender, addresses, per_second, clients=6, seed=1):
        self.stack = stack
        self.sender = sender
        self.addresses = addresses
        self.pause_s = clients / per_second
        self.seed = seed
        self.ending = threading.Event()
        self.requests = [[] for _ in range(clients)]
        self.failure = None
        self.threads = [threading.Thread(target=self._client, args=(i,)) for i in range(clients)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.ending.set()
        for thread in self.threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def all(self):
        return itertools.chain.from_iterable(self.requests)

    def _client(self, index):
        rng = random.Random(self.seed * 1000 + index)
        try:
            while not self.ending.is_set():
                address = self.addresses[rng.randrange(len(self.addresses))]
                try:
                    self._connection(address, rng, self.requests[index])
                except (OSError, ValueError):  # cut off, also inside an answer's head
                    self.ending.wait(0.02)
        except Exception as failure:  # pylint: disable=broad-except
            self.failure = failure
            self.ending.set()

    def _connection(self, address, rng, log):
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 10) as link:
            reader = link.makefile("rb")
            while not self.ending.is_set():
                day = int(self.stack.now_days())
                kinds = rng.choices(KINDS, KIND_WEIGHTS, k=rng.randint(1, 16))
                pairs = [self.sender.request(kind, day) for kind in kinds]
                asked = [request for request, _ in pairs]
                log.extend(asked)
                try:
                    link.sendall(b"".join(data for _, data in pairs))
                    self._answers(reader, asked)
                finally:
                    day = int(self.stack.now_days())
                    for request in asked:
                        request.end_day = max(request.end_day, day)
                if asked[-1].state != ANSWERED:
                    return
                self.ending.wait(len(pairs) * self.pause_s * rng.uniform(0.5, 1.5))

    def _answers(self, reader, asked):
        for request in asked:
            status = sample.read_reply(reader)
            request.end_day = int(self.stack.now_days())
            if status == 200:
                request.state = ANSWERED
            elif status == 503:
                request.state = REFUSED
            else:
                return


def dumped(config):
    """The committed state that a configuration names, line by line, as words."""
    done = subprocess.run([os.path.join(BINARIES, "state_dump_driver"), config], check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=300)
    if done.returncode != 0:
        raise AssertionError("the committed state cannot be read: " + done.stderr.decode())
    return [line.split(" ") for line in done.stdout.decode().splitlines()]


def committed(stack):
    """What is committed, by contact: {contact: day of the last open}, {(sent day, contact): (stream, provider, fetch)}."""
    opens, windows = {}, {}
    for kind, tenant, *rest in dumped(stack.config):
        if kind == "open":
            opens[(int(tenant), rest[0])] = day_number(rest[1]) if rest[1] != "-" else None
        elif kind == "window":
            windows[(day_number(rest[0]), (int(tenant), rest[1]))] = tuple(map(int, rest[2:])) if rest[2] != "-" else None
    return ({contact: day for contact, day in opens.items() if day is not None},
            {key: cell for key, cell in windows.items() if cell is not None})


def check_contacts(requests, opens):
    """Every contact whose open was answered is in, nobody else but those whose answer never came; on the day it was asked
    on, or the one on which it was answered."""
    lost, refused, wrong_day, known = 0, 0, 0, set()
    for request in requests:
        if request.kind not in COUNTED_KINDS:
            continue
        known.add(request.contact)
        day = opens.get(request.contact)
        lost += request.state == ANSWERED and day is None
        refused += request.state == REFUSED and day is not None
        wrong_day += day is not None and not request.asked_day <= day <= request.end_day
    strange = sum(1 for contact in opens if contact not in known)
    assert (lost, refused, wrong_day, strange) == (0, 0, 0, 0), \
        f"{lost} answered opens lost, {refused} refused ones counted, {wrong_day} on a wrong day, {strange} of nobody asked"


def check_windows(requests, opens, windows):
    """A window is there whole, or was released: returns the days of sending that were compared, contact by contact."""
    truth = collections.defaultdict(set)
    for request in requests:
        if request.kind == "transactional" and request.contact in opens:
            truth[request.asked_day].add(request.contact)
    found = collections.defaultdict(set)
    for (day, contact), cell in windows.items():
        assert cell == (STREAM, GMAIL, 0), cell
        found[day].add(contact)
    for day, contacts in found.items():
        tenants = {tenant for tenant, _ in contacts}
        expected = {contact for contact in truth[day] if contact[0] in tenants}
        assert contacts == expected, \
            f"{day_text(day)}: {len(expected - contacts)} contacts missing, {len(contacts - expected)} too many"
    return sorted(found)


def audited(stack, day, timeout):
    """The terms of a closed day, which must meet."""
    done = None

    def closed():
        nonlocal done
        done = stack.cli("audit", "--day", day_text(day), "--exact", "--json", check=False)
        return done.returncode != 2
    wait_until(f"close of {day_text(day)}", closed, timeout)
    text = done.stdout.decode()
    assert done.returncode == 0, f"{day_text(day)} does not meet: {text} {done.stderr.decode()}"
    return json.loads(text)


def check_accounting(requests, opens, audits):
    """`audits`: {day: terms} of every day with a request. Nothing doubled: `repeated` would count it."""
    low, high = collections.Counter(), collections.Counter()
    kinds_low, kinds_high = collections.Counter(), collections.Counter()
    for request in requests:
        if request.state == ANSWERED:
            kinds_low[request.kind] += 1
            if request.asked_day == request.end_day:
                low[request.asked_day] += 1
        if request.state != REFUSED:
            kinds_high[request.kind] += 1
            for day in range(request.asked_day, request.end_day + 1):
                high[day] += 1
    sums = collections.Counter()
    for day, terms in audits.items():
        assert low[day] <= terms["requests"] <= high[day], \
            f"{day_text(day)}: {terms['requests']} requests, not {low[day]} to {high[day]}"
        sums["requests"] += terms["requests"]
        sums["counted"] += terms["counted"]
        sums["repeated"] += terms["repeated"]
        sums["forged"] += terms["edge_drops"]["bad_token"]
        sums["scanner"] += terms["edge_drops"]["scanner"]
        sums["stranger"] += terms["edge_drops"]["not_allowed"] + terms["aggregator_drops"].pop("not_allowed")
        assert not any(terms["aggregator_drops"].values()), f"{day_text(day)}: {terms['aggregator_drops']}"
    total_low, total_high = sum(kinds_low.values()), sum(kinds_high.values())
    assert total_low <= sums["requests"] <= total_high, f"{sums['requests']} requests, not {total_low} to {total_high}"
    for kind in ("forged", "scanner", "stranger"):
        assert kinds_low[kind] <= sums[kind] <= kinds_high[kind], \
            f"{sums[kind]} of kind {kind}, not {kinds_low[kind]} to {kinds_high[kind]}"
    assert sums["counted"] == len(opens), f"{sums['counted']} counted, but {len(opens)} contacts"
    assert sums["repeated"] == 0, f"{sums['repeated']} events came twice"
    return {"answered": total_low, "asked": total_high, "counted": sums["counted"], "days": len(audits)}


def check_release(paths, requests, opens, tenant, day, bound, timeout):
    """The released line of a tenant's day of sending against the contacts that were committed for it, within the noise.
    `paths`: release directories; it is in one of them, and the same in all that have it."""
    name = os.path.join(str(tenant), f"deliverability-{day_text(day)}.json")
    paths = [os.path.join(path, name) for path in paths]
    wait_until(f"release of {name}", lambda: any(map(os.path.exists, paths)), timeout)
    lines = set()
    for path in filter(os.path.exists, paths):
        with open(path, encoding="utf-8") as text:
            lines.add(text.read())
    assert len(lines) == 1, f"{name} was drawn twice"
    line = json.loads(lines.pop())
    assert line["complete"] and "reason" not in line, line
    truth = sum(1 for r in requests if (r.kind, r.tenant, r.asked_day) == ("transactional", tenant, day)
                and r.contact in opens)
    for cell in line["cells"]:
        true = truth if (cell["provider"], cell["fetch"]) == ("gmail", "person") else 0
        noisy = cell["contacts"] or 0
        assert abs(noisy - true) < bound or (cell["contacts"] is None and true < line["threshold"] + bound), (cell, true)


def run_soak(description, soak, small, full, of="faults"):
    """The command line of a soak: `soak(directory, count, seed)` returns what it did, in words."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--full", action="store_true", help=f"{full} {of} instead of {small}")
    parser.add_argument("--count", type=int, help="so many")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is chosen at random")
    options = parser.parse_args()
    count = options.count or (full if options.full else small)
    print(f"{count} {of}, --seed {options.seed}", flush=True)
    in_directory(soak, count, options.seed)


def in_directory(soak, count, seed):
    """The directory is kept where the soak fails."""
    directory = tempfile.mkdtemp(prefix="openveil-soak-")
    began = time.monotonic()
    try:
        words = soak(directory, count, seed)
    except BaseException:
        print(f"seed {seed}; kept for a look: {directory}", file=sys.stderr)
        raise
    shutil.rmtree(directory, ignore_errors=True)
    print(f"{words}, in {time.monotonic() - began:.0f} s", flush=True)
