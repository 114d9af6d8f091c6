"""Ten thousand planted identities in both modes: see tests/planted.py."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from planted import Planted  # noqa: E402


class SingleNode(Planted, unittest.TestCase):
    kafka = False
    n_identities = 10000
    day_seconds = 20


class Kafka(Planted, unittest.TestCase):
    kafka = True
    n_identities = 10000
    day_seconds = 40


if __name__ == "__main__":
    unittest.main()
