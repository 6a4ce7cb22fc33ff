"""The facts about one node at one moment, from which readiness, the status document and the metrics are computed.

Invariant: everything the admin endpoints say is a pure function of one NodeFacts (and, for rates, an earlier one), so that a
table of facts tests it. It reads nothing itself: sources.py does. Words of a counter block are each whole but were written at
slightly different moments; nothing here relates two of them exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from msgspec import Struct


class Histogram(Struct, frozen=True):
    """Counts by power of two: buckets[i] counts values v with 2^(i-1) <= v < 2^i, buckets[0] v = 0, the last is open."""

    count: int
    sum: int
    buckets: tuple[int, ...]

    def minus(self, earlier: Histogram) -> Histogram:
        """What was added since `earlier`; everything, when the process was restarted in between."""
        if earlier.count > self.count:
            return self
        buckets = tuple(now - before for now, before in zip(self.buckets, earlier.buckets, strict=True))
        return Histogram(self.count - earlier.count, self.sum - earlier.sum, buckets)

    def quantile(self, share: float) -> int:
        """An upper bound of the value below which `share` of the values lie; 0 when there are none."""
        assert 0.0 <= share <= 1.0
        total = sum(self.buckets)
        seen = 0
        for exponent, count in enumerate(self.buckets):
            seen += count
            if total and seen >= share * total:
                return (1 << exponent) - 1
        return 0


class Block(Struct, frozen=True):
    """One process's counters (csrc/metrics.h) by name."""

    values: Mapping[str, int]
    histograms: Mapping[str, Histogram]


class State(Enum):
    """What the supervisor knows of a process."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DOWN = "down"


class Usage(Struct, frozen=True):
    """What the kernel says a process uses."""

    cpu_seconds: float
    resident_bytes: int
    pss_bytes: int
    threads: int
    open_files: int


class ProcessFacts(Struct, frozen=True, kw_only=True):
    """One process of the node. `usage` is None when it is gone; `heartbeat_age_ms` is None when it never ran its loop."""

    name: str
    worker: int | None
    state: State
    pid: int
    generation: int
    heartbeat_age_ms: int | None
    counters: Block
    usage: Usage | None
    cores: tuple[int, ...] = ()
    port: int | None = None
    groups: int = 0
    vshards: int = 0

    @property
    def restarts(self) -> int:
        """How often the process was started again."""
        return max(0, self.generation - 1)


class Disk(Struct, frozen=True):
    """The file system of the data directory."""

    size_bytes: int
    free_bytes: int


class Limits(Struct, frozen=True, kw_only=True):
    """Settings that facts are judged by; units are in config.py."""

    floor_bytes: int
    dirty_bytes_max: int
    stall_ms: int


class NodeFacts(Struct, frozen=True, kw_only=True):
    """One node at one moment. Times: `now_ms` and `started_ms` are wall clock, ages come from CLOCK_BOOTTIME."""

    version: str
    node_id: str
    cluster_id: str
    generation: int
    now_ms: int
    started_ms: int
    data_dir: str
    groups: int
    clients_host: str
    clients_port: int
    http_host: str
    http_port: int
    draining: bool
    disk: Disk | None
    control: ProcessFacts
    workers: tuple[ProcessFacts, ...]
    limits: Limits

    @property
    def processes(self) -> tuple[ProcessFacts, ...]:
        """Control first, then the workers in order."""
        return (self.control, *self.workers)
