"""The edge beside nginx (empty_gif, buffered access log) and a bare epoll server: CPU per request, latency, and to Kafka."""
import os
import shutil
import statistics
import sys
import tempfile

import bench_forward
import measure
import plot
from measure import figure, load
from stack import Process, Stack, free_port, port_taken, wait_until

RUNS = 5
SECONDS = 4
CONNECTIONS = 256
OTHER_CONNECTIONS = (64, 1000)  # shown beside
OTHER_SECONDS = 2
LIGHT_RATE = 1000
NEW_RATE = 10000  # requests a second, each on a connection of its own
KNOWN_DELAY_MS, KNOWN_STALL_MS = 20, 100
BARS = {
    "edge_disk_vs_nginx_buffered_cpu": ("≥", 1.1, 1.3),
    "edge_pagecache_vs_nginx_buffered_cpu": ("≥", 1.25, 1.4),
    "edge_p999_vs_nginx_ms": ("≤", 2, 0.5),
    "edge_p50_light_ms": ("≤", 0.5, 0.2),
    "edge_cpu_vs_epoll_floor": ("≤", 1.3, 1.15),
    "edge_p999_outage_ratio": ("≤", 1.1, 1.0),
    "edge_drain_vs_arrival": ("≥", 5, None),
    "producer_events_per_cpu_s_vs_single": ("≥", 8, 15),
    "bytes_per_event_in_kafka": ("≤", 16, 12),
}
N_TOKENS = 100000
NGINX = """worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 20000; }}
http {{
    access_log {dir}/access.log combined buffer=64k flush=1s;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    server {{ listen 127.0.0.1:{port}; location /p/ {{ empty_gif; }} }}
}}
"""


class Server:
    """A server under test, pinned to core 0."""

    def __init__(self, name, address, process, forks=False):
        self.name = name
        self.address = address
        self.process = process
        self.forks = forks

    def pids(self):
        return [self.process.pid] + (measure.children(self.process.pid) if self.forks else [])

    def run(self, tokens, rate=0, connections=CONNECTIONS, seconds=SECONDS):
        """(CPU microseconds a request, the client's result)."""
        load(self.address, tokens, connections, 0.5, rate, 0.1)
        before = measure.cpu_seconds(self.pids())
        result = load(self.address, tokens, connections, seconds, rate, 0)
        cpu = measure.cpu_seconds(self.pids()) - before
        if result["errors"]:
            raise SystemExit(f"{self.name}: {result['errors']:.0f} errors")
        return 1e6 * cpu / result["requests"], result


def start_edge(directory, durability):
    stack = Stack(os.path.join(directory, durability), measure.BIN, extra={
        "ingest": {"workers": 1, "require_synced_clock": "no"},
        "spool": {"durability": durability, "bytes_max": 16 << 30}})
    stack.write_config()
    stack.cli("keys", "init")
    stack.cli("tenant", "add", "7", "--stream", "1=receipts", "--exemption-basis", "bench")
    argv = measure.pinned(0, [stack.program("openveil-ingest"), "--config", stack.config])
    process = stack.start("openveil-ingest", argv)
    wait_until("starting the edge", lambda: port_taken(int(stack.pixel_address.split(":")[1])), 20, process)
    return stack, Server("edge " + durability, stack.pixel_address, process)


def start_nginx(directory):
    port = free_port()
    config = os.path.join(directory, "nginx.conf")
    with open(config, "w", encoding="ascii") as out:
        out.write(NGINX.format(dir=directory, port=port))
    process = Process("nginx", measure.pinned(0, ["nginx", "-p", directory, "-c", config]), os.path.join(directory, "out"))
    wait_until("starting nginx", lambda: port_taken(port), 20, process)
    return Server("nginx", f"127.0.0.1:{port}", process, forks=True)


def start_floor(directory):
    port = free_port()
    argv = measure.pinned(0, [os.path.join(measure.BIN, "bench-floor"), str(port)])
    process = Process("floor", argv, os.path.join(directory, "floor.out"))
    wait_until("starting the floor", lambda: port_taken(port), 20, process)
    return Server("floor", f"127.0.0.1:{port}", process)


def mint(stack, path):
    lines = "".join(f"contact-{i}\ttransactional\t1\tgmail\t2026-01-01T00:00:00Z\n" for i in range(N_TOKENS))
    with open(path, "wb") as out:
        out.write(stack.cli("token", "mint", "--tenant", "7", stdin=lines, binary=True))


def check_load_client(directory):
    """What the open loop says of a server whose latency is known: delayed, and standing still once a second."""
    tokens = os.path.join(directory, "any")
    with open(tokens, "w", encoding="ascii") as out:
        out.write("x\n")
    for name, delay, stall, quantile, expected in (
            ("loadgen_known_delay_p50_error_ms", KNOWN_DELAY_MS, 0, "p50_ms", KNOWN_DELAY_MS),
            # Of a second's requests the slowest hundredth came in the stall's first 10 ms.
            ("loadgen_known_stall_p99_error_ms", 0, KNOWN_STALL_MS, "p99_ms", KNOWN_STALL_MS - 10)):
        port = free_port()
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "known_delay.py")
        process = Process("known_delay", measure.pinned(0, [sys.executable, script, str(port), str(delay), str(stall)]),
                          os.path.join(directory, "known.out"))
        try:
            wait_until("starting a known server", lambda: port_taken(port), 20, process)
            result = load(f"127.0.0.1:{port}", tokens, 400, SECONDS, LIGHT_RATE, 1)
        finally:
            process.stop()
        figure(name, [result[quantile] - expected], "ms")


def round_of(servers, half, connections, seconds):
    """{(server's name, "saturated" or "half"): (CPU microseconds a request, p99.9 in ms, requests a second)}."""
    found = {}
    for server, tokens in servers:
        for load_name, rate in (("saturated", 0), ("half", half)):
            cpu, result = server.run(tokens, rate, connections, seconds)
            found[server.name, load_name] = cpu, result["p999_ms"], result["rate"]
    return found


def measure_all(servers):
    """Interleaved rounds: {connections: [round_of]} and [p50 at light load, ours - nginx's]."""
    (nginx, nginx_tokens), (disk, disk_tokens) = servers[:2]
    half = nginx.run(nginx_tokens)[1]["rate"] / 2
    rounds, light = {CONNECTIONS: [], **{connections: [] for connections in OTHER_CONNECTIONS}}, []
    for _ in range(RUNS):
        for connections, rows in rounds.items():
            seconds = SECONDS if connections == CONNECTIONS else OTHER_SECONDS
            rows.append(round_of(servers, half, connections, seconds))
        p50 = [server.run(tokens, LIGHT_RATE, 64)[1]["p50_ms"] for server, tokens in ((nginx, nginx_tokens),
                                                                                     (disk, disk_tokens))]
        light.append(p50[1] - p50[0])
    return rounds, light


def column(rows, name, load_name, field):
    return [row[name, load_name][field] for row in rows]


def ratio(rows, above, below, load_name):
    return [a / b for a, b in zip(column(rows, above, load_name, 0), column(rows, below, load_name, 0))]


def print_figures(rounds, light, names):
    for connections, rows in rounds.items():
        for name in names:
            label = f"{name.replace(' ', '_').replace('-', '_')}_{connections}"
            for load_name in ("saturated", "half"):
                figure(f"cpu_us_{load_name}_{label}", column(rows, name, load_name, 0), "us")
            figure(f"p999_half_{label}", column(rows, name, "half", 1), "ms")
    for ours, label in (("edge disk", "edge_disk_vs_nginx_buffered_cpu"),
                        ("edge page-cache", "edge_pagecache_vs_nginx_buffered_cpu")):
        for connections, rows in rounds.items():
            both = [ratio(rows, "nginx", ours, load_name) for load_name in ("saturated", "half")]
            suffix = "" if connections == CONNECTIONS else f"_{connections}"
            figure(f"{label}_saturated{suffix}", both[0], "ratio")
            figure(f"{label}_half{suffix}", both[1], "ratio")
            if connections == CONNECTIONS:
                figure(label, min(both, key=statistics.median), "ratio")
    rows = rounds[CONNECTIONS]
    figure("edge_p999_vs_nginx_ms", [a - b for a, b in zip(column(rows, "edge disk", "half", 1),
                                                           column(rows, "nginx", "half", 1))], "ms")
    figure("edge_p50_light_ms", light, "ms")
    figure("edge_cpu_vs_epoll_floor", ratio(rows, "edge disk", "floor", "saturated"), "ratio")
    figure("edge_cpu_vs_epoll_floor_pagecache", ratio(rows, "edge page-cache", "floor", "saturated"), "ratio")


def draw(rounds, names):
    counts = sorted(rounds)
    groups = [f"{connections} connections" for connections in counts]
    for field, load_name, file, title, unit in (
            (0, "saturated", "edge-cpu-saturated", "CPU of a request, saturated", "µs"),
            (0, "half", "edge-cpu-half", "CPU of a request at half of nginx's saturation", "µs"),
            (1, "half", "edge-p999-half", "p99.9 at half of nginx's saturation, open loop", "ms")):
        plot.bars(os.path.join(measure.PLOTS, file + ".svg"), title, unit, groups,
                  {name: [column(rounds[connections], name, load_name, field) for connections in counts]
                   for name in names})


def main():
    directory = tempfile.mkdtemp(prefix="openveil-bench-")
    os.chmod(directory, 0o755)
    processes = []
    try:
        disk_stack, disk = start_edge(directory, "disk")
        processes.append(disk.process)
        cache_stack, cache = start_edge(directory, "page-cache")
        processes.append(cache.process)
        nginx = start_nginx(directory)
        processes.append(nginx.process)
        floor = start_floor(directory)
        processes.append(floor.process)
        tokens, other = os.path.join(directory, "tokens"), os.path.join(directory, "tokens2")
        mint(disk_stack, tokens)
        mint(cache_stack, other)
        check_load_client(directory)
        servers = [(nginx, tokens), (disk, tokens), (cache, other), (floor, tokens)]
        names = [server.name for server, _ in servers]
        rounds, light = measure_all(servers)
        print_figures(rounds, light, names)
        new = [load(disk.address, tokens, 64, 2, NEW_RATE, 0.5, reconnect=True) for _ in range(RUNS)]
        figure("edge_new_connections_per_s", [result["rate"] for result in new], "1/s")
        figure("edge_new_connections_errors", [result["errors"] for result in new], "requests")
        figure("edge_new_connections_p99_ms", [result["p99_ms"] for result in new], "ms")
        draw(rounds, names)
    finally:
        for process in processes:
            process.stop()
        shutil.rmtree(directory, ignore_errors=True)
    bench_forward.main()
    measure.table(BARS)


if __name__ == "__main__":
    sys.exit(main())
