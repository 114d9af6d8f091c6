"""No time and no byte tells one token from another, in a few seconds: see tests/timing.py."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from timing import Timing  # noqa: E402


class Quick(Timing, unittest.TestCase):
    n_each = 5000
    n_control = 1000


if __name__ == "__main__":
    unittest.main()
