"""One seed for the random tests of a run: NODEDB_TEST_SEED, which tools/test sets and prints; a new one without it."""

import os
import random


def run_seed() -> int:
    return int(os.environ.get("NODEDB_TEST_SEED") or random.SystemRandom().randrange(1 << 30))
