"""csrc/wal.h and walbook.h: the log's bytes and what they amount to. Pure: buffers in, views and books out.

Invariant: a Book is freed once, and views that C made into a buffer are not used after the buffer is refilled.
"""

import errno
from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from nodedb_node._native import ffi, lib

ENTRY: int = lib.ND_WAL_ENTRY
HARD_STATE: int = lib.ND_WAL_HARD_STATE
TRUNCATE: int = lib.ND_WAL_TRUNCATE
COMPACT: int = lib.ND_WAL_COMPACT
CONFIG: int = lib.ND_WAL_CONFIG
REWRITE: int = lib.ND_WAL_REWRITE
MARK: int = lib.ND_WAL_MARK
PROBE: int = lib.ND_WAL_PROBE
QUARANTINE: int = lib.ND_WAL_QUARANTINE
REPLICA: int = lib.ND_WAL_REPLICA
TYPE_NAMES = {
    ENTRY: "entry",
    HARD_STATE: "hard-state",
    TRUNCATE: "truncate",
    COMPACT: "compact",
    CONFIG: "config",
    REWRITE: "rewrite",
    MARK: "mark",
    PROBE: "probe",
    QUARANTINE: "quarantine",
    REPLICA: "replica",
}
NOOP: int = lib.ND_WAL_NOOP
DATA: int = lib.ND_WAL_DATA
MEMBERS: int = lib.ND_WAL_MEMBERS
KIND_NAMES = {0: "", NOOP: "noop", DATA: "data", MEMBERS: "members"}

VERSION: int = lib.ND_WAL_VERSION
ALIGN: int = lib.ND_WAL_ALIGN
HEADER_BYTES: int = lib.ND_WAL_SEGMENT_HEADER_BYTES
APPEND_BYTES_MAX: int = lib.ND_WAL_APPEND_BYTES_MAX
FLAG_AGAIN: int = lib.ND_WAL_FLAG_AGAIN
GROUPS_MAX: int = lib.ND_GROUPS_MAX


class Record(Struct, frozen=True):
    """One record with its own payload; the shape for what is written or shown once, not for the hot path."""

    type: int
    group: int = 0
    term: int = 0
    index: int = 0
    data: bytes = b""
    kind: int = 0  # of an entry

    def rewritten(self) -> "Record":
        """The same, as compaction copies it forward."""
        return Record(REWRITE, self.group, self.term, self.index, bytes((self.type,)) + self.data, self.kind)


class Segment(NamedTuple):
    """A segment's header."""

    log_id: int
    number: int
    segment_id: int
    bytes: int
    version: int = VERSION


class Append(NamedTuple):
    """A checked append's header."""

    sequence: int
    off: int
    bytes: int
    prev_crc: int
    crc: int
    flags: int
    records: int


class End(NamedTuple):
    """How far a log's chain of appends reaches, and where reading of the last segment stopped (csrc/walbook.h)."""

    sequence: int
    segment: int
    off: int
    bytes: int
    crc: int
    prev_crc: int
    clean: bool
    type: int
    stop_off: int
    later_off: int
    appends: int
    torn: bool


def records_array(records: list[Record]) -> tuple[Any, list[Any]]:
    """An nd_wal_rec array, and what keeps its payloads alive."""
    array = ffi.new("nd_wal_rec[]", max(1, len(records)))
    keep = [ffi.from_buffer(record.data) for record in records]
    for row, record, view in zip(array, records, keep, strict=False):
        row.type, row.kind = record.type, record.kind
        row.group, row.term, row.index = record.group, record.term, record.index
        row.data, row.len = ffi.cast("const uint8_t *", view), len(record.data)
    return array, keep


def record_of(row: Any) -> Record:
    data = bytes(ffi.buffer(row.data, row.len)) if row.len else b""
    return Record(row.type, row.group, row.term, row.index, data, row.kind)


def group_array(values: Mapping[int, int] | None = None) -> Any:
    """A uint64_t array by group, zero where there is no value."""
    array = ffi.new("uint64_t[]", GROUPS_MAX)
    for group, value in (values or {}).items():
        array[group] = value
    return array


def by_group(array: Any) -> dict[int, int]:
    """What is not zero in such an array."""
    return {group: value for group, value in enumerate(ffi.unpack(array, GROUPS_MAX)) if value}


def segment_encode(segment: Segment) -> bytes:
    buf = ffi.new("uint8_t[]", HEADER_BYTES)
    lib.nd_wal_segment_encode(buf, _segment_c(segment))
    return bytes(ffi.buffer(buf))


def segment_read(view: Any) -> Segment | int:
    """The header of the bytes in view; 0 = damaged or none; another number = that version, which is not ours."""
    out = ffi.new("nd_wal_segment *")
    code = lib.nd_wal_segment_read(_pointer(view), len(view), out)
    if code == 0:
        return Segment(out.log_id, out.number, out.segment_id, out.bytes, out.version)
    return int(out.version)


def append_encode(
    records: list[Record], segment_id: int, sequence: int, prev_crc: int, off: int, flags: int = 0
) -> tuple[bytes, int]:
    """(bytes, CRC) of one append; the tests write with it."""
    array, keep = records_array(records)
    encoded = array_encode(array, len(records), segment_id, sequence, prev_crc, off, flags)
    del keep
    return encoded


def array_encode(
    array: Any, n: int, segment_id: int, sequence: int, prev_crc: int, off: int, flags: int = 0
) -> tuple[bytes, int]:
    """The same of an nd_wal_rec array of n records."""
    at = ffi.new("nd_wal_append *", {"segment_id": segment_id, "sequence": sequence, "off": off, "prev_crc": prev_crc})
    at.flags = flags
    size = lib.nd_wal_append_bytes(array, n)
    buf = ffi.new("uint8_t[]", size)
    written = lib.nd_wal_append_encode(buf, size, at, array, n)
    assert written == size
    return bytes(ffi.buffer(buf)), int(at.crc)


def append_check(view: Any, off: int, segment_id: int) -> Append | None:
    """The valid append at off, or None."""
    at = ffi.new("nd_wal_append *")
    return _append(at) if lib.nd_wal_append_check(_pointer(view), len(view), off, segment_id, at) == 1 else None


def append_find(view: Any, off: int, segment_id: int) -> Append | None:
    """The first valid append at or after off."""
    at = ffi.new("nd_wal_append *")
    return _append(at) if lib.nd_wal_append_find(_pointer(view), len(view), off, segment_id, at) == 1 else None


def append_records(view: Any, append: Append) -> list[Record]:
    """The records of a checked append as they stand there, rewritten ones not opened."""
    at = ffi.new("nd_wal_append *", {"off": append.off})
    array = ffi.new("nd_wal_rec[]", max(1, append.records))
    n = lib.nd_wal_append_raw(_pointer(view), at, array, append.records)
    assert n == append.records
    return [record_of(array[i]) for i in range(n)]


def record_at(view: Any, header: Segment, off: int) -> Record:
    """The record whose header is at off, a rewritten one opened."""
    row = ffi.new("nd_wal_rec *")
    if lib.nd_wal_record_at(_pointer(view), len(view), off, row) != 0:
        raise OSError(errno.EIO, f"segment {header.number} reads differently than a moment ago at offset {off}")
    record = record_of(row)
    return replace(record, type=record.data[0], data=record.data[1:]) if record.type == REWRITE else record


class ConfigRow(Struct, frozen=True):
    """A configuration and the entry it stands for."""

    index: int
    term: int
    data: bytes


class EntryRow(NamedTuple):
    """What the book knows of an entry; segment and off say where its record header is."""

    term: int
    kind: int
    size: int
    segment: int
    off: int


class GroupBook(NamedTuple):
    """What a log holds of one group; last = first - 1: no live entry."""

    first: int
    last: int
    last_term: int
    compact_index: int
    compact_term: int
    hard_state: tuple[int, int, int] | None  # term, vote: node and replica id
    replica: int | None  # id of the newest one that was here
    removed: bool  # it is gone: a tombstone
    configs: list[ConfigRow]  # the base, and those of live entries
    quarantined: bool
    reordered: bool

    @property
    def known(self) -> bool:
        """The log says something of the group."""
        return bool(self.hard_state or self.replica is not None or self.compact_index or self.last >= self.first)


class Book:
    """Owner of an nd_walbook; a context manager. Segments are handed over oldest first."""

    def __init__(self) -> None:
        self._handle: Any = lib.nd_walbook_new()
        if self._handle == ffi.NULL:
            raise MemoryError
        self._end = ffi.new("nd_walbook_end *")

    def __enter__(self) -> "Book":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._handle is not None:
            lib.nd_walbook_free(self._handle)
            self._handle = None

    def take(self, segment: Segment, view: Any) -> tuple[int, End, dict[int, int]]:
        """(0 or -errno, where it stopped, highest entry index by group) of the next segment."""
        last, end = group_array(), self._end
        code = lib.nd_walbook_segment(self._handle, _segment_c(segment), _pointer(view), len(view), last, end)
        shape = (end.sequence, end.segment, end.off, end.bytes, end.crc, end.prev_crc, bool(end.clean), end.type)
        return code, End(*shape, end.stop_off, end.later_off, end.appends, bool(end.torn)), by_group(last)

    def write(self, records: Any, n: int, segment: int, off: int, last: Any) -> None:
        """Take in an append that is being written, and raise last[group] (a uint64_t array) to its highest indexes.

        A refusal is a defect: the append would not be read back.
        """
        code = lib.nd_walbook_take(self._handle, records, n, segment, off, last)
        if code == -errno.ENOMEM:
            raise MemoryError
        assert code == 0, f"the book refuses a record of this program: {errno.errorcode.get(-code)}"

    def group(self, group: int) -> GroupBook:
        g = lib.nd_walbook_group_get(self._handle, group)
        run = (g.first, g.last, g.last_term, g.compact_index, g.compact_term)
        hard = (g.hard_term, g.hard_vote[0], g.hard_vote[1]) if g.has_hard else None
        replica = g.replica if g.has_replica else None
        configs = [self._config(group, i) for i in range(g.configs)]
        return GroupBook(*run, hard, replica, bool(g.removed), configs, bool(g.quarantined), bool(g.reordered))

    def _config(self, group: int, i: int) -> ConfigRow:
        row = lib.nd_walbook_config(self._handle, group, i)
        return ConfigRow(row.index, row.term, bytes(ffi.buffer(row.bytes, row.len)))

    def entry(self, group: int, index: int) -> EntryRow:
        """A live entry."""
        row = lib.nd_walbook_entry(self._handle, group, index)
        return EntryRow(row.term, row.kind, row.len, row.at >> 32, row.at & 0xFFFFFFFF)

    def entry_rows(self, group: int, first: int, last: int) -> list[tuple[int, int, int]]:
        """(term, kind, size) of live entries first..last."""
        if last < first:
            return []
        rows = lib.nd_walbook_entry(self._handle, group, first)
        return [(rows[i].term, rows[i].kind, rows[i].len) for i in range(last - first + 1)]

    def records_max(self) -> int:
        return int(lib.nd_walbook_records_max(self._handle))

    def entries(self, segment: Segment, view: Any, stop: int, after: Any, off: Any, array: Any, cap: int) -> int:
        """Fill array with live entries; see nd_walbook_entries. OSError when the bytes are not what they were."""
        n = lib.nd_walbook_entries(self._handle, _segment_c(segment), _pointer(view), stop, after, off, array, cap)
        if n < 0:
            raise OSError(-n, f"segment {segment.number} reads differently than a moment ago: the disk is failing")
        return int(n)


def _pointer(view: Any) -> Any:
    return ffi.cast("const uint8_t *", ffi.from_buffer(view))


def _segment_c(segment: Segment) -> Any:
    out = ffi.new("nd_wal_segment *")
    out.log_id, out.number, out.segment_id, out.bytes, out.version = segment
    return out


def _append(at: Any) -> Append:
    return Append(at.sequence, at.off, at.bytes, at.prev_crc, at.crc, at.flags, at.records)
