"""Through Kafka: two edges of which one never closes its day, a month's budget, and what the releases topic holds."""
import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from formats import NOISE_BOUND, Scenario, fetch_all, request  # noqa: E402
from stack import Stack, day_number, day_text, free_port, ready, wait_until  # noqa: E402

TENANT, SILENT = 7, 8
FIRST_DAY = "2026-11-03"
DAYS = [day_text(day_number(FIRST_DAY) + i) for i in range(10)]


class SecondEdge(Stack):
    """Another edge of the same pipeline: its own addresses, name and spool."""

    def __init__(self, first):
        self.__dict__.update(first.__dict__)
        self.processes = {}
        self.pixel_address = f"127.0.0.1:{free_port()}"
        self.edge_admin = f"127.0.0.1:{free_port()}"
        self.config = first.path("second.conf")
        self.extra = {"ingest": {"edge_id": "edge-2"}, "spool": {"dir": first.path("spool-2")}}
        self.write_config()

    def start(self, name, argv, env=None):
        return super().start(name + "-2", argv, env)


class ThroughKafka(Scenario, unittest.TestCase):
    kafka = True
    start_day = FIRST_DAY
    day_seconds = 3
    lead = 12
    release = {"epsilon": "1/1", "threshold": 11, "horizon_days": 0, "deadline_hours": 6}

    def test_budget_deadline_and_topics(self):
        stack = self.stack
        self.start_stores()
        stack.cli("keys", "init")
        for tenant in (TENANT, SILENT):
            stack.cli("tenant", "add", str(tenant), "--stream", "1=receipts", "--exemption-basis", "a ground")
        people = [f"person-{i}" for i in range(60)]
        self.import_consent(TENANT, [(who, "informed", "2026-01-01") for who in people])
        mails = [(who, "transactional", 1, "gmail", FIRST_DAY + "T00:00:00Z", 0) for who in people]
        tokens = self.mint(TENANT, mails)
        early = stack.cli("audit", "--day", FIRST_DAY, check=False)
        self.assertEqual((early.returncode, early.stderr.decode()),
                         (2, f"openveil: {FIRST_DAY} was never measured: there is no topic openveil.state: no aggregator has "
                             "run with these [kafka] brokers\n"))
        stack.start_edge(wait=False)
        second = SecondEdge(stack)
        other = second.start_edge(wait=False)
        self.addCleanup(other.stop)
        stack.start_aggregator()
        wait_until("both edges", lambda: ready(stack.edge_admin) and ready(second.edge_admin), 30)
        stack.wait_for_day(FIRST_DAY, 0.02)
        self.fetch([request(token) for token in tokens[:30]])
        self.assertEqual(set(fetch_all(second.pixel_address, [request(token) for token in tokens[30:]])), {200})
        self.assertEqual(stack.today(), FIRST_DAY)
        stack.wait_for_day(DAYS[1], 0.5)
        self.check_first()
        other.kill()
        self.kill_one_after_another()
        stack.wait_for_day(DAYS[9], 0.3)
        self.check_budget()
        self.check_topic()
        self.check_partitions()

    def kill_one_after_another(self):
        self.stack.processes["openveil-ingest"].kill()
        self.stack.processes["openveil-aggregator"].kill()
        self.stack.start_edge(wait=False)
        self.stack.start_aggregator(wait=False)

    def check_first(self):
        """Both edges closed the first day; what each of them saw is in it."""
        line = self.released(TENANT, "deliverability", FIRST_DAY, 20)[1]
        self.assertTrue(line["complete"])
        cell, = [c for c in line["cells"] if (c["provider"], c["fetch"]) == ("gmail", "person")]
        self.assertLess(abs(cell["contacts"] - 60), NOISE_BOUND)

    def lines(self, tenant):
        texts = self.stack.cli("releases", "--tenant", str(tenant), "--kind", "deliverability", "--json").splitlines()
        return [(text, json.loads(text)) for text in texts]

    def check_budget(self):
        """Epsilon 1 a period: the ninth of the month is empty. The silent tenant's lines are there all the same."""
        for tenant in (TENANT, SILENT):
            self.released(tenant, "deliverability", DAYS[8], 40)
            lines = self.lines(tenant)
            self.assertEqual([line["period"] for _, line in lines], sorted(line["period"] for _, line in lines))
            lines = [(text, line) for text, line in lines if line["period"] >= "2026-11"]
            self.assertGreater(len(lines), 8)
            for i, (text, line) in enumerate(lines):
                self.assertEqual(len(line["cells"]), 28)
                self.assertEqual(line.get("reason"), "budget" if i >= 8 else None, text)
                if i >= 8:
                    self.assertEqual({c["contacts"] for c in line["cells"]}, {None})
                self.assertEqual(line["complete"], line["period"] <= DAYS[0], text[:200])

    def check_topic(self):
        rows = self.kcat("openveil.releases", "%k\t%T\t%p\t%s\n").splitlines()
        keys = [row.split("\t")[0] for row in rows]
        self.assertEqual(len(keys), len(set(keys)), "a line is published once")
        for row in rows:
            key, time_ms, _, text = row.split("\t", 3)
            tenant, kind, period = key.split("/")
            with open(self.release_path(tenant, kind, period), encoding="utf-8") as file:
                self.assertIn(file.read(), (text, text + "\n"))
            self.assertEqual(int(time_ms) % 86400000, 0)
        self.assertIn(f"{TENANT}/deliverability/{FIRST_DAY}", keys)

    def check_partitions(self):
        """Another number of partitions than the topics' is refused by both daemons."""
        self.stack.processes["openveil-ingest"].stop()
        self.stack.processes["openveil-aggregator"].stop()
        with open(self.stack.config, encoding="utf-8") as file:
            text = file.read().replace("partitions = 8", "partitions = 4")
        config = self.write("four.conf", text.replace(self.stack.path("spool"), self.stack.path("spool-3"))
                            .replace(self.stack.path("state"), self.stack.path("state-3")))
        for name in ("openveil-ingest", "openveil-aggregator"):
            done = subprocess.run([self.stack.program(name), "--config", config, "--rehearsal"], timeout=30,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.assertEqual(done.returncode, 1, name)
            self.assertIn(b"has 8 partitions and [kafka] partitions says 4", done.stdout)


if __name__ == "__main__":
    unittest.main()
