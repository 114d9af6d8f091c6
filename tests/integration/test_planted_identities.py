"""A thousand planted identities on a single node (see tests/planted.py), and no program leaves a core dump."""
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from planted import Planted  # noqa: E402
from stack import Stack, wait_until  # noqa: E402


class SingleNode(Planted, unittest.TestCase):
    kafka = False
    n_identities = 1000
    day_seconds = 10


def as_large_as_allowed():
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))


class CoreDumps(unittest.TestCase):
    """Started where core dumps are allowed, a program that crashes leaves none: neither a file nor one for a handler."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="openveil-core-")
        self.stack = Stack(self.dir.name, os.environ["OPENVEIL_BIN"])
        self.stack.start_all()
        self.stack.cli("keys", "init")
        self.stack.cli("tenant", "add", "7", "--stream", "1=receipts")

    def tearDown(self):
        self.stack.stop()
        self.dir.cleanup()

    def crash(self, argv, prepared):
        """Whether it was dumped, and the limit that it had set itself."""
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 cwd=self.dir.name, preexec_fn=as_large_as_allowed)
        try:
            wait_until(f"start of {argv[0]}", lambda: prepared(child.pid), 20)
            with open(f"/proc/{child.pid}/limits", encoding="utf-8") as text:
                limit = next(line for line in text if line.startswith("Max core file size")).split()[4:6]
            child.send_signal(signal.SIGSEGV)
            _, status = os.waitpid(child.pid, 0)
            child.returncode = status
            self.assertTrue(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV, argv[0])
            return os.WCOREDUMP(status), limit
        finally:
            if child.returncode is None:
                child.kill()
                child.wait()
            child.stdin.close()

    @staticmethod
    def waits(pid):
        """In a read or a poll: whatever a program does first is done."""
        with open(f"/proc/{pid}/stat", encoding="utf-8") as text:
            waiting = text.read().rsplit(")", 1)[1].split()[0] == "S"
        time.sleep(0.3)
        return waiting

    def test_no_program_dumps(self):
        config = ["--config", self.stack.config]
        programs = {
            "openveil-ingest": [], "openveil-aggregator": [],
            "openveil": ["token", "mint", "--tenant", "7"],
        }
        dumped, _ = self.crash(["sleep", "60"], self.waits)
        for name, words in programs.items():
            gone, limit = self.crash([self.stack.program(name), *config, *words], self.waits)
            self.assertEqual(limit, ["0", "0"], name)
            self.assertFalse(gone, name)
        if not dumped:
            self.skipTest("this machine dumps nothing at all, so only the limits could be looked at")


if __name__ == "__main__":
    unittest.main()
