"""When to dial a peer, and when queries to it are refused at once. Pure: now and a random number come in.

Invariant: one dial at a time per peer, never two closer than the backoff says; the wait is 50 ms for as long as a
restart takes, then doubles to 2 s, with jitter, and an end of a session that worked is answered at once. The breaker
knows connectivity only: what a peer answers never opens it, and half-open lets one probe through.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

BACKOFF_FIRST_US = 50_000
BACKOFF_MAX_US = 2_000_000
QUICK_DIALS = 40  # a peer that restarts is back within these
# A session shorter than this proved nothing: a peer that accepts and drops must not be dialled in a circle.
PROVEN_US = 1_000_000


class Reach:
    """The dialling of one lane."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0
        self._due_us: int | None = 0
        self._up_since_us = 0
        self.dials = 0
        self.last_failure = ""

    def due_us(self) -> int | None:
        """When to dial; None while a dial or a session is there."""
        return self._due_us

    def dialling(self) -> None:
        assert self._due_us is not None, "one dial at a time"
        self._due_us = None
        self.dials += 1

    def failed(self, now_us: int, why: str) -> None:
        """The dial came to nothing."""
        self.last_failure = why
        wait = min(BACKOFF_MAX_US, BACKOFF_FIRST_US << min(max(0, self._failures - QUICK_DIALS), 10))
        self._failures += 1
        self._due_us = now_us + int(wait * (0.5 + self._random() / 2))

    def up(self, now_us: int) -> None:
        self._due_us = None
        self._up_since_us = now_us

    def lost(self, now_us: int, why: str) -> None:
        """The session ended."""
        if now_us - self._up_since_us >= PROVEN_US:
            self._failures = 0
            self.last_failure = why
            self._due_us = now_us
        else:
            self.failed(now_us, why)

    def wake(self, now_us: int) -> None:
        """News of the peer: dial now, if there is nothing yet."""
        self._failures = 0
        if self._due_us is not None:
            self._due_us = min(self._due_us, now_us)


class BreakerState(Enum):
    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


FAILURES_TO_OPEN = 3
OPEN_US = 500_000


class Breaker:
    """For queries to one lane: fail at once while it cannot be reached, instead of after a deadline each."""

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._open_until_us = 0
        self._probing = False
        self.refused = 0

    def admit(self, now_us: int) -> int:
        """0 = go on, otherwise the ms after which to ask again."""
        if self.state is BreakerState.CLOSED:
            return 0
        if now_us >= self._open_until_us and not self._probing:
            self.state, self._probing = BreakerState.HALF_OPEN, True
            return 0
        self.refused += 1
        return max(1, (self._open_until_us - now_us) // 1000)

    def connected(self) -> None:
        self.state, self._failures, self._probing = BreakerState.CLOSED, 0, False

    def unreachable(self, now_us: int) -> None:
        """A dial failed, or the session was lost."""
        self._failures += 1
        self._probing = False
        if self._failures >= FAILURES_TO_OPEN or self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
            self._open_until_us = now_us + OPEN_US
