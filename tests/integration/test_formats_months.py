"""A month's end: the inactivity line, the list-cleaning answer with its borders, and a window that a dead edge keeps
from being complete."""
import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from formats import APPLE, CURL, NOISE_BOUND, READER, Scenario, request  # noqa: E402
from stack import wait_until  # noqa: E402

BASIS, NO_BASIS, YEAR, UNMEASURED, TOO_SHORT = 7, 8, 9, 10, 11
DAY1, DAY2, FIRST, LAST = "2026-11-29", "2026-11-30", "2026-12-01", "2026-12-02"
EARLY = "2025-01-01"
# With E = 2026-12-01: E-90 is 2026-09-02, E-180 2026-06-04, E-365 2025-12-01, E-366 2025-11-30.

# group: (contacts, consent, day of the last open brought in)
BUCKETS = {
    "today": (20, [("informed", EARLY)], None),  # opens on the month's last day
    "d30": (40, [("informed", EARLY)], "2026-10-31"),
    "d31": (100, [("informed", EARLY)], "2026-10-30"),
    "d90": (50, [("granted", EARLY)], "2026-09-01"),
    "d91": (70, [("informed", EARLY)], "2026-08-31"),
    "d180": (60, [("informed", EARLY)], "2026-06-03"),
    "d181": (90, [("informed", EARLY)], "2026-06-02"),
    "d365": (80, [("informed", EARLY)], "2025-11-30"),
    "d366": (110, [("informed", EARLY)], "2025-11-29"),
    "silent": (130, [("informed", "2025-11-29")], None),
    "promoted": (60, [("informed", EARLY), ("granted", "2026-10-01")], None),
    "a-day-short": (200, [("informed", "2025-11-30")], None),
    "new": (200, [("informed", "2026-10-01")], "2026-11-15"),
    "left": (150, [("informed", EARLY), ("objected", "2026-10-01")], "2026-09-15"),
}
EXPECTED = {BASIS: {"0-30": 60, "31-90": 150, "91-180": 130, "181-365": 170, "none-recorded": 300},
            NO_BASIS: {"0-30": 0, "31-90": 50, "91-180": 0, "181-365": 0, "none-recorded": 0}}

# contact of BASIS (N = 90): (consent, brought day, opens as (class, stream, regime, agent), answers for the mail's
# (class, regime) requested 0, requested 1, transactional 0, prospecting 0)
ANSWERS = {
    "since-before": ([("informed", "2026-09-01")], None, [], "1010"),
    "since-on-it": ([("informed", "2026-09-02")], None, [], "0000"),
    "granted-before": ([("granted", "2026-09-01")], None, [], "1111"),
    "granted-late": ([("informed", EARLY), ("granted", "2026-10-01")], None, [], "1010"),
    "open-outside": ([("informed", EARLY)], "2026-09-01", [], "1010"),
    "open-inside": ([("informed", EARLY)], "2026-09-02", [], "0000"),
    "opened": ([("informed", EARLY)], None, [("requested", 2, 0, READER)], "0000"),
    "opened-by-machine": ([("informed", EARLY)], None, [("requested", 2, 0, APPLE)], "0000"),
    "scanned": ([("informed", EARLY)], None, [("requested", 2, 0, CURL)], "1010"),
    "opened-transactional": ([("informed", EARLY)], None, [("transactional", 1, 0, READER)], "0000"),
    "opened-unknown-stream": ([("informed", EARLY)], None, [("transactional", 999, 0, READER)], "0000"),
    "opened-prospecting": ([("informed", EARLY)], None, [("prospecting", 2, 0, READER)], "1010"),
    "granted-prospecting": ([("granted", EARLY)], None, [("prospecting", 2, 0, READER)], "0000"),
    "opened-aggregate": ([("granted", EARLY)], None, [("requested", 2, 2, READER)], "1111"),
    "opened-consent-only": ([("informed", EARLY)], None, [("requested", 2, 1, READER)], "1010"),
    "nobody": ([], None, [("requested", 2, 0, READER)], "0000"),
    "withdrawn": ([("granted", EARLY), ("withdrawn", "2026-11-01")], None, [], "0000"),
    "back": ([("granted", EARLY), ("withdrawn", "2026-05-01"), ("granted", "2026-10-01")], None, [], "0000"),
}
LISTS = [("requested", "0"), ("requested", "1"), ("transactional", "0"), ("prospecting", "0")]


class Months(Scenario, unittest.TestCase):
    start_day = DAY1
    day_seconds = 7
    release = {"epsilon": "1/1", "threshold": 11, "horizon_days": 1, "deadline_hours": 6}

    def bring_everything(self):
        cli = self.stack.cli
        cli("keys", "init")
        for tenant, days, basis in ((BASIS, 90, True), (NO_BASIS, 180, False), (YEAR, 365, True),
                                    (UNMEASURED, 90, True), (TOO_SHORT, 180, True)):
            cli("tenant", "add", str(tenant), "--stream", "1=receipts", "--stream", "2=news", "--inactive-days",
                str(days), *(("--exemption-basis", "a ground") if basis else ()))
        people = {f"{name}-{i}": (consent, day) for name, (count, consent, day) in BUCKETS.items()
                  for i in range(count)}
        people.update({name: (consent, day) for name, (consent, day, _, _) in ANSWERS.items()})
        for tenant in (BASIS, NO_BASIS):
            self.import_consent(tenant, [(who, *row) for who, (consent, _) in people.items() for row in consent])
            history = "".join(f"{who}\t{day}\n" for who, (_, day) in people.items() if day)
            cli("last-open", "import", "--tenant", str(tenant), "--measured-since", "2025-10-01",
                self.write(f"history-{tenant}.in", history))
        borders = [("before", "informed", "2025-11-30"), ("on", "informed", "2025-12-01")]
        self.import_consent(YEAR, borders)
        cli("last-open", "import", "--tenant", str(YEAR), "--measured-since", "2025-12-01", stdin="")
        cli("last-open", "import", "--tenant", str(TOO_SHORT), "--measured-since", "2026-06-05", stdin="")

    def clean(self, tenant, text, *more, code=0):
        words = ("clean", "--tenant", str(tenant), "--class", "requested", *more)
        done = self.stack.cli(*words, stdin=text, check=False)
        self.assertEqual(done.returncode, code, (words, done.stdout[:300], done.stderr))
        if code:
            self.assertEqual(done.stdout, b"")
            return done.stderr.decode()
        return done.stdout.decode()

    def check_answers(self):
        names = list(ANSWERS)
        text = "".join(name + "\n" for name in names)
        for i, (mail, regime) in enumerate(LISTS):
            answer = self.stack.cli("clean", "--tenant", str(BASIS), "--class", mail, "--regime", regime,
                                    "--accept-share", stdin=text)
            self.assertEqual(answer, "".join(f"{name}\t{ANSWERS[name][3][i]}\n" for name in names), (mail, regime))
        self.assertEqual(self.clean(YEAR, "before\non\n", "--accept-share"), "before\t1\non\t0\n")
        self.clean(UNMEASURED, "x\n", code=4)
        self.clean(TOO_SHORT, "x\n", code=4)

    def check_lines(self):
        many = "".join(f"new-{i}\n" for i in range(7))
        ones = "granted-before\nsince-before\nscanned\n"
        self.assertEqual(self.clean(BASIS, ones + many).count("\t1\n"), 3, "30 per cent is not too much")
        self.assertIn("30", self.clean(BASIS, ones + many[:-6], code=5))
        self.clean(BASIS, ones + many, "--max-share", "29", code=5)
        self.assertEqual(self.clean(BASIS, f"granted-before\t4\ngranted-before\t5\ngranted-before\n{many}"),
                         "granted-before\t0\ngranted-before\t1\ngranted-before\t1\n" + many.replace("\n", "\t0\n"))
        token = self.mint(BASIS, [("scanned", "requested", 2, "gmail", DAY1 + "T00:00:00Z", 0)])[0]
        pseudonym = json.loads(self.stack.cli("token", "open", token, "--json"))["pseudonym"]
        self.assertEqual(self.clean(BASIS, f"{pseudonym}\t9\n", "--pseudonyms", "--accept-share"), f"{pseudonym}\t1\n")
        for bad in ("", "a\t", "a\tx", "a\t-1", "a\t1\t2", "a\r", "é" * 129):
            self.assertIn("line 2", self.clean(BASIS, f"scanned\n{bad}\nscanned\n", "--accept-share", code=1), bad)
        for bad in ("scanned", pseudonym + "0", pseudonym[:-1]):
            self.assertIn("line 1", self.clean(BASIS, bad + "\n", "--pseudonyms", code=1))
        self.assertEqual(self.clean(BASIS, ""), "")

    def check_changes_after_the_first(self):
        """An open changes nothing until the next month; leaving acts at once."""
        self.fetch([request(self.mint(BASIS, [("scanned", "requested", 2, "gmail", FIRST + "T00:00:00Z", 0)])[0])])
        self.stack.cli("consent", "set", "--tenant", str(BASIS), "--contact", "granted-before", "--state", "withdrawn",
                       "--since", FIRST, "--notice", "n")

    def check_inactivity(self):
        text, line = self.released(BASIS, "inactivity", "2026-11")
        self.assertTrue(text.startswith(
            f'{{"schema":"openveil.release.v1","kind":"inactivity","tenant":{BASIS},"period":"2026-11",'
            f'"complete":true,"rehearsal":true,"mechanism":"discrete-laplace","epsilon":"1/1","threshold":11,'
            f'"rules":['), text)
        for tenant, expected in EXPECTED.items():
            text, line = self.released(tenant, "inactivity", "2026-11")
            self.assertEqual([list(cell) for cell in line["cells"]], [["days_since_open", "contacts"]] * 5)
            self.assertEqual([cell["days_since_open"] for cell in line["cells"]], list(expected))
            for cell in line["cells"]:
                # The contacts of ANSWERS are in it too.
                true = expected[cell["days_since_open"]]
                self.assertLess(abs((cell["contacts"] or 0) - true), NOISE_BOUND + len(ANSWERS), (tenant, text))

    def opens(self):
        opened = {DAY1: [], DAY2: []}
        for name, (_, _, opens, _) in ANSWERS.items():
            for mail, stream, regime, agent in opens:
                token, = self.mint(BASIS, [(name, mail, stream, "gmail", DAY1 + "T00:00:00Z", regime)])
                opened[DAY1].append(request(token, agent))
        mails = [(f"today-{i}", "requested", 2, "orange", DAY2 + "T00:00:00Z", 0) for i in range(20)]
        opened[DAY2] = [request(token) for token in self.mint(BASIS, mails)]
        late = [(f"silent-{i}", "transactional", 1, "orange", DAY2 + "T00:00:00Z", 0) for i in range(130)]
        return opened, [request(token) for token in self.mint(BASIS, late)]

    def check_late_edge(self):
        """The edge died with opens in its open segment: the deadline ends the wait, and what comes later changes nothing.
        """
        text, line = self.released(BASIS, "deliverability", DAY2)
        self.assertGreaterEqual(self.stack.now_days() % 1, 0.25)
        self.assertFalse(line["complete"])
        self.assertEqual(self.stack.cli("audit", "--day", FIRST, check=False).returncode, 2)
        self.stack.start_edge()
        self.assertEqual(self.audit(FIRST)["requests"], 131)
        self.assertEqual(self.released(BASIS, "deliverability", DAY2)[0], text)
        lines = self.stack.cli("releases", "--tenant", str(BASIS), "--kind", "deliverability", "--json")
        self.assertIn(text, lines)
        self.assertNotIn("inactivity", lines)
        self.stack.cli("releases", "--tenant", str(BASIS))

    def test_month(self):
        self.start_stores()
        self.bring_everything()
        opened, late = self.opens()
        self.stack.start_edge()
        self.stack.start_aggregator()
        self.assertLess(self.stack.today(), DAY1, "the set-up took too long for the lead")
        for day, requests in opened.items():
            self.stack.wait_for_day(day, 0.03)
            self.fetch(requests)
        self.assertIn(FIRST, self.clean(BASIS, "x\n", code=3))
        self.stack.wait_for_day(FIRST, 0.03)
        wait_until("the frozen answer", lambda: self.stack.cli(
            "clean", "--tenant", str(BASIS), "--class", "requested", stdin="x\n", check=False).returncode != 3, 5)
        self.check_answers()
        self.check_lines()
        self.check_changes_after_the_first()
        self.fetch(late)
        self.assertEqual(self.stack.today(), FIRST)
        self.stack.processes["openveil-ingest"].kill()
        self.check_inactivity()
        self.stack.wait_for_day(LAST, 0.2)
        self.assertFalse(os.path.exists(self.release_path(BASIS, "deliverability", DAY2)))
        self.check_late_edge()
        self.assertEqual(self.clean(BASIS, "scanned\ngranted-before\n", "--accept-share"),
                         "scanned\t1\ngranted-before\t0\n")


if __name__ == "__main__":
    unittest.main()
