"""Consent: memory, look-ups beside redis-benchmark GET, import, how soon a change is confirmed (the aggregator's log with
fdatasync, Redis with appendfsync everysec), and what an edge's drop list costs and how fast it is."""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time

import measure
from measure import figure, load
from stack import Stack, port_taken, wait_until

RUNS = 5
SECONDS = 4
TENANT = 7
CONNECTIONS = 256
N_TOKENS = 100000
BARS = {
    "consent_bytes_per_contact": ("≤", 32, 18), "consent_lookups_vs_redis_get_p64": ("≥", 0.8, 1.5),
    "consent_withdraw_to_edge_ms_p999": ("≤", 1000, 50), "consent_confirm_ms_p99": ("≤", 250, 20),
    "consent_import_contacts_per_s": ("≥", 35000, 200000), "edge_droplist_bytes_per_contact": ("≤", 12, 9),
    "edge_droplist_cpu_ratio": ("≤", 1.05, 1.02)}
STRINGS = """for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    redis.call('SET', string.format('key:%012d', i), '12345678v1')
end"""


def start(directory, name, core=None):
    """A stack with a Redis of its own, a tenant and its keys; `core`: that of an edge with one worker, too."""
    stack = Stack(os.path.join(directory, name), measure.BIN, extra={
        "ingest": {"workers": 1, "require_synced_clock": "no"}, "spool": {"bytes_max": 16 << 30},
        "redis": {"timeout_ms": 20000}})
    stack.start_all()
    stack.cli("keys", "init")
    stack.cli("tenant", "add", str(TENANT), "--stream", "1=receipts", "--exemption-basis", "bench")
    if core is not None:
        argv = measure.pinned(core, [stack.program("openveil-ingest"), "--config", stack.config])
        edge = stack.start("openveil-ingest", argv)
        wait_until("starting the edge", lambda: port_taken(int(stack.pixel_address.split(":")[1])), 20, edge)
    return stack


def redis_cli(stack, *words):
    return subprocess.run(["redis-cli", "-p", str(stack.redis_port), *words], check=True, stdout=subprocess.PIPE,
                          text=True).stdout


def used_memory(stack):
    for line in redis_cli(stack, "INFO", "memory").splitlines():
        if line.startswith("used_memory:"):
            return int(line.split(":")[1])
    raise SystemExit("Redis does not say its memory")


def driver(*words):
    out = subprocess.run([os.path.join(measure.BIN, "bench-consent"), *map(str, words)], check=True,
                         stdout=subprocess.PIPE, text=True).stdout
    return {name: float(value) for name, value in (pair.split("=") for pair in out.split())}


def measure_stream(stack, contacts, used):
    """The figure is all that Redis uses more than empty. The stream of changes is a fixed number of entries, whatever the
    number of contacts; so that both can be judged, what goes with it and what stays are told apart."""
    before = used_memory(stack)
    for partition in range(stack.partitions):
        redis_cli(stack, "DEL", f"ov:{{{partition}}}:changes")
    stream = before - used_memory(stack)
    figure("consent_bytes_per_contact", [used / contacts], "bytes")
    figure("consent_bytes_per_contact_without_stream", [(used - stream) / contacts], "bytes")
    figure("consent_change_stream_mib", [stream / 2**20], "MiB")


def measure_import(stack, contacts):
    """A file of that many lines, by the command, into an empty Redis that keeps an append-only file. Bytes that it takes."""
    before = used_memory(stack)
    path = stack.path("import.in")
    with open(path, "w", encoding="ascii") as out:
        out.writelines(f"contact-{i}\tinformed\t2026-01-01\tv1\n" for i in range(contacts))
    begin = time.monotonic()
    stack.cli("consent", "import", "--tenant", str(TENANT), path)
    figure("consent_import_contacts_per_s", [contacts / (time.monotonic() - begin)], "contacts/s")
    os.unlink(path)
    return used_memory(stack) - before


def redis_benchmark(stack, keys):
    out = subprocess.run(["redis-benchmark", "-p", str(stack.redis_port), "-P", "64", "-r", str(keys), "-n", "3000000",
                          "-q", "--csv", "GET", "key:__rand_int__"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(out.splitlines()[-1].split(",")[1].strip('"'))


def measure_lookups(stack, contacts):
    redis_cli(stack, "CONFIG", "SET", "appendonly", "no")
    for first in range(0, contacts, 100000):
        redis_cli(stack, "EVAL", STRINGS, "0", str(first), str(min(first + 100000, contacts) - 1))
    ratios, ours, theirs = [], [], []
    for _ in range(RUNS):
        theirs.append(redis_benchmark(stack, contacts))
        ours.append(driver("lookups", stack.config, TENANT, contacts, SECONDS)["rate"])
        ratios.append(ours[-1] / theirs[-1])
    figure("consent_lookups_per_s", ours, "checks/s")
    figure("consent_redis_get_p64_per_s", theirs, "GET/s")
    figure("consent_lookups_vs_redis_get_p64", ratios, "ratio")


def measure_list(stack, contacts):
    driver("fill", stack.config, TENANT + 1, contacts)
    result = driver("edge", stack.config, 20000)
    if result["contacts"] != contacts:
        raise SystemExit("the drop list is not complete")
    figure("edge_droplist_bytes_per_contact", [result["resident_bytes"] / contacts], "bytes")
    figure("edge_droplist_scan_s", [result["scan_s"]], "s")
    figure("consent_withdraw_to_edge_ms_p50", [result["p50_ms"]], "ms")
    figure("consent_withdraw_to_edge_ms_p999", [result["p999_ms"]], "ms")


def measure_confirm(stack):
    """With an aggregator at work: single node, so its log is a file."""
    stack.start_aggregator()
    driver("confirm", stack.config, 200)
    result = driver("confirm", stack.config, 5000)
    figure("consent_confirm_ms_p50", [result["p50_ms"]], "ms")
    figure("consent_confirm_ms_p99", [result["p99_ms"]], "ms")


def edge_cpu(stack):
    """CPU microseconds a request, of all the edge's threads, at all the load that one core of clients can make."""
    edge, tokens = stack.processes["openveil-ingest"], stack.path("tokens")
    load(stack.pixel_address, tokens, CONNECTIONS, 0.5, 0, 0.1)
    before = measure.cpu_seconds([edge.pid])
    result = load(stack.pixel_address, tokens, CONNECTIONS, SECONDS, 0, 0)
    if result["errors"]:
        raise SystemExit(f"the edge: {result['errors']:.0f} errors")
    return 1e6 * (measure.cpu_seconds([edge.pid]) - before) / result["requests"]


def measure_edge(stack, empty):
    lines = "".join(f"contact-{i}\ttransactional\t1\tgmail\t2026-01-01T00:00:00Z\n" for i in range(N_TOKENS))
    for each in (stack, empty):
        with open(each.path("tokens"), "wb") as out:
            out.write(each.cli("token", "mint", "--tenant", str(TENANT), stdin=lines, binary=True))
    edge_cpu(stack), edge_cpu(empty)
    rows = [(edge_cpu(stack), edge_cpu(empty)) for _ in range(RUNS)]
    figure("edge_droplist_cpu_us", [full for full, _ in rows], "us")
    figure("edge_droplist_cpu_us_without", [none for _, none in rows], "us")
    figure("edge_droplist_cpu_ratio", [full / none for full, none in rows], "ratio")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contacts", type=int, default=10000000, help="contacts to import")
    parser.add_argument("--left", type=int, default=5000000, help="contacts in the drop list")
    args = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="openveil-bench-")
    stacks = []
    try:
        stacks.append(start(directory, "import"))
        used = measure_import(stacks[0], args.contacts)
        measure_lookups(stacks[0], args.contacts)
        measure_stream(stacks[0], args.contacts, used)
        stacks.pop().stop()
        stacks.append(start(directory, "confirm"))
        measure_confirm(stacks[0])
        stacks.pop().stop()
        stacks.append(start(directory, "list"))
        measure_list(stacks[0], args.left)
        stacks[0].stop()
        stacks[0].start_redis()
        stacks.append(start(directory, "empty", core=0))
        argv = measure.pinned(0, [stacks[0].program("openveil-ingest"), "--config", stacks[0].config])
        edge = stacks[0].start("openveil-ingest", argv)
        wait_until("reading the list", lambda: "is in use" in edge.tail(), 120, edge)
        measure_edge(*stacks)
        measure.table(BARS)
    finally:
        for stack in stacks:
            stack.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
