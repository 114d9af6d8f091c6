"""The aggregator beside a Kafka Streams program that does the same: events a CPU second, same broker, same events."""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

import bench_aggregator
import measure
from measure import figure
from stack import Stack

TENANT = 7
TRANSACTIONAL = 1
HERE = os.path.join(measure.ROOT, "bench", "streams")
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "openveil", "streams-4.1.0")
BLOCK_EVENTS = 16384
# Events in a block, contacts, and how many of them only warm the peer's virtual machine up.
VARIANTS = (("blocks", BLOCK_EVENTS, 1200000, 600000), ("single", 1, 200000, 100000))


def peer_build(directory):
    """The class path of the peer."""
    if not os.path.isdir(CACHE):
        os.makedirs(os.path.dirname(CACHE), exist_ok=True)
        temporary = tempfile.mkdtemp(dir=os.path.dirname(CACHE))
        subprocess.run(["mvn", "-q", "-B", "-f", os.path.join(HERE, "pom.xml"), "dependency:copy-dependencies",
                        "-DincludeScope=runtime", "-DoutputDirectory=" + temporary], check=True, timeout=600)
        os.rename(temporary, CACHE)
    classes = os.path.join(directory, "classes")
    subprocess.run(["javac", "-cp", CACHE + "/*", "-d", classes, os.path.join(HERE, "Peer.java")], check=True, timeout=120)
    return f"{classes}:{CACHE}/*"


def peer_rate(stack, class_path, warm_up, events, directory):
    argv = ["java", "-Xmx3g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", class_path, "Peer",
            f"127.0.0.1:{stack.kafka_port}", "openveil.events", str(warm_up), str(events),
            os.path.join(directory, "peer-state")]
    out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout
    return events / float(out.rsplit("cpu_s=", 1)[1])


def both(variant, class_path, directory):
    """One run of each over the same topic: events a CPU second of (ours, the peer's)."""
    name, block_events, contacts, warm_up = variant
    place = os.path.join(directory, name)
    stack = Stack(place, measure.BIN, kafka=True, extra={"redis": {"timeout_ms": 20000}})
    try:
        stack.start_all()
        stack.cli("keys", "init")
        stack.cli("tenant", "add", str(TENANT), "--stream", "1=receipts", "--exemption-basis", "bench")
        bench_aggregator.consent(stack, contacts)
        bench_aggregator.blocks(stack, contacts, 1, 1, block_events, TRANSACTIONAL)
        peer = peer_rate(stack, class_path, warm_up, contacts - warm_up, directory)
        return contacts / bench_aggregator.take(stack, contacts), peer
    finally:
        stack.stop()
        shutil.rmtree(place, ignore_errors=True)


def run(runs):
    directory = tempfile.mkdtemp(prefix="openveil-bench-")
    try:
        class_path = peer_build(directory)
        for variant in VARIANTS:
            rates = [both(variant, class_path, directory) for _ in range(runs)]
            print(f"# {variant[0]}: events a CPU second, ours {statistics.median(ours for ours, _ in rates):.0f}, "
                  f"Kafka Streams {statistics.median(peer for _, peer in rates):.0f}")
            suffix = "" if variant[0] == "blocks" else "_" + variant[0]
            figure("aggregate_vs_kafka_streams" + suffix, [ours / peer for ours, peer in rates], "x")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    run(parser.parse_args().runs)


if __name__ == "__main__":
    sys.exit(main())
