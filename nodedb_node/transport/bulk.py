"""Large bodies in chunks with credits: on a connection of their own, going on where they were after a lost one. Pure.

Invariant: a receiver never holds more than the credit it gave; a sender never has more than that unacknowledged; what
the sink took is never sent again, and a chunk out of order is an abort, not a guess. Complete means that the sink said
so. A transfer that stands still for a minute is aborted on both sides, so nothing hangs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from nodedb_node.config import KIB, MIB
from nodedb_node.ids import NodeId, Process
from nodedb_node.rpc import messages
from nodedb_node.rpc.frame import CHUNK_BYTES
from nodedb_node.rpc.messages import BulkAnswer, BulkOpen, Type
from nodedb_node.rpc.status import AnyStatus, Internal, Overloaded
from nodedb_node.transport.interface import BulkOffer, BulkSink, BulkSource, Done

CREDIT_BYTES = 2 * MIB
TURN_BYTES = 256 * KIB  # given to the connection per turn of the loop, so that other traffic gets its turn
IDLE_US = 60_000_000
INCOMING_MAX = 64
FINISHED_KEPT = 256

assert 2 * CHUNK_BYTES <= CREDIT_BYTES and CHUNK_BYTES <= TURN_BYTES

Put = Callable[[Type, bytes], None]
Name = tuple[NodeId, Process, bytes]


class Outgoing:
    """A transfer that we send."""

    def __init__(
        self, number: int, transfer: bytes, purpose: str, argument: bytes, source: BulkSource, done: Done, now_us: int
    ) -> None:
        self.number = number
        self.transfer = transfer
        self.source = source
        self.done = done
        self.heard_us = now_us
        self.running = False  # opened on the connection in use
        self.received = 0
        self._purpose = purpose
        self._argument = argument
        self._at = 0
        self._allowed = 0

    def opening(self) -> bytes:
        return messages.encode(BulkOpen(self.transfer, self._purpose, self.source.size, self._argument))

    def opened(self, answer: BulkAnswer, now_us: int) -> None:
        self.heard_us = now_us
        self.running = True
        self._at = self.received = min(answer.offset, self.source.size)
        self._allowed = answer.credit

    def lost(self) -> None:
        """The connection is gone; it is opened again on the next one."""
        self.running = False

    def credit(self, received: int, allowed: int, now_us: int) -> None:
        self.heard_us = now_us
        self.received = max(self.received, min(received, self.source.size))
        self._allowed = max(self._allowed, allowed)

    @property
    def complete(self) -> bool:
        return self.running and self.received >= self.source.size

    def pump(self, put: Put, bytes_max: int) -> int:
        """Chunks within the credit; how many bytes."""
        sent = 0
        while self.running and sent < bytes_max:
            size = min(CHUNK_BYTES, self.source.size - self._at)
            if size <= 0 or self._at + size > self._allowed:
                break
            data = self.source.read(self._at, size)
            assert len(data) == size, "a source is shorter than it said"
            put(Type.BULK_CHUNK, messages.chunk(self.transfer, self._at, data))
            self._at += size
            sent += size
        return sent


class Incoming:
    """A transfer that we receive."""

    def __init__(self, offer: BulkOffer, sink: BulkSink, now_us: int) -> None:
        self.size = offer.size
        self.sink = sink
        self.at = min(sink.resume_at(), offer.size)
        self.heard_us = now_us


class Incomings:
    """All of them, by name; what was completed lately is remembered, so that a sender that missed it is told."""

    def __init__(self) -> None:
        self._open: dict[Name, Incoming] = {}
        self._finished: OrderedDict[Name, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self, offer: BulkOffer, now_us: int, sink_of: Callable[[BulkOffer], BulkSink | AnyStatus]
    ) -> BulkAnswer | AnyStatus:
        name = (offer.peer, offer.lane, offer.transfer)
        if self._finished.get(name) == offer.size:
            return BulkAnswer(offer.size, offer.size)
        found = self._open.get(name)
        if found is None:
            if len(self._open) >= INCOMING_MAX:
                return Overloaded(1000, "bulk transfers")
            sink = sink_of(offer)
            if isinstance(sink, AnyStatus):
                return sink
            found = self._open[name] = Incoming(offer, sink, now_us)
        elif found.size != offer.size:
            return Internal("a transfer goes on with another size")
        found.heard_us = now_us
        if found.at == found.size:
            self._finish(name, found)
        return BulkAnswer(found.at, found.at + CREDIT_BYTES)

    def chunk(self, name: Name, offset: int, data: bytes, now_us: int) -> tuple[Type, bytes]:
        """Give it to the sink; what to answer."""
        found = self._open.get(name)
        if found is None:
            return self._abort(name, "no such transfer")
        if offset != found.at or offset + len(data) > found.size or not data:
            return self._abort(name, f"bytes from {offset} where {found.at} is next, of {found.size}")
        try:
            found.sink.write(offset, data)
            found.at += len(data)
            found.heard_us = now_us
            if found.at == found.size:
                self._finish(name, found)
        except Exception as error:  # noqa: BLE001 - the sink's failure is told to the sender; it is not ours to judge
            return self._abort(name, f"the receiver failed: {error}")
        return Type.BULK_CREDIT, messages.credit(name[2], found.at, found.at + CREDIT_BYTES)

    def abort(self, name: Name, why: str) -> None:
        """The sender gave up, or the peer was forgotten."""
        found = self._open.pop(name, None)
        if found is not None:
            found.sink.aborted(why)

    def idle(self, now_us: int) -> list[Name]:
        """Transfers that stood still for too long, aborted now."""
        names = [name for name, found in self._open.items() if now_us - found.heard_us > IDLE_US]
        for name in names:
            self.abort(name, "stood still for too long")
        return names

    def forget(self, peer: NodeId) -> None:
        for name in [name for name in self._open if name[0] == peer]:
            self.abort(name, "the peer was removed")

    def _finish(self, name: Name, found: Incoming) -> None:
        found.sink.complete()
        del self._open[name]
        self._finished[name] = found.size
        while len(self._finished) > FINISHED_KEPT:
            self._finished.popitem(last=False)

    def _abort(self, name: Name, why: str) -> tuple[Type, bytes]:
        self.abort(name, why)
        return Type.BULK_ABORT, messages.encode(messages.BulkAbort(name[2], why))
