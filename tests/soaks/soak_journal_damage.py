"""Files of a stopped aggregator's journal are shortened and bits flipped: it says so, or loses at most a torn end.

Each damage is followed by a real start. What it holds then is compared frame by frame with what was whole; a log put back
to an earlier state shows in the accounting.
"""
import os
import random
import re
import shutil
import struct
import subprocess
import time

from world import (BINARIES, Load, Sender, Stack, committed, day_text, ready, run_soak, wait_until)

START_DAY = "2026-11-02"
DAY_SECONDS = 8
PER_SECOND = 600
LOG_HEAD, FRAME_HEAD, FRAME_SUM = 40, 20, 8


def frames(data):
    """Where each frame of a log begins, and where the last one ends."""
    ends = [LOG_HEAD]
    while ends[-1] < len(data):
        at = ends[-1]
        assert data[at:at + 4] == b"OVJF", "the log that was left behind is not whole"
        ends.append(at + FRAME_HEAD + struct.unpack(">I", data[at + 4:at + 8])[0] + FRAME_SUM)
    assert ends[-1] == len(data)
    return ends


class JournalDamage:
    def __init__(self, directory, count, seed):
        self.rng = random.Random(seed)
        self.count = count
        self.stack = Stack(directory, BINARIES, rehearsal=(START_DAY, DAY_SECONDS, 4), release={"deadline_hours": 8760},
                           extra={"aggregator": {"commit_ms": 50}, "spool": {"segment_ms": 100}})
        self.journal = self.stack.path("state", "journal")
        self.done = {"refused": 0, "a torn end cut off": 0, "whole": 0}

    # ---- a journal with a snapshot and many commits after it

    def prepare(self):
        self.stack.start_all()
        self.sender = Sender(self.stack, 20000)
        self.stack.start_unix_s = None
        self.stack.write_config()
        self.load = Load(self.stack, self.sender, [self.stack.pixel_address], PER_SECOND, seed=self.rng.random())
        self.stack.start_edge()
        self.stack.start_aggregator()
        self.stack.wait_for_day(START_DAY, 0.02)
        self.load.start()
        time.sleep(3)
        assert self.stack.processes["openveil-aggregator"].stop() == 0
        done = subprocess.run([self.stack.program("state_dump_driver"), self.stack.config, "snapshot"], check=False,
                              stderr=subprocess.PIPE)
        assert done.returncode == 0, done.stderr.decode()
        assert any(name.startswith("snapshot-") for name in os.listdir(self.journal)), os.listdir(self.journal)
        self.stack.start_aggregator()
        time.sleep(4)
        self.load.stop()
        assert self.stack.processes["openveil-ingest"].stop() == 0
        self.drained()
        assert self.stack.processes["openveil-aggregator"].stop() == 0
        shutil.copytree(self.stack.path("state"), self.stack.path("state.good"))
        shutil.copytree(self.stack.path("spool"), self.stack.path("spool.good"))

    def drained(self):
        """Until every answered open is committed: the edge sealed its last segment when it stopped."""
        wanted = sum(1 for r in self.load.all() if r.kind in ("transactional", "requested") and r.state == "answered")
        wait_until("everything is committed", lambda: len(committed(self.stack)[0]) >= wanted, 20,
                   self.stack.processes["openveil-aggregator"])

    def restore(self):
        for name in ("state", "spool"):
            shutil.rmtree(self.stack.path(name))
            shutil.copytree(self.stack.path(name + ".good"), self.stack.path(name))

    # ---- one damage

    def contents(self):
        names = sorted(name for name in os.listdir(self.journal) if name.endswith(".ovj"))
        assert len(names) == 2, names  # the log sorts before the snapshot
        return names

    def held(self, log_bytes=None):
        """Contacts and their days in the journal, with its log shortened to so many bytes."""
        if log_bytes is not None:
            os.truncate(os.path.join(self.journal, self.log), log_bytes)
        return set(committed(self.stack)[0].items())

    def damage(self):
        """(file, its new bytes or None, how many bytes of the log must still count, or None where the start must be refused)."""
        name = self.rng.choice((self.log, self.log, self.snapshot))
        data = bytearray(self.good[name])
        if self.rng.random() < 0.05:
            return name, None, None
        at = self.rng.randrange(len(data))
        if self.rng.random() < 0.3:
            at = self.rng.choice([end for end in self.ends if end < len(data)] or [at])  # next to where frames meet
            at = max(0, min(len(data) - 1, at + self.rng.randint(-2, 24)))
        if self.rng.random() < 0.2 and name == self.log:
            at = self.rng.randrange(self.ends[-2], len(data))  # in the last frame
        cut = self.rng.random() < 0.4
        if cut:
            del data[at:]
        else:
            data[at] ^= 1 << self.rng.randrange(8)
        if name == self.snapshot or at < LOG_HEAD:
            return name, data, None
        whole = max(end for end in self.ends if end <= at)
        return name, data, whole if cut or whole == self.ends[-2] else None

    def start(self):
        """The aggregator, when it is ready or has ended: (True, its log) or (False, its log)."""
        log = self.stack.path("log", "openveil-aggregator.log")
        before = os.path.getsize(log)
        process = self.stack.start_aggregator(wait=False)
        end = time.monotonic() + 30
        while process.alive() and not ready(self.stack.aggregator_admin):
            assert time.monotonic() < end, "neither ready nor stopped:\n" + process.tail()
            time.sleep(0.01)
        up = process.alive()
        if up:
            assert process.stop() == 0
        else:
            assert process.child.returncode == 1, process.child.returncode
        with open(log, encoding="utf-8", errors="replace") as text:
            text.seek(before)
            return up, text.read()

    def one(self):
        self.restore()
        name, data, whole = self.damage()
        path = os.path.join(self.journal, name)
        if data is None:
            os.unlink(path)
            up, log = self.start()
            assert not up and "lacks a log of the journal" in log, f"{name[:8]}… away: {log}"
            self.done["refused"] += 1
            return
        with open(path, "wb") as out:
            out.write(data)
        what = f"{name[:8]}… with {len(data)} of {len(self.good[name])} bytes"
        up, log = self.start()
        if whole is None:
            assert not up, f"{what}: started"
            assert re.search(rf"{name}.*(damaged|is not what was written)|damaged.*{name}", log), log
            with open(path, "rb") as file:
                assert file.read() == data, f"{what}: changed"
            self.done["refused"] += 1
            return
        assert up, f"{what}: {log}"
        torn = whole < len(data)
        assert torn == ("cut off" in log), f"{what}: {log}"
        # The edge keeps its newest segment, so of what was cut off that may have been counted again.
        found = self.held()
        self.restore()
        everything = self.held()
        assert self.held(whole) <= found <= everything, what
        self.done["a torn end cut off" if torn else "whole"] += 1

    # ---- an older journal, whole

    def put_back(self):
        """Commits that are gone without a trace in the journal: the edge's segments tell, and the day never meets."""
        self.restore()
        os.truncate(os.path.join(self.journal, self.log), self.ends[len(self.ends) // 2])
        self.stack.start_aggregator()
        self.stack.start_edge()
        day = int(self.stack.now_days())
        aggregator = self.stack.processes["openveil-aggregator"]
        self.stack.wait_for_day(day_text(day + 1), 0.3)
        words = ("audit", "--day", START_DAY, "--exact", "--json")
        wait_until("a gap is told", lambda: re.search("missing|gap|lack", aggregator.tail(200)), 20, aggregator)
        code = self.stack.cli(*words, check=False).returncode
        assert code in (1, 2), f"audit of a day with lost commits: exit {code}"

    def run(self):
        self.prepare()
        self.log, self.snapshot = self.contents()
        self.good = {}
        for name in (self.log, self.snapshot):
            with open(os.path.join(self.journal, name), "rb") as file:
                self.good[name] = file.read()
        self.ends = frames(self.good[self.log])
        assert len(self.ends) > 20, len(self.ends)
        for _ in range(self.count):
            self.one()
        self.put_back()
        ways = ", ".join(f"{n} {name}" for name, n in self.done.items())
        return (f"{self.count} damages of a journal with a snapshot and {len(self.ends) - 1} commits after it: {ways}; "
                "commits taken away whole showed in the accounting")


def soak(directory, count, seed):
    world = JournalDamage(directory, count, seed)
    try:
        return world.run()
    finally:
        world.stack.stop()


if __name__ == "__main__":
    run_soak(__doc__.split("\n", 1)[0], soak, small=30, full=300)
