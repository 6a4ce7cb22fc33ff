"""csrc/frame.h: frame headers and log entries as fixed structs, many at a time. Pure: bytes in, bytes and offsets out.

Invariant: a decoded append keeps the bytes that its entries point into; nothing outside them is ever read, whatever the
bytes say. Entries of a hot path stay in C (`cdata`); turning each into a Python object is for tests and small batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from nodedb_node._native import ffi, lib

FRAME_HEADER_BYTES: int = lib.ND_FRAME_HEADER_BYTES
ENTRY_HEADER_BYTES: int = lib.ND_ENTRY_HEADER_BYTES
APPEND_HEADER_BYTES: int = lib.ND_APPEND_HEADER_BYTES
SCAN_MAX = 256

_limits_type = ffi.typeof("uint32_t[]")
_frames_type = ffi.typeof("nd_frame[]")


class BadBytes(ValueError):
    """Bytes that no sender of this protocol makes."""


class Scanner:
    """Finds whole frames at the start of a buffer."""

    def __init__(self, limits: Sequence[int]) -> None:
        """limits: the largest body by class, bytes."""
        assert len(limits) == lib.ND_FRAME_CLASSES
        self._limits: Any = ffi.new(_limits_type, list(limits))
        self._out: Any = ffi.new(_frames_type, SCAN_MAX)
        self._used: Any = ffi.new("uint32_t *")

    def scan(self, data: bytes | bytearray | memoryview, most: int = SCAN_MAX) -> tuple[Any, int, int]:
        """(array of nd_frame, valid until the next scan; their number; bytes they take); BadBytes for a header of
        no class or above its limit, once the good frames before it were taken."""
        view = ffi.from_buffer(data)
        found = lib.nd_frame_scan(view, len(data), self._limits, self._out, most, self._used)
        ffi.release(view)
        if found < 0:
            raise BadBytes("a frame names more bytes than its class may have, or a class that does not exist")
        return self._out, found, self._used[0]


class AppendHead(Struct, frozen=True, gc=False):
    """What an append says of its entries. sequence: the sender's own number, echoed by the answer."""

    group: int
    term: int
    prev_index: int
    prev_term: int
    commit: int
    sequence: int = 0


class Entry(Struct, frozen=True, gc=False):
    """One entry of a log; `kind` belongs to the log's owner."""

    index: int
    term: int
    kind: int
    payload: bytes


def encode_append(head: AppendHead, entries: Sequence[Entry]) -> bytes:
    """The body of an append; entries are consecutive."""
    count = len(entries)
    native = ffi.new("nd_entry[]", max(count, 1))
    payloads = ffi.new("nd_arg[]", max(count, 1))
    views = [ffi.from_buffer(entry.payload) for entry in entries]
    for i, (entry, view) in enumerate(zip(entries, views, strict=True)):
        native[i].index, native[i].term, native[i].kind = entry.index, entry.term, entry.kind
        payloads[i].ptr, payloads[i].len = ffi.cast("uint8_t *", view), len(entry.payload)
    return encode_append_native(head, count, native, payloads)


def encode_append_native(head: AppendHead, count: int, entries: Any, payloads: Any) -> bytes:
    """The same from arrays of nd_entry and nd_arg that live in C."""
    native = ffi.new("nd_append *")
    native.group, native.entries, native.term = head.group, count, head.term
    native.prev_index, native.prev_term = head.prev_index, head.prev_term
    native.commit, native.sequence = head.commit, head.sequence
    out = bytearray(lib.nd_append_bytes(count, payloads))
    written = lib.nd_append_put(ffi.from_buffer(out), len(out), native, entries, payloads)
    assert written == len(out)
    return bytes(out)


class Append:
    """A decoded append: head, and entries as offsets into `body`."""

    __slots__ = ("body", "cdata", "count", "head")

    def __init__(self, body: bytes) -> None:
        """BadBytes when the body is not an append."""
        native = ffi.new("nd_append *")
        view = ffi.from_buffer(body)
        if lib.nd_append_head(view, len(body), native) < 0:
            raise BadBytes("an append that is shorter than it says")
        self.count = int(native.entries)
        self.cdata: Any = ffi.new("nd_entry[]", max(self.count, 1))
        if lib.nd_append_entries(view, len(body), native, self.cdata) < 0:
            raise BadBytes("an append whose entries do not fill it, or do not follow each other")
        self.body = body
        self.head = AppendHead(
            group=native.group,
            term=native.term,
            prev_index=native.prev_index,
            prev_term=native.prev_term,
            commit=native.commit,
            sequence=native.sequence,
        )

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Entry]:
        for i in range(self.count):
            found = self.cdata[i]
            payload = self.body[found.payload : found.payload + found.len]
            yield Entry(found.index, found.term, found.kind, payload)
