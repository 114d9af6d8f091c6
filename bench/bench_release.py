"""Releases and list cleaning: cells a second, error beside OpenDP's, contacts a second through `openveil clean`."""
import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import measure
from measure import figure
sys.path.insert(0, os.path.join(measure.ROOT, "tests"))
import noise_opendp  # noqa: E402
from stack import Stack

RUNS = 5
CELL_SECONDS = 2
ERROR_CELLS = 400000
EPSILON_SCALE, THRESHOLD = 4, 40
CLEAN_RUNS = 3
CLEAN_CONTACTS = 10000000
EXTRAPOLATED = 100000000
TENANT = 7
FIRST_DAY = "2026-12-01"
BARS = {"release_cells_per_s": ("≥", 1000000, None), "clean_contacts_per_s": ("≥", 400000, 2000000),
        "release_error_vs_opendp": ("≤", 1.02, None)}


def program(name):
    return os.path.join(measure.BIN, name)


def answers(argv):
    out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout
    return {name: float(value) for name, value in (pair.split("=") for pair in out.split())}


def opendp_python():
    """The interpreter that has OpenDP; None, with a line, where it cannot be installed."""
    try:
        return noise_opendp.python_with_opendp()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"# release_error_vs_opendp is left out: {noise_opendp.OPENDP} cannot be installed ({error})")
        return None


def bench_cells():
    rates = []
    for _ in range(RUNS):
        done = answers(measure.pinned(0, [program("bench-release"), "cells", str(CELL_SECONDS)]))
        rates.append(done["cells"] / done["cpu_s"])
    figure("release_cells_per_s", rates, "1/s")


def bench_error():
    python = opendp_python()
    if python is None:
        return
    peer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "opendp_draws.py")
    ratios = []
    for _ in range(RUNS):
        ours = answers([program("bench-release"), "error", str(ERROR_CELLS)])["error"]
        theirs = answers([python, peer, str(EPSILON_SCALE), str(THRESHOLD), str(ERROR_CELLS)])["error"]
        ratios.append(ours / theirs)
    figure("release_error_vs_opendp", ratios, "ratio")


class CleanRun:
    """One run of `openveil clean --out`: seconds, its CPU seconds, its largest resident size."""

    def __init__(self, stack, list_path, contacts):
        out = stack.path("answers")
        argv = [program("openveil"), "--config", stack.config, "--rehearsal", "clean", "--tenant", str(TENANT), "--class",
                "requested", "--accept-share", "--out", out, "--shards", "16"]
        environment = {**os.environ, "TMPDIR": stack.dir}
        with open(list_path, "rb") as stdin, open(stack.path("clean.err"), "wb") as stderr:
            start = time.monotonic()
            child = subprocess.Popen(argv, stdin=stdin, stderr=stderr, env=environment)
            _, status, used = os.wait4(child.pid, 0)
            self.seconds = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            with open(stack.path("clean.err"), encoding="utf-8") as text:
                raise SystemExit(f"openveil clean: exit {child.returncode}: {text.read()[-500:]}")
        self.cpu_s = used.ru_utime + used.ru_stime
        self.resident_mib = used.ru_maxrss / 1024
        with open(os.path.join(out, "_SUCCESS"), encoding="utf-8") as file:
            success = json.load(file)
        if (success["lines"], success["ones"]) != (contacts, contacts // 4):
            raise SystemExit(f"openveil clean answered {success['ones']} ones of {success['lines']} lines")
        shutil.rmtree(out)


def set_mib(opened):
    """The set of contacts with an open: 8 bytes a slot, at most 7/8 full, one and a half times that while it doubles."""
    slots = 1024
    while opened * 8 > slots * 7:
        slots *= 2
    return slots * 8 * 1.5 / 2**20


def bench_clean(contacts):
    directory = tempfile.mkdtemp(prefix="openveil-bench-", dir="/var/tmp")
    stack = Stack(directory, measure.BIN, rehearsal=(FIRST_DAY, 86400, -3600))
    try:
        stack.write_config()
        stack.start_redis()
        stack.cli("keys", "init")
        stack.cli("tenant", "add", str(TENANT), "--stream", "1=news", "--exemption-basis", "bench", "--inactive-days", "180")
        list_path = stack.path("list")
        subprocess.run([program("bench-clean-data"), stack.config, str(TENANT), str(contacts), list_path], check=True,
                       timeout=1800)
        runs = [CleanRun(stack, list_path, contacts) for _ in range(CLEAN_RUNS)]
        redis_mib = measure.resident_bytes(stack.processes["redis"].pid) / 2**20
    finally:
        stack.stop()
        shutil.rmtree(directory, ignore_errors=True)
    rate = figure("clean_contacts_per_s", [contacts / run.seconds for run in runs], "1/s")
    figure("clean_cpu_us_per_contact", [1e6 * run.cpu_s / contacts for run in runs], "us")
    resident = figure("clean_resident_mib", [run.resident_mib for run in runs], "MiB")
    print(f"# measured with {contacts} contacts, 55 % with an open, beside a real Redis of {redis_mib:.0f} MiB on "
          f"{os.cpu_count()} cores")
    if contacts < EXTRAPOLATED:
        grown = set_mib(EXTRAPOLATED * 0.55) - set_mib(contacts * 0.55) + (EXTRAPOLATED - contacts) / 8 / 2**20
        print(f"# extrapolated, not measured: {EXTRAPOLATED} contacts in {EXTRAPOLATED / rate:.0f} s with "
              f"{resident + grown:.0f} MiB (--contacts {EXTRAPOLATED} measures it)")


def main():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parser = argparse.ArgumentParser()
    parser.add_argument("--contacts", type=int, default=CLEAN_CONTACTS, help="of the list to clean; a multiple of 20")
    contacts = parser.parse_args().contacts
    bench_cells()
    bench_error()
    bench_clean(contacts)
    measure.table(BARS)


if __name__ == "__main__":
    sys.exit(main())
