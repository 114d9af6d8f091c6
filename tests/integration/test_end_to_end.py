"""The mission on a single node: see tests/pipeline.py."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from pipeline import Pipeline  # noqa: E402


class SingleNode(Pipeline, unittest.TestCase):
    kafka = False
    day_seconds = 8


if __name__ == "__main__":
    unittest.main()
