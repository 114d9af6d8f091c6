"""Aggregators are killed and stopped under load on Kafka: what they commit is what was sent.

Two aggregators and three edges on a real broker; kill -9, and SIGSTOP with SIGCONT shorter and longer than a session,
rolling; the broker is restarted and killed on the way, the edges are killed.
"""
import random
import signal
import threading
import time

from world import (BINARIES, Load, Sender, Stack, audited, check_accounting, check_contacts, check_release, check_windows,
                   committed, day_number, day_text, ready, run_soak, wait_until)

START_DAY = "2026-11-02"
HORIZON_DAYS = 2
PER_SECOND = 600
TENANTS = (7, 4294967295, 2, 3, 4, 5)  # in partitions of both aggregators
# |discrete Laplace noise| at epsilon = 1/2 exceeds it with a probability of 1e-11 a cell.
NOISE_BOUND = 52
EDGES = ("openveil-ingest", "edge-2", "edge-3")
AGGREGATORS = ("openveil-aggregator", "aggregator-2")
CATCH_UP_S = 120


class AggregatorKill:
    def __init__(self, directory, count, seed):
        self.rng = random.Random(seed)
        self.count = count
        # A month has room for 16 released lines of a tenant.
        self.day_seconds = max(24, count * 3 // 5)
        self.stack = Stack(directory, BINARIES, kafka=True, rehearsal=(START_DAY, self.day_seconds, 12),
                           release={"deadline_hours": 8760, "epsilon": "1/2", "threshold": 11,
                                    "horizon_days": HORIZON_DAYS})
        for name in EDGES[1:]:
            self.stack.add_edge(name)
        for name in AGGREGATORS[1:]:
            self.stack.add_aggregator(name)
        self.done = {"kill -9": 0, "SIGSTOP": 0, "broker restarted": 0, "broker killed": 0, "edge killed": 0}
        self.waking = []

    # ---- processes by name

    def start(self, name):
        if name in self.stack.members:
            return self.stack.start_member(name, wait=False)
        return self.stack.start_edge(wait=False) if name in EDGES else self.stack.start_aggregator(wait=False)

    def admin(self, name):
        if name in self.stack.members:
            return self.stack.members[name]["admin"]
        return self.stack.edge_admin if name in EDGES else self.stack.aggregator_admin

    def wait_ready(self, names, timeout=CATCH_UP_S):
        for name in names:
            wait_until(f"{name} is ready", lambda admin=self.admin(name): ready(admin), timeout, self.stack.processes[name])

    # ---- faults

    def kill(self, name):
        process = self.stack.processes[name]
        assert process.alive(), f"{name} ended by itself:\n{process.tail()}"
        process.kill()
        time.sleep(self.rng.choice((0, self.rng.uniform(0, 3))))
        self.start(name)

    def pause(self, name):
        """Short ones come back as the member they were; after more than a session and a transaction another has taken over."""
        process = self.stack.processes[name]
        process.child.send_signal(signal.SIGSTOP)
        length = self.rng.uniform(0.05, 3) if self.rng.random() < 0.6 else self.rng.uniform(9, 16)
        timer = threading.Timer(length, process.child.send_signal, (signal.SIGCONT,))
        timer.start()
        self.waking.append(timer)

    def restart_broker(self):
        broker = self.stack.processes["kafka"]
        if self.rng.random() < 0.5:
            broker.stop(60)
            self.done["broker restarted"] += 1
        else:
            broker.kill()
            self.done["broker killed"] += 1
        time.sleep(self.rng.uniform(0, 2))
        self.stack.start_kafka()

    def fault(self):
        luck = self.rng.random()
        broker_due = self.faults() >= self.count // 2 and not self.done["broker restarted"] + self.done["broker killed"]
        if luck < 0.06 or broker_due:
            self.restart_broker()
        elif luck < 0.14:
            self.kill(self.rng.choice(EDGES))
            self.done["edge killed"] += 1
        elif luck < 0.60:
            self.kill(self.rng.choice(AGGREGATORS))
            self.done["kill -9"] += 1
        else:
            self.pause(self.rng.choice(AGGREGATORS))
            self.done["SIGSTOP"] += 1
        if self.rng.random() < 0.15:
            self.all_awake()
            self.wait_ready(AGGREGATORS)
        time.sleep(self.rng.uniform(0.2, 4))

    def all_awake(self):
        for timer in self.waking:
            timer.join()
        self.waking.clear()

    def faults(self):
        return self.done["kill -9"] + self.done["SIGSTOP"]

    # ---- the soak

    def prepare(self):
        self.stack.start_all()
        self.sender = Sender(self.stack, 20000 + self.count * PER_SECOND * 4, TENANTS)
        self.stack.start_unix_s = None
        self.stack.write_config()
        addresses = [self.stack.pixel_address] + [self.stack.members[name]["address"] for name in EDGES[1:]]
        self.load = Load(self.stack, self.sender, addresses, PER_SECOND, clients=9, seed=self.rng.random())

    def run(self):
        self.prepare()
        for name in EDGES + AGGREGATORS:
            self.start(name)
        self.wait_ready(EDGES + AGGREGATORS)
        self.stack.wait_for_day(START_DAY, 0.02)
        self.load.start()
        try:
            while self.faults() < self.count and not self.load.ending.is_set():
                self.fault()
            self.all_awake()
        finally:
            self.load.stop()
        self.wait_ready(EDGES + AGGREGATORS)
        return self.check()

    def check(self):
        requests = list(self.load.all())
        days = range(day_number(START_DAY), int(self.stack.now_days()) + 1)
        audits = {day: audited(self.stack, day, CATCH_UP_S + self.day_seconds) for day in days}
        opens, windows = committed(self.stack)
        check_contacts(requests, opens)
        compared = check_windows(requests, opens, windows)
        result = check_accounting(requests, opens, audits)
        released = [day for day in days if day not in compared]
        paths = [self.stack.path("releases"), self.stack.path("releases-aggregator-2")]
        for day in released:
            for tenant in TENANTS:
                check_release(paths, requests, opens, tenant, day, NOISE_BOUND, CATCH_UP_S)
        faults = ", ".join(f"{n} {name}" for name, n in self.done.items())
        return (f"{self.faults()} faults ({faults}): {result['answered']} requests answered on {result['days']} days, "
                f"{result['counted']} contacts counted, windows of {', '.join(map(day_text, compared))} compared contact by "
                f"contact, {len(released) * len(TENANTS)} released lines; nothing lost, nothing doubled")


def soak(directory, count, seed):
    world = AggregatorKill(directory, count, seed)
    try:
        return world.run()
    finally:
        for timer in world.waking:
            timer.join()
        world.stack.stop()


if __name__ == "__main__":
    run_soak(__doc__.split("\n", 1)[0], soak, small=15, full=200)
