"""The same figures for every loop of the control process: runs, time, errors by kind, last run.

Invariant: a run is counted whether it ends well or not, and an error never ends the loop that reports here. It
keeps totals only; rates are the reader's business. It owns no task and no clock: the caller times its runs.
"""

from __future__ import annotations


class LoopMetrics:
    """Totals of one loop."""

    __slots__ = ("errors", "last_error", "name", "runs", "seconds")

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs = 0
        self.seconds = 0.0
        self.errors: dict[str, int] = {}
        self.last_error = ""

    def ran(self, seconds: float) -> None:
        """One run took `seconds`."""
        self.runs += 1
        self.seconds += seconds

    def failed(self, error: Exception) -> None:
        """The run being timed ended in `error`."""
        kind = type(error).__name__
        self.errors[kind] = self.errors.get(kind, 0) + 1
        self.last_error = f"{kind}: {error}"[:200]


class LoopRegistry:
    """The loops of this process by name, in order of registration."""

    def __init__(self) -> None:
        self._loops: dict[str, LoopMetrics] = {}

    def add(self, name: str) -> LoopMetrics:
        """The figures of a new loop; each name once."""
        assert name not in self._loops
        self._loops[name] = LoopMetrics(name)
        return self._loops[name]

    def all(self) -> tuple[LoopMetrics, ...]:
        """Every loop."""
        return tuple(self._loops.values())
