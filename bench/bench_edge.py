"""The edge beside nginx (empty_gif, buffered access log) and a bare epoll server: CPU per request and latency."""
import os
import shutil
import sys
import tempfile

import measure
from measure import figure, load
from stack import Process, Stack, free_port, port_taken, wait_until

RUNS = 5
SECONDS = 5
CONNECTIONS = 256
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


def measure_all(disk, cache, nginx, floor, tokens, other_tokens):
    """Interleaved rounds; {figure: [value a round]}."""
    rows = {}

    def note(name, value):
        rows.setdefault(name, []).append(value)

    half = nginx.run(tokens)[1]["rate"] / 2
    for _ in range(RUNS):
        cpu, result = {}, {}
        for server, file in ((nginx, tokens), (disk, tokens), (cache, other_tokens), (floor, tokens)):
            cpu[server.name], result[server.name] = server.run(file)
            half_cpu, half_result = server.run(file, rate=half)
            cpu[server.name + " half"], result[server.name + " half"] = half_cpu, half_result
        for server in (nginx, disk, cache, floor):
            note(f"cpu_us_saturated {server.name}", cpu[server.name])
            note(f"cpu_us_half {server.name}", cpu[server.name + " half"])
            note(f"p999_ms_half {server.name}", result[server.name + " half"]["p999_ms"])
        for server, name in ((disk, "disk"), (cache, "pagecache")):
            note(f"{name}_saturated", cpu["nginx"] / cpu[server.name])
            note(f"{name}_half", cpu["nginx half"] / cpu[server.name + " half"])
        note("floor", cpu[disk.name] / cpu["floor"])
        note("p999", result[disk.name + " half"]["p999_ms"] - result["nginx half"]["p999_ms"])
        light = [server.run(tokens, rate=1000, connections=64)[1]["p50_ms"] for server in (nginx, disk)]
        note("light", light[1] - light[0])
    return rows


def print_figures(rows):
    for name, values in rows.items():
        if " " in name:
            figure("edge_" + name.replace(" ", "_").replace("-", "_"), values, "us" if "cpu" in name else "ms")
    for name, label in (("disk", "edge_disk_vs_nginx_buffered_cpu"), ("pagecache", "edge_pagecache_vs_nginx_buffered_cpu")):
        lower = min((rows[name + "_saturated"], rows[name + "_half"]), key=lambda values: sorted(values)[len(values) // 2])
        figure(label + "_saturated", rows[name + "_saturated"], "ratio")
        figure(label + "_half", rows[name + "_half"], "ratio")
        figure(label, lower, "ratio")
    figure("edge_p999_vs_nginx_ms", rows["p999"], "ms")
    figure("edge_p50_light_ms", rows["light"], "ms")
    figure("edge_cpu_vs_epoll_floor", rows["floor"], "ratio")


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
        print_figures(measure_all(disk, cache, nginx, floor, tokens, other))
    finally:
        for process in processes:
            process.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
