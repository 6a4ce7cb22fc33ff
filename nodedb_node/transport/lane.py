"""What a process keeps per lane of a peer: where it is, the session in use, queues, transfers. State only; hub acts."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from nodedb_node.ids import NodeId, Process
from nodedb_node.rpc.frame import Kind
from nodedb_node.transport.bulk import Outgoing
from nodedb_node.transport.interface import Address
from nodedb_node.transport.queues import ClassQueue
from nodedb_node.transport.reach import Breaker, Reach


class Figures(Struct):
    """Counted since the process started, for metrics and status."""

    sessions: int = 0  # greeted, in all
    refused_in: int = 0  # connections that we refused
    refused_out: int = 0  # of ours that a peer refused
    lost: int = 0
    dials: int = 0
    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    calls: int = 0
    calls_unknown: int = 0
    calls_late: int = 0
    full: int = 0
    unknown_types: int = 0
    duplicates: int = 0  # requests asked again that were not done again
    bulk_bytes_in: int = 0
    bulk_bytes_out: int = 0
    refusals: dict[str, int] = {}


class Lane:
    """One process of a peer."""

    def __init__(self, peer: NodeId, lane: Process, random: Callable[[], float]) -> None:
        self.peer = peer
        self.lane = lane
        self.address: Address | None = None
        self.link: int | None = None  # the session to send on
        self.generation = 0
        self.version = 0
        self.reach = Reach(random)
        self.breaker = Breaker()
        self.queues = {kind: ClassQueue(kind) for kind in (Kind.CONTROL, Kind.LOG, Kind.QUERY)}
        self.bulk_link: int | None = None
        self.bulk_reach = Reach(random)
        self.bulk_idle_us = 0
        self.outgoing: dict[int, Outgoing] = {}

    @property
    def queued_bytes(self) -> int:
        return sum(queue.bytes for queue in self.queues.values())


class LaneStatus(Struct, frozen=True):
    """A lane for status and metrics."""

    peer: NodeId
    lane: Process
    address: str
    up: bool
    generation: int
    version: int
    queued_bytes: int
    breaker: str
    dials: int
    last_failure: str
    transfers: int


def status_of(lane: Lane) -> LaneStatus:
    where = lane.address
    return LaneStatus(
        peer=lane.peer,
        lane=lane.lane,
        address=f"{where.host}:{where.port}" if where else "",
        up=lane.link is not None,
        generation=lane.generation,
        version=lane.version,
        queued_bytes=lane.queued_bytes,
        breaker=lane.breaker.state.name.lower(),
        dials=lane.reach.dials,
        last_failure=lane.reach.last_failure,
        transfers=len(lane.outgoing),
    )
