"""The soaks of what is released, with fewer faults: see ../soak."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "soaks"))
import soak_release_once  # noqa: E402
import soak_release_once_kafka  # noqa: E402
from world import in_directory  # noqa: E402


class Soaks(unittest.TestCase):
    def test_releases_of_a_single_node(self):
        in_directory(soak_release_once.soak, 100, 1)

    def test_releases_on_kafka(self):
        in_directory(soak_release_once_kafka.soak, 15, 1)


if __name__ == "__main__":
    unittest.main()
