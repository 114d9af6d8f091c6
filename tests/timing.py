"""What an outsider who asks for pixels can learn of a token, as one test case for quick and long runs: nothing, neither from
the answers' bytes nor from the time they take, nor from the counters (see tests/integration/timing_driver.c)."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "deploy"), os.path.join(ROOT, "tests", "integration")]
import sample  # noqa: E402
from stack import Stack, day_number, http_get, wait_until  # noqa: E402
from test_minting_elsewhere import mint, pseudonym  # noqa: E402

DAY, TENANT, STRANGE_TENANT, STREAM, GMAIL = "2026-11-22", 7, 9, 1, 1
POOL = 4000
KINDS = ("valid", "repeated", "refused", "forged", "unknown tenant", "malformed", "scanner")
REASONS = ("bad_token", "scanner", "not_allowed")
COUNTER = re.compile(r"^(openveil_edge_(?:requests|recorded|drops)_total)(?:\{reason=\"(\w+)\"\})? (\d+)$", re.M)


class Timing:
    """Mix-in of a TestCase: `n_each`, requests of each kind; `n_control`, those of the control."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="openveil-timing-")
        self.stack = Stack(self.dir, os.environ["OPENVEIL_BIN"], rehearsal=(DAY, 86400, -100),
                           extra={"ingest": {"workers": 2}})
        self.stack.start_all()
        cli = self.stack.cli
        cli("keys", "init")
        cli("tenant", "add", str(TENANT), "--stream", f"{STREAM}=receipts", "--exemption-basis", "test")
        self.keys = json.loads(cli("tenant", "export", str(TENANT)))
        lines = "".join(f"left-{i}\tobjected\t2026-01-01\tv1\nstays-{i}\tinformed\t2026-01-01\tv1\n" for i in range(POOL))
        cli("consent", "import", "--tenant", str(TENANT), "-", stdin=lines)
        self.stack.start_edge()
        wait_until("the drop list", lambda: "openveil_edge_drop_list_in_use 1\n" in self.metrics(), 20)

    def tearDown(self):
        self.stack.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def metrics(self):
        return http_get(self.stack.edge_admin, "/metrics")[1]

    # ---- requests

    def token(self, contact, tenant=TENANT):
        name = pseudonym(bytes.fromhex(self.keys["contact_key"]), tenant, contact)
        return mint(bytes.fromhex(self.keys["token_key"]), self.keys["key_id"], tenant, name, day_number(DAY) * 1440,
                    STREAM, GMAIL, 1, 0)

    def tokens(self, kind):
        for i in range(POOL):
            if kind == "repeated":
                yield self.token("stays-0")
            elif kind == "refused":
                yield self.token(f"left-{i}")
            elif kind == "unknown tenant":
                yield self.token(f"stays-{i}", STRANGE_TENANT)
            else:
                token = self.token(f"stays-{i}")
                other = "A" if token[30] != "A" else "B"
                yield {"forged": token[:30] + other + token[31:], "malformed": token[:30] + "!" + token[31:]}.get(kind, token)

    def request(self, kind, path, more=""):
        """All of one length, so that only what they mean can make a difference."""
        agent = sample.SCANNER_AGENT if kind == "scanner" else "Thunderbird"
        return f"GET {path} HTTP/1.1\r\nHost: pixel\r\n{more}User-Agent: {agent:<40}\r\n\r\n".encode()

    def write(self, name, kinds):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as out:
            for number, requests in enumerate(kinds):
                for data in requests:
                    out.write(bytes([number]) + len(data).to_bytes(2, "big") + data)
        return path

    def drive(self, path, n_kinds, n_each, connections, how):
        port = self.stack.pixel_address.rsplit(":", 1)[1]
        done = subprocess.run([self.stack.program("timing_driver"), port, path, str(n_kinds), str(n_each), str(connections),
                               how, str(os.getpid())], check=True, stdout=subprocess.PIPE, timeout=600)
        print(done.stdout.decode().strip(), file=sys.stderr)
        return json.loads(done.stdout)

    # ---- counters

    def watch(self, stop, seen):
        while not stop.wait(0.05):
            seen.append(self.metrics())

    def check_counters(self, texts):
        """In steps of 100, with no label but a reason of the closed list: nobody sees his own request in them."""
        found = set()
        for text in texts:
            for name, reason, value in COUNTER.findall(text):
                self.assertEqual(int(value) % 100, 0, f"{name} {reason}")
                found.add((name, reason))
            self.assertNotRegex(text, r'(?m)^openveil_edge_(requests|recorded)_total\{')
        with open(os.path.join(ROOT, "common", "reasons.h"), encoding="utf-8") as source:
            known = set(re.findall(r"^\s+X\(\w+, (\w+),", source.read().split("AGGREGATOR_REASONS")[0], re.M))
        reasons = {reason for name, reason in found if name == "openveil_edge_drops_total"}
        self.assertEqual(reasons, known)
        self.assertLessEqual(set(REASONS), known)

    # ---- the tests

    def test_no_time_tells_a_token(self):
        path = self.write("kinds", ([self.request(kind, f"/p/{token}.gif") for token in self.tokens(kind)] for kind in KINDS))
        stop, seen = threading.Event(), []
        watcher = threading.Thread(target=self.watch, args=(stop, seen))
        watcher.start()
        try:
            result = self.drive(path, len(KINDS), self.n_each, 16, "kept")
        finally:
            stop.set()
            watcher.join()
        self.assertEqual(result["other_answers"], 0, "not the same bytes for everybody")
        self.assertGreater(result["shifted"], result["bound"], f"{result['shift_us']} µs would not be seen")
        self.assertLessEqual(result["observed"], result["bound"],
                             f"kinds of tokens can be told apart: medians {dict(zip(KINDS, result['medians_us']))}")
        self.check_counters(seen)
        values = {reason or name: int(value) for name, reason, value in COUNTER.findall(self.metrics())}
        each = self.n_each
        expected = {"openveil_edge_requests_total": 7 * each, "openveil_edge_recorded_total": 2 * each,
                    "bad_token": 3 * each, "scanner": each, "not_allowed": each}
        for name, value in expected.items():
            self.assertEqual(values[name], value - value % 100, name)

    def test_another_path_is_told(self):
        """The control: what is answered at once, without waiting for what is durable, is seen by the same eyes."""
        close = "Connection: close\r\n"
        kinds = [[self.request("", f"/p/{token}.gif", close) for token in self.tokens("valid")],
                 [self.request("", f"/q/{token}.gif", close) for token in self.tokens("valid")]]
        result = self.drive(self.write("control", kinds), 2, self.n_control, 16, "fresh")
        self.assertGreater(result["observed"], result["bound"])
