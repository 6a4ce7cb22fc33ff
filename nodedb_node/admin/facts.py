"""The facts about one node at one moment, from which readiness, the status document and the metrics are computed.

Invariant: everything the admin endpoints say is a pure function of one NodeFacts (and, for rates, an earlier one),
so that a table of facts tests it. It reads nothing itself: sources.py does. Words of a counter block are each whole
but were written at slightly different moments; nothing here relates two of them exactly.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

from msgspec import Struct

from nodedb_node.ids import Process
from nodedb_node.native.metrics import Block
from nodedb_node.transport.board import LaneBoard


class State(Enum):
    """What the supervisor knows of a process."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DOWN = "down"


class Life(NamedTuple):
    """A process as the supervisor's table has it; once it is down, `generation` is that of its next life."""

    state: State
    pid: int
    generation: int


class Usage(Struct, frozen=True):
    """What the kernel says a process uses."""

    cpu_seconds: float
    resident_bytes: int
    pss_bytes: int
    threads: int
    open_files: int


class ProcessFacts(Struct, frozen=True, kw_only=True):
    """One process. `usage` is None when it is gone or was not asked for, `heartbeat_age_ms` before its first turn."""

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


class PeerFacts(Struct, frozen=True, kw_only=True):
    """How peers know each other. Times are seconds since 1970, 0 = there is none (insecure, or not made yet)."""

    insecure: bool = False
    insecure_warnings: int = 0
    certificate_not_after_s: int = 0
    authority_not_after_s: int = 0
    list_next_update_s: int = 0
    authorities: int = 0
    trust_generation: int = 0


class NodeFacts(Struct, frozen=True, kw_only=True):
    """One node at one moment. `now_us` and `started_us` are CLOCK_BOOTTIME, `wall_ms` is milliseconds since 1970."""

    version: str
    node_id: str
    cluster_id: str
    generation: int
    now_us: int
    started_us: int
    wall_ms: int
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
    peers: PeerFacts = PeerFacts()
    admin_refusals: int = 0  # requests without the token, since control started
    lanes: tuple[tuple[str, LaneBoard], ...] = ()  # by process, of those that have one

    @property
    def uptime_seconds(self) -> float:
        """Since the node was started."""
        return (self.now_us - self.started_us) / 1e6

    @property
    def processes(self) -> tuple[ProcessFacts, ...]:
        """Control first, then the workers in order."""
        return (self.control, *self.workers)


class Lives(Protocol):
    """Where lives and counters are read: shared memory, or a table in a test."""

    def life(self, process: Process) -> Life:
        """What the supervisor has written about a process."""

    def block(self, process: Process) -> Block:
        """A process's counters."""
