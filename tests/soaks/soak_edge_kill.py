"""The edge is killed under load: every answered open is counted exactly once, on its day.

kill -9 at random moments, soon after the start, close to midnight, sometimes SIGTERM, sometimes the aggregator too.
"""
import os
import random
import time

from world import (BINARIES, COUNTED_KINDS, Load, Sender, Stack, audited, check_accounting, check_contacts,
                   check_release, check_windows, committed, day_number, ready, run_soak, wait_until)

START_DAY = "2026-11-02"
DAY_SECONDS = 6
PER_SECOND = 1000
# |discrete Laplace noise| at epsilon = 1/4 exceeds it with a probability of 1e-11 a cell.
NOISE_BOUND = 104


class EdgeKill:
    def __init__(self, directory, count, seed):
        self.rng = random.Random(seed)
        self.count = count
        self.stack = Stack(directory, BINARIES, rehearsal=(START_DAY, DAY_SECONDS, 5),
                           release={"deadline_hours": 8760}, extra={"aggregator": {"commit_ms": 200}})
        self.done = {"kill -9": 0, "in the start": 0, "at midnight": 0, "SIGTERM": 0, "of the aggregator": 0}

    def prepare(self):
        self.stack.start_all()
        self.sender = Sender(self.stack, 10000 + self.count * PER_SECOND)
        # The first day begins when everything is there.
        self.stack.start_unix_s = None
        self.stack.write_config()
        self.load = Load(self.stack, self.sender, [self.stack.pixel_address], PER_SECOND, seed=self.rng.random())

    def edge_up(self):
        edge = self.stack.processes["openveil-ingest"]
        wait_until("start of the edge", lambda: ready(self.stack.edge_admin), 40, edge)
        return edge

    def next_midnight(self):
        """Within 60 ms of it, before or after."""
        left = (1 - self.stack.now_days() % 1) * DAY_SECONDS + self.rng.uniform(-0.06, 0.06)
        time.sleep(max(0, left))

    def fault(self, turn):
        edge = self.edge_up()
        luck = self.rng.random()
        if luck < 0.10:
            time.sleep(self.rng.uniform(0, 1))
            code = edge.stop()
            assert code == 0, f"SIGTERM: exit {code}"
            self.done["SIGTERM"] += 1
        elif luck < 0.25:
            self.next_midnight()
            edge.kill()
            self.done["at midnight"] += 1
        else:
            time.sleep(self.rng.uniform(0, 1.2))
            edge.kill()
            self.done["kill -9"] += 1
        if turn % 10 == 9:
            self.stack.processes["openveil-aggregator"].kill()
            self.stack.start_aggregator(wait=False)
            self.done["of the aggregator"] += 1
        edge = self.stack.start_edge(wait=False)
        while self.rng.random() < 0.2:
            time.sleep(self.rng.uniform(0, 0.05))
            edge.kill()
            self.done["in the start"] += 1
            edge = self.stack.start_edge(wait=False)

    def kills(self):
        return self.done["kill -9"] + self.done["in the start"] + self.done["at midnight"]

    def run(self):
        self.prepare()
        self.stack.start_edge()
        self.stack.start_aggregator()
        self.stack.wait_for_day(START_DAY, 0.02)
        self.load.start()
        try:
            turn = 0
            while self.kills() < self.count and not self.load.ending.is_set():
                self.fault(turn)
                turn += 1
            self.edge_up()
        finally:
            self.load.stop()
        return self.check()

    def check(self):
        requests = list(self.load.all())
        days = range(day_number(START_DAY), int(self.stack.now_days()) + 1)
        audits = {day: audited(self.stack, day, 6 * DAY_SECONDS) for day in days}
        opens, windows = committed(self.stack)
        check_contacts(requests, opens)
        check_windows(requests, opens, windows)
        result = check_accounting(requests, opens, audits)
        for day in days[:-1]:
            check_release([self.stack.path("releases")], requests, opens, 7, day, NOISE_BOUND, 6 * DAY_SECONDS)
        unknown = sum(1 for r in requests if r.kind in COUNTED_KINDS and r.state == "open")
        faults = ", ".join(f"{n} {name}" for name, n in self.done.items())
        assert self.stack.processes["openveil-ingest"].stop() == 0 and not os.path.exists(self.stack.path("core"))
        return (f"{self.kills()} kills ({faults}): {result['answered']} requests answered on {result['days']} days, "
                f"{result['counted']} contacts counted, {unknown} opens without an answer, nothing lost, nothing doubled")


def soak(directory, count, seed):
    world = EdgeKill(directory, count, seed)
    try:
        return world.run()
    finally:
        world.stack.stop()


if __name__ == "__main__":
    run_soak(__doc__.split("\n", 1)[0], soak, small=20, full=200)
