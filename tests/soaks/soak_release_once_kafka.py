"""Two aggregators are killed around the releases of every day on Kafka: one value of a cell is ever visible.

Visible is what stands in the releases topic, also to a reader that does not wait for commits, and in either release
directory.
"""
import collections
import json
import os
import random
import subprocess
import time

from world import BINARIES, Load, Sender, Stack, day_number, day_text, ready, run_soak, wait_until

START_DAY = "2026-11-02"
DAY_SECONDS = 36
PER_SECOND = 300
TENANTS = (7, 4294967295, 2, 3, 4, 5)  # in partitions of both aggregators
AGGREGATORS = ("openveil-aggregator", "aggregator-2")
CATCH_UP_S = 120


class ReleaseOnceKafka:
    def __init__(self, directory, count, seed):
        self.rng = random.Random(seed)
        self.count = count
        self.kills = 0
        self.stack = Stack(directory, BINARIES, kafka=True, rehearsal=(START_DAY, DAY_SECONDS, 12),
                           release={"deadline_hours": 8760, "epsilon": "1/4", "threshold": 11, "horizon_days": 0},
                           extra={"aggregator": {"commit_ms": 200}})
        self.stack.add_aggregator(AGGREGATORS[1])

    def start(self, name):
        if name == AGGREGATORS[0]:
            return self.stack.start_aggregator(wait=False)
        return self.stack.start_member(name, wait=False)

    def wait_ready(self):
        admins = {AGGREGATORS[0]: self.stack.aggregator_admin, AGGREGATORS[1]: self.stack.members[AGGREGATORS[1]]["admin"]}
        for name, admin in admins.items():
            wait_until(f"{name} is ready", lambda admin=admin: ready(admin), CATCH_UP_S, self.stack.processes[name])

    def topic(self, isolation):
        """{key: values in their order} of the releases topic."""
        done = subprocess.run(["kcat", "-C", "-e", "-q", "-b", f"127.0.0.1:{self.stack.kafka_port}", "-t", "openveil.releases",
                               "-X", f"isolation.level={isolation}", "-o", "beginning", "-f", "%k\t%s\n"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True, timeout=60)
        found = collections.defaultdict(list)
        for line in done.stdout.decode().splitlines():
            key, value = line.split("\t")
            found[key].append(value)
        return found

    def files(self):
        """{key: values} of both release directories."""
        found = collections.defaultdict(list)
        for directory in (self.stack.path("releases"), self.stack.path("releases-" + AGGREGATORS[1])):
            for tenant in TENANTS:
                folder = os.path.join(directory, str(tenant))
                for name in os.listdir(folder) if os.path.isdir(folder) else ():
                    if name.endswith(".json"):
                        with open(os.path.join(folder, name), encoding="utf-8") as text:
                            kind, period = name[:-5].split("-", 1)
                            found[f"{tenant}/{kind}/{period}"].append(text.read().rstrip("\n"))
        return found

    def kill(self, name):
        process = self.stack.processes[name]
        assert process.alive(), f"{name} ended by itself:\n{process.tail()}"
        process.kill()
        self.kills += 1
        time.sleep(self.rng.choice((0, self.rng.uniform(0, 2))))
        self.start(name)

    def midnight(self, day):
        """Kills at moments around it, when windows end, lines are drawn and committed."""
        moments = sorted(self.rng.uniform(-0.3, 3) for _ in range(self.rng.randint(2, 5)))
        for moment in moments:
            self.stack.wait_for_day(day_text(day + 1), moment / DAY_SECONDS)
            self.kill(self.rng.choice(AGGREGATORS))
        wanted = [f"{tenant}/deliverability/{day_text(day)}" for tenant in TENANTS]
        wait_until(f"lines of {day_text(day)}", lambda: all(key in self.topic("read_committed") for key in wanted),
                   CATCH_UP_S)

    def check(self):
        """Committed lines stand in the topic once; whatever anybody could read of a line is the same."""
        committed, any_reader, files = self.topic("read_committed"), self.topic("read_uncommitted"), self.files()
        for key, values in committed.items():
            assert len(values) == 1, f"{key} stands {len(values)} times in the topic"
            line = json.loads(values[0])
            assert key == f"{line['tenant']}/{line['kind']}/{line['period']}", key
        seen = {key: set(any_reader[key]) | set(files[key]) for key in {*any_reader, *files}}
        twice = [key for key, values in seen.items() if len(values) > 1]
        assert not twice, f"several values of {', '.join(twice)}"
        assert set(files) <= set(committed), "a file of a line that was not committed"
        return len(committed)

    def run(self):
        self.stack.start_all()
        self.sender = Sender(self.stack, 20000 + self.count * PER_SECOND * 4, TENANTS)
        self.stack.start_unix_s = None
        self.stack.write_config()
        self.stack.start_edge(wait=False)
        for name in AGGREGATORS:
            self.start(name)
        self.wait_ready()
        day = day_number(START_DAY)
        while self.kills < self.count:
            self.stack.wait_for_day(day_text(day), 0.1)
            load = Load(self.stack, self.sender, [self.stack.pixel_address], PER_SECOND, seed=self.rng.random())
            load.start()
            time.sleep(2)
            load.stop()
            self.midnight(day)
            day = max(day + 1, int(self.stack.now_days()))
        self.wait_ready()
        lines = self.check()
        return (f"{self.kills} kills around {day - day_number(START_DAY)} midnights: "
                f"{lines} lines, of each one value was ever visible")


def soak(directory, count, seed):
    world = ReleaseOnceKafka(directory, count, seed)
    try:
        return world.run()
    finally:
        world.stack.stop()


if __name__ == "__main__":
    run_soak(__doc__.split("\n", 1)[0], soak, small=4, full=1000)
