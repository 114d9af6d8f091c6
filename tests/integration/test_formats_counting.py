"""Who may be counted, what counts as an open, and where: every row of the rules is a group of contacts with a stream
of its own, so that the released cells say for each row whether it was counted."""
import base64
import hashlib
import json
import os
import re
import signal
import socket
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from formats import APPLE, BROWSER, CURL, GMAIL, NOISE_BOUND, READER, ROOT, Scenario, read_reply, request  # noqa: E402
from stack import http_get  # noqa: E402

TENANT, SECOND, NO_BASIS = 7, 4294967295, 8
SENT, NEXT, THIRD, CLEAN = "2026-11-28", "2026-11-29", "2026-11-30", "2026-12-01"
LONG_AGO = "2025-06-01"
GROUP = 60
PROVIDERS = ["other", "gmail", "outlook", "yahoo", "icloud", "orange", "free", "sfr", "laposte", "gmx", "web.de",
             "t-online", "libero", "proton"]
SEC_PURPOSE = "Sec-Purpose: prefetch;anonymous-client-ip\r\n"
PAIR = 100   # a group's second stream is PAIR above its first one
SPLIT = 20   # rows before this one belong to TENANT, the others to SECOND: a tenant has at most 32 streams

# name: consent as [(state, since)], tokens as (class, regime), agent, more options, the expected cells as a set of
# (fetch,) in the group's own stream with provider "gmail", or (stream offset, provider, fetch).
PERSON, MACHINE, NOTHING = {(0, "gmail", "person")}, {(0, "gmail", "machine")}, set()
INFORMED, GRANTED = [("informed", LONG_AGO)], [("granted", LONG_AGO)]
ROWS = [
    # FORMATS 4: state, class, regime
    ("informed, exemption", INFORMED, {}, PERSON),
    ("informed, consent only", INFORMED, {"regime": 1}, NOTHING),
    ("informed, aggregate only", INFORMED, {"regime": 2}, NOTHING),
    ("granted, exemption", GRANTED, {}, PERSON),
    ("granted, consent only", GRANTED, {"regime": 1}, PERSON),
    ("granted, aggregate only", GRANTED, {"regime": 2}, NOTHING),
    ("no record", [], {}, NOTHING),
    ("refused", [("refused", LONG_AGO)], {}, NOTHING),
    ("withdrawn", GRANTED + [("withdrawn", "2025-07-01")], {}, NOTHING),
    ("objected", INFORMED + [("objected", "2025-07-01")], {}, NOTHING),
    ("back after objecting", INFORMED + [("objected", "2025-07-01"), ("granted", "2025-08-01")], {}, PERSON),
    ("requested mail", GRANTED, {"class": "requested"}, NOTHING),
    ("prospecting mail", GRANTED, {"class": "prospecting"}, NOTHING),
    # the day of the state against the day of the open
    ("informed on the day", [("informed", SENT)], {}, NOTHING),
    ("informed the day before", [("informed", "2026-11-27")], {}, PERSON),
    ("informed from tomorrow", [("informed", NEXT)], {}, NOTHING),
    ("granted on the day, informed long", INFORMED + [("granted", SENT)], {}, PERSON),
    ("granted on the day, consent only", INFORMED + [("granted", SENT)], {"regime": 1}, NOTHING),
    ("withdrawn after the open", GRANTED, {"leaves": True}, NOTHING),
    # FORMATS 5 and the fetch classes
    ("Gmail's proxy", INFORMED, {"agent": GMAIL}, PERSON),
    ("Apple's prefetch", INFORMED, {"agent": APPLE}, MACHINE),
    ("no agent", INFORMED, {"agent": None}, MACHINE),
    ("curl", INFORMED, {"agent": CURL}, NOTHING),
    ("a browser that prefetches", INFORMED, {"extra": SEC_PURPOSE}, MACHINE),
    ("another agent", INFORMED, {"agent": BROWSER}, PERSON),
    ("another agent within a minute", INFORMED, {"agent": BROWSER, "sent": SENT + "T23:59:59Z"}, MACHINE),
    ("a proxy within a minute", INFORMED, {"agent": GMAIL, "sent": SENT + "T23:59:59Z"}, PERSON),
    ("HEAD", INFORMED, {"method": "HEAD"}, NOTHING),
    # FORMATS 6: one cell a contact, the smallest
    ("opened twice", INFORMED, {"again": [{}]}, PERSON),
    ("machine first", INFORMED, {"agent": APPLE, "again": [{"agent": READER}]}, PERSON),
    ("machine later", INFORMED, {"again": [{"agent": APPLE}]}, PERSON),
    ("two streams", INFORMED, {"offset": PAIR, "again": [{"offset": 0}]}, PERSON),
    ("person before stream", INFORMED, {"agent": APPLE, "again": [{"agent": READER, "offset": PAIR}]},
     {(PAIR, "gmail", "person")}),
    ("two providers", INFORMED, {"provider": "proton", "again": [{"provider": "gmail"}]}, PERSON),
    ("unknown provider", INFORMED, {"provider": 200}, {(0, "other", "person")}),
    ("stream before provider", INFORMED, {"provider": "proton", "again": [{"offset": PAIR, "provider": "other"}]},
     {(0, "proton", "person")}),
    # the window
    ("opened the next day", INFORMED, {"on": NEXT}, PERSON),
    ("opened two days after", INFORMED, {"on": THIRD}, NOTHING),
    ("opened on both days", INFORMED, {"agent": APPLE, "again": [{"agent": READER, "on": NEXT}]}, PERSON),
]


class Counting(Scenario, unittest.TestCase):
    def contacts(self, group):
        return [f"group-{group}-{i}" for i in range(GROUP)]

    def rows(self, tenant):
        return [(i, *row) for i, row in enumerate(ROWS) if (i < SPLIT) == (tenant == TENANT)]

    def add_tenants(self):
        self.stack.cli("keys", "init")
        self.streams = {}
        for tenant in (TENANT, SECOND):
            self.streams[tenant] = {i + 1 + extra for i, _, _, how, _ in self.rows(tenant)
                                    for extra in {0, *(o.get("offset", 0) for o in [how, *how.get("again", [])])}}
            words = [word for n in sorted(self.streams[tenant]) for word in ("--stream", f"{n}=row-{n}")]
            self.stack.cli("tenant", "add", str(tenant), *words, "--exemption-basis", "a ground")
        self.stack.cli("tenant", "add", str(NO_BASIS), "--stream", "1=zero", "--stream", "2=one", "--stream", "3=idle")

    def bring_consent(self, early):
        """What was decided before the first day, or then."""
        for tenant in (TENANT, SECOND):
            self.import_consent(tenant, [(contact, state, since) for i, _, states, _, _ in self.rows(tenant)
                                         for contact in self.contacts(i) for state, since in states
                                         if (since < SENT) == early])
        if early:
            self.import_consent(NO_BASIS, [(f"{state}-{i}", state, LONG_AGO) for state in ("informed", "granted")
                                           for i in range(GROUP)])

    def prepare_fetches(self):
        """{day: requests}, in the rows' order."""
        days = {SENT: [], NEXT: [], THIRD: []}
        for tenant in (TENANT, SECOND):
            plan = [{**how, **options, "contact": contact, "row": i} for i, _, _, how, _ in self.rows(tenant)
                    for options in ({}, *how.get("again", [])) for contact in self.contacts(i)]
            tokens = self.mint(tenant, [
                (one["contact"], one.get("class", "transactional"), one["row"] + 1 + one.get("offset", 0),
                 one.get("provider", "gmail"), one.get("sent", SENT + "T00:00:00Z"), one.get("regime", 0))
                for one in plan])
            for token, one in zip(tokens, plan, strict=True):
                days[one.get("on", SENT)].append(request(token, one.get("agent", READER),
                                                         method=one.get("method", "GET"), extra=one.get("extra", "")))
        other = [(f"{state}-{i}", "transactional", stream, "gmail", SENT + "T00:00:00Z", stream - 1)
                 for state in ("informed", "granted") for stream in (1, 2) for i in range(GROUP)]
        days[SENT] += [request(token) for token in self.mint(NO_BASIS, other)]
        return days

    def send(self, requests):
        heads = [r for r in requests if r.startswith(b"HEAD")]
        self.fetch([r for r in requests if not r.startswith(b"HEAD")])
        self.send_heads(heads)
        return len(requests) - len(heads)

    def send_heads(self, heads):
        if not heads:
            return
        host, port = self.stack.pixel_address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as link, link.makefile("rb") as stream:
            link.sendall(b"".join(heads))
            for _ in heads:
                self.assertEqual(read_reply(stream, True)[0], 200)

    def bad_tokens(self):
        """Every single-bit change of a token, and what is no token at all."""
        token = self.mint(TENANT, [("group-0-0", "transactional", 1, "gmail", SENT + "T00:00:00Z", 0)])[0]
        raw = base64.urlsafe_b64decode(token + "=")
        changed = []
        for bit in range(8 * len(raw)):
            other = bytearray(raw)
            other[bit // 8] ^= 0x80 >> bit % 8
            changed.append(base64.urlsafe_b64encode(bytes(other)).decode().rstrip("="))
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        last = alphabet.index(token[-1])
        changed += [token[:-1] + alphabet[last ^ low] for low in (1, 2, 3)]
        changed += [token + "=", token[:-1], token + "A", token[:10], "", "%41" + token[1:]]
        return [request(t) for t in changed]

    def test_rows(self):
        self.start_stores()
        self.add_tenants()
        self.bring_consent(True)
        days = self.prepare_fetches()
        bad = self.bad_tokens()
        self.stack.start_edge()
        self.stack.start_aggregator()
        self.assertLess(self.stack.today(), SENT, "the set-up took too long for the lead")
        sent = {}
        for day, more in ((SENT, bad), (NEXT, []), (THIRD, [])):
            self.stack.wait_for_day(day, 0.03)
            if day == SENT:
                self.bring_consent(False)
            sent[day] = self.send(days[day]) + len(more)
            if more:
                self.fetch(more)
            self.assertEqual(self.stack.today(), day)
            if day == SENT:
                self.leave()
                self.stop_redis_for_a_while()
        first = self.released(TENANT, "deliverability", SENT)
        self.check_shape(*first)
        self.check_rows(TENANT, first[1])
        self.check_rows(SECOND, self.released(SECOND, "deliverability", SENT)[1])
        self.check_no_basis()
        for day, count in sent.items():
            answer = self.audit(day)
            self.assertEqual(answer["requests"], count, answer)
            if day == SENT:
                self.assertEqual(answer["edge_drops"]["bad_token"], len(bad), answer)
        self.check_what_audit_and_metrics_tell()
        self.assertEqual(self.released(TENANT, "deliverability", SENT)[0], first[0], "a line is drawn once")

    def check_what_audit_and_metrics_tell(self):
        """Terms only of days with 1,000 recorded; counters in steps of 100."""
        large, small = (json.loads(self.stack.cli("audit", "--day", day, "--json")) for day in (SENT, NEXT))
        self.assertGreaterEqual(large["recorded"], 1000)
        self.assertTrue(small["meets"])
        for term in ("requests", "recorded", "counted", "repeated", "edge_drops", "aggregator_drops"):
            self.assertNotIn(term, small)
        for address in (self.stack.edge_admin, self.stack.aggregator_admin):
            text = http_get(address, "/metrics")[1]
            self.assertTrue(text.endswith("# EOF\n"))
            counters = re.findall(r"^(\S*(?:requests|drop|events|recorded|counted|repeated)\S*_total\S*) (\d+)$", text,
                                  re.M)
            self.assertNotEqual(counters, [], text)
            for name, value in counters:
                self.assertEqual(int(value) % 100, 0, name)

    def leave(self):
        i = [name for name, *_ in ROWS].index("withdrawn after the open")
        self.import_consent(TENANT, [(contact, "withdrawn", SENT) for contact in self.contacts(i)])

    def stop_redis_for_a_while(self):
        os.kill(self.stack.processes["redis"].pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(self.stack.processes["redis"].pid, signal.SIGCONT)

    def check_shape(self, text, line):
        with open(os.path.join(ROOT, "common", "data", "fetch-classes.txt"), "rb") as file:
            rules = hashlib.sha256(file.read()).hexdigest()
        head = (f'{{"schema":"openveil.release.v1","kind":"deliverability","tenant":{TENANT},"period":"{SENT}",'
                f'"complete":true,"rehearsal":true,"mechanism":"discrete-laplace","epsilon":"1/1","threshold":11,'
                f'"rules":["{rules}"],"cells":[{{"stream":1,"stream_name":"row-1","provider":')
        self.assertTrue(text.startswith(head), text[:500])
        self.assertTrue(text.endswith("}]}\n") and text.count("\n") == 1)
        cells = {(c["stream"], c["provider"], c["fetch"]) for c in line["cells"]}
        self.assertEqual(len(line["cells"]), len(cells))
        self.assertEqual(cells, {(stream, provider, fetch) for stream in self.streams[TENANT] for provider in PROVIDERS
                                 for fetch in ("person", "machine")})
        for cell in line["cells"]:
            self.assertEqual(list(cell), ["stream", "stream_name", "provider", "fetch", "contacts"])
            self.assertEqual(cell["stream_name"], f"row-{cell['stream']}")
            self.assertTrue(cell["contacts"] is None or cell["contacts"] >= 11)

    def check_rows(self, tenant, line):
        expected = {(i + 1 + offset, provider, fetch): name for i, name, _, _, where in self.rows(tenant)
                    for offset, provider, fetch in where}
        wrong = []
        for cell in line["cells"]:
            key = (cell["stream"], cell["provider"], cell["fetch"])
            number = cell["contacts"]
            right = number is not None and abs(number - GROUP) < NOISE_BOUND if key in expected \
                else (number or 0) <= NOISE_BOUND
            if not right:
                row = ROWS[(cell["stream"] - 1) % PAIR][0]
                wrong.append(f"{row}: {key} has {number}, expected about {GROUP if key in expected else 0}")
        self.assertEqual(wrong, [])

    def check_no_basis(self):
        text, line = self.released(NO_BASIS, "deliverability", SENT)
        seen = {(c["stream"], c["provider"], c["fetch"]) for c in line["cells"] if (c["contacts"] or 0) > NOISE_BOUND}
        self.assertEqual(seen, {(2, "gmail", "person")}, text)


if __name__ == "__main__":
    unittest.main()
