"""The aggregator: memory and look-ups of its state, the start from a snapshot, events through real Kafka and Redis."""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

import measure
from measure import figure
from stack import Stack, http_get, wait_until

PARTITIONS = 8
LOOKUPS = 40000000
CONTACTS = (1000000, 10000000, 100000000)
TENANTS = (1, 100, 10000)
TENANT = 7
EVENT_CONTACTS = 1000000
REPEATS = 20


def state(*words):
    """What bench-state prints: {name: [numbers]}."""
    argv = [os.path.join(measure.BIN, "bench-state"), *map(str, words)]
    out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=1800).stdout
    values = {}
    for line in out.split():
        name, value = line.split("=")
        values.setdefault(name, []).append(float(value))
    return values


def table(largest):
    """One row for each size and number of tenants; the figures are those of the largest with one tenant."""
    for contacts in (n for n in CONTACTS if n <= largest):
        for tenants in TENANTS:
            if contacts == largest or tenants in (1, 10000):
                values = state("table", contacts, tenants, LOOKUPS)
                look_ups = sorted(values["lookup_ns"])
                print(f"# {contacts} contacts, {tenants} tenants: {values['bytes_per_contact'][0]:.2f} bytes a contact, "
                      f"put {values['put_ns'][0]:.0f} ns, look-up {look_ups[len(look_ups) // 2]:.0f} ns, longest "
                      f"{values['longest_stop_ms'][0]:.1f} ms for 256 puts", flush=True)
                if contacts == largest and tenants == 1:
                    figures = values
    figure("state_bytes_per_contact", figures["bytes_per_contact"], "bytes")
    figure("state_lookup_ns", figures["lookup_ns"], "ns")
    figure("state_longest_stop_ms", figures["longest_stop_ms"], "ms")


def restart(contacts, directory):
    """From the files of the local journal to a state in memory, two partitions at once, as the engine does it."""
    path = os.path.join(directory, "state")
    size = state("snapshot", path, contacts, 10, PARTITIONS)["snapshot_bytes"][0]
    loads = [state("load", path, PARTITIONS, 2) for _ in range(3)]
    print(f"# snapshot of {size / 1e9:.2f} GB; CPU {min(load['load_cpu_s'][0] for load in loads):.1f} s; "
          f"{loads[0]['loaded_bytes_per_contact'][0]:.2f} bytes a contact afterwards")
    figure("restart_from_snapshot_s", [load["load_s"][0] for load in loads], "s")


def received(stack):
    """Events that the aggregator says it has taken in."""
    try:
        text = http_get(stack.aggregator_admin, "/metrics", 2)[1]
    except OSError:
        return -1
    lines = (line.split() for line in text.splitlines() if line.startswith("openveil_aggregator_received_total"))
    return next((int(float(line[1])) for line in lines), -1)


def take(stack, events):
    """Starts the aggregator on what waits in the topic: CPU seconds of its process, start and all commits included."""
    process = stack.start_aggregator(wait=False)
    wait_until(f"{events} events", lambda: received(stack) >= events // 100 * 100, 120, process)
    process.stop(60)
    return process


def rates(stack, contacts, repeats):
    """Events a CPU second: each of a contact unknown before, then each of one that has this day already."""
    result, segment = [], 1
    for times in (1, repeats):
        argv = [os.path.join(measure.BIN, "bench-blocks"), stack.config, str(TENANT), str(contacts), str(times),
                str(segment)]
        subprocess.run(argv, check=True, timeout=300)
        segment += times * (contacts // 16384 + 1) + 1
        before = os.times()
        take(stack, contacts * times)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        result.append(contacts * times / spent)
    return result


def events(contacts, repeats, directory):
    stack = Stack(os.path.join(directory, "events"), measure.BIN, kafka=True, extra={"redis": {"timeout_ms": 20000}})
    try:
        stack.start_all()
        stack.cli("keys", "init")
        stack.cli("tenant", "add", str(TENANT), "--stream", "1=receipts", "--exemption-basis", "bench")
        path = stack.path("consent")
        with open(path, "w", encoding="ascii") as out:
            out.writelines(f"contact-{i}\tinformed\t2026-01-01\tn1\n" for i in range(contacts))
        stack.cli("consent", "import", "--tenant", str(TENANT), path)
        changing, noop = rates(stack, contacts, repeats)
    finally:
        stack.stop()
    figure("aggregate_changing_events_per_core_s", [changing], "1/s")
    figure("aggregate_noop_events_per_core_s", [noop], "1/s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--contacts", type=int, default=CONTACTS[-1])
    parser.add_argument("--event-contacts", type=int, default=EVENT_CONTACTS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--only", choices=("table", "restart", "events"))
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="openveil-bench-")
    try:
        if options.only in (None, "table"):
            table(options.contacts)
        if options.only in (None, "restart"):
            restart(options.contacts, directory)
        if options.only in (None, "events"):
            events(options.event_contacts, options.repeats, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
