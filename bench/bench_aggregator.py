"""The aggregator: memory and look-ups of its state, the start from a snapshot, events through real Kafka and Redis."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import measure
import plot
from streams import peer
from measure import figure
from stack import Stack, http_get, ready, wait_until

PARTITIONS = 8
LOOKUPS = 40000000
CONTACTS = (1000000, 10000000, 100000000)
TENANTS = (1, 100, 10000)
TENANT = 7
TRANSACTIONAL, REQUESTED = 1, 2  # classes of mail; requested counts for inactivity alone
BLOCK_EVENTS = 16384
EVENT_CONTACTS = 1000000
FIRST_CONTACTS = 200
RECEIVED = "openveil_aggregator_received_total"
REPEATS = 20
EVENT_RUNS = 3
KAFKA_STARTS = 2
TAKEOVERS = 3
IDLE_PARTITIONS, IDLE_TENANTS, IDLE_STARTS = 64, 10000, 3
TAKEOVER_CONTACTS = 10000000
STREAMS_RUNS = 3
# Name, events in a block, contacts, how many of their events only warm the peer's virtual machine up.
STREAMS_VARIANTS = (("blocks", BLOCK_EVENTS, 1000000, 500000), ("single", 1, 200000, 100000))
BARS = {
    "aggregate_noop_events_per_core_s": ("≥", 3000000, 6000000),
    "aggregate_changing_events_per_core_s": ("≥", 250000, 500000), "state_bytes_per_contact": ("≤", 12, 9),
    "state_lookup_ns": ("≤", 80, 50), "state_longest_stop_ms": ("≤", 50, None), "restart_from_snapshot_s": ("≤", 10, 3),
    "aggregate_vs_kafka_streams_blocks": ("≥", 10, 30), "aggregate_vs_kafka_streams_single": ("≥", 10, 30),
    "restart_from_kafka_s": ("≤", 90, 40), "takeover_s": ("≤", 30, 10),
    "state_growth_bytes_largest_vs_smallest": ("≤", 2, None),
    "state_growth_lookups_largest_vs_smallest": ("≤", 2, None)}


def state(*words):
    """What bench-state prints: {name: [numbers]}."""
    argv = [os.path.join(measure.BIN, "bench-state"), *map(str, words)]
    out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=1800).stdout
    values = {}
    for line in out.split():
        name, value = line.split("=")
        values.setdefault(name, []).append(float(value))
    return values


def growth(name, title, unit, values, sizes):
    """A plot and the largest median over the smallest: flat where it is at most 2."""
    groups = [f"{size / 1e6:g}M contacts" for size in sizes]
    series = {f"{tenants} tenant{'s' if tenants > 1 else ''}": [values[size, tenants] for size in sizes]
              for tenants in TENANTS}
    os.makedirs(measure.PLOTS, exist_ok=True)
    plot.bars(os.path.join(measure.PLOTS, f"{name}.svg"), title, unit, groups, series)
    medians = [statistics.median(runs) for runs in values.values()]
    figure(f"{name}_largest_vs_smallest", [max(medians) / min(medians)], "ratio")


def table(largest):
    """Every size with every number of tenants, each in a process that does only this."""
    sizes = [n for n in CONTACTS if n <= largest]
    size_of, rate_of, results = {}, {}, {}
    for contacts in sizes:
        for tenants in TENANTS:
            values = results[contacts, tenants] = state("table", contacts, tenants, LOOKUPS)
            size_of[contacts, tenants] = values["bytes_per_contact"]
            rate_of[contacts, tenants] = [1000 / ns for ns in values["lookup_ns"]]
            print(f"# {contacts} contacts, {tenants} tenants: {values['bytes_per_contact'][0]:.2f} bytes a contact, "
                  f"put {values['put_ns'][0]:.0f} ns, look-up {statistics.median(values['lookup_ns']):.0f} ns, longest "
                  f"{values['longest_stop_ms'][0]:.1f} ms for 256 puts", flush=True)
    figures = results[sizes[-1], 1]
    figure("state_bytes_per_contact", figures["bytes_per_contact"], "bytes")
    figure("state_lookup_ns", figures["lookup_ns"], "ns")
    figure("state_longest_stop_ms", figures["longest_stop_ms"], "ms")
    growth("state_growth_bytes", "Memory of the last-open table", "bytes a contact", size_of, sizes)
    growth("state_growth_lookups", "Look-ups in the last-open table", "million a CPU second", rate_of, sizes)


def restart(contacts, directory):
    """From the files of the local journal to a state in memory, two partitions at once, as the engine does it."""
    path = os.path.join(directory, "state")
    size = state("snapshot", path, contacts, 10, PARTITIONS)["snapshot_bytes"][0]
    loads = [state("load", path, PARTITIONS, 2) for _ in range(3)]
    print(f"# snapshot of {size / 1e9:.2f} GB; CPU {min(load['load_cpu_s'][0] for load in loads):.1f} s; "
          f"{loads[0]['loaded_bytes_per_contact'][0]:.2f} bytes a contact afterwards")
    figure("restart_from_snapshot_s", [load["load_s"][0] for load in loads], "s")


def filled(directory, contacts, extra=None):
    """A stack with a real broker whose state topic holds so many last opens."""
    stack = Stack(directory, measure.BIN, kafka=True, partitions=PARTITIONS, extra={
        "redis": {"timeout_ms": 20000}, "aggregator": {"contacts_max": 2 * contacts}})
    for name in extra or ():
        stack.add_aggregator(name)
    stack.start_all()
    program = os.path.join(measure.BIN, "bench-state-topic")
    out = subprocess.run([program, "fill", stack.config, str(contacts)], check=True, stdout=subprocess.PIPE, text=True,
                         timeout=1200).stdout
    print(f"# {contacts} contacts written to the state topic: {out.strip()}", flush=True)
    return stack


def restart_from_kafka(contacts, directory):
    """The whole program, from its start to /ready, with an empty state directory each time."""
    stack = None
    seconds = []
    try:
        stack = filled(os.path.join(directory, "kafka"), contacts)
        for _ in range(KAFKA_STARTS):
            begin = time.monotonic()
            process = stack.start_aggregator(wait=False)
            wait_until("reading the state", lambda: ready(stack.aggregator_admin), 600, process)
            seconds.append(time.monotonic() - begin)
            print(f"# CPU {measure.cpu_seconds([process.pid]):.1f} s, resident "
                  f"{measure.resident_bytes(process.pid) / contacts:.2f} bytes a contact", flush=True)
            process.kill()
            shutil.rmtree(stack.path("state"), ignore_errors=True)
    finally:
        if stack is not None:
            stack.stop()
    figure("restart_from_kafka_s", seconds, "s")


def takeover(contacts, directory):
    """kill -9 of one of two aggregators to the commit of what came later, in all partitions; the killed one comes back."""
    stack = None
    first, last = [], []
    try:
        stack = filled(os.path.join(directory, "takeover"), contacts, extra=("other",))
        stack.start_member("other")
        for _ in range(TAKEOVERS):
            victim = stack.start_aggregator(wait=False)
            half = f"{PARTITIONS // 2} partitions assigned"
            wait_until("sharing the partitions", lambda: half in victim.tail(200) and ready(stack.aggregator_admin) and
                       ready(stack.members["other"]["admin"]), 120, victim)
            program = os.path.join(measure.BIN, "bench-state-topic")
            out = subprocess.run([program, "takeover", stack.config, str(victim.pid)], check=True, timeout=400,
                                 stdout=subprocess.PIPE, text=True).stdout
            values = {name: float(value) for name, value in (pair.split("=") for pair in out.split())}
            first.append(values["survivor_s"])
            last.append(values["all_s"])
            os.truncate(victim.log, 0)
            victim.kill()
    finally:
        if stack is not None:
            stack.stop()
    figure("takeover_s", last, "s")
    figure("takeover_first_partition_s", first, "s")


def metric(stack, name):
    """The aggregator's, -1 where it does not answer."""
    try:
        text = http_get(stack.aggregator_admin, "/metrics", 2)[1]
    except OSError:
        return -1
    lines = (line.split() for line in text.splitlines() if line.startswith(name))
    return next((int(float(line[1])) for line in lines), -1)


def take(stack, events, warm_up=0):
    """Starts the aggregator on what waits in the topic: events a CPU second of its process, its last commit included; from
    its start on, or from where it has taken `warm_up` events."""
    before, spent = os.times(), 0
    process = stack.start_aggregator(wait=False)
    if warm_up > 0:
        wait_until("warming up", lambda: metric(stack, RECEIVED) >= warm_up, 120, process)
        spent = measure.cpu_seconds([process.pid])
        warm_up = metric(stack, RECEIVED)
    wait_until(f"{events} events", lambda: metric(stack, RECEIVED) >= events // 100 * 100, 120, process)
    process.stop(60)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system - spent
    return (events - warm_up) / spent


def blocks(stack, contacts, times, segment, block_events=BLOCK_EVENTS, message_class=REQUESTED):
    """An open of each contact, so many times over, into the events topic; the next free segment."""
    argv = [os.path.join(measure.BIN, "bench-blocks"), stack.config, str(TENANT), str(contacts), str(times), str(segment),
            str(block_events), str(message_class)]
    subprocess.run(argv, check=True, timeout=300)
    return segment + times * (contacts // block_events + 1) + 1


def consent(stack, contacts):
    path = stack.path("consent")
    with open(path, "w", encoding="ascii") as out:
        out.writelines(f"contact-{i}\tinformed\t2026-01-01\tn1\n" for i in range(contacts))
    stack.cli("consent", "import", "--tenant", str(TENANT), path)


def prepared(directory, contacts):
    """Broker, Redis, a tenant whose contacts may be counted, an aggregator that has read all that and is stopped again; and
    the next free segment."""
    stack = Stack(directory, measure.BIN, kafka=True, extra={"redis": {"timeout_ms": 20000}})
    try:
        stack.start_all()
        stack.cli("keys", "init")
        stack.cli("tenant", "add", str(TENANT), "--stream", "1=receipts", "--exemption-basis", "bench")
        process = stack.start_aggregator()
        consent(stack, contacts)
        stack.cli("consent", "set", "--tenant", str(TENANT), "--contact", "last", "--state", "informed", "--since",
                  "2026-01-01", "--notice", "n1", "--wait")
        segment = blocks(stack, FIRST_CONTACTS, 1, 1)
        wait_until("the first events", lambda: metric(stack, RECEIVED) >= FIRST_CONTACTS, 120, process)
        process.stop(60)
    except BaseException:
        stack.stop()
        raise
    return stack, segment


def rates(stack, segment, contacts, repeats):
    """Events a CPU second: each of a contact unknown before, then each of one that has this day already."""
    result = []
    for times in (1, repeats):
        segment = blocks(stack, contacts, times, segment)
        result.append(take(stack, contacts * times))
    return result


def events_run(contacts, repeats, directory):
    stack, segment = prepared(directory, contacts)
    try:
        return rates(stack, segment, contacts, repeats)
    finally:
        stack.stop()
        shutil.rmtree(directory, ignore_errors=True)


def events(contacts, repeats, directory):
    """Each run with a broker and a Redis of its own, so that none has to load what another left."""
    runs = [events_run(contacts, repeats, os.path.join(directory, f"events-{i}")) for i in range(EVENT_RUNS)]
    figure("aggregate_changing_events_per_core_s", [changing for changing, _ in runs], "1/s")
    figure("aggregate_noop_events_per_core_s", [noop for _, noop in runs], "1/s")


def streams_run(variant, class_path, directory):
    """Both over the same topic, transactional mail, all events of contacts unknown before: (ours, the peer's)."""
    _, block_events, contacts, warm_up = variant
    stack, segment = prepared(directory, contacts)
    try:
        blocks(stack, contacts, 1, segment, block_events, TRANSACTIONAL)
        theirs = peer.rate(class_path, f"127.0.0.1:{stack.kafka_port}", warm_up, contacts - warm_up, directory)
        return take(stack, contacts, warm_up), theirs
    finally:
        stack.stop()
        shutil.rmtree(directory, ignore_errors=True)


def streams(directory):
    """The peer does not ask for consent; ours does, for every event here. Neither's start counts."""
    class_path = peer.build(directory)
    for variant in STREAMS_VARIANTS:
        runs = [streams_run(variant, class_path, os.path.join(directory, variant[0])) for _ in range(STREAMS_RUNS)]
        ours, theirs = (statistics.median(side) for side in zip(*runs))
        print(f"# {variant[0]}: events a CPU second, ours {ours:.0f}, Kafka Streams {theirs:.0f}")
        figure(f"aggregate_vs_kafka_streams_{variant[0]}", [ours / theirs for ours, theirs in runs], "x")


def tenant_files(stack, n):
    """Files of tenants like the one that the command has stored."""
    with open(stack.path("tenants", f"{TENANT}.json"), encoding="ascii") as file:
        tenant = json.load(file)
    for number in range(TENANT + 1, TENANT + n):
        with open(stack.path("tenants", f"{number}.json"), "w", encoding="ascii") as out:
            json.dump({**tenant, "tenant": number}, out, indent=2)


def idle(directory):
    """What tenants cost that send nothing: seconds to /ready and resident memory with one tenant and with many."""
    stack = Stack(os.path.join(directory, "idle"), measure.BIN, partitions=IDLE_PARTITIONS)
    seconds, resident = {}, {}
    try:
        stack.start_all()
        stack.cli("keys", "init")
        stack.cli("tenant", "add", str(TENANT), "--stream", "1=receipts", "--exemption-basis", "bench")
        for n in (1, IDLE_TENANTS):
            tenant_files(stack, n)
            runs = []
            for _ in range(IDLE_STARTS):
                begin = time.monotonic()
                process = stack.start_aggregator()
                runs.append((time.monotonic() - begin, measure.resident_bytes(process.pid)))
                process.stop()
            seconds[n], resident[n] = ([run[i] for run in runs] for i in range(2))
    finally:
        stack.stop()
    figure("start_with_1_tenant_s", seconds[1], "s")
    figure("start_with_10000_tenants_s", seconds[IDLE_TENANTS], "s")
    more = [(many - one) / (IDLE_TENANTS - 1) for one, many in zip(resident[1], resident[IDLE_TENANTS])]
    figure("idle_tenant_bytes", more, "bytes")


PARTS = {
    "table": lambda options, _: table(options.contacts),
    "snapshot": lambda options, directory: restart(options.contacts, directory),
    "kafka": lambda options, directory: restart_from_kafka(options.contacts, directory),
    "takeover": lambda options, directory: takeover(min(options.contacts, TAKEOVER_CONTACTS), directory),
    "events": lambda options, directory: events(options.event_contacts, options.repeats, directory),
    "idle": lambda _, directory: idle(directory),
    "streams": lambda _, directory: streams(directory)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all, where none is named")
    parser.add_argument("--contacts", type=int, default=CONTACTS[-1])
    parser.add_argument("--event-contacts", type=int, default=EVENT_CONTACTS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    for part in options.parts or PARTS:
        directory = tempfile.mkdtemp(prefix="openveil-bench-", dir="/var/tmp")
        try:
            PARTS[part](options, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    measure.table(BARS)


if __name__ == "__main__":
    sys.exit(main())
