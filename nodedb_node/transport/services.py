"""What a lane answers by itself: echo, routed requests for vShards that are not here, bulk that is thrown away. Pure.

Invariant: a routed request is judged before its payload is looked at: cluster epoch, then owner, then kind; what no
part has taken is `unsupported`, so a newer peer learns it instead of waiting. Parts that have messages of their own
come before this (Raft, metadata, transactions): they get the arrivals that are theirs and leave the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from nodedb_node.errors import UNREADABLE
from nodedb_node.ids import VShard
from nodedb_node.rpc import envelope
from nodedb_node.rpc.envelope import EpochFence
from nodedb_node.rpc.messages import Type
from nodedb_node.rpc.status import AnyStatus, Internal, Unsupported, WrongOwner
from nodedb_node.transport.interface import Answer, Arrival, BulkOffer, BulkSink, PeerDown, PeerUp, Transport

DISCARD = "discard"  # purpose of a transfer that measures the way
DISCARD_BYTES_MAX = 1 << 30


class Services:
    """interface.Handlers of a process. owned: the routing epoch of a vShard that is this process's, else None."""

    def __init__(self, owned: Callable[[VShard], int | None], fence: EpochFence) -> None:
        self.transport: Transport | None = None
        self.changed: Callable[[PeerUp | PeerDown], None] = lambda event: None
        self.fence = fence
        self.dropped = 0  # one-way messages that nobody here knows
        self._owned = owned

    def on_frame(self, arrival: Arrival) -> None:
        if arrival.id == 0:
            self.dropped += 1
            return
        assert self.transport is not None, "set before the endpoint opens"
        self.transport.reply(arrival, self._answer(arrival))

    def on_peer(self, event: PeerUp | PeerDown) -> None:
        self.changed(event)

    def on_bulk(self, offer: BulkOffer) -> BulkSink | AnyStatus:
        if offer.purpose != DISCARD or offer.size > DISCARD_BYTES_MAX:
            return Unsupported(Type.BULK_OPEN)
        return Discard()

    def _answer(self, arrival: Arrival) -> Answer | AnyStatus:
        match arrival.type:
            case Type.ECHO:
                return Answer(arrival.body)
            case Type.ROUTED:
                return self._routed(arrival)
            case _:
                return Unsupported(arrival.type)

    def _routed(self, arrival: Arrival) -> AnyStatus:
        try:
            request = envelope.decode(arrival.body)
        except UNREADABLE as error:
            return Internal(f"not an envelope: {error}")
        stale = self.fence.judge(request.cluster_epoch)
        if stale is not None:
            return stale
        epoch = self._owned(request.vshard)
        if epoch is None or epoch != request.epoch:
            return WrongOwner(0 if epoch is None else epoch)
        return Unsupported(request.kind)


class Discard:
    """interface.BulkSink that keeps nothing."""

    def __init__(self) -> None:
        self._at = 0

    def resume_at(self) -> int:
        return self._at

    def write(self, offset: int, data: bytes) -> None:
        self._at = offset + len(data)

    def complete(self) -> None:
        """Nothing was kept."""

    def aborted(self, why: str) -> None:
        """Nothing was kept."""
