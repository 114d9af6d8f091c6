"""Builds and runs the aggregator's peer, a Kafka Streams program."""
import os
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "openveil", "streams-4.1.0")


def build(directory):
    """The class path of the peer."""
    if not os.path.isdir(CACHE):
        os.makedirs(os.path.dirname(CACHE), exist_ok=True)
        temporary = tempfile.mkdtemp(dir=os.path.dirname(CACHE))
        subprocess.run(["mvn", "-q", "-B", "-f", os.path.join(HERE, "pom.xml"), "dependency:copy-dependencies",
                        "-DincludeScope=runtime", "-DoutputDirectory=" + temporary], check=True, timeout=600,
                       stdout=subprocess.DEVNULL)
        os.rename(temporary, CACHE)
    classes = os.path.join(directory, "classes")
    subprocess.run(["javac", "-cp", CACHE + "/*", "-d", classes, os.path.join(HERE, "Peer.java")], check=True, timeout=120)
    return f"{classes}:{CACHE}/*"


def rate(class_path, broker, warm_up, events, directory):
    """Events a CPU second of the whole virtual machine, after `warm_up` events."""
    argv = ["java", "-Xmx3g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", class_path, "Peer", broker,
            "openveil.events", str(warm_up), str(events), os.path.join(directory, "peer-state")]
    out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout
    return events / float(out.rsplit("cpu_s=", 1)[1])
