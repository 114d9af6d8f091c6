"""The segment that a killed edge left open is shortened and bits flipped: the next start loses only what was hit.

Each damage goes through a real start of the edge and into an aggregator, and what is counted is compared with the commit
groups that were whole.
"""
import glob
import os
import random
import shutil
import time

from world import BINARIES, Load, Sender, Stack, committed, run_soak, wait_until

START_DAY = "2026-11-02"
PER_SECOND = 400
PAGE, GROUP_HEAD, EVENT = 4096, 68, 21


class Group:
    """A commit group where it lies in the segment's file, and the contacts in it."""

    def __init__(self, data, at):
        n_events = int.from_bytes(data[at + 24:at + 28], "big")
        self.begin = at
        self.used = at + GROUP_HEAD + n_events * EVENT
        self.end = (self.used + PAGE - 1) // PAGE * PAGE
        self.contacts = set()
        for event in range(at + GROUP_HEAD, self.used, EVENT):
            tenant = int.from_bytes(data[event + 8:event + 12], "big")
            self.contacts.add((tenant, data[event:event + 8].hex()))


def groups(data):
    found, at = [], 0
    while at < len(data):
        if data[at:at + 4] == b"OVG1":
            found.append(Group(data, at))
            at = found[-1].end
        else:
            assert not found or not any(data[at:at + PAGE]), "something stands between the groups"
            at += PAGE
    return found


class SpoolDamage:
    def __init__(self, directory, count, seed):
        self.rng = random.Random(seed)
        self.count = count
        # One long day and one long segment: everything stays in the open one.
        self.stack = Stack(directory, BINARIES, rehearsal=(START_DAY, 7200, 0),
                           extra={"aggregator": {"commit_ms": 20}, "spool": {"segment_ms": 60000}})
        self.done = {"shortened": 0, "flipped": 0, "of these nothing was lost": 0, "put aside whole": 0}

    def prepare(self):
        self.stack.start_all()
        self.sender = Sender(self.stack, 10000)
        load = Load(self.stack, self.sender, [self.stack.pixel_address], PER_SECOND, seed=self.rng.random())
        edge = self.stack.start_edge()
        load.start()
        time.sleep(3)
        edge.kill()
        load.stop()
        os.rename(self.stack.path("spool"), self.stack.path("spool.good"))
        name, = glob.glob(self.stack.path("spool.good", "open-*.log"))
        self.name = os.path.basename(name)
        with open(name, "rb") as file:
            self.data = file.read()
        self.groups = groups(self.data)
        assert len(self.groups) > 20, len(self.groups)
        strangers = {r.contact for r in load.all() if r.kind == "stranger"}
        for group in self.groups:
            group.contacts -= strangers
        answered = {r.contact for r in load.all() if r.kind in ("transactional", "requested") and r.state == "answered"}
        assert answered <= set().union(*(g.contacts for g in self.groups)), "answered opens are not in the segment"

    def restore(self):
        for name in ("spool", "state"):
            shutil.rmtree(self.stack.path(name), ignore_errors=True)
        shutil.copytree(self.stack.path("spool.good"), self.stack.path("spool"))

    def one(self):
        self.restore()
        data = bytearray(self.data)
        at = self.rng.randrange(self.groups[-1].end + PAGE)
        if self.rng.random() < 0.5:
            group = self.rng.choice(self.groups)
            at = self.rng.randrange(group.begin, group.used)
        elif self.rng.random() < 0.15:
            at = self.rng.randrange(self.groups[0].begin)
        cut = self.rng.random() < 0.4
        if cut:
            del data[at:]
            lost = [g for g in self.groups if g.used > at]
            spared = [g for g in self.groups if g.used <= at < g.end]  # only padding is gone: may be kept, or not
        else:
            data[at] ^= 1 << self.rng.randrange(8)
            lost = [g for g in self.groups if g.begin <= at < g.used]
            spared = [g for g in self.groups if g.used <= at < g.end]
        self.done["shortened" if cut else "flipped"] += 1
        with open(self.stack.path("spool", self.name), "wb") as out:
            out.write(data)
        told = self.compare(at, lost, spared)
        if not cut and lost and lost[0] is not self.groups[-1]:
            assert "1 commit groups were damaged" in told, f"byte {at}: {told}"

    def contacts(self, without):
        return set().union(*(g.contacts for g in self.groups if g not in without))

    def compare(self, at, lost, spared):
        """Returns what the edge's log says."""
        log = self.stack.path("log", "openveil-ingest.log")
        before = os.path.getsize(log)
        edge = self.stack.start_edge()
        assert edge.stop() == 0
        aggregator = self.stack.start_aggregator()
        least, most = self.contacts(lost + spared), self.contacts(lost)
        if at < self.groups[0].begin and not lost:  # the header: without it nothing in the file can be trusted
            assert os.path.exists(self.stack.path("spool", "corrupt", self.name)), f"byte {at}: the file is not put aside"
            self.done["put aside whole"] += 1
            least, most = set(), most
        wait_until("the spool is drained", lambda: self.found() >= least, 20, aggregator)
        found = self.found()
        assert aggregator.stop() == 0
        assert found <= most, f"byte {at}: {len(found - most)} contacts of a damaged group were counted"
        self.done["of these nothing was lost"] += found == self.contacts([])
        with open(log, encoding="utf-8", errors="replace") as text:
            text.seek(before)
            return text.read()

    def found(self):
        try:
            return set(committed(self.stack)[0])
        except AssertionError:  # there is no journal yet
            return set()

    def run(self):
        self.prepare()
        self.restore()
        self.compare(len(self.data), [], [])  # the segment as it was left gives everything
        self.done["of these nothing was lost"] = 0
        for _ in range(self.count):
            self.one()
        ways = ", ".join(f"{n} {name}" for name, n in self.done.items())
        return f"{self.count} damages of a segment with {len(self.groups)} commit groups: {ways}; only what was hit was lost"


def soak(directory, count, seed):
    world = SpoolDamage(directory, count, seed)
    try:
        return world.run()
    finally:
        world.stack.stop()


if __name__ == "__main__":
    run_soak(__doc__.split("\n", 1)[0], soak, small=15, full=200)
