"""One seed for the random tests of a run: NODEDB_TEST_SEED, which tools/test sets and prints; a new one without it."""

import os
import random


def run_seed() -> int:
    """The run's seed; printed, so that pytest shows it with whatever fails."""
    seed = int(os.environ.get("NODEDB_TEST_SEED") or random.SystemRandom().randrange(1 << 30))
    print(f"NODEDB_TEST_SEED={seed}")
    return seed


def chosen(parameter: str) -> int:
    """The seed that a test's parameter names: a number, or "run" for the run's.

    Never the number drawn: pytest's parallel workers must find tests of the same names.
    """
    return run_seed() if parameter == "run" else int(parameter)
