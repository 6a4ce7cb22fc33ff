"""From segment files to what a log holds: checks every byte, cuts a torn tail, and stops at anything it cannot
explain.

The chain of appends (sequence, CRC of the one before) runs through all segments. A bad append with nothing valid
after it is a torn tail: it was never acknowledged, and is passed over. A bad one with a valid one after it is damage,
as n + 1 is written only after n is durable. Invariant: entries given out form, per group, one run without a hole. It
changes no byte: who opens the log for writing first makes the last append durable again (`again`), as only the page
cache may hold it.
"""

import errno
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from nodedb_node import log
from nodedb_node._native import ffi
from nodedb_node.errors import Exit, StartError
from nodedb_node.native import wal
from nodedb_node.native.wal import Book, End, Record, Segment
from nodedb_node.storage.directory import Segments

BATCH_RECORDS = 4096


class LogDamaged(StartError):
    """The log is not what was written. The file and the offset say where to look; the text says what to do."""

    def __init__(self, file: str, offset: int, what: str) -> None:
        super().__init__(
            Exit.DATA,
            f"{file}: offset {offset}: {what}; restore the data directory from a backup, or see what is readable with "
            "`nodedb-node wal verify DIR` and how to go on without the rest in docs/formats/wal.md, section Repair",
        )
        self.file = file
        self.offset = offset
        self.what = what


class LogTooNew(StartError):
    """Written by a later version of the program."""

    def __init__(self, file: str, what: str) -> None:
        super().__init__(Exit.DATA, f"{file}: {what}; start the version of nodedb-node that wrote it, or a later one")


class KnownSegment(NamedTuple):
    """A segment as recovery read it."""

    header: Segment
    stop_off: int  # where its valid appends end
    appends: int
    last: dict[int, int]  # highest entry index by group that has one


class Recovered:
    """What a log holds. Owns the book; the segments are borrowed."""

    def __init__(self, source: Segments) -> None:
        self.source = source
        self.book = Book()
        self.segments: list[KnownSegment] = []
        self.end: End | None = None

    @property
    def log_id(self) -> int:
        return self.segments[0].header.log_id if self.segments else 0

    @property
    def sequence(self) -> int:
        """Of the last valid append; 0 = none."""
        return self.end.sequence if self.end else 0

    def again(self) -> list[Record]:
        """The last append's records, if only the page cache may hold it; a clean mark says that all is on the disk."""
        end = self.end
        if end is None or end.sequence == 0 or end.clean:
            return []
        header = next(s.header for s in self.segments if s.header.number == end.segment)
        view = self.source.read(end.segment)
        append = wal.append_check(view, end.off, header.segment_id)
        if append is None:
            raise OSError(errno.EIO, "reads differently than a moment ago", self.source.name(end.segment))
        return wal.append_records(view, append)

    def drop_unused(self) -> None:
        """Remove the newest segments that hold nothing: made ready for a life that ended before it needed them."""
        while self.segments and not self.segments[-1].appends:
            self.source.remove(self.segments.pop().header.number)

    def entries(self, after: dict[int, int]) -> Iterator[tuple[Any, int]]:
        """(nd_wal_rec array, count): live entries with index > after[group], a group's in order, many at a time.

        The array and the payloads it points to are valid until the next step.
        """
        floor = wal.group_array(after)
        cap = max(BATCH_RECORDS, self.book.records_max())
        array = ffi.new("nd_wal_rec[]", cap)
        off = ffi.new("uint64_t *")
        for known in self.segments:
            if not known.appends or not any(index > floor[g] for g, index in known.last.items()):
                continue
            view = self.source.read(known.header.number)
            off[0] = 0
            while off[0] < known.stop_off:
                n = self.book.entries(known.header, view, known.stop_off, floor, off, array, cap)
                if n:
                    yield array, n
        yield from self._reordered_entries(floor)

    def _reordered_entries(self, floor: Any) -> Iterator[tuple[Any, int]]:
        """Groups whose entries compaction wrote again stand out of order: read one by one, by position."""
        headers = {known.header.number: known.header for known in self.segments}
        named = {group for known in self.segments for group in known.last}
        for group in sorted(named):
            book = self.book.group(group)
            if not book.reordered:
                continue
            for index in range(max(book.first, floor[group] + 1), book.last + 1):
                row = self.book.entry(group, index)
                record = wal.record_at(self.source.read(row.segment), headers[row.segment], row.off)
                array, keep = wal.records_array([record])
                yield array, 1
                del keep

    def close(self) -> None:
        self.book.close()


def recover(source: Segments) -> Recovered:
    """Read every segment, oldest first. LogDamaged or LogTooNew when the log must not be used as it is."""
    recovered = Recovered(source)
    try:
        read_all(recovered)
    except BaseException:
        recovered.close()
        raise
    return recovered


def read_all(recovered: Recovered) -> None:
    """Take in every segment; after an error, what came before the damage is there."""
    source = recovered.source
    numbers = source.numbers()
    for at, number in enumerate(numbers):
        if number != numbers[0] + at:
            raise LogDamaged(source.name(numbers[0] + at), 0, "the file is missing, later segments are there")
        _take_segment(recovered, number)


def _take_segment(recovered: Recovered, number: int) -> None:
    source = recovered.source
    view = source.read(number)
    header = read_header(source.name(number), view, number)
    if recovered.segments and header.log_id != recovered.log_id:
        raise LogDamaged(source.name(number), 16, "the file belongs to another log")
    before = recovered.end
    code, end, last = recovered.book.take(header, view)
    if code != 0:
        _refuse(recovered, number, code, end, before)
    if end.torn:
        log.warning("torn append cut", file=source.name(number), offset=end.stop_off, sequence=end.sequence + 1)
    recovered.end = end
    recovered.segments.append(KnownSegment(header, end.stop_off, end.appends, last))


def read_header(file: str, view: memoryview, number: int) -> Segment:
    """The checked header of a segment file."""
    header = wal.segment_read(view)
    if isinstance(header, int):
        if header:
            raise LogTooNew(file, f"format version {header}, this program knows {wal.VERSION}")
        raise LogDamaged(file, 0, "the segment header is damaged")
    if header.number != number or header.bytes != len(view):
        raise LogDamaged(file, 0, f"the header says segment {header.number} of {header.bytes} bytes")
    return header


def _refuse(recovered: Recovered, number: int, code: int, end: End, before: End | None) -> None:
    source = recovered.source
    if code == -errno.ENOTSUP:
        raise LogTooNew(source.name(number), f"record type {end.type} at offset {end.stop_off} is not known here")
    if code == -errno.ENOMEM:
        raise MemoryError
    if code == -errno.ENOENT:
        raise LogDamaged(source.name(number), end.stop_off, "an entry's predecessor is missing")
    if end.later_off:
        raise LogDamaged(
            source.name(number), end.stop_off, f"a damaged append, and a valid one after it at offset {end.later_off}"
        )
    if end.appends == 0 and before is not None:
        last = recovered.segments[-1]
        raise LogDamaged(
            source.name(last.header.number),
            last.stop_off,
            f"append {before.sequence + 1} is damaged or missing, and the log goes on in {source.name(number)}",
        )
    raise LogDamaged(source.name(number), end.stop_off, "an append does not follow the one before it")


def replay(recovered: Recovered, after: dict[int, int], apply: Callable[[Any, int], None]) -> int:
    """Hand every live entry after `after` to apply(records, n); how many there were."""
    total = 0
    for array, n in recovered.entries(after):
        apply(array, n)
        total += n
    return total
