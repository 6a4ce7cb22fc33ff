"""When a worker's rows are written to its environment, and when its log may forget.

Invariant: the log is told of an applied index only after the checkpoint that carries it is durable. At most one
checkpoint runs; it is started by the bytes of changed rows, never by time, so an idle worker writes nothing. A
checkpoint that finds the disk full is tried again later; any other failure ends the worker. The writing itself is a C
thread's part (csrc/store.h).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from nodedb_node import log
from nodedb_node.native.store import GroupCut

RETRY_US = 2_000_000


class Rows(Protocol):
    """Of nodedb_node.native.store.Store, what a checkpoint needs."""

    def wants_checkpoint(self) -> bool: ...
    def checkpoint_begin(self, cuts: list[GroupCut]) -> None: ...
    def checkpoint_end(self) -> bool | None: ...


class Checkpointer:
    """Drives the checkpoints of one worker."""

    def __init__(
        self,
        rows: Rows,
        groups: Sequence[int],
        applied: Callable[[int], tuple[int, int]],
        forget: Callable[[dict[int, int]], None],
    ) -> None:
        """applied(group) = (index, term); forget(index by group) lets the log drop what a checkpoint holds."""
        self._rows = rows
        self._groups = groups
        self._applied = applied
        self._forget = forget
        self._cut: dict[int, int] = {}
        self._began_us = 0
        self._retry_us = 0

    @property
    def running(self) -> bool:
        return bool(self._cut)

    def maybe_begin(self, now_us: int) -> bool:
        """Start one if the changed rows ask for it and none runs."""
        if self._cut or now_us < self._retry_us or not self._rows.wants_checkpoint():
            return False
        self.begin(now_us)
        return True

    def begin(self, now_us: int) -> None:
        """Freeze what is applied now and start writing it."""
        assert not self._cut
        cuts = []
        for group in self._groups:
            index, term = self._applied(group)
            cuts.append(GroupCut(group, index, term, b""))
            self._cut[group] = index
        self._began_us = now_us
        self._rows.checkpoint_begin(cuts)

    def on_thread(self, now_us: int) -> int | None:
        """The thread's descriptor is readable; the duration in ms when a checkpoint has become durable."""
        done = self._rows.checkpoint_end()
        if done is False:
            return None
        cut, self._cut = self._cut, {}
        if done is None:
            self._retry_us = now_us + RETRY_US
            log.warning("checkpoint found no disk space", retry_ms=RETRY_US // 1000)
            return None
        self._forget(cut)
        return (now_us - self._began_us) // 1000
