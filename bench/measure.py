"""What the benchmarks share: CPU time of processes with all their threads, interleaved repetition, figures."""
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
PLOTS = os.path.join(ROOT, "build", "bench")
figures = []  # (name, values, unit) of all that were printed
BIN = os.environ.get("OPENVEIL_BIN", os.path.join(ROOT, "build", "release", "bin"))


def thread_cpu_seconds(pid):
    """[(name, CPU seconds)] of all its threads, to the nanosecond."""
    threads = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm", encoding="ascii", errors="replace") as comm:
            name = comm.read().strip()
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as schedstat:
            threads.append((name, int(schedstat.read().split()[0]) / 1e9))
    return threads


def cpu_seconds(pids):
    """User and system time of these processes, all threads that are alive."""
    return sum(seconds for pid in pids for _, seconds in thread_cpu_seconds(pid))


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pinned(core, argv):
    return ["taskset", "-c", str(core)] + argv


def load(address, tokens, connections, seconds, rate=0, warmup=1, core=1, reconnect=False):
    """One run of the load client: {name: number}."""
    argv = pinned(core, [os.path.join(BIN, "bench-loadgen"), "--address", address, "--tokens", tokens, "--connections",
                         str(connections), "--seconds", str(seconds), "--warmup", str(warmup), "--rate", str(rate)] +
                  (["--reconnect"] if reconnect else []))
    out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=seconds + warmup + 60).stdout
    return {name: float(value) for name, value in (pair.split("=") for pair in out.split())}


def figure(name, values, unit):
    """Prints the median, and the spread beside it as a comment line."""
    values = sorted(values)
    figures.append((name, values, unit))
    median = statistics.median(values)
    print(f"# {name}: {len(values)} runs, lowest {values[0]:.4g}, highest {values[-1]:.4g}")
    print(f"figure {name} {median:.4g} {unit}", flush=True)
    return median


def table(bars):
    """All figures as Markdown, for RESULTS.md. `bars`: {name: (comparison, bar, better)}; better may be None."""
    print("\n| figure | median | lowest | highest | bar | |\n|---|---|---|---|---|---|")
    for name, values, unit in figures:
        median, verdict, wanted = statistics.median(values), "", ""
        if name in bars:
            comparison, bar, better = bars[name]
            met = [limit is not None and (median >= limit if comparison == "≥" else median <= limit)
                   for limit in (bar, better)]
            verdict = "better" if met[1] else "met" if met[0] else "**missed**"
            wanted = f"{comparison} {bar}" + ("" if better is None else f", better {better}")
        print(f"| `{name}` | {median:.4g} {unit} | {values[0]:.4g} | {values[-1]:.4g} | {wanted} | {verdict} |")
    sys.stdout.flush()
