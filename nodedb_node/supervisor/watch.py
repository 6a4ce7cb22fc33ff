"""When a child is started again, killed or given up: the supervisor's decisions as a pure machine.

Invariant: a child is started again after a wait that doubles with each failure in a row and ends once it has lived
long enough; nothing is started while the node stops. Times are microseconds given by the caller. Processes, signals
and clocks are run.py's part.
"""

from dataclasses import dataclass, field

from nodedb_node.config import SuperviseSection
from nodedb_node.errors import Exit

# A child that ends like this before the node was ready once has said what the user must do; trying again cannot help.
PERMANENT = frozenset({Exit.DATA.value, Exit.CANT_CREATE.value, Exit.IO.value, Exit.CONFIG.value})
FAILURES_BEFORE_READY_MAX = 3


@dataclass
class Child:
    """One process of the node over all its lives."""

    generation: int = 1  # moves on when a life has ended, as in the process table
    running: bool = False
    ready: bool = False
    started_us: int = 0
    start_at_us: int | None = 0  # when to start it; None while it runs or when it never will again
    failures: int = 0  # in a row
    restarts: int = 0


@dataclass
class Watch:
    """All children, by process number."""

    count: int
    limits: SuperviseSection
    children: list[Child] = field(init=False)
    was_ready: bool = False  # every child was ready at one time
    stop_by_us: int | None = None  # set while the node stops: when what is left is killed
    give_up: int | None = None  # exit code, when the node cannot come up

    def __post_init__(self) -> None:
        self.children = [Child() for _ in range(self.count)]

    @property
    def stopping(self) -> bool:
        return self.stop_by_us is not None

    @property
    def ended(self) -> bool:
        return self.stopping and not any(child.running for child in self.children)

    def due(self, now_us: int) -> list[int]:
        """Processes to start now."""
        return [p for p, c in enumerate(self.children) if c.start_at_us is not None and c.start_at_us <= now_us]

    def started(self, process: int, now_us: int) -> None:
        child = self.children[process]
        assert not child.running, f"process {process} runs already"
        child.running, child.ready, child.started_us, child.start_at_us = True, False, now_us, None

    def on_ready(self, process: int, generation: int) -> bool:
        """A child serves. True the one time that this makes the node ready."""
        child = self.children[process]
        if generation != child.generation or not child.running:
            return False  # said by a life that has ended
        child.ready = True
        if self.was_ready or not all(c.ready for c in self.children):
            return False
        self.was_ready = True
        return True

    def on_exit(self, process: int, code: int, now_us: int) -> int | None:
        """A child ended (code < 0: by a signal): the wait in µs before it starts again, None = it will not."""
        child = self.children[process]
        lived_us = now_us - child.started_us
        child.running = child.ready = False
        child.generation += 1
        if self.stopping:
            return None
        child.failures = 1 if lived_us >= self.limits.stable_ms * 1000 else child.failures + 1
        if not self.was_ready and (code in PERMANENT or child.failures >= FAILURES_BEFORE_READY_MAX):
            self.give_up = code if code in PERMANENT else Exit.SOFTWARE.value
            return None
        child.restarts += 1
        wait_us = self._wait_us(child.failures)
        child.start_at_us = now_us + wait_us
        return wait_us

    def _wait_us(self, failures: int) -> int:
        if failures == 1:
            return 0
        doublings = min(failures - 2, 32)
        return min(self.limits.backoff_first_ms << doublings, self.limits.backoff_max_ms) * 1000

    def stalled(self, now_us: int, beats_us: list[int]) -> list[int]:
        """Processes whose loop has not turned for the stall limit; a child that never beat counts from its start."""
        limit_us = self.limits.stall_ms * 1000
        return [
            p
            for p, c in enumerate(self.children)
            if c.running and c.ready and now_us - max(beats_us[p], c.started_us) > limit_us
        ]

    def stop(self, now_us: int) -> None:
        self.stop_by_us = now_us + self.limits.drain_ms * 1000
        for child in self.children:
            child.start_at_us = None

    def overdue(self, now_us: int) -> bool:
        return self.stop_by_us is not None and now_us >= self.stop_by_us

    def next_deadline_us(self) -> int | None:
        times = [c.start_at_us for c in self.children if c.start_at_us is not None]
        if self.stop_by_us is not None:
            times.append(self.stop_by_us)
        return min(times, default=None)
