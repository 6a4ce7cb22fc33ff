"""When a worker's rows are written to its environment, and when its log may forget.

Invariant: the log is told of an applied index only after the checkpoint that carries it is durable. At most one
checkpoint runs. It is started by the bytes of changed rows, by the bytes of log that it would let go (at their bound,
or any while disk space is short), and by a start that applied entries: so a node that crashes again and again, or
writes the same few rows, keeps no more log than its bound. Never by time: an idle worker writes nothing. A checkpoint
that finds the disk full is tried again later; any other failure ends the worker. The writing itself is a C thread's
part (csrc/store.h).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from nodedb_node import log
from nodedb_node.native.store import GroupCut

RETRY_US = 2_000_000


class Rows(Protocol):
    """Of nodedb_node.native.store.Store, what a checkpoint needs."""

    def wants_checkpoint(self, asked: bool) -> bool: ...
    def checkpoint_begin(self, cuts: list[GroupCut]) -> None: ...
    def checkpoint_end(self) -> bool | None: ...


class KeptLog(Protocol):
    """Of the worker's log, what a checkpoint needs."""

    replayed: int  # entries that the start applied

    def closed_bytes(self) -> int:
        """Of all segments closed so far, those found at the start and those that died since included."""

    def nospace(self) -> bool:
        """The disk is below its floor of free space."""

    def carried(self, group: int, applied: int) -> bytes:
        """What the checkpoint must hold of the group beside its rows: its configuration, term and vote."""

    def compact(self, applied: dict[int, int]) -> None:
        """A durable checkpoint holds each group's entries up to applied[group]."""


class Checkpointer:
    """Drives the checkpoints of one worker."""

    def __init__(
        self,
        rows: Rows,
        kept: KeptLog,
        groups: Sequence[int],
        applied: Callable[[int], tuple[int, int]],
        log_bytes_max: int,
    ) -> None:
        """applied(group) = (index, term)."""
        self._rows = rows
        self._kept = kept
        self._groups = groups
        self._applied = applied
        self._log_bytes_max = log_bytes_max
        self._after_replay = kept.replayed > 0
        self._closed = 0  # bytes of log that the last durable checkpoint may have let go
        self._closed_cut = 0  # and the running one will
        self._cut: dict[int, int] = {}
        self._began_us = 0
        self._retry_us = 0

    @property
    def running(self) -> bool:
        return bool(self._cut)

    def maybe_begin(self, now_us: int) -> bool:
        """Start one if rows or log ask for it and none runs."""
        if self._cut or now_us < self._retry_us or not self._rows.wants_checkpoint(self._log_asks()):
            return False
        self.begin(now_us)
        return True

    def _log_asks(self) -> bool:
        closed = self._kept.closed_bytes() - self._closed
        return self._after_replay or closed > self._log_bytes_max or (closed > 0 and self._kept.nospace())

    def begin(self, now_us: int) -> None:
        """Freeze what is applied now and start writing it."""
        assert not self._cut
        cuts = []
        for group in self._groups:
            index, term = self._applied(group)
            cuts.append(GroupCut(group, index, term, self._kept.carried(group, index)))
            self._cut[group] = index
        self._closed_cut = self._kept.closed_bytes()
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
        self._after_replay, self._closed = False, self._closed_cut
        self._kept.compact(cut)
        return (now_us - self._began_us) // 1000
