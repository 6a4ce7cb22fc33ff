"""Frames of a lane: a header of 20 bytes and a body, one after the other on a stream that lives as long as its session.

Invariant: the length a header names is checked against its class's limit before anything is kept for it; a message in
several frames (`more`) is bounded too, and only one per stream is being put together at a time. Layout: csrc/frame.h.
Does not know what a body means (codec does), nor when to send (transport does).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from msgspec import Struct

from nodedb_node.config import ENTRY_BYTES_MAX, KIB, MIB
from nodedb_node.native.frame import (
    APPEND_HEADER_BYTES,
    ENTRY_HEADER_BYTES,
    FRAME_HEADER_BYTES,
    SCAN_MAX,
    BadBytes,
    Scanner,
)

HEADER = struct.Struct("<IHBBQI")
assert HEADER.size == FRAME_HEADER_BYTES


class Kind(IntEnum):
    """Classes of traffic; each has its stream, its limits and its queue."""

    CONTROL = 0  # heartbeats, votes, membership: small, and never behind anything else
    LOG = 1  # entries of the log
    QUERY = 2  # requests of clients and of scatter/gather
    BULK = 3  # snapshots and migration: chunks with credits, on a connection of their own

    __hash__ = int.__hash__  # it is a key of what every frame looks up, and Enum's is a function in Python


class Flag(IntEnum):
    """A frame is exactly one of request, reply, one-way, cancel; error belongs to a reply; more says a part follows."""

    NONE = 0
    REQUEST = 1
    REPLY = 2
    ERROR = 4
    ONEWAY = 8
    CANCEL = 16
    MORE = 32


ROLES = (Flag.REQUEST, Flag.REPLY, Flag.ONEWAY, Flag.CANCEL)
FLAGS_KNOWN = 0x3F

# The largest body of one frame, and of one message in several frames, by class.
CHUNK_BYTES = 256 * KIB
FRAME_BYTES_MAX: dict[Kind, int] = {
    Kind.CONTROL: 256 * KIB,
    Kind.LOG: 4 * MIB,
    Kind.QUERY: 4 * MIB,
    Kind.BULK: CHUNK_BYTES + 4 * KIB,
}
MESSAGE_BYTES_MAX: dict[Kind, int] = {
    Kind.CONTROL: 1 * MIB,
    Kind.LOG: ENTRY_BYTES_MAX + 1 * MIB,
    Kind.QUERY: ENTRY_BYTES_MAX + 1 * MIB,
    Kind.BULK: CHUNK_BYTES + 4 * KIB,
}
# Before a peer has shown who it is.
GREETING_BYTES_MAX = 4 * KIB
GREETING_LIMITS = (GREETING_BYTES_MAX, 0, 0, 0)
LIMITS = tuple(FRAME_BYTES_MAX[kind] for kind in Kind)

assert all(FRAME_BYTES_MAX[kind] <= MESSAGE_BYTES_MAX[kind] for kind in Kind)
assert MESSAGE_BYTES_MAX[Kind.LOG] >= ENTRY_BYTES_MAX + APPEND_HEADER_BYTES + ENTRY_HEADER_BYTES

DEADLINE_NONE = 0


class FrameError(BadBytes):
    """The peer sent what no version of this protocol sends; its session ends."""


class Frame(Struct, frozen=True, gc=False):
    """One whole message as it travels. deadline_ms: what remains of the call's time, 0 = none; id: 0 = one-way."""

    type: int
    flags: int
    kind: Kind
    id: int
    deadline_ms: int
    body: bytes


def header(length: int, frame: Frame, flags: int) -> bytes:
    return HEADER.pack(length, frame.type, flags, frame.kind, frame.id, frame.deadline_ms)


def encode(frame: Frame) -> list[bytes]:
    """The pieces to write, in order: one header and body per part."""
    body, limit = frame.body, FRAME_BYTES_MAX[frame.kind]
    assert len(body) <= MESSAGE_BYTES_MAX[frame.kind], f"{len(body)} bytes of class {frame.kind.name}"
    if len(body) <= limit:
        return [header(len(body), frame, frame.flags), body]
    pieces: list[bytes] = []
    for start in range(0, len(body), limit):
        part = body[start : start + limit]
        last = start + limit >= len(body)
        pieces += [header(len(part), frame, frame.flags | (0 if last else Flag.MORE)), part]
    return pieces


def encoded_bytes(frame: Frame) -> int:
    """What encode() gives, in total."""
    limit = FRAME_BYTES_MAX[frame.kind]
    parts = max(1, -(-len(frame.body) // limit))
    return len(frame.body) + parts * FRAME_HEADER_BYTES


class FrameReader:
    """The frames of one stream. After a FrameError it is of no use any more."""

    def __init__(self, kind: Kind, limits: tuple[int, ...] = LIMITS) -> None:
        self._kind = kind
        self._scanner = Scanner(limits)
        self._rest = bytearray()
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._first: Frame | None = None

    def feed(self, data: bytes, most: int = SCAN_MAX) -> list[Frame]:
        """The messages that these bytes complete. most: stop after one scan of so many frames; the rest is kept."""
        source: bytes | bytearray = data
        if self._rest:
            self._rest += data
            source = self._rest
        messages: list[Frame] = []
        used = self._take(source, messages, most)
        if source is self._rest:
            del self._rest[:used]
        elif used < len(data):
            self._rest += memoryview(data)[used:]
        return messages

    def greeted(self) -> None:
        """The peer is known now: the limits of the classes hold, also for what is waiting."""
        self._scanner = Scanner(LIMITS)

    @property
    def waiting_bytes(self) -> int:
        """Held for messages that are not complete."""
        return len(self._rest) + self._parts_bytes

    def _take(self, source: bytes | bytearray, messages: list[Frame], most: int) -> int:
        used = 0
        view = memoryview(source)
        try:
            while True:
                with view[used:] as part:
                    found, count, took = self._scanner.scan(part, most)
                    for i in range(count):
                        message = self._message(found[i], part)
                        if message is not None:
                            messages.append(message)
                used += took
                if count == 0 or most < SCAN_MAX or used == len(source):
                    return used
        except FrameError:
            raise
        except BadBytes as error:
            raise FrameError(str(error)) from error
        finally:
            view.release()

    def _message(self, found: object, part: memoryview) -> Frame | None:
        """A frame's part of a message: the message, when it is the last one."""
        start, length, flags = found.body, found.len, found.flags  # type: ignore[attr-defined]
        frame = Frame(
            found.type,  # type: ignore[attr-defined]
            flags & ~Flag.MORE,
            Kind(found.kind),  # type: ignore[attr-defined]
            found.id,  # type: ignore[attr-defined]
            found.deadline_ms,  # type: ignore[attr-defined]
            bytes(part[start : start + length]),
        )
        check(frame, self._kind)
        if self._first is None and not flags & Flag.MORE:
            return frame
        return self._put_together(frame, bool(flags & Flag.MORE))

    def _put_together(self, frame: Frame, more: bool) -> Frame | None:
        first = self._first or frame
        same = (first.type, first.flags, first.id) == (frame.type, frame.flags, frame.id)
        if not same:
            raise FrameError("a message began before the parts of another one were complete")
        self._parts_bytes += len(frame.body)
        if self._parts_bytes > MESSAGE_BYTES_MAX[self._kind]:
            raise FrameError(f"a message of class {self._kind.name} above its limit")
        self._first = first
        self._parts.append(frame.body)
        if more:
            return None
        body = b"".join(self._parts)
        self._first, self._parts, self._parts_bytes = None, [], 0
        return Frame(first.type, first.flags, first.kind, first.id, first.deadline_ms, body)


def check(frame: Frame, kind: Kind) -> None:
    """FrameError for what no version sends: another class, an unknown flag, two roles, an id that does not fit."""
    if frame.kind is not kind:
        raise FrameError(f"a frame of class {frame.kind.name} on the stream of {kind.name}")
    if frame.flags & ~FLAGS_KNOWN:
        raise FrameError(f"unknown flags {frame.flags:#x}")
    role = frame.flags & ~(Flag.ERROR | Flag.MORE)
    if role not in ROLES or (frame.flags & Flag.ERROR and role != Flag.REPLY):
        raise FrameError(f"flags {frame.flags:#x} are not one role")
    if (frame.id == 0) != (role == Flag.ONEWAY):
        raise FrameError("an id where there is none, or none where there is one")


def frames_of(data: bytes, kind: Kind) -> Iterator[Frame]:
    """Every message in bytes that hold whole ones; FrameError otherwise."""
    reader = FrameReader(kind)
    yield from reader.feed(data)
    if reader.waiting_bytes:
        raise FrameError("bytes are left over")
