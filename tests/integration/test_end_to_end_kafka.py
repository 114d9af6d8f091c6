"""The mission through a real Kafka broker: see tests/pipeline.py."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from pipeline import Pipeline  # noqa: E402


class ThroughKafka(Pipeline, unittest.TestCase):
    kafka = True
    day_seconds = 16


if __name__ == "__main__":
    unittest.main()
