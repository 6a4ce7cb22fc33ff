"""The words of a snapshot transfer, from leader to follower and back.

Offer (the manifest) → Accept (where to begin) → Chunks, several in flight ⇄ ChunkAcks → Done; a Refusal ends it at any
point. Invariant: every message names its transfer and the leader's term, so that nothing of one transfer or of a
deposed leader is taken for another's. Bytes travel on the bulk lane; a manifest is all that Raft ever sees of them.
"""

from enum import IntEnum

from msgspec import Struct

from nodedb_node.native import kernels

DIGEST_BYTES = 32  # BLAKE2b of all bytes, in order


class Manifest(Struct, frozen=True, gc=False, array_like=True):
    """What a snapshot is: equal manifests are the same bytes, whoever sends them."""

    group: int
    index: int  # the last entry it covers
    entry_term: int  # of that entry
    config: bytes  # the group's configuration as of index
    size_bytes: int
    chunk_bytes: int
    digest: bytes

    @property
    def chunks(self) -> int:
        """How many there are; at least one, so that also an empty snapshot is confirmed by its receiver."""
        return max(1, -(-self.size_bytes // self.chunk_bytes))

    def chunk_length(self, number: int) -> int:
        """Bytes of chunk `number`, from 0."""
        assert 0 <= number < self.chunks
        return min(self.chunk_bytes, self.size_bytes - number * self.chunk_bytes)


class Reason(IntEnum):
    """Why a receiver refuses, or a transfer ended without an install."""

    STALE_TERM = 1  # of a leader that is none any more
    BUSY = 2  # all places for transfers are taken, or this group's install is under way
    QUARANTINED = 3  # this transfer failed twice
    TOO_LARGE = 4  # above a limit
    NO_SPACE = 5  # the receiver's disk
    MALFORMED = 6  # the manifest or a chunk contradicts itself
    UNKNOWN_TRANSFER = 7  # offer it again
    NOT_NEWER = 8  # the receiver's state or a newer transfer covers it
    CORRUPT = 9  # the bytes are not what the manifest says
    TIMED_OUT = 10
    STOPPED = 11  # by the sender: it leads no more, or the snapshot is gone
    FAILED = 12  # the receiver could not write or install it


class Offer(Struct, frozen=True, gc=False, array_like=True, tag=1):
    group: int
    term: int
    transfer: int
    manifest: Manifest
    replica: int  # the member it is for: another one of that node has other needs


class Accept(Struct, frozen=True, gc=False, array_like=True, tag=2):
    group: int
    term: int
    transfer: int
    next_chunk: int  # all chunks below are there


class Chunk(Struct, frozen=True, gc=False, array_like=True, tag=3):
    group: int
    term: int
    transfer: int
    number: int
    crc: int  # CRC-32C of data
    data: bytes


class ChunkAck(Struct, frozen=True, gc=False, array_like=True, tag=4):
    group: int
    term: int
    transfer: int
    next_chunk: int
    again: tuple[int, ...] = ()  # these came damaged


class Done(Struct, frozen=True, gc=False, array_like=True, tag=5):
    """The receiver's state covers the snapshot, durably."""

    group: int
    term: int
    transfer: int


class Refusal(Struct, frozen=True, gc=False, array_like=True, tag=6):
    group: int
    term: int  # the receiver's, higher than the transfer's when the leader is deposed
    transfer: int
    reason: Reason
    retry_us: int = 0  # when asking again makes sense, 0 = not


Message = Offer | Accept | Chunk | ChunkAck | Done | Refusal
ToReceiver = Offer | Chunk
ToSender = Accept | ChunkAck | Done | Refusal


def chunk_of(group: int, term: int, transfer: int, number: int, data: bytes) -> Chunk:
    return Chunk(group, term, transfer, number, kernels.crc32c(data), data)
