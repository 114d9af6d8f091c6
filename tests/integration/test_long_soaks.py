"""The soaks with a tenth of their counts: see ../soak."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "soaks"))
import soak_aggregator_kill  # noqa: E402
import soak_edge_kill  # noqa: E402
import soak_journal_damage  # noqa: E402
import soak_spool_damage  # noqa: E402
import soak_withdrawals  # noqa: E402
from world import in_directory  # noqa: E402


class Soaks(unittest.TestCase):
    def test_the_edge_is_killed(self):
        in_directory(soak_edge_kill.soak, 20, 1)

    def test_aggregators_are_killed(self):
        in_directory(soak_aggregator_kill.soak, 15, 1)

    def test_the_journal_is_damaged(self):
        in_directory(soak_journal_damage.soak, 30, 1)

    def test_the_spool_is_damaged(self):
        in_directory(soak_spool_damage.soak, 20, 1)

    def test_withdrawals_while_redis_fails(self):
        in_directory(soak_withdrawals.soak, 10000, 1)


if __name__ == "__main__":
    unittest.main()
