"""The mission, end to end, as one test case for both modes: mails with a pixel, opened by a real browser, curl and raw
sockets, become released, anonymous numbers and a list-cleaning answer, while edge and aggregator are killed on the way.
"""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "deploy"))
import sample  # noqa: E402
from stack import Stack, day_number, day_text, http_get, wait_until  # noqa: E402

TENANT, OTHER_TENANT = 7, 4294967295
NOTICE = "notice-1"
START_DAY = "2026-11-27"
DAYS = ["2026-11-27", "2026-11-28", "2026-11-29"]
LAST_DAY = "2026-11-30"
CLEAN_DAY = "2026-12-01"
INACTIVE_DAYS = 90
HORIZON_DAYS = 1
# |discrete Laplace noise| at epsilon = 1 exceeds 25 with a probability of 1e-11 a cell.
NOISE_BOUND = 25
FORWARDED_FOR = "203.0.113.77"
BROWSER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:102.0) Gecko/20100101 Thunderbird/102.15.1 planted-agent-4711"


class Pipeline:
    """Mixed into a unittest.TestCase that sets `kafka` and `day_seconds`."""
    kafka = False
    day_seconds = 8

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-e2e-")
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], kafka=self.kafka,
                           rehearsal=(START_DAY, self.day_seconds, 10),
                           release={"horizon_days": HORIZON_DAYS, "epsilon": "1/1", "threshold": 11},
                           extra={"ingest": {"trusted_cidrs": "127.0.0.0/8"}})
        self.outputs = []
        self.tokens = []

    def tearDown(self):
        self.stack.stop()
        failed = any(error for _, error in self._outcome.result.failures + self._outcome.result.errors)
        if failed:
            print(f"kept for a look: {self.dir}", file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def cli(self, *words, **more):
        output = self.stack.cli(*words, **more)
        if isinstance(output, str):
            if words[:2] not in (("token", "mint"), ("tenant", "export")) and words[0] != "clean":
                self.outputs.append(output)
        return output

    # ---- the sender

    def prepare(self):
        self.sender = sample.Sender(TENANT, 1500, day_number("2025-06-01"), day_number("2026-10-15"), seed=11)
        self.sender.give_history(day_number("2026-11-20"), day_number("2026-06-01"))
        self.cli("keys", "init")
        self.cli("tenant", "add", str(TENANT), "--stream", "1=receipts", "--stream", "2=newsletter",
                 "--exemption-basis", "test", "--inactive-days", str(INACTIVE_DAYS))
        self.cli("tenant", "add", str(OTHER_TENANT), "--stream", "1=other")
        with open(self.stack.path("consent.in"), "w", encoding="utf-8") as out:
            out.write(self.sender.consent_lines(day_text, NOTICE))
        self.cli("consent", "import", "--tenant", str(TENANT), self.stack.path("consent.in"))

    def bring_history(self):
        with open(self.stack.path("history.in"), "w", encoding="utf-8") as out:
            out.write(self.sender.history_lines(day_text))
        self.cli("last-open", "import", "--tenant", str(TENANT), "--measured-since", "2026-06-01",
                 self.stack.path("history.in"))

    def mint(self, mails):
        lines = "".join(f"{c.id}\t{kind}\t{stream}\t{c.provider}\t{day_text(sent)}T00:00:00Z\n"
                        for c, kind, stream, sent in mails)
        tokens = self.cli("token", "mint", "--tenant", str(TENANT), stdin=lines).split()
        self.assertEqual(len(tokens), len(mails))
        self.tokens.extend(tokens)
        return tokens

    def send_surely(self, requests):
        """Sends until every request has been answered 200, across crashes; returns (answered, sent)."""
        left = list(requests)
        sent = 0
        end = time.monotonic() + 60
        while left:
            self.assertLess(time.monotonic(), end, "the edge did not answer in a minute")
            answered, tried = self.send_once(left[:64])
            sent += tried
            left = left[answered:]
            if answered == 0:
                time.sleep(0.05)
        return len(requests), sent

    def send_once(self, requests):
        """One connection, pipelined by 16: (how many of the first ones were answered 200, how many were sent)."""
        host, port = self.stack.pixel_address.rsplit(":", 1)
        answered = sent = 0
        try:
            with socket.create_connection((host, int(port)), 5) as link:
                reader = link.makefile("rb")
                for at in range(0, len(requests), 16):
                    part = requests[at:at + 16]
                    link.sendall(b"".join(part))
                    sent += len(part)
                    for _ in part:
                        if sample.read_reply(reader) != 200:
                            return answered, sent
                        answered += 1
        except OSError:
            pass
        return answered, sent

    def request(self, token, agent):
        head = f"GET /p/{token}.gif HTTP/1.1\r\nHost: pixel\r\nX-Forwarded-For: {FORWARDED_FOR}\r\n"
        return (head + f"User-Agent: {agent}\r\n\r\n").encode()

    def note(self, day, answered, sent):
        low, high = self.requests.get(day, (0, 0))
        self.requests[day] = (low + answered, high + sent)

    # ---- the days

    def mail_day(self, day, late):
        number = day_number(day)
        rng = self.sender.rng
        mails = [(c, "transactional", 1, number) for c in rng.sample(self.sender.contacts, 500)]
        mails += [(c, "requested", 2, number) for c in rng.sample(self.sender.contacts, 200)]
        tokens = self.mint(mails)
        opened, tomorrow = [], []
        for mail, token in zip(mails, tokens):
            (tomorrow if rng.random() < 0.15 else opened).append((mail, token))
        requests = []
        for (contact, kind, stream, sent), token in opened + late:
            requests.append(self.request(token, sample.AGENTS[contact.provider]))
            self.sender.note_open(contact, kind, stream, sent, number)
        requests += [self.request(token, sample.SCANNER_AGENT) for token in tokens[:60]]
        requests += [self.request("A" * 51, sample.AGENTS["gmail"]) for _ in range(40)]
        rng.shuffle(requests)
        self.note(day, *self.send_surely(requests))
        return opened, tomorrow

    def browser_and_curl(self, day):
        """An HTML mail in headless Chromium, with a mail client's agent, and a person's curl with a browser's agent."""
        number = day_number(day)
        allowed = [c for c in self.sender.contacts if c.allowed_on(number) and c.provider == "orange"][:2]
        tokens = self.mint([(c, "transactional", 1, number) for c in allowed])
        mail = self.stack.path("mail.html")
        with open(mail, "w", encoding="utf-8") as out:
            out.write('<p>Your receipt.</p>'
                      f'<img src="http://{self.stack.pixel_address}/p/{tokens[0]}.gif" width=1 height=1>')
        before = self.recorded()
        subprocess.run([chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                        "--disable-background-networking", "--disable-component-update", "--disable-sync",
                        "--user-data-dir=" + tempfile.mkdtemp(dir=self.dir), "--user-agent=" + BROWSER_AGENT,
                        "--screenshot=" + self.stack.path("mail.png"), "file://" + mail],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        os.unlink(mail)  # it held a token, as a mail does
        opened_on = self.stack.today()
        done = subprocess.run(["curl", "-sS", "-A", BROWSER_AGENT, "-o", "/dev/null", "-w",
                               "%{http_code} %{size_download}", f"http://{self.stack.pixel_address}/p/{tokens[1]}.gif"],
                              check=True, stdout=subprocess.PIPE, timeout=20)
        self.assertEqual(done.stdout, b"200 43")
        self.assertIsNotNone(before)
        for contact in allowed:
            self.sender.note_open(contact, "transactional", 1, number, day_number(opened_on))
        self.note(opened_on, 2, 2)

    def recorded(self):
        return http_get(self.stack.edge_admin, "/metrics")[1]

    def withdraw(self, day, mails):
        """After their opens were recorded; they must be in no number that is released later."""
        for contact in {mail[0].id: mail[0] for mail, _ in mails[:40]}.values():
            if contact.state in sample.ALLOWING:
                self.cli("consent", "set", "--tenant", str(TENANT), "--contact", contact.id, "--state", "withdrawn",
                         "--since", day, "--notice", NOTICE)
                contact.state = "withdrawn"

    def kill_sometimes(self, stop):
        """kill -9 of edge and aggregator, one after the other, while opens are sent."""
        names = ["openveil-ingest", "openveil-aggregator"]
        turn = 0
        while not stop.wait(1.3):
            name = names[turn % 2]
            turn += 1
            self.stack.processes[name].kill()
            self.stack.start_edge(wait=False) if name == "openveil-ingest" else self.stack.start_aggregator(wait=False)
        self.kills = turn

    # ---- the test

    def test_mission(self):
        self.requests = {}
        self.stack.start_all()
        self.stack.start_unix_s = None
        self.stack.write_config()
        self.prepare()
        self.stack.start_edge()
        self.stack.start_aggregator()
        self.bring_history()
        self.stack.wait_for_day(DAYS[0], 0.02)
        opened, late = self.mail_day(DAYS[0], [])
        self.browser_and_curl(DAYS[0])
        self.stack.wait_for_day(DAYS[1], 0.02)
        stop = threading.Event()
        killer = threading.Thread(target=self.kill_sometimes, args=(stop,))
        killer.start()
        try:
            opened, late = self.mail_day(DAYS[1], late)
            time.sleep(1.5)
        finally:
            stop.set()
            killer.join()
        self.assertGreater(self.kills, 0)
        self.withdraw(DAYS[1], opened)
        self.stack.wait_for_day(DAYS[2], 0.02)
        opened, late = self.mail_day(DAYS[2], late)
        self.stack.wait_for_day(LAST_DAY, 0.02)
        self.mail_day(LAST_DAY, late)
        self.stack.wait_for_day(CLEAN_DAY, 0.02)
        self.check_releases()
        if self.kafka:
            self.check_topics()
        self.check_accounting()
        self.check_cleaning()
        self.check_withdrawal_at_once()
        self.check_promises()
        self.outputs.append(self.recorded())
        self.outputs.append(http_get(self.stack.aggregator_admin, "/metrics")[1])
        for name in ("openveil-ingest", "openveil-aggregator"):
            self.assertEqual(self.stack.processes[name].stop(), 0, f"{name} must drain and exit 0 on SIGTERM")
        self.check_no_identity_left()

    def check_releases(self):
        aggregator = self.stack.processes["openveil-aggregator"]
        for period in DAYS:
            path = self.stack.path("releases", str(TENANT), f"deliverability-{period}.json")
            wait_until(f"release of {period}", lambda: os.path.exists(path), 3 * self.day_seconds, aggregator)
            with open(path, encoding="utf-8") as text:
                line = json.load(text)
            self.assertEqual((line["schema"], line["kind"], line["tenant"], line["period"], line["rehearsal"]),
                             ("openveil.release.v1", "deliverability", TENANT, period, True))
            self.assertTrue(line["complete"], f"{period} must be complete")
            self.assertEqual(len(line["cells"]), 2 * 14 * 2)
            truth = self.sender.deliverability(day_number(period), HORIZON_DAYS)
            self.assertGreater(sum(truth.values()), 200)
            for cell in line["cells"]:
                true = truth[(cell["stream"], cell["provider"], cell["fetch"])]
                if cell["contacts"] is None:
                    self.assertLess(true, 11 + NOISE_BOUND, cell)
                else:
                    self.assertGreaterEqual(cell["contacts"], 11)
                    self.assertLess(abs(cell["contacts"] - true), NOISE_BOUND, cell)
            with open(path, encoding="utf-8") as text:
                self.outputs.append(text.read())

    def check_topics(self):
        """In Kafka the released lines are the files' bytes, and no timestamp is more precise than a day."""
        def read(topic, fields):
            return subprocess.run(["kcat", "-C", "-e", "-q", "-b", f"127.0.0.1:{self.stack.kafka_port}", "-t", topic,
                                   "-X", "isolation.level=read_committed", "-f", fields],
                                  check=True, stdout=subprocess.PIPE, timeout=60).stdout.decode()
        lines = dict(row.split("\t", 1) for row in read("openveil.releases", "%k\t%s\n").splitlines())
        for period in DAYS:
            with open(self.stack.path("releases", str(TENANT), f"deliverability-{period}.json"), encoding="utf-8") as text:
                self.assertEqual(lines[f"{TENANT}/deliverability/{period}"] + "\n", text.read())
        for topic in ("openveil.events", "openveil.state", "openveil.releases"):
            times = {int(row) for row in read(topic, "%T\n").splitlines()}
            self.assertTrue(all(time_ms % 86400000 == 0 for time_ms in times), topic)

    def check_accounting(self):
        for day in DAYS + [LAST_DAY]:
            done = None

            def closed():
                nonlocal done
                done = self.stack.cli("audit", "--day", day, "--exact", "--json", check=False)
                return done.returncode != 2
            wait_until(f"close of {day}", closed, 2 * self.day_seconds)
            text = done.stdout.decode()
            self.assertEqual(done.returncode, 0, text + done.stderr.decode())
            self.outputs.append(text)
            requests = json.loads(text)["requests"]
            low, high = self.requests[day]
            self.assertTrue(low <= requests <= high, f"{day}: {requests} requests, but {low} answered of {high} sent")

    def clean(self, contacts, *more):
        data = "".join(c.id + "\n" for c in contacts)
        return self.cli("clean", "--tenant", str(TENANT), "--class", "requested", *more, stdin=data)

    def check_cleaning(self):
        wait_until("the frozen answer", lambda: self.stack.cli(
            "clean", "--tenant", str(TENANT), "--class", "requested", stdin="x\n", check=False).returncode == 0,
            2 * self.day_seconds)
        answer = self.clean(self.sender.contacts)
        first = day_number(CLEAN_DAY)
        truth = "".join(f"{c.id}\t{int(self.sender.inactive(c, first, INACTIVE_DAYS))}\n" for c in self.sender.contacts)
        self.assertEqual(answer, truth)
        self.assertGreater(truth.count("\t1\n"), 20)

    def check_withdrawal_at_once(self):
        first = day_number(CLEAN_DAY)
        contact = next(c for c in self.sender.contacts if self.sender.inactive(c, first, INACTIVE_DAYS))
        self.assertEqual(self.clean([contact], "--accept-share"), f"{contact.id}\t1\n")
        self.cli("consent", "set", "--tenant", str(TENANT), "--contact", contact.id, "--state", "objected",
                 "--since", self.stack.today(), "--notice", NOTICE)
        self.assertEqual(self.clean([contact]), f"{contact.id}\t0\n")

    def check_promises(self):
        self.assertIn("14 promises checked, 0 broken\n", self.cli("verify", "--tenant", str(TENANT), "--ledger"))
        retention = self.cli("audit", "--retention")
        self.assertNotIn("OVER", retention)
        self.assertRegex(retention, r"last-open days of contacts +[1-9]")

    def check_no_identity_left(self):
        """What was sent must be nowhere; pseudonyms only in events, state and Redis."""
        for name in ("consent.in", "history.in"):
            os.unlink(self.stack.path(name))
        secret = [c.id.encode() for c in self.sender.contacts] + [t.encode() for t in self.tokens]
        secret += [FORWARDED_FOR.encode(), b"planted-agent-4711"]
        secret += [a.encode() for a in sample.AGENTS.values() if len(a) > 20]
        opened = json.loads(self.stack.cli("token", "open", self.tokens[0], "--json"))
        pseudonym = opened["pseudonym"].encode()
        pattern = re.compile(b"|".join(re.escape(s) for s in secret))
        allowed = tuple(self.stack.path(d) for d in ("spool", "state", "redis", "kafka"))
        looked = 0
        for folder, _, names in os.walk(self.dir):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.basename(folder) == "keys" or not os.path.isfile(path) or "Default" in folder:
                    continue
                with open(path, "rb") as file:
                    data = file.read()
                looked += 1
                found = pattern.search(data)
                self.assertIsNone(found, f"{path} holds {found and found.group()[:60]}")
                if not folder.startswith(allowed):
                    self.assertNotIn(pseudonym, data, path)
                    self.assertNotIn(bytes.fromhex(pseudonym.decode()), data, path)
        self.assertGreater(looked, 5)
        for text in self.outputs:
            self.assertIsNone(pattern.search(text.encode()))
            self.assertNotIn(pseudonym.decode(), text)


def chromium():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path:
            return path
    raise AssertionError("chromium is missing: run deploy/install-deps --tests")
