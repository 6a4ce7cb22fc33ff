"""The receiving half: the snapshots that this process is being sent, one per group.

Chunks may come in any order within a window; each is checked and written where it belongs, and when all are written the
caller installs the snapshot, verified as a whole, and only then tells Raft. Invariants: a message of a deposed leader
changes nothing; progress survives a change of leader or connection as long as the manifest is the same, and a restart
by restore(); what failed twice from one peer is refused for a while, other peers and other snapshots are not.
It writes no file and knows no store: Begin, Write, Install and Discard say what to do, the answers come back as calls.
"""

from collections import OrderedDict
from typing import NamedTuple

from nodedb_node.marks import mark
from nodedb_node.multiraft.snapshot.limits import SnapshotLimits
from nodedb_node.multiraft.snapshot.messages import (
    DIGEST_BYTES,
    Accept,
    Chunk,
    ChunkAck,
    Done,
    Manifest,
    Message,
    Offer,
    Reason,
    Refusal,
    ToReceiver,
)
from nodedb_node.native import kernels


class Send(NamedTuple):
    peer: int
    message: Message


class Begin(NamedTuple):
    """Make an empty place for it."""

    manifest: Manifest


class Write(NamedTuple):
    """Put a chunk in its place, then call written or write_failed."""

    manifest: Manifest
    number: int
    data: bytes


class Install(NamedTuple):
    """All is written: sync, verify the digest, install atomically, then call installed or install_failed."""

    manifest: Manifest


class Discard(NamedTuple):
    """Its bytes are not needed any more."""

    manifest: Manifest


Output = Send | Begin | Write | Install | Discard


class _Incoming:
    """One group's transfer."""

    __slots__ = (
        "ack_due",
        "again",
        "corrupt",
        "installing",
        "manifest",
        "next",
        "peer",
        "term",
        "touched_us",
        "transfer",
        "writing",
        "written",
    )

    def __init__(self, manifest: Manifest, now_us: int) -> None:
        self.manifest = manifest
        self.peer = self.transfer = self.term = 0  # nobody's yet
        self.next = 0  # all chunks below are written
        self.written: set[int] = set()  # above next
        self.writing: set[int] = set()
        self.again: list[int] = []
        self.corrupt = 0
        self.installing = False
        self.ack_due = False
        self.touched_us = now_us


class SnapshotReceiver:
    """Of all groups of a process."""

    def __init__(self, limits: SnapshotLimits) -> None:
        limits.check()
        self._limits = limits
        self._incoming: dict[int, _Incoming] = {}
        self._failures: OrderedDict[tuple[int, bytes], tuple[int, int]] = OrderedDict()  # → (count, until_us)
        self._outputs: list[Output] = []

    def restore(self, now_us: int, manifest: Manifest, chunks_written: int) -> None:
        """A partial snapshot found at start, its first chunks checked: whoever offers the same goes on from there."""
        assert manifest.group not in self._incoming
        row = _Incoming(manifest, now_us)
        row.next = chunks_written
        self._incoming[manifest.group] = row

    # ---- messages ----

    def on_message(self, now_us: int, peer: int, message: ToReceiver, group_term: int, applied_index: int) -> None:
        """group_term: the group's current one, after Raft has seen the message's. applied_index: of the group here."""
        if message.term != group_term:
            self._refuse(peer, message, group_term, Reason.STALE_TERM)
        elif isinstance(message, Offer):
            self._on_offer(now_us, peer, message, applied_index)
        else:
            self._on_chunk(now_us, peer, message)

    def _on_offer(self, now_us: int, peer: int, offer: Offer, applied_index: int) -> None:
        if 0 < offer.manifest.index <= applied_index:
            self._outputs.append(Send(peer, Done(offer.group, offer.term, offer.transfer)))
            return
        reason = self._judge(now_us, peer, offer)
        if reason is not None:
            retry = reason in (Reason.BUSY, Reason.QUARANTINED)
            self._refuse(peer, offer, offer.term, reason, self._retry_us(now_us, peer, offer) if retry else 0)
            return
        row = self._incoming.get(offer.group)
        if row is not None and row.manifest != offer.manifest:
            mark("snapshot-replaced-by-newer")
            self._discard(row)
            row = None
        if row is None:
            self._make_room(now_us)
            row = self._incoming[offer.group] = _Incoming(offer.manifest, now_us)
            self._outputs.append(Begin(offer.manifest))
        row.peer, row.transfer, row.term, row.touched_us = peer, offer.transfer, offer.term, now_us
        self._outputs.append(Send(peer, Accept(offer.group, offer.term, offer.transfer, row.next)))
        self._install_if_whole(row)

    def _judge(self, now_us: int, peer: int, offer: Offer) -> Reason | None:
        """Why not, or None."""
        manifest, limits, row = offer.manifest, self._limits, self._incoming.get(offer.group)
        if manifest.group != offer.group or manifest.size_bytes < 0 or manifest.index <= 0:
            return Reason.MALFORMED
        if len(manifest.digest) != DIGEST_BYTES or manifest.chunk_bytes <= 0:
            return Reason.MALFORMED
        if manifest.chunk_bytes > limits.chunk_bytes_max or manifest.size_bytes > limits.size_bytes_max:
            return Reason.TOO_LARGE
        if self._quarantined_until(now_us, peer, manifest) > now_us:
            mark("snapshot-quarantined")
            return Reason.QUARANTINED
        if row is None:
            return Reason.BUSY if self._is_full() and self._abandoned(now_us) is None else None
        if row.manifest == manifest:
            return None
        if row.installing:
            return Reason.BUSY
        newer = (offer.term, manifest.index) > (row.term, row.manifest.index)
        return None if newer else Reason.NOT_NEWER

    def _is_full(self) -> bool:
        return len(self._incoming) >= self._limits.incoming_max

    def _abandoned(self, now_us: int) -> _Incoming | None:
        """What was untouched longest, if its sender must have given up."""
        rows = [row for row in self._incoming.values() if not row.installing]
        oldest = min(rows, key=lambda row: row.touched_us, default=None)
        return oldest if oldest and now_us > oldest.touched_us + self._limits.patience_us else None

    def _make_room(self, now_us: int) -> None:
        abandoned = self._abandoned(now_us) if self._is_full() else None
        if abandoned is not None:
            mark("snapshot-abandoned")
            self._discard(abandoned)

    def _on_chunk(self, now_us: int, peer: int, chunk: Chunk) -> None:
        row = self._incoming.get(chunk.group)
        if row is None or (row.peer, row.transfer, row.term) != (peer, chunk.transfer, chunk.term):
            self._refuse(peer, chunk, chunk.term, Reason.UNKNOWN_TRANSFER)
            return
        row.touched_us, row.ack_due = now_us, True
        number = chunk.number
        if row.installing or number < row.next or number in row.written or number in row.writing:
            return
        if number >= min(row.manifest.chunks, row.next + 2 * self._limits.window_chunks):
            return  # more than a sender's window ahead: the acknowledgement tells it where we are
        if len(chunk.data) != row.manifest.chunk_length(number):
            self._fail(now_us, row, Reason.MALFORMED)
        elif kernels.crc32c(chunk.data) != chunk.crc:
            self._on_damaged(now_us, row, number)
        else:
            row.writing.add(number)
            self._outputs.append(Write(row.manifest, number, chunk.data))

    def _on_damaged(self, now_us: int, row: _Incoming, number: int) -> None:
        mark("snapshot-chunk-damaged")
        row.corrupt += 1
        if row.corrupt > self._limits.corrupt_max:
            self._fail(now_us, row, Reason.CORRUPT)
        else:
            row.again.append(number)

    # ---- answers of the caller ----

    def written(self, now_us: int, manifest: Manifest, number: int) -> None:
        row = self._row(manifest)
        if row is None or number not in row.writing:
            return
        row.writing.remove(number)
        row.written.add(number)
        while row.next in row.written:
            row.written.remove(row.next)
            row.next += 1
        row.ack_due = True
        self._install_if_whole(row)

    def write_failed(self, now_us: int, manifest: Manifest, reason: Reason) -> None:
        """NO_SPACE or FAILED: what is there is given up."""
        assert reason in (Reason.NO_SPACE, Reason.FAILED)
        if row := self._row(manifest):
            self._fail(now_us, row, reason)

    def installed(self, manifest: Manifest) -> None:
        """Durably, and Raft has been told."""
        row = self._incoming.pop(manifest.group)
        assert row.manifest == manifest and row.installing
        if row.transfer:
            self._outputs.append(Send(row.peer, Done(manifest.group, row.term, row.transfer)))
        self._outputs.append(Discard(manifest))

    def install_failed(self, now_us: int, manifest: Manifest, reason: Reason) -> None:
        """CORRUPT: the digest differs. NOT_NEWER: the state went past it. NO_SPACE, FAILED: the disk."""
        row = self._row(manifest)
        assert row is not None and row.installing
        self._fail(now_us, row, reason)

    def drop_group(self, group: int) -> None:
        """The group is gone from here."""
        if row := self._incoming.get(group):
            self._discard(row)

    def tick(self, now_us: int) -> None:
        for row in list(self._incoming.values()):
            if not row.installing and now_us >= row.touched_us + self._limits.idle_us:
                mark("snapshot-nobody-continues")
                self._discard(row)

    def next_deadline_us(self) -> int | None:
        if not self._incoming:
            return None
        rows = [row.touched_us for row in self._incoming.values() if not row.installing]
        return min(rows) + self._limits.idle_us if rows else None

    def take_outputs(self) -> list[Output]:
        """In order; acknowledgements, one per transfer, come last."""
        outputs, self._outputs = self._outputs, []
        for row in self._incoming.values():
            if row.ack_due and row.transfer:
                ack = ChunkAck(row.manifest.group, row.term, row.transfer, row.next, tuple(row.again))
                outputs.append(Send(row.peer, ack))
            row.ack_due = False
            row.again.clear()
        return outputs

    def partials(self) -> list[tuple[int, int]]:
        """(group, index) of each that is not being installed."""
        return [(group, row.manifest.index) for group, row in self._incoming.items() if not row.installing]

    def manifest(self, group: int) -> Manifest | None:
        """Of the group's transfer."""
        row = self._incoming.get(group)
        return row.manifest if row else None

    # ---- inner ----

    def _row(self, manifest: Manifest) -> _Incoming | None:
        row = self._incoming.get(manifest.group)
        return row if row is not None and row.manifest == manifest else None

    def _install_if_whole(self, row: _Incoming) -> None:
        """Never of what nobody offers: a restart finds bytes whose leader may be none any more."""
        if row.next == row.manifest.chunks and row.transfer and not row.installing:
            row.installing = True
            self._outputs.append(Install(row.manifest))

    def _fail(self, now_us: int, row: _Incoming, reason: Reason) -> None:
        """The transfer is over: its sender is told, and remembered when the bytes were wrong."""
        retry_us = self._limits.retry_us
        if reason in (Reason.CORRUPT, Reason.MALFORMED) and row.transfer:
            self._count_failure(now_us, row.peer, row.manifest)
        if row.transfer:
            refusal = Refusal(row.manifest.group, row.term, row.transfer, reason, retry_us)
            self._outputs.append(Send(row.peer, refusal))
        self._discard(row)

    def _discard(self, row: _Incoming) -> None:
        del self._incoming[row.manifest.group]
        self._outputs.append(Discard(row.manifest))

    def _count_failure(self, now_us: int, peer: int, manifest: Manifest) -> None:
        key = (peer, manifest.digest)
        count, until_us = self._failures.pop(key, (0, 0))
        if until_us and until_us <= now_us:
            count = 0  # it has served its time
        count += 1
        until_us = now_us + self._limits.quarantine_us if count >= self._limits.failures_max else 0
        self._failures[key] = (count, until_us)
        while len(self._failures) > self._limits.quarantine_rows_max:
            self._failures.popitem(last=False)

    def _quarantined_until(self, now_us: int, peer: int, manifest: Manifest) -> int:
        return self._failures.get((peer, manifest.digest), (0, 0))[1]

    def _retry_us(self, now_us: int, peer: int, offer: Offer) -> int:
        until_us = self._quarantined_until(now_us, peer, offer.manifest)
        return max(until_us - now_us, self._limits.retry_us)

    def _refuse(self, peer: int, message: ToReceiver, term: int, reason: Reason, retry_us: int = 0) -> None:
        self._outputs.append(Send(peer, Refusal(message.group, term, message.transfer, reason, retry_us)))
