"""The sending half: all outgoing snapshot transfers of a process.

A transfer is offered, then sent in a window of chunks from where the receiver says; without progress it is offered
again, which also tells where to go on after a lost connection. Invariant: a chunk leaves only under the term in which
the transfer was started, and at most window_chunks of a transfer are being read or unacknowledged. It reads no file
(Read asks for a chunk, chunk_read brings it) and decides nothing about Raft: Finished tells the caller how it ended.
"""

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from nodedb_node.ids import NodeNumber
from nodedb_node.marks import mark
from nodedb_node.multiraft.snapshot.limits import SnapshotLimits, Throttle
from nodedb_node.multiraft.snapshot.messages import (
    Accept,
    ChunkAck,
    Done,
    Manifest,
    Message,
    Offer,
    Reason,
    Refusal,
    ToSender,
    chunk_of,
)


class Send(NamedTuple):
    peer: int
    message: Message


class Read(NamedTuple):
    """Bring chunk `number` of the snapshot by chunk_read."""

    transfer: int
    manifest: Manifest
    number: int


class Finished(NamedTuple):
    """reason None: the peer has installed it. Otherwise the peer needs another try, at retry_us at the earliest."""

    transfer: int
    peer: int
    manifest: Manifest
    reason: Reason | None
    term: int  # the receiver's, when it refused by term
    retry_us: int


Output = Send | Read | Finished


class _Transfer:
    """One of them."""

    __slots__ = (
        "again",
        "deadline_us",
        "flight",
        "manifest",
        "next",
        "number",
        "offers",
        "peer",
        "reached",
        "replica",
        "term",
    )

    def __init__(self, number: int, peer: int, replica: int, term: int, manifest: Manifest) -> None:
        self.number, self.peer, self.replica, self.term, self.manifest = number, peer, replica, term, manifest
        self.next: int | None = None  # chunk to read next; None: offered, not accepted
        self.reached = 0  # all chunks below are acknowledged
        self.flight: set[int] = set()  # being read, or sent and not acknowledged
        self.again: deque[int] = deque()  # came damaged: before the next new one
        self.offers = 0
        self.deadline_us = 0


class SnapshotSender:
    """Transfers in order of their start, outgoing_max at a time, per_peer_max of them to one peer."""

    def __init__(self, limits: SnapshotLimits, first_transfer: int, now_us: int) -> None:
        """first_transfer: from the process's generation, so that no two lives of it use the same numbers."""
        limits.check()
        self._limits = limits
        self._throttle = Throttle(limits.rate_bytes_per_s, now_us)
        self._throttled_until_us = 0
        self._number = first_transfer
        self._active: dict[int, _Transfer] = {}
        self._waiting: deque[_Transfer] = deque()
        self._outputs: list[Output] = []

    # ---- what the caller wants ----

    def start(self, now_us: int, peer: int, replica: int, term: int, manifest: Manifest) -> int | None:
        """Begin or queue a transfer: its number; None: too many wait. One per (group, peer): the caller knows."""
        assert self.find(peer, manifest.group) is None, "one transfer per group and peer"
        if len(self._waiting) >= self._limits.waiting_max:
            return None
        number = self._number
        self._waiting.append(_Transfer(number, peer, replica, term, manifest))
        self._number += 1
        self._admit(now_us)
        return number

    def would_admit(self, peer: int, promised: Collection[int]) -> bool:
        """Would a transfer to peer go out at once, behind those that the promised peers are going to get?"""
        active = [row.peer for row in self._active.values()] + [*promised]
        to_peer = active.count(peer) + sum(row.peer == peer for row in self._waiting)
        return len(active) < self._limits.outgoing_max and to_peer < self._limits.per_peer_max

    def manifest(self, number: int) -> Manifest | None:
        """Of a transfer that is under way."""
        transfer = self._active.get(number)
        return transfer.manifest if transfer else None

    def of_group(self, group: int) -> list[tuple[NodeNumber, int]]:
        """(peer, term) of each transfer."""
        rows = (*self._active.values(), *self._waiting)
        return [(NodeNumber(row.peer), row.term) for row in rows if row.manifest.group == group]

    def manifests(self) -> set[Manifest]:
        """Of all transfers: what must still be readable."""
        return {transfer.manifest for transfer in (*self._active.values(), *self._waiting)}

    def find(self, peer: int, group: int) -> Manifest | None:
        """What is being sent, or waits to be."""
        for transfer in (*self._active.values(), *self._waiting):
            if transfer.peer == peer and transfer.manifest.group == group:
                return transfer.manifest
        return None

    def stop(self, now_us: int, group: int, peer: int | None = None) -> None:
        """The group is led elsewhere, or its snapshot is gone: end its transfers (to one peer, or all)."""
        for transfer in (*self._active.values(), *self._waiting):
            if transfer.manifest.group == group and peer in (None, transfer.peer):
                self._finish(transfer, Reason.STOPPED)
        self._admit(now_us)

    def peer_down(self, now_us: int, peer: int) -> None:
        """No connection: its places go to others, its snapshots from the disk. Back again, it is asked what it has."""
        for transfer in (*self._active.values(), *self._waiting):
            if transfer.peer == peer:
                self._finish(transfer, Reason.STOPPED)
        self._admit(now_us)

    def peer_up(self, now_us: int, peer: int) -> None:
        """A new connection: what was in flight may be lost."""
        for transfer in list(self._active.values()):
            if transfer.peer == peer:
                transfer.offers = 0
                self._offer(now_us, transfer)

    # ---- inputs ----

    def on_message(self, now_us: int, peer: int, message: ToSender) -> None:
        """Anything may come late, twice or from a stranger: such messages change nothing."""
        transfer = self._active.get(message.transfer)
        if transfer is None or transfer.peer != peer or transfer.manifest.group != message.group:
            return
        if isinstance(message, Refusal):
            self._on_refusal(now_us, transfer, message)
            return
        if message.term != transfer.term:
            return
        match message:
            case Accept():
                self._on_accept(now_us, transfer, message.next_chunk)
            case ChunkAck():
                self._on_ack(now_us, transfer, message)
            case Done():
                self._finish(transfer, None)
                self._admit(now_us)

    def chunk_read(self, now_us: int, transfer: int, number: int, data: bytes) -> None:
        """The bytes that Read asked for."""
        row = self._active.get(transfer)
        if row is None or number not in row.flight:
            return
        assert len(data) == row.manifest.chunk_length(number)
        self._send(row, chunk_of(row.manifest.group, row.term, row.number, number, data))

    def read_failed(self, now_us: int, transfer: int) -> None:
        """The snapshot's bytes are gone or damaged here: the transfer ends, another snapshot is needed."""
        row = self._active.get(transfer)
        if row is not None:
            self._finish(row, Reason.STOPPED)
            self._admit(now_us)

    def tick(self, now_us: int) -> None:
        """Offer again what makes no progress; go on with what was throttled."""
        for transfer in list(self._active.values()):
            if now_us < transfer.deadline_us:
                continue
            if transfer.offers >= self._limits.offers_max:
                mark("snapshot-timed-out")
                self._finish(transfer, Reason.TIMED_OUT)
            else:
                self._offer(now_us, transfer)
        self._admit(now_us)
        if self._throttled_until_us and now_us >= self._throttled_until_us:
            self._throttled_until_us = 0
            for transfer in list(self._active.values()):
                self._fill(now_us, transfer)

    def next_deadline_us(self) -> int | None:
        if not self._active:
            return self._throttled_until_us or None
        deadlines = [transfer.deadline_us for transfer in self._active.values()]
        if self._throttled_until_us:
            deadlines.append(self._throttled_until_us)
        return min(deadlines, default=None)

    def take_outputs(self) -> list[Output]:
        """In order; each is to be carried out once."""
        outputs, self._outputs = self._outputs, []
        return outputs

    # ---- transitions ----

    def _admit(self, now_us: int) -> None:
        for transfer in list(self._waiting):
            if len(self._active) >= self._limits.outgoing_max:
                return
            if sum(row.peer == transfer.peer for row in self._active.values()) < self._limits.per_peer_max:
                self._waiting.remove(transfer)
                self._active[transfer.number] = transfer
                self._offer(now_us, transfer)

    def _offer(self, now_us: int, transfer: _Transfer) -> None:
        transfer.next = None
        transfer.flight.clear()
        transfer.again.clear()
        transfer.offers += 1
        transfer.deadline_us = now_us + self._limits.stall_us
        manifest = transfer.manifest
        self._send(transfer, Offer(manifest.group, transfer.term, transfer.number, manifest, transfer.replica))

    def _on_accept(self, now_us: int, transfer: _Transfer, next_chunk: int) -> None:
        if transfer.next is not None or not 0 <= next_chunk <= transfer.manifest.chunks:
            return
        if next_chunk:
            mark("snapshot-resumed")
        transfer.next = next_chunk
        self._reach(now_us, transfer, next_chunk)
        self._fill(now_us, transfer)

    def _on_ack(self, now_us: int, transfer: _Transfer, ack: ChunkAck) -> None:
        if transfer.next is None or not transfer.reached <= ack.next_chunk <= transfer.next:
            return
        self._reach(now_us, transfer, ack.next_chunk)
        transfer.flight = {number for number in transfer.flight if number >= ack.next_chunk}
        for number in ack.again:
            if number in transfer.flight:
                transfer.flight.remove(number)
                transfer.again.append(number)
        self._fill(now_us, transfer)

    def _reach(self, now_us: int, transfer: _Transfer, next_chunk: int) -> None:
        """Progress renews the patience; a receiver that begins anew has made none. One that has all of it installs."""
        if next_chunk > transfer.reached or next_chunk == transfer.manifest.chunks:
            transfer.offers = 0
            transfer.deadline_us = now_us + self._limits.stall_us
        transfer.reached = next_chunk

    def _fill(self, now_us: int, transfer: _Transfer) -> None:
        """Ask for chunks while the window and the throttle have room."""
        while transfer.next is not None and len(transfer.flight) < self._limits.window_chunks:
            if not transfer.again and transfer.next >= transfer.manifest.chunks:
                return
            number = transfer.again[0] if transfer.again else transfer.next
            size_bytes = transfer.manifest.chunk_length(number)
            if not self._throttle.take(now_us, size_bytes):
                mark("snapshot-throttled")
                self._throttled_until_us = self._throttle.ready_us(size_bytes)
                return
            if transfer.again:
                transfer.again.popleft()
            else:
                transfer.next += 1
            transfer.flight.add(number)
            self._outputs.append(Read(transfer.number, transfer.manifest, number))

    def _on_refusal(self, now_us: int, transfer: _Transfer, refusal: Refusal) -> None:
        if refusal.reason is Reason.UNKNOWN_TRANSFER and refusal.term == transfer.term:
            mark("snapshot-unknown-transfer")
            if transfer.next is not None:  # the receiver restarted; an answer to the offer itself cannot say this
                self._offer(now_us, transfer)
            return
        self._finish(transfer, refusal.reason, refusal.term, refusal.retry_us)
        self._admit(now_us)

    def _finish(self, transfer: _Transfer, reason: Reason | None, term: int = 0, retry_us: int = 0) -> None:
        if self._active.pop(transfer.number, None) is None:
            self._waiting.remove(transfer)
        self._outputs.append(Finished(transfer.number, transfer.peer, transfer.manifest, reason, term, retry_us))

    def _send(self, transfer: _Transfer, message: Message) -> None:
        self._outputs.append(Send(transfer.peer, message))
