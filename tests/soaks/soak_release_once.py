"""The aggregator is killed at every write around a release: one value of a cell is ever visible.

kill -9 before, after and in the middle of each change to a file, and again in the start that follows. Then old states are
put back, released files are taken away, and a second aggregator is started on the same directory.
"""
import concurrent.futures
import configparser
import json
import os
import random
import shutil
import struct
import subprocess
import threading
import time

from world import BINARIES, Load, Sender, Stack, committed, day_number, day_text, dumped, run_soak, wait_until

LAST_DAY, NEXT_DAY, MONTH = "2026-11-30", "2026-12-01", "2026-11"
TENANTS = (7, 2)
PER_SECOND = 300
WORKERS = 3
DAY_SECONDS = 86400
LEAD_S = 14  # until the day ends
HOWS = ("before", "after", "torn")
EVERY_REPUBLICATION, EVERY_OLD_STATE = 10, 10


class Node:
    """A copy of the world, in directories of its own."""

    def __init__(self, stack, number):
        self.dir = stack.path(f"node-{number}")
        self.stack = stack
        self.config = os.path.join(self.dir, "openveil.conf")
        self.count = os.path.join(self.dir, "count")
        self.log = os.path.join(self.dir, "aggregator.log")
        os.makedirs(self.dir)
        parser = configparser.ConfigParser()
        parser.read(stack.config)
        parser["spool"]["dir"] = self.path("spool")
        parser["aggregator"]["state_dir"] = self.path("state")
        parser["aggregator"]["admin_listen"] = "127.0.0.1:0"
        parser["release"]["dir"] = self.path("releases")
        with open(self.config, "w", encoding="utf-8") as out:
            parser.write(out)

    def path(self, name):
        return os.path.join(self.dir, name)

    def restore(self, names=("state", "spool", "releases")):
        for name in names:
            shutil.rmtree(self.path(name), ignore_errors=True)
            shutil.copytree(self.stack.path(name + ".good"), self.path(name))

    def start(self, kill_at=None, how="before"):
        environment = dict(os.environ)
        with open(self.count, "wb") as out:
            out.write(bytes(8))
        if kill_at is not None:
            environment.update(LD_PRELOAD=os.path.join(BINARIES, "libkill_at.so"), KILL_AT=str(kill_at), KILL_HOW=how,
                               KILL_COUNT=self.count)
        with open(self.log, "ab") as log:
            return subprocess.Popen([os.path.join(BINARIES, "openveil-aggregator"), "--config", self.config, "--rehearsal"],
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def writes(self):
        with open(self.count, "rb") as file:
            return struct.unpack("<Q", file.read())[0]

    def visible(self):
        """{name: bytes} of the released lines that a reader sees."""
        found = {}
        for tenant in TENANTS:
            folder = os.path.join(self.path("releases"), str(tenant))
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if name.endswith(".json"):
                    with open(os.path.join(folder, name), "rb") as file:
                        found[f"{tenant}/{name}"] = file.read()
        return found

    def lines(self):
        """The same of what is committed."""
        found = {}
        for kind, tenant, *rest in dumped(self.config):
            if kind == "release":
                name = f"deliverability-{rest[1]}" if rest[0] == "1" else f"inactivity-{rest[1][:7]}"
                found[f"{tenant}/{name}.json"] = " ".join(rest[2:]).encode() + b"\n"
        return found

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as text:
            return "".join(text.readlines()[-8:])

    def settled(self):
        return len(self.visible()) == len(EXPECTED)

    def run(self, kill_at=None, how="before", until=None):
        """One life of the aggregator, until it is killed or all is released; True where it was killed."""
        process = self.start(kill_at, how)
        end = time.monotonic() + 60
        while process.poll() is None and not (until or self.settled)():
            assert time.monotonic() < end, "nothing is released:\n" + self.tail()
            time.sleep(0.01)
        process.terminate()
        code = process.wait(30)
        # It may be told to end before it listens: all was there already.
        assert code in (0, -15) or (kill_at and code == -9), f"exit {code}:\n{self.tail()}"
        return code == -9


EXPECTED = sorted(f"{tenant}/{name}.json" for tenant in TENANTS
                  for name in (f"deliverability-{LAST_DAY}", f"inactivity-{MONTH}"))


def check_lines(visible):
    """Every line once, whole, of the right period, with numbers or nulls in every cell."""
    assert sorted(visible) == EXPECTED, sorted(visible)
    for name, data in visible.items():
        assert data.endswith(b"\n") and data.count(b"\n") == 1, name
        line = json.loads(data)
        assert name == f"{line['tenant']}/{line['kind']}-{line['period']}.json", name
        assert "reason" not in line and len(line["cells"]) in (5, 28), line


class ReleaseOnce:
    def __init__(self, directory, count, seed):
        self.rng = random.Random(seed)
        self.count = count
        self.lock = threading.Lock()
        self.stack = Stack(directory, BINARIES, rehearsal=(LAST_DAY, DAY_SECONDS, LEAD_S - DAY_SECONDS),
                           release={"horizon_days": 0, "epsilon": "1/4", "threshold": 11, "deadline_hours": 8760},
                           extra={"aggregator": {"commit_ms": 20}, "spool": {"segment_bytes": 1048576, "segment_ms": 200}})
        self.done = {"kill -9": 0, "in the next start": 0, "survived": 0, "old states": 0, "files taken away": 0}

    # ---- the world, a moment before it releases

    def prepare(self):
        self.stack.start_all()
        self.sender = Sender(self.stack, 20000, TENANTS)
        self.stack.start_unix_s = None
        self.stack.write_config()
        self.stack.start_edge()
        self.stack.start_aggregator()
        load = Load(self.stack, self.sender, [self.stack.pixel_address], PER_SECOND, seed=self.rng.random())
        load.start()
        time.sleep(3)
        load.stop()
        wanted = sum(1 for r in load.all() if r.kind in ("transactional", "requested") and r.state == "answered")
        wait_until("everything is committed", lambda: len(committed(self.stack)[0]) >= wanted, 20,
                   self.stack.processes["openveil-aggregator"])
        assert self.stack.processes["openveil-aggregator"].stop() == 0
        assert self.stack.now_days() < day_number(NEXT_DAY), "the machine is too slow for this"
        self.stack.wait_for_day(NEXT_DAY)
        time.sleep(2)
        assert self.stack.processes["openveil-ingest"].stop() == 0
        os.makedirs(self.stack.path("releases"), exist_ok=True)
        for name in ("state", "spool", "releases"):
            shutil.copytree(self.stack.path(name), self.stack.path(name + ".good"))

    def count_writes(self):
        """How many changes to files there are until all is released and the aggregator has stopped."""
        node = Node(self.stack, "count")
        node.restore()
        assert not node.run(kill_at=1 << 60)
        check_lines(node.visible())
        return node.writes()

    # ---- one history

    def plan(self, n_writes):
        """Every write in every way, as far as `count` goes; beyond, at random and once more in the next start."""
        every = [(at, how, None) for at in range(1, n_writes + 1) for how in HOWS]
        self.rng.shuffle(every)
        more = [(self.rng.randint(1, n_writes), self.rng.choice(HOWS), self.rng.randint(1, n_writes))
                for _ in range(self.count)]
        return (every + more)[:self.count]

    def one(self, node, number, at, how, again):
        node.restore()
        killed = node.run(at, how)
        seen = [node.visible()]
        if killed and again is not None:
            self.note("in the next start", node.run(again, self.choose(HOWS)))
            seen.append(node.visible())
        node.run()
        final = node.visible()
        check_lines(final)
        assert node.lines() == final, "what is visible is not what is committed"
        for before in seen:
            for name, data in before.items():
                assert final[name] == data, f"{name}: another value after a kill {how} write {at}"
        self.note("kill -9", killed)
        self.note("survived", not killed)
        if number % EVERY_REPUBLICATION == 0:
            self.take_away(node, final)
        if number % EVERY_OLD_STATE == 5:
            self.put_back(node, final)

    def take_away(self, node, final):
        """Files that are gone come back, with the same bytes."""
        gone = self.choose(EXPECTED)
        os.unlink(os.path.join(node.path("releases"), gone))
        node.run()
        assert node.visible() == final, f"{gone} came back with another value"
        self.note("files taken away", True)

    def put_back(self, node, final):
        """A state of before the release: what was visible stays, and is what the state then knows."""
        node.restore(("state", "spool"))
        node.run(until=lambda: len(node.lines()) == len(EXPECTED))
        assert node.visible() == final, "an old state changed what was visible"
        assert node.lines() == final, "an old state drew other values"
        self.note("old states", True)

    def choose(self, items):
        with self.lock:
            return self.rng.choice(items)

    def note(self, what, yes):
        with self.lock:
            self.done[what] += bool(yes)

    def second_aggregator(self, node):
        """On the same directory a second one is refused while the first one runs."""
        node.restore()
        first = node.start()
        wait_until("release", lambda: len(node.visible()) == len(EXPECTED), 60)
        second = node.start()
        assert second.wait(30) != 0 and first.poll() is None, node.tail()
        first.terminate()
        assert first.wait(30) == 0

    def run(self):
        self.prepare()
        n_writes = self.count_writes()
        nodes = [Node(self.stack, number) for number in range(WORKERS)]
        plan = list(enumerate(self.plan(n_writes)))

        def work(worker):
            for number, (at, how, again) in plan[worker::WORKERS]:
                self.one(nodes[worker], number, at, how, again)
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, range(WORKERS)))
        self.second_aggregator(nodes[0])
        assert self.done["kill -9"] >= self.count * 3 // 4, self.done
        faults = ", ".join(f"{n} {name}" for name, n in self.done.items())
        return (f"{self.count} histories over {n_writes} writes each ({faults}): {len(EXPECTED)} lines, of each one value was "
                f"ever visible after {day_text(day_number(LAST_DAY))}")


def soak(directory, count, seed):
    world = ReleaseOnce(directory, count, seed)
    try:
        return world.run()
    finally:
        world.stack.stop()


if __name__ == "__main__":
    run_soak(__doc__.split("\n", 1)[0], soak, small=100, full=1000)
