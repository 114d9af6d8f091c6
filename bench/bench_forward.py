"""From the spool to Kafka: what an outage costs clients, CPU an event beside single messages, and bytes an event."""
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import measure
from measure import figure, load
from stack import Stack, http_get, wait_until

RUNS = 5
SECONDS = 5
EDGE_CORE, OTHER_CORE = 0, 1
PARTITIONS = 8
TENANTS = 50
CONTACTS = 4000  # of each tenant
PROVIDERS = ("gmail", "outlook", "yahoo", "icloud", "orange", "free")
EVENTS_A_SECOND = 100  # of each tenant
BYTES_SECONDS = 20
EVENTS = 5000000
SINGLE_MESSAGES = 3000000
OUTAGE_RATE = 20000
OUTAGE_SECONDS, DRAIN_SECONDS, DRAINS = 20, 10, 3
WATCH_SECONDS = 0.02  # what drains faster than that counts as taking so long


class Edge:
    """An edge that forwards to a real broker on another core."""

    def __init__(self, directory):
        self.stack = Stack(directory, measure.BIN, kafka=True, partitions=PARTITIONS, extra={
            "ingest": {"workers": 1, "require_synced_clock": "no"}, "spool": {"bytes_max": 16 << 30}})
        self.stack.write_config()
        self.broker_address = f"127.0.0.1:{self.stack.kafka_port}"
        self.broker(True)
        self.stack.cli("keys", "init")
        self.tokens = os.path.join(directory, "tokens")
        self.mint()
        argv = measure.pinned(EDGE_CORE, [self.stack.program("openveil-ingest"), "--config", self.stack.config])
        self.process = self.stack.start("openveil-ingest", argv)
        wait_until("starting the edge", self.ready, 40, self.process)

    def ready(self):
        try:
            return http_get(self.stack.edge_admin, "/ready")[0] == 200
        except OSError:
            return False

    def broker(self, there):
        """Starts or ends the broker."""
        if not there:
            self.stack.processes.pop("kafka").stop()
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {OTHER_CORE})
        self.stack.start_kafka()
        os.sched_setaffinity(0, before)

    def mint(self):
        """Tokens of all tenants in turn: four streams, six providers, mail of three days."""
        mails = "".join(f"contact-{i}\ttransactional\t{i % 4 + 1}\t{PROVIDERS[i % 6]}\t2026-01-0{i % 3 + 1}T00:00:00Z\n"
                        for i in range(CONTACTS))
        lists = []
        for tenant in range(1, TENANTS + 1):
            streams = [word for i in range(1, 5) for word in ("--stream", f"{i}=stream-{i}")]
            self.stack.cli("tenant", "add", str(tenant), *streams, "--exemption-basis", "bench")
            lists.append(self.stack.cli("token", "mint", "--tenant", str(tenant), stdin=mails).split())
        with open(self.tokens, "w", encoding="ascii") as out:
            out.writelines(f"{token}\n" for of_all in zip(*lists) for token in of_all)

    def metric(self, name):
        text = http_get(self.stack.edge_admin, "/metrics")[1]
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))

    def recorded(self):
        return self.metric("openveil_edge_recorded_total")

    def drain(self):
        """Until the broker has acknowledged everything, the segment that was open included."""
        time.sleep(2.5)
        wait_until("forwarding", lambda: self.metric("openveil_edge_backlog_segments") == 0, 120, self.process)

    def log_bytes(self):
        return sum(os.path.getsize(path) for path in
                   glob.glob(self.stack.path("kafka", "**", "openveil.events-*", "*.log"), recursive=True))

    def run(self, rate, seconds=SECONDS, connections=256, warmup=0.5):
        result = load(self.stack.pixel_address, self.tokens, connections, seconds, rate, warmup, OTHER_CORE)
        if result["errors"]:
            raise SystemExit(f"the edge: {result['errors']:.0f} errors")
        return result


def bytes_per_event(edge):
    edge.drain()
    events, size = edge.recorded(), edge.log_bytes()
    edge.run(TENANTS * EVENTS_A_SECOND, BYTES_SECONDS)
    edge.drain()
    return (edge.log_bytes() - size) / (edge.recorded() - events)


def per_cpu_s(*argv):
    """A driver's events or messages per CPU second, on the edge's core."""
    program = os.path.join(measure.BIN, argv[0])
    out = subprocess.run(measure.pinned(EDGE_CORE, [program, *map(str, argv[1:])]), check=True, stdout=subprocess.PIPE,
                         text=True, timeout=300).stdout
    result = {name: float(value) for name, value in (pair.split("=") for pair in out.split())}
    return (result.get("events") or result["messages"]) / result["cpu_s"]


def ours_per_cpu_s(edge, number):
    """The spool's packer and the forwarder, with a topic and an edge of their own. Nothing waits for the disk: the commit
    thread is not measured, and is to keep up."""
    stack = Stack(edge.stack.path(f"forward-{number}"), measure.BIN, partitions=PARTITIONS, extra={
        "ingest": {"edge_id": f"forward-{number}"}, "kafka": {"brokers": edge.broker_address, "topic_events": "forward"},
        "spool": {"durability": "page-cache", "group_us": 0, "bytes_max": 16 << 30}})
    stack.write_config()
    rate = per_cpu_s("bench-forward", stack.config, EVENTS, TENANTS)
    shutil.rmtree(stack.dir)
    return rate


def single_per_cpu_s(edge, number):
    return per_cpu_s("bench-producer", edge.broker_address, f"single-{number}", PARTITIONS, SINGLE_MESSAGES)


def outage(edge, rate):
    """(p99.9 with the broker there, p99.9 with it away for the whole run)."""
    edge.drain()
    there = edge.run(rate)["p999_ms"]
    edge.broker(False)
    away = edge.run(rate)["p999_ms"]
    edge.broker(True)
    return there, away


def watch(edge, samples, ended):
    """(time, segments that wait) until `ended` is set."""
    while not ended.is_set():
        samples.append((time.monotonic(), edge.metric("openveil_edge_backlog_segments")))
        time.sleep(WATCH_SECONDS)


def after_outage(edge, rate):
    """An outage, then the broker is back while clients go on: (how many times as fast as they come the events that waited
    are forwarded, p99 of clients in the seconds after, and once more when all is forwarded)."""
    edge.drain()
    edge.broker(False)
    edge.run(rate, OUTAGE_SECONDS)
    samples, ended = [], threading.Event()
    watcher = threading.Thread(target=watch, args=(edge, samples, ended))
    watcher.start()
    edge.broker(True)
    draining = edge.run(rate, DRAIN_SECONDS)["p99_ms"]
    ended.set()
    watcher.join()
    most = max(waiting for _, waiting in samples)
    begin = max(at for at, waiting in samples if waiting == most)
    end = min(at for at, waiting in samples if at > begin and waiting <= 1)
    return (OUTAGE_SECONDS + end - begin) / (end - begin), draining, edge.run(rate, DRAIN_SECONDS)["p99_ms"]


def measure_all(edge, rate):
    figure("bytes_per_event_in_kafka", [bytes_per_event(edge)], "bytes")
    ours, single, ratio = [], [], []
    for number in range(RUNS):
        ours.append(ours_per_cpu_s(edge, number))
        single.append(single_per_cpu_s(edge, number))
        ratio.append(ours[-1] / single[-1])
    figure("producer_events_per_cpu_s", ours, "1/s")
    figure("producer_single_messages_per_cpu_s", single, "1/s")
    figure("producer_events_per_cpu_s_vs_single", ratio, "ratio")
    rounds = [outage(edge, rate) for _ in range(RUNS)]
    figure("edge_p999_broker_there_ms", [there for there, _ in rounds], "ms")
    figure("edge_p999_broker_away_ms", [away for _, away in rounds], "ms")
    figure("edge_p999_outage_ratio", [away / there for there, away in rounds], "ratio")
    drains = [after_outage(edge, rate) for _ in range(DRAINS)]
    figure("edge_drain_vs_arrival", [ratio for ratio, _, _ in drains], "x")
    figure("edge_p99_draining_ms", [draining for _, draining, _ in drains], "ms")
    figure("edge_p99_drained_ms", [drained for _, _, drained in drains], "ms")


def main(rate=OUTAGE_RATE):
    directory = tempfile.mkdtemp(prefix="openveil-bench-")
    edge = None
    try:
        edge = Edge(directory)
        measure_all(edge, rate)
    finally:
        if edge is not None:
            edge.stack.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
