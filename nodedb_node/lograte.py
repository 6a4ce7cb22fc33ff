"""How often lines about the same kind of trouble may be written: a token bucket per kind. Pure.

Invariant: of each kind at most BURST lines at once and RATE a second after that; every line not written is counted, and
the count is told with the next one of its kind or, when none comes, by overdue(). What clients do wrong must not fill
the disk that the log is on.
"""

BURST = 10
PER_SECOND = 1


class LineRate:
    """Kinds are numbers of the caller's; times are microseconds of one clock."""

    def __init__(self) -> None:
        self._tokens: dict[int, tuple[float, int]] = {}  # at a time
        self._suppressed: dict[int, int] = {}

    def take(self, kind: int, now_us: int) -> int | None:
        """How many of this kind were not written since the last one that was; None = do not write this one either."""
        tokens = self._now(kind, now_us)
        if tokens < 1:
            self.suppress(kind, 1)
            return None
        self._tokens[kind] = (tokens - 1, now_us)
        return self._suppressed.pop(kind, 0)

    def suppress(self, kind: int, count: int) -> None:
        """Of so many nothing is known but the kind: they are told with the others that were not written."""
        self._suppressed[kind] = self._suppressed.get(kind, 0) + count

    def overdue(self, now_us: int) -> list[tuple[int, int]]:
        """(kind, lines not written) of kinds that may write again and had nothing to write since."""
        due = [kind for kind in self._suppressed if self._now(kind, now_us) >= 1]
        return [(kind, count) for kind in due if (count := self.take(kind, now_us))]

    def _now(self, kind: int, now_us: int) -> float:
        tokens, then_us = self._tokens.get(kind, (float(BURST), now_us))
        return min(float(BURST), tokens + PER_SECOND * (now_us - then_us) / 1e6)
