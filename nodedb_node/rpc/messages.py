"""Every type of frame there is, by number, with its class and role, and the bodies that transport itself reads.

Invariant: a number is given once and never again; retired ones stay reserved. A type outside the table is answered
`unsupported`, or counted and dropped when it is one-way: never an error of the session, so an older node can be talked
to by a newer one. Bodies of other parts (Raft, transactions) are theirs; only their numbers are here.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TypeVar

import msgspec
from msgspec import Struct

from nodedb_node.errors import UNREADABLE
from nodedb_node.native.frame import BadBytes
from nodedb_node.rpc.envelope import Envelope
from nodedb_node.rpc.hello import Hello


class Type(IntEnum):
    """Numbers of frames."""

    HELLO = 1
    WELCOME = 2
    GOAWAY = 3  # nothing new from the sender on this session; what was asked is still answered
    FAREWELL = 4  # after GOAWAY: everything that the sender asked is answered, so the receiver may close
    ECHO = 8  # answered with its own body
    ROUTED = 9  # an Envelope to the owner of a vShard
    BULK_OPEN = 16
    BULK_CHUNK = 17
    BULK_CREDIT = 18
    BULK_ABORT = 19
    # 32..47: Raft messages of data groups; bodies of native/frame.py's append and of the raft package
    RAFT_FIRST = 32
    RAFT_LAST = 47
    # 48..63: membership and metadata; 64..: transactions, queries


class BulkOpen(Struct, frozen=True, gc=False, array_like=True):
    """A request: begins a transfer, or goes on with it. The answer is BulkAnswer, or a status."""

    transfer: bytes  # 16 random bytes, the same when it goes on
    purpose: str
    size: int  # bytes in all
    argument: bytes = b""


class BulkAnswer(Struct, frozen=True, gc=False, array_like=True):
    """Where the sender begins, and up to where it may send unasked."""

    offset: int
    credit: int


class BulkAbort(Struct, frozen=True, gc=False, array_like=True):
    """Either side gives up."""

    transfer: bytes
    why: str


# Bodies in msgpack; the others are fixed structs or belong to their parts.
BODIES: dict[Type, type[Struct]] = {
    Type.HELLO: Hello,
    Type.WELCOME: Hello,
    Type.ROUTED: Envelope,
    Type.BULK_OPEN: BulkOpen,
    Type.BULK_ABORT: BulkAbort,
}

TRANSFER_BYTES = 16
Body = TypeVar("Body", BulkOpen, BulkAnswer, BulkAbort)
_encoder = msgspec.msgpack.Encoder()
_open = msgspec.msgpack.Decoder(BulkOpen)
_answer = msgspec.msgpack.Decoder(BulkAnswer)
_abort = msgspec.msgpack.Decoder(BulkAbort)

# BULK_CHUNK: transfer, offset, then the bytes. BULK_CREDIT: transfer, received, allowed up to.
CHUNK = struct.Struct("<16sQ")
CREDIT = struct.Struct("<16sQQ")


def encode(body: BulkOpen | BulkAnswer | BulkAbort) -> bytes:
    return _encoder.encode(body)


def decode_open(raw: bytes) -> BulkOpen:
    """BadBytes for what is no BulkOpen, as all decoders here."""
    found = _decode(_open, raw)
    if len(found.transfer) != TRANSFER_BYTES or found.size < 0:
        raise BadBytes("a transfer without its name, or of less than nothing")
    return found


def decode_answer(raw: bytes) -> BulkAnswer:
    found = _decode(_answer, raw)
    if not 0 <= found.offset <= found.credit:
        raise BadBytes("a credit below its offset")
    return found


def decode_abort(raw: bytes) -> BulkAbort:
    return _decode(_abort, raw)


def _decode(decoder: msgspec.msgpack.Decoder[Body], raw: bytes) -> Body:
    try:
        return decoder.decode(raw)
    except UNREADABLE as error:
        raise BadBytes(str(error)) from error


def chunk(transfer: bytes, offset: int, data: bytes) -> bytes:
    return CHUNK.pack(transfer, offset) + data


def decode_chunk(raw: bytes) -> tuple[bytes, int, bytes]:
    """(transfer, offset, bytes)."""
    if len(raw) < CHUNK.size:
        raise BadBytes("a chunk shorter than its header")
    transfer, offset = CHUNK.unpack_from(raw)
    return transfer, offset, raw[CHUNK.size :]


def credit(transfer: bytes, received: int, allowed: int) -> bytes:
    return CREDIT.pack(transfer, received, allowed)


def decode_credit(raw: bytes) -> tuple[bytes, int, int]:
    """(transfer, received, allowed)."""
    if len(raw) != CREDIT.size:
        raise BadBytes("a credit of another length")
    transfer, received, allowed = CREDIT.unpack(raw)
    if received > allowed:
        raise BadBytes("a credit below what was received")
    return transfer, received, allowed
