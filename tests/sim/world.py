"""The simulated world: virtual time, one queue of events, one source of chance, one trace.

Invariant: everything that happens is an event of this queue or a consequence of one, in an order that only the seed
decides: two runs with one seed have equal digests, also under different PYTHONHASHSEEDs. The trace takes whole numbers
only, as Python hashes text differently in each process. It knows nothing of nodes.
"""

import random
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

MASK = (1 << 64) - 1
AT_ONCE_MAX = 20_000


class Violation(AssertionError):
    """A checker found that a promise was broken."""


class World:
    """Owner of the clock. Times are microseconds since the run began."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self._random = self.rng.random
        self.now_us = 0
        self.events = 0  # messages, ticks and disk completions so far: what a run is measured in
        self.faults: Counter[str] = Counter()
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._digest = seed & MASK

    def at(self, when_us: int, function: Callable[..., None], *arguments: Any) -> None:
        """Call function(*arguments) at that time; what is due at one time happens in the order it was asked for."""
        self._number = number = self._number + 1
        heappush(self._queue, (when_us if when_us > self.now_us else self.now_us, number, function, arguments))

    def after(self, delay_us: int, function: Callable[..., None], *arguments: Any) -> None:
        self._number = number = self._number + 1
        heappush(self._queue, (self.now_us + delay_us, number, function, arguments))

    def run(self, events: int, until_us: int) -> None:
        """Let one thing happen after the other until so many events were counted, this time has come, or nothing is
        left to happen."""
        queue, at_once = self._queue, 0
        while queue and self.events < events and self.now_us < until_us:
            when_us, _, function, arguments = heappop(queue)
            if when_us != self.now_us:
                self.now_us, at_once = when_us, 0
            else:
                at_once += 1
                if at_once > AT_ONCE_MAX:
                    raise Violation("time stands still: somebody asks to be called at once, again and again")
            function(*arguments)

    def trace(self, *numbers: int) -> None:
        """Put these into the digest, with the time."""
        self._digest = hash((self._digest, self.now_us, numbers))

    @property
    def digest(self) -> str:
        """Of everything traced so far, and of the state of the source of chance: 16 hexadecimal digits."""
        last = self.rng.getstate()[1][-1]
        return f"{hash((self._digest, self.now_us, self.events, last)) & MASK:016x}"

    # ---- chance ----

    def chance(self, probability: float) -> bool:
        return probability > 0 and self._random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self._random() * (high - low + 1))

    def fault(self, name: str) -> None:
        """Count one injected fault."""
        self.faults[name] += 1
