"""No time and no byte tells one token from another, in a hundred thousand requests of each kind: see tests/timing.py."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from timing import Timing  # noqa: E402


class Long(Timing, unittest.TestCase):
    n_each = 100000
    n_control = 5000


if __name__ == "__main__":
    unittest.main()
