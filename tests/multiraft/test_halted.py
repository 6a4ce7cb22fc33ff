"""A group that cannot go on is refused by itself; the others of the same log serve, over restarts and compaction."""

from typing import Any

import pytest

from nodedb_node.ids import GroupId
from nodedb_node.multiraft.log import RaftLog
from nodedb_node.multiraft.messages import Reason
from nodedb_node.multiraft.start import Held, LogConfig, open_log
from nodedb_node.native import wal
from nodedb_node.native.engine import TEXT_HALTED
from nodedb_node.native.wal import Record
from tests.conformance.test_wal import propose
from tests.conformance.wal_disk import SimSegments

CONFIG = LogConfig("thread", True, 64 * 1024, 64 * 1024, floor_bytes=0)
BROKEN = GroupId(1)


def opened(disk: SimSegments, unappliable: int = 0) -> RaftLog:
    """unappliable: the entry of group 1 at which its state machine stops."""

    def apply(records: Any, n: int) -> dict[int, int]:
        rows = [wal.record_of(records[i]) for i in range(n)]
        return {1: unappliable} if (1, unappliable) in {(row.group, row.index) for row in rows} else {}

    return open_log(disk, CONFIG, {0: Held(), 1: Held()}, apply, lambda: 1)


def append(disk: SimSegments, record: Record) -> None:
    """One valid append behind all others, as a program of another version would write it."""
    number = max(disk.files)
    header = wal.segment_read(disk.read(number))
    assert not isinstance(header, int)
    off, sequence, crc = wal.HEADER_BYTES, 0, 0
    while found := wal.append_check(disk.read(number), off, header.segment_id):
        off, sequence, crc = off + found.bytes, found.sequence, found.crc
    assert sequence
    data, _ = wal.append_encode([record], header.segment_id, sequence + 1, crc, off)
    disk.write(number, off, data)


def filled() -> SimSegments:
    disk = SimSegments()
    log = opened(disk)
    propose(log, [(0, b"a"), (1, b"b")])
    log.close(mark=False)
    return disk


def offered(log: RaftLog) -> list[tuple[int, int]]:
    """A turn with a command of each group: (index, term or text) of both records."""
    rows = [Record(wal.ENTRY, group, data=b"x", kind=wal.DATA) for group in (0, 1)]
    array, keep = wal.records_array(rows)
    assert log.propose(array, 2, False)
    log._drain()
    del keep
    return [(array[i].index, array[i].term) for i in range(2)]


def is_refused(log: RaftLog, why: str) -> None:
    assert list(log.halted) == [BROKEN] and why in log.halted[BROKEN]
    assert log._multi.status(BROKEN).reason is Reason.HALTED
    before = log.last(0)
    places = offered(log)
    assert places[0] == (before[0] + 1, before[1]) and places[1] == (0, TEXT_HALTED)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (Record(wal.ENTRY, 1, 1, 3, b"?", kind=9), "entry 3 of its log is of a kind unknown"),
        (Record(wal.QUARANTINE, 1, data=b"\1"), "no other replica can refill it"),
        (Record(wal.ENTRY, 1, 1, 3, b"no configuration", kind=wal.MEMBERS), "a configuration that this version cannot"),
    ],
)
def test_what_the_log_says_of_one_group_halts_it_alone_and_at_every_start(record: Record, why: str) -> None:
    disk = filled()
    append(disk, record)
    for _ in range(3):
        log = opened(disk)
        is_refused(log, why)
        assert log.take_halted() == [(BROKEN, log.halted[BROKEN])] and log.take_halted() == []
        log.close(mark=False)


def test_an_entry_that_cannot_be_applied_halts_its_group() -> None:
    disk = filled()
    for _ in range(2):
        log = opened(disk, unappliable=2)
        is_refused(log, "entry 2 of its log cannot be applied")
        status = log._multi.status(BROKEN)
        assert (status.commit, status.applied) == (1, 1)
        log.close(mark=True)
    log = opened(disk)
    assert not log.halted, "a version that can apply it goes on"
    log.close(mark=True)


def test_a_halted_group_keeps_its_entries_while_the_others_are_compacted() -> None:
    disk = filled()
    append(disk, Record(wal.ENTRY, 1, 1, 3, b"?", kind=9))
    log = opened(disk)
    for _ in range(40):
        propose(log, [(0, bytes(6000))])
    for index in (20, 40):
        log.compact({0: index, 1: 2})
        propose(log, [(0, b"carries the compaction")])
    log.close(mark=False)
    log = open_log(disk, CONFIG, {0: Held(40, 2), 1: Held(2, 1)}, lambda records, n: None, lambda: 1)
    is_refused(log, "entry 3 of its log")
    assert log._book.entry(1, 3).kind == 9
    log.close(mark=True)


def test_a_group_that_is_halted_while_it_serves_is_refused_from_then_on() -> None:
    log = opened(filled())
    log._settle()
    log._multi.raft(BROKEN).halt("an impossible message")
    log._multi._touch(BROKEN)
    log.tick()
    is_refused(log, "an impossible message")
    for _ in range(3):
        before = log.last(0)[0]
        assert propose(log, [(0, b"on")]) == [(0, before + 1, before + 1)]
    assert len(log._alone) == 1, "the others are alone again: two calls of C a turn"
    log.close(mark=True)
