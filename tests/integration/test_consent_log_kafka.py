"""The log of consent changes in its topic, with a real Kafka."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from consent_log import ConsentLog  # noqa: E402


class Topic(ConsentLog, unittest.TestCase):
    kafka = True


if __name__ == "__main__":
    unittest.main()
