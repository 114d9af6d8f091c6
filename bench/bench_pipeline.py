"""The pipeline as a whole: idle cost of edge and aggregator with ten tenants, and from a day's end to its release."""
import os
import shutil
import sys
import tempfile
import time

import measure
from measure import figure
import sample
from stack import Stack, day_number, day_text, wait_until

START_DAY = "2026-11-02"
DAYS = 5
IDLE_SECONDS = 60


def prepare(stack):
    stack.cli("keys", "init")
    for tenant in range(1, 11):
        stack.cli("tenant", "add", str(tenant), "--stream", "1=receipts", "--exemption-basis", "bench")
    lines = "".join(f"contact-{i}\tinformed\t2026-01-01\tn1\n" for i in range(200))
    path = stack.path("consent")
    with open(path, "w", encoding="ascii") as out:
        out.write(lines)
    for tenant in range(1, 11):
        stack.cli("consent", "import", "--tenant", str(tenant), path)


def start(stack):
    stack.start_all()
    stack.start_unix_s = None
    stack.write_config()
    prepare(stack)
    stack.start_edge()
    stack.start_aggregator()


def open_some(stack, day):
    for tenant in range(1, 11):
        lines = "".join(f"contact-{i}\ttransactional\t1\tgmail\t{day}T00:00:00Z\n" for i in range(200))
        tokens = stack.cli("token", "mint", "--tenant", str(tenant), stdin=lines).split()
        sample.send(stack.pixel_address, [sample.request(t, sample.AGENTS["gmail"], "pixel") for t in tokens], 2)


def release_delays(kafka):
    """Seconds from a window's end to its line in the release directory, the slowest tenant of each day."""
    directory = tempfile.mkdtemp(prefix="openveil-bench-")
    stack = Stack(directory, measure.BIN, kafka=kafka, rehearsal=(START_DAY, 10, 10), release={"horizon_days": 0})
    delays = []
    try:
        start(stack)
        for number in range(DAYS):
            day = day_text(day_number(START_DAY) + number)
            stack.wait_for_day(day, 0.05)
            open_some(stack, day)
            end = stack.start_unix_s + (number + 1) * 10
            files = [stack.path("releases", str(tenant), f"deliverability-{day}.json") for tenant in range(1, 11)]
            wait_until(f"releases of {day}", lambda: all(os.path.exists(file) for file in files), 40,
                       stack.processes["openveil-aggregator"])
            delays.append(max(os.stat(file).st_mtime for file in files) - end)
    finally:
        stack.stop()
        shutil.rmtree(directory, ignore_errors=True)
    return delays


def idle(kafka):
    """{program: (CPU percent of a core, resident MiB)} while nothing happens."""
    directory = tempfile.mkdtemp(prefix="openveil-bench-")
    stack = Stack(directory, measure.BIN, kafka=kafka, extra={"ingest": {"require_synced_clock": "no"}})
    result = {}
    try:
        start(stack)
        time.sleep(5)
        programs = ("openveil-ingest", "openveil-aggregator")
        before = [measure.cpu_seconds([stack.processes[name].pid]) for name in programs]
        time.sleep(IDLE_SECONDS)
        for name, cpu in zip(programs, before):
            pid = stack.processes[name].pid
            used = measure.cpu_seconds([pid]) - cpu
            result[name] = (100 * used / IDLE_SECONDS, measure.resident_bytes(pid) / (1 << 20))
    finally:
        stack.stop()
        shutil.rmtree(directory, ignore_errors=True)
    return result


def main():
    for kafka, mode in ((False, "single"), (True, "kafka")):
        for name, (cpu, resident) in idle(kafka).items():
            short = name.removeprefix("openveil-")
            figure(f"idle_cpu_{short}_{mode}", [cpu], "percent")
            figure(f"idle_resident_{short}_{mode}", [resident], "MiB")
        figure(f"close_to_release_{mode}", release_delays(kafka), "s")


if __name__ == "__main__":
    sys.exit(main())
