"""What recovery does with files that are not what was written: cut the torn, refuse the rest, and say where."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from nodedb_node._native import ffi, lib
from nodedb_node.errors import Exit, StartError
from nodedb_node.multiraft.log import RaftLog
from nodedb_node.multiraft.start import LogConfig, open_log
from nodedb_node.native import wal
from nodedb_node.native.wal import Record, Segment
from nodedb_node.storage.directory import LogDirectory
from nodedb_node.storage.recovery import LogDamaged, LogTooNew
from tests.conformance.test_wal import held, propose
from tests.conformance.wal_disk import SimSegments
from tests.seeds import run_seed

CONFIG = LogConfig("thread", True, 64 * 1024, 64 * 1024, floor_bytes=0)


def opened(source: Any, got: list[bytes] | None = None, config: LogConfig = CONFIG) -> RaftLog:
    """got: payloads of the commands that the start applied."""

    def apply(records: Any, n: int) -> None:
        if got is not None:
            rows = [wal.record_of(records[i]) for i in range(n)]
            got.extend(row.data for row in rows if row.kind == wal.DATA)

    return open_log(source, config, held([0, 1]), apply, lambda: 1)


def filled(turns: int = 40, mark: bool = False) -> SimSegments:
    """A disk with some segments of entries of group 0."""
    disk = SimSegments()
    log = opened(disk)
    for i in range(turns):
        propose(log, [(0, b"%d|" % i + bytes(6000))])
    log.close(mark)
    return disk


def refusal(disk: Any) -> StartError:
    with pytest.raises(StartError) as caught:
        opened(disk)
    assert caught.value.code is Exit.DATA
    return caught.value


def test_a_missing_segment_in_the_middle_is_named() -> None:
    disk = filled()
    assert len(disk.files) > 4
    del disk.files[3]
    assert "wal-0000000000000003: offset 0: the file is missing" in str(refusal(disk))


def test_damage_is_reported_with_file_and_offset_and_what_to_do() -> None:
    disk = filled()
    header = wal.segment_read(disk.read(2))
    assert not isinstance(header, int)
    first = wal.append_check(disk.read(2), wal.HEADER_BYTES, header.segment_id)
    assert first is not None
    disk.files[2][wal.HEADER_BYTES + first.bytes + 700] ^= 1
    error = refusal(disk)
    assert isinstance(error, LogDamaged)
    assert (error.file, error.offset) == ("sim/wal-0000000000000002", wal.HEADER_BYTES + first.bytes)
    assert "wal verify" in str(error)
    assert "a valid one after it" in str(error)


def test_damage_in_the_last_append_of_a_segment_that_has_a_successor() -> None:
    disk = filled()
    header = wal.segment_read(disk.read(2))
    assert not isinstance(header, int)
    off = last = wal.HEADER_BYTES
    while append := wal.append_check(disk.read(2), off, header.segment_id):
        last, off = off, off + append.bytes
    disk.files[2][last + 100] ^= 0x80
    error = refusal(disk)
    assert isinstance(error, LogDamaged)
    assert (error.file, error.offset) == ("sim/wal-0000000000000002", last)
    assert "goes on in sim/wal-0000000000000003" in str(error)


def test_a_damaged_segment_header_is_refused() -> None:
    disk = filled()
    disk.files[2][20] ^= 4
    assert "the segment header is damaged" in str(refusal(disk))


def test_a_file_under_the_wrong_name_is_refused() -> None:
    disk = filled()
    disk.files[2] = disk.files[3]
    assert "the header says segment 3" in str(refusal(disk))


def test_a_segment_of_another_log_is_refused() -> None:
    disk, other = filled(), filled()
    disk.files[3] = other.files[3]
    assert "belongs to another log" in str(refusal(disk))


def test_a_segment_put_back_from_earlier_is_refused() -> None:
    """A lost write: the file is older than the log around it."""
    disk = filled(8)
    early = {number: bytearray(data) for number, data in disk.files.items()}
    log = opened(disk)
    for i in range(30):
        propose(log, [(0, b"%d|" % i + bytes(6000))])
    log.close(mark=True)
    newest = max(early)
    assert early[newest] == disk.files[newest]
    blank = bytearray(disk.files[newest + 1])
    blank[wal.HEADER_BYTES :] = bytes(len(blank) - wal.HEADER_BYTES)
    disk.files[newest + 1] = blank
    assert "damaged or missing" in str(refusal(disk))


def test_a_newer_format_names_the_version() -> None:
    disk = filled()
    data = bytearray(disk.files[2][: wal.HEADER_BYTES])
    data[8:12] = (9).to_bytes(4, "little")
    data[12:16] = bytes(4)
    data[12:16] = lib.nd_crc32c(0, bytes(data), len(data)).to_bytes(4, "little")
    disk.files[2][: wal.HEADER_BYTES] = data
    error = refusal(disk)
    assert isinstance(error, LogTooNew)
    assert "format version 9, this program knows 1" in str(error)


def test_an_unknown_record_type_stops_the_start() -> None:
    disk = filled(3)
    number = max(disk.files)
    header = wal.segment_read(disk.read(number))
    assert not isinstance(header, int)
    off, sequence, crc = wal.HEADER_BYTES, 0, 0
    while append := wal.append_check(disk.read(number), off, header.segment_id):
        off, sequence, crc = off + append.bytes, append.sequence, append.crc
    data, _ = wal.append_encode([Record(77, 0)], header.segment_id, sequence + 1, crc, off)
    disk.write(number, off, data)
    error = refusal(disk)
    assert isinstance(error, LogTooNew)
    assert f"record type 77 at offset {off}" in str(error)


def test_bit_flips_anywhere_are_cut_as_tail_or_refused() -> None:
    """Never taken for something else: what is replayed is a prefix that lacks at most the last append."""
    rng = random.Random(run_seed())
    disk = filled(12)
    clean: list[bytes] = []
    opened(SimSegments({n: bytes(d) for n, d in disk.files.items()}), clean).close(False)
    for _ in range(400):
        copy = SimSegments({n: bytes(d) for n, d in disk.files.items()})
        number = rng.choice(copy.numbers())
        at = rng.randrange(len(copy.files[number]))
        copy.files[number][at] ^= 1 << rng.randrange(8)
        got: list[bytes] = []
        try:
            opened(copy, got).close(False)
        except LogDamaged as error:
            assert f"{number:016d}" in error.file or f"{number - 1:016d}" in error.file
        else:
            assert got in (clean, clean[:-1])


def test_the_lock_keeps_a_second_process_out(tmp_path: Path) -> None:
    log = opened(LogDirectory(str(tmp_path)))
    with pytest.raises(StartError, match="in use by another process") as caught:
        LogDirectory(str(tmp_path))
    assert caught.value.code is Exit.TEMPORARY
    log.close(mark=True)
    opened(LogDirectory(str(tmp_path))).close(mark=True)


def test_half_made_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "next.tmp").write_bytes(b"half")
    (tmp_path / "spare-0").write_bytes(b"old")
    log = opened(LogDirectory(str(tmp_path)))
    log.close(mark=True)
    assert {name[:4] for name in os.listdir(tmp_path)} == {"wal-"}


def test_a_failed_sync_is_final_and_what_was_acknowledged_stays(tmp_path: Path) -> None:
    fault = ffi.new("nd_walio_fault *", {"sync_fail_at": 5, "error": 5})
    log = opened(LogDirectory(str(tmp_path), fault), config=CONFIG._replace(direct=False))
    propose(log, [(0, b"one")])
    propose(log, [(0, b"two")])
    with pytest.raises(OSError, match="Input/output error"):
        propose(log, [(0, b"three")])
    fault.sync_fail_at = 0
    with pytest.raises(OSError, match="Input/output error"):
        log.reap()
    log.close(mark=False)
    got: list[bytes] = []
    opened(LogDirectory(str(tmp_path)), got).close(mark=True)
    assert got[:2] == [b"one", b"two"]
    assert got[2:] in ([], [b"three"])


def test_an_entry_far_behind_the_first_mark_is_no_damage() -> None:
    """Compaction writes the marks of all groups anew, also that of a group whose log is far ahead of its mark. When
    older segments die later, the stale mark is the first thing the log says of the group."""
    rows = [
        [Record(wal.COMPACT, 0, 3, 50)],
        [Record(wal.ENTRY, 0, 4, 90, b"a", wal.DATA), Record(wal.ENTRY, 0, 4, 91, b"b", wal.DATA)],
        [Record(wal.COMPACT, 0, 4, 90)],
    ]
    book, end = taken(rows)
    assert (book.first, book.last, book.compact_index) == (91, 91, 90)
    assert end == 0
    assert taken([*rows, [Record(wal.ENTRY, 0, 4, 93, b"hole", wal.DATA)]])[1] == -errno.ENOENT


def taken(appends: list[list[Record]]) -> tuple[Any, int]:
    """Group 0 of a log whose oldest segment left holds these appends, and the code of reading it."""
    header, view = Segment(7, 4, 9, 64 * 1024), bytearray(64 * 1024)
    off, prev_crc = wal.HEADER_BYTES, 0
    for sequence, records in enumerate(appends, 100):
        data, prev_crc = wal.append_encode(records, header.segment_id, sequence, prev_crc, off)
        view[off : off + len(data)] = data
        off += len(data)
    with wal.Book() as book:
        code, _, _ = book.take(header, view)
        return book.group(0), code


def test_the_copy_of_an_append_that_truncates_what_it_appends_is_taken_once() -> None:
    """Several turns share an append: entry 3 of one leader, then the truncation of all and entry 1 of the next. A
    restart copies it into a new segment, and both copies are read at the next start."""
    rows = [Record(wal.ENTRY, 0, 1, index, b"a", wal.DATA) for index in (1, 2)]
    mixed = [Record(wal.ENTRY, 0, 1, 3, b"b", wal.DATA), Record(wal.TRUNCATE, 0, 0, 1)]
    mixed.append(Record(wal.ENTRY, 0, 2, 1, b"c", wal.DATA))
    first, second = Segment(7, 1, 9, 64 * 1024), Segment(7, 2, 10, 64 * 1024)
    with wal.Book() as book:
        view, again = bytearray(first.bytes), bytearray(second.bytes)
        data, crc = wal.append_encode(rows, first.segment_id, 1, 0, wal.HEADER_BYTES)
        view[wal.HEADER_BYTES : wal.HEADER_BYTES + len(data)] = data
        off = wal.HEADER_BYTES + len(data)
        data, _ = wal.append_encode(mixed, first.segment_id, 2, crc, off)
        view[off : off + len(data)] = data
        data, _ = wal.append_encode(mixed, second.segment_id, 2, crc, wal.HEADER_BYTES, wal.FLAG_AGAIN)
        again[wal.HEADER_BYTES : wal.HEADER_BYTES + len(data)] = data
        assert book.take(first, view)[0] == 0
        assert book.take(second, again)[0] == 0
        assert book.entry_rows(0, 1, book.group(0).last) == [(2, wal.DATA, 1)]
