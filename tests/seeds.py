"""One seed for the random tests of a run: NODEDB_TEST_SEED, which tools/test sets and prints; a new one without it."""

import os
import random
import time
import warnings
from collections.abc import Iterator


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


def rounds(most: int) -> Iterator[random.Random]:
    """The source of chance for mutations, `most` times, or for FUZZ_SECONDS; warnings are errors: a peer must not fill
    our standard error."""
    seed = run_seed()
    print(f"NODEDB_TEST_SEED={seed}")
    random_ = random.Random(seed)
    seconds = float(os.environ.get("FUZZ_SECONDS", "0"))
    deadline, done = time.monotonic() + seconds, 0
    with warnings.catch_warnings(action="error"):
        while time.monotonic() < deadline if seconds else done < most:
            yield random_
            done += 1
    print(f"{done} mutations")
