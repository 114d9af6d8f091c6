"""The log of consent changes on a single node: its files."""
import glob
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from consent_log import ConsentLog  # noqa: E402


class Files(ConsentLog, unittest.TestCase):
    def log_path(self):
        """Of the only partition with a change."""
        paths = [path for path in glob.glob(self.stack.path("state", "consent-log", "*.jsonl"))
                 if os.path.getsize(path) > 0]
        self.assertEqual(len(paths), 1)
        return paths[0]

    def test_what_was_altered_is_named(self):
        self.stack.start_aggregator()
        for i in range(9):
            self.set(f"contact-{i}", "objected", "--wait")
        self.stack.processes["openveil-aggregator"].stop()
        with open(self.log_path(), "rb") as file:
            whole = file.read()
        lines = whole.splitlines(True)
        for altered in (lines[:4] + lines[5:],                                              # one left out
                        lines[:4] + [lines[4].replace(b"objected", b"refused ")] + lines[5:],
                        lines[:4] + [lines[4].replace(b'"s":"objected"', b'"s":"refused"')] + lines[5:],
                        lines[:3] + [lines[4], lines[3]] + lines[5:]):                      # two in another order
            with open(self.log_path(), "wb") as file:
                file.write(b"".join(altered))
            found, done = self.verify()
            self.assertEqual(done.returncode, 1)
            self.assertEqual(max(p["break"] for p in found.values()), 5)
            self.assertIn("broken at epoch 5\n", done.stderr)
        with open(self.log_path(), "wb") as file:
            file.write(b"".join(lines[:7]))  # cut: what was confirmed is missing
        _, done = self.verify()
        self.assertEqual(done.returncode, 1)
        self.assertIn("broken at epoch 8", done.stderr)
        with open(self.log_path(), "wb") as file:
            file.write(whole)
        self.assertEqual(self.verify()[1].returncode, 0)


if __name__ == "__main__":
    unittest.main()
