"""`openveil edge`: days that wait for an edge that is gone settle when it is retired, in both modes; one that comes back,
with its spool or with a new one, takes part again."""
import json
import os
import shutil
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from formats import Scenario, fetch_all, request  # noqa: E402
from stack import day_number, day_text, wait_until  # noqa: E402

TENANT = 7


class Retire(Scenario):
    start_day = "2026-11-03"
    day_seconds = 4
    release = {"epsilon": "1/1", "threshold": 11, "horizon_days": 0, "deadline_hours": 720}

    def begin(self):
        stack = self.stack
        self.start_stores()
        stack.cli("keys", "init")
        stack.cli("tenant", "add", str(TENANT), "--stream", "1=receipts", "--exemption-basis", "a ground")
        self.people = [f"person-{i}" for i in range(40)]
        self.import_consent(TENANT, [(who, "informed", "2026-01-01") for who in self.people])

    def day(self, n):
        return day_text(day_number(self.start_day) + n)

    def tokens(self, day):
        return self.mint(TENANT, [(who, "transactional", 1, "gmail", day + "T00:00:00Z", 0) for who in self.people])

    def edges(self):
        lines = self.stack.cli("edge", "list", "--json").splitlines()
        return {edge["edge"]: edge for edge in map(json.loads, lines)}

    def retire(self, *words, code=0):
        done = self.stack.cli("edge", "retire", *words, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return (done.stderr if code else done.stdout).decode()

    def settles_by_retirement(self, gone, day):
        """`gone` has closed the day before `day` and is away since."""
        self.stack.wait_for_day(day_text(day_number(day) + 2), 0.5)
        self.assertFalse(os.path.exists(self.release_path(TENANT, "deliverability", day)))
        self.assertIn(f"no edge {gone}x takes part", self.retire(gone + "x", code=1))
        self.assertIn("an edge's id is", self.retire("no edge", code=64))
        text = self.retire(gone)
        self.assertIn(f"no day from {day} on waits for it", text)
        self.assertTrue(self.released(TENANT, "deliverability", day)[1]["complete"])
        wait_until("the list shows it", lambda: self.edges()[gone]["retired"] is not None, 10)
        self.assertEqual(self.edges()[gone]["closed_through"], day_text(day_number(day) - 1))
        with open(self.stack.path("state", "declarations.log"), encoding="utf-8") as log:
            self.assertIn(f"edge retire {gone}\n", log.read())

    def takes_part_again(self, edge):
        wait_until(f"{edge} takes part again", lambda: self.edges()[edge]["retired"] is None, 15)
        since = self.stack.today()
        wait_until(f"{edge} closes days", lambda: (self.edges()[edge]["closed_through"] or "") >= since, 15)


class SingleNode(Retire, unittest.TestCase):
    def restart_edge(self, name):
        self.stack.processes["openveil-ingest"].kill()
        shutil.rmtree(self.stack.path("spool"))
        self.stack.extra = {"ingest": {"edge_id": name}}
        self.stack.write_config()
        self.stack.start_edge()

    def test_a_machine_that_is_replaced(self):
        self.begin()
        self.assertEqual(self.stack.cli("edge", "list"), "")
        tokens = self.tokens(self.day(0))
        self.stack.start_edge()
        self.stack.start_aggregator()
        self.stack.wait_for_day(self.day(0), 0.05)
        self.fetch([request(token) for token in tokens])
        self.stack.wait_for_day(self.day(1), 0.5)
        self.restart_edge("edge-2")
        self.stack.wait_for_day(self.day(2), 0.5)
        self.assertIn("may well be alive", self.retire("edge-2", code=1))
        self.settles_by_retirement("edge-1", self.day(1))
        self.assertTrue(self.released(TENANT, "deliverability", self.day(0))[1]["complete"])
        self.restart_edge("edge-1")
        self.takes_part_again("edge-1")
        self.retire("edge-2", "--force")
        day = self.stack.today()
        self.assertTrue(self.released(TENANT, "deliverability", day)[1]["complete"])


class ThroughKafka(Retire, unittest.TestCase):
    kafka = True
    lead = 14

    def test_one_of_two_edges(self):
        stack = self.stack
        stack.add_edge("edge-2")
        self.begin()
        tokens, later = self.tokens(self.day(0)), self.tokens(self.day(1))
        stack.start_edge(wait=False)
        stack.start_aggregator()
        other = stack.start_member("edge-2")
        stack.wait_for_day(self.day(0), 0.05)
        for address in (stack.pixel_address, stack.members["edge-2"]["address"]):
            self.assertEqual(set(fetch_all(address, [request(token) for token in tokens])), {200})
        stack.wait_for_day(self.day(1), 0.5)
        fetch_all(stack.members["edge-2"]["address"], [request(token) for token in later])
        other.kill()
        self.settles_by_retirement("edge-2", self.day(1))
        other = stack.start_member("edge-2")
        self.takes_part_again("edge-2")
        self.assertNotIn("incomplete", stack.processes["openveil-aggregator"].tail(1000))
        day = stack.today()
        self.assertTrue(self.released(TENANT, "deliverability", day)[1]["complete"])
        self.assertEqual(stack.processes["edge-2"].stop(), 0)


if __name__ == "__main__":
    unittest.main()
