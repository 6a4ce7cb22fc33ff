"""What every log must do, on io_uring, on the thread, and on the simulated disk."""

import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodedb_node._native import ffi, lib
from nodedb_node.errors import StartError
from nodedb_node.multiraft.log import RaftLog
from nodedb_node.multiraft.start import Held, LogConfig, open_log
from nodedb_node.native import wal
from nodedb_node.native.wal import Record
from nodedb_node.storage.directory import LogDirectory, Segments
from tests.conformance.wal_disk import SimSegments

GROUPS = [0, 1, 5]
SEGMENT_BYTES = 64 * 1024
APPEND_BYTES = lib.ND_WAL_APPEND_HEADER_BYTES + lib.ND_WAL_RECORD_HEADER_BYTES  # of one record, beside its payload
Entries = dict[int, list[tuple[int, bytes]]]


def held(groups: list[int], applied: dict[int, int] | None = None) -> dict[int, Held]:
    """What a checkpoint would hold of the groups; its terms are of no matter where the log has its own."""
    rows = applied or {}
    return {group: Held(rows.get(group, 0), 1 if rows.get(group) else 0) for group in groups}


def collect(got: Entries) -> Callable[[Any, int], None]:
    """An apply that keeps what it is given: (index, payload) of commands by group."""

    def apply(records: Any, n: int) -> None:
        for i in range(n):
            row = wal.record_of(records[i])
            if row.kind == wal.DATA:
                got.setdefault(row.group, []).append((row.index, row.data))

    return apply


class Place:
    """Somewhere a log can live; `open` again and again."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind, self.path = kind, path
        self.sim = SimSegments()

    def segments(self) -> Segments:
        return self.sim if self.kind == "sim" else LogDirectory(str(self.path))

    def config(self, **changes: Any) -> LogConfig:
        backend = "thread" if self.kind == "sim" else self.kind.split("-")[0]
        direct = not self.kind.endswith("cached")
        base = LogConfig(backend, direct, SEGMENT_BYTES, SEGMENT_BYTES, floor_bytes=0)
        return base._replace(**changes)

    def open(self, applied: dict[int, int] | None = None, **changes: Any) -> tuple[RaftLog, Entries]:
        got: Entries = {}
        log = open_log(self.segments(), self.config(**changes), held(GROUPS, applied), collect(got), lambda: 1)
        return log, got


def propose(log: RaftLog, turn: list[tuple[int, bytes]], reserve: bool = False) -> list[tuple[int, int, int]] | None:
    """One turn, until it is committed: (group, first, last) of all; None = refused."""
    array, keep = wal.records_array([Record(wal.ENTRY, group, data=data, kind=wal.DATA) for group, data in turn])
    if not log.propose(array, len(turn), reserve):
        return None
    commits = wait(log)
    del keep
    return commits


def wait(log: RaftLog) -> list[tuple[int, int, int]]:
    commits: list[tuple[int, int, int]] = []
    while log.busy:
        if log.fd >= 0:
            assert select.select([log.fd], [], [], 10)[0], "no completion within 10 s"
        else:
            log._io.complete()  # type: ignore[attr-defined]
        rows, n = log.reap()
        commits += [(rows[i].group, rows[i].first, rows[i].last) for i in range(n)]
    return commits


@pytest.fixture(params=["uring", "uring-cached", "thread", "thread-cached", "sim"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield Place(request.param, tmp_path / "wal")


def test_a_turn_of_several_groups_is_committed_at_once(place: Place) -> None:
    log, _ = place.open()
    assert propose(log, [(0, b"a"), (1, b"b"), (0, b"c"), (0, b"d"), (5, b"")]) == [
        (0, 2, 2),  # entry 1 is the term's first
        (1, 2, 2),
        (0, 3, 4),
        (5, 2, 2),
    ]
    assert propose(log, [(5, b"x")]) == [(5, 3, 3)]
    assert log.last(0) == (4, 1)
    log.close(mark=True)


@pytest.mark.parametrize("mark", [True, False])
def test_a_new_start_gives_every_entry_once_and_in_order(place: Place, mark: bool) -> None:
    log, _ = place.open()
    expected: Entries = {}
    for i in range(300):
        turn = [(group, b"%d-%d-" % (group, i) + bytes(i)) for group in GROUPS[: i % 3 + 1]]
        for group, first, _last in propose(log, turn) or []:
            expected.setdefault(group, []).append((first, dict(turn)[group]))
    segments = log.stats().segment
    log.close(mark)
    assert segments > 2
    log, got = place.open()
    assert got == expected
    index = expected[1][-1][0] + 2  # behind the second term's first
    assert propose(log, [(1, b"next")]) == [(1, index, index)]
    log.close(mark)
    log, got = place.open(applied={0: 11, 1: 21, 5: 101})
    assert got[0] == expected[0][10:]
    assert got[1] == [*expected[1][20:], (index, b"next")]
    assert 5 not in got
    log.close(mark)


def test_ten_starts_in_a_row_without_a_clean_end_keep_all(place: Place) -> None:
    expected = []
    for i in range(10):
        log, got = place.open()
        assert got.get(0, []) == expected
        propose(log, [(0, b"%d" % i)])
        expected.append((2 * i + 2, b"%d" % i))
        assert log.last(0) == (2 * i + 2, i + 1), "each start is a new term"
        log.close(mark=False)


def test_starts_without_use_do_not_pile_up_prepared_segments(place: Place) -> None:
    for _ in range(8):
        log, _ = place.open()
        propose(log, [(0, b"x")])
        log.close(mark=False)
    source = place.segments()
    numbers = source.numbers()
    source.close()
    assert len(numbers) <= 9  # one of each life, and what the last one had made ready


def test_a_start_drops_what_the_checkpoint_covers(place: Place) -> None:
    log, _ = place.open()
    for _ in range(20):
        propose(log, [(0, bytes(9000))])
    log.close(mark=True)
    log, got = place.open(applied={0: 21, 1: 1, 5: 1})
    assert got == {}
    log.tick()
    wait(log)
    wait_until_dropped(log)
    assert log.stats().segments == 1
    log.close(mark=True)


def test_an_entry_of_the_largest_size(place: Place) -> None:
    big = bytes(range(256)) * (17 * 1024 * 1024 // 256)
    log, _ = place.open(segment_bytes=64 * 1024 * 1024, first_segment_bytes=1024 * 1024)
    propose(log, [(0, b"small"), (1, big)])
    log.close(mark=False)
    log, got = place.open(segment_bytes=64 * 1024 * 1024, first_segment_bytes=1024 * 1024)
    assert got == {0: [(2, b"small")], 1: [(2, big)]}
    log.close(mark=True)


def test_a_turn_above_one_append_is_committed_as_a_whole(place: Place) -> None:
    log, _ = place.open()
    turn = [(0, bytes(20_000)) for _ in range(12)]
    assert propose(log, turn) == [(0, 2, 13)]
    assert log.stats().appends == 6  # the groups' first records, the first term, then three entries each
    log.close(mark=False)
    log, got = place.open()
    assert [index for index, _ in got[0]] == list(range(2, 14))
    log.close(mark=True)


def test_compaction_drops_old_segments_and_keeps_what_is_needed(place: Place) -> None:
    log, _ = place.open()
    for i in range(100):
        propose(log, [(0, bytes(5000)), (1, b"%d" % i)])
    segment = log.stats().segment
    assert segment > 5
    log.compact({0: 61, 1: 61, 5: 1})
    propose(log, [(0, b"with the compaction")])
    wait_until_dropped(log)
    assert 1 < log.stats().oldest_segment < segment
    log.close(mark=False)
    log, got = place.open(applied={0: 61, 1: 61, 5: 1})
    assert [index for index, _ in got[0]] == list(range(62, 103))
    assert got[1] == [(i + 2, b"%d" % i) for i in range(60, 100)]
    log.compact({0: 103, 1: 102, 5: 2})
    log.tick()  # nobody proposes: the tick writes it
    wait(log)
    wait_until_dropped(log)
    assert log.stats().oldest_segment == log.stats().segment
    log.close(mark=True)
    log, got = place.open(applied={0: 103, 1: 102, 5: 2})
    assert got == {}
    assert propose(log, [(1, b"on")]) == [(1, 104, 104)]
    log.close(mark=True)


@pytest.mark.parametrize("room", [0, 1, 4096])
def test_compaction_finds_no_room_beside_a_turn_that_fills_an_append(place: Place, room: int) -> None:
    """What it writes was not counted: the append was too long, and the worker ended."""
    log, _ = place.open()
    for _ in range(20):
        propose(log, [(0, bytes(9000))])
    segment = log.stats().segment
    log.compact({0: 15, 1: 1, 5: 1})
    full = bytes(log._io.append_bytes_max() - APPEND_BYTES - room)
    assert propose(log, [(0, full)]) == [(0, 22, 22)]
    wait_until_dropped(log)
    assert 1 < log.stats().oldest_segment < segment
    log.close(mark=False)
    log, got = place.open(applied={0: 15, 1: 1, 5: 1})
    assert got[0] == [*((index, bytes(9000)) for index in range(16, 22)), (22, full)]
    log.close(mark=True)


def wait_until_dropped(log: RaftLog) -> None:
    """The files go in the background: wait for the oldest to be what the log's book says."""
    marks = {int(group): log._book.group(group).compact_index for group in log._groups}
    keep = log._segments.dead_before(marks, log.stats().segment)
    for _ in range(10_000):
        if log.stats().oldest_segment >= keep:
            return
        select.select([], [], [], 0.001)
    raise AssertionError("segments were not dropped within 10 s")


def test_many_segments_are_recycled(place: Place) -> None:
    log, _ = place.open()
    for i in range(1, 201):
        propose(log, [(0, bytes([i]) * 12_000)])
        if i % 10 == 0:
            log.compact({0: i - 5, 1: 1, 5: 1})
            wait_until_dropped(log)
    log.close(mark=False)
    log, got = place.open(applied={0: 191, 1: 1, 5: 1})
    assert got[0] == [(i + 1, bytes([i]) * 12_000) for i in range(191, 201)]
    log.close(mark=True)


def test_a_checkpoint_ahead_of_the_log_stops_the_start(place: Place) -> None:
    log, _ = place.open()
    propose(log, [(0, b"a")])
    log.close(mark=True)
    with pytest.raises(StartError, match="group 0 ends at entry 2, the checkpoint holds 3"):
        place.open(applied={0: 3})


def test_a_fresh_log_goes_on_after_the_checkpoint(place: Place) -> None:
    log, _ = place.open(applied={0: 7})
    assert propose(log, [(0, b"a")]) == [(0, 9, 9)]
    log.close(mark=False)
    log, got = place.open(applied={0: 7})
    assert got == {0: [(9, b"a")]}
    log.close(mark=False)


def test_a_fresh_log_after_a_checkpoint_may_die_at_once(place: Place) -> None:
    """Before its first entry, and with groups that never get one."""
    for life in range(2):
        log, got = place.open(applied={0: 7, 1: 3})
        assert (got, log.last(0), log.last(1)) == ({}, (8 + life, 2 + life), (4 + life, 2 + life))
        log.close(mark=False)
    log, _ = place.open(applied={0: 7, 1: 3})
    assert propose(log, [(0, b"a")]) == [(0, 11, 11)]
    log.close(mark=False)
    log, got = place.open(applied={0: 7, 1: 3})
    assert (got, log.last(1)) == ({0: [(11, b"a")]}, (7, 5))
    log.close(mark=True)


def test_an_empty_log_goes_on_with_the_term_and_configuration_that_a_checkpoint_carried(place: Place) -> None:
    """As after a change of the number of workers: rows and their header move, the log does not."""
    log, _ = place.open()
    carried = log.carried(0, log.last(0)[0])
    log.close(mark=True)
    place.sim, place.path = SimSegments(), place.path / "other"
    rows = {0: Held(50, 1, carried)}
    log = open_log(place.segments(), place.config(), rows, collect({}), lambda: 1)
    assert log.last(0) == (51, 2), "a term that was voted in is never used again"
    log.close(mark=True)


def through_raft(log: RaftLog) -> None:
    """From now on every turn goes through Raft, as it does where a group has more members."""
    log._settle()
    log._alone.clear()
    log._look_who_is_alone = lambda: None  # type: ignore[method-assign]


def test_turns_through_raft_are_what_turns_of_lonely_groups_are(place: Place) -> None:
    log, _ = place.open()
    propose(log, [(0, b"before"), (5, b"before")])
    through_raft(log)
    assert propose(log, [(0, b"a"), (1, b"b"), (0, b"c"), (5, b"")]) == [(0, 3, 4), (1, 2, 2), (5, 3, 3)]
    big = [(0, bytes(20_000)) for _ in range(12)]  # several appends
    appends = log.stats().appends
    array, keep = wal.records_array([Record(wal.ENTRY, group, data=data, kind=wal.DATA) for group, data in big])
    assert log.propose(array, len(big), False)
    commits = []
    while log.busy:
        log.tick()  # must not take what is not written for durable
        assert log._multi.raft(log._groups[0]).commit == 4
        commits += wait_one(log)
    del keep
    assert commits == [(0, 5, 16)]
    assert log.stats().appends == appends + 4
    assert log._multi.raft(log._groups[0]).commit == 16
    log.compact({0: 10, 1: 2, 5: 2})
    propose(log, [(1, b"with the compaction")])
    log.close(mark=False)
    log, got = place.open(applied={0: 10, 1: 2, 5: 2})
    assert [index for index, _ in got[0]] == list(range(11, 17))
    assert (got[1], got[5]) == ([(3, b"with the compaction")], [(3, b"")])
    assert log.last(0) == (17, 2)
    log.close(mark=True)


def wait_one(log: RaftLog) -> list[tuple[int, int, int]]:
    """Until one append is durable."""
    if log.fd >= 0:
        assert select.select([log.fd], [], [], 10)[0], "no completion within 10 s"
    else:
        log._io.complete()  # type: ignore[attr-defined]
    rows, n = log.reap()
    return [(rows[i].group, rows[i].first, rows[i].last) for i in range(n)]


def test_a_group_with_another_voter_is_refused(place: Place) -> None:
    log, _ = place.open()
    log.close(mark=True)
    with pytest.raises(StartError, match="other voters than this node"):
        place.open(node=2)


def test_sequence_chain_is_unbroken_over_segments_and_starts(place: Place) -> None:
    for _ in range(3):
        log, _ = place.open()
        for _ in range(20):
            propose(log, [(0, bytes(9000))])
        log.close(mark=False)
    source = place.segments()
    sequences = []
    for number in source.numbers():
        view = source.read(number)
        header = wal.segment_read(view)
        assert not isinstance(header, int)
        off = wal.HEADER_BYTES
        while append := wal.append_check(view, off, header.segment_id):
            sequences.append((append.sequence, append.flags))
            off += append.bytes
    source.close()
    plain = [sequence for sequence, flags in sequences if flags == 0]
    assert plain == list(range(1, 65))  # 60 turns, three terms, and the groups' first records
    assert [sequence for sequence, flags in sequences if flags] == [22, 43]


def test_assign_leaves_no_hole(place: Place) -> None:
    last = ffi.new("uint64_t[]", [4, 0, 9])
    term = ffi.new("uint64_t[]", [1, 2, 3])
    array, keep = wal.records_array([Record(0, 2), Record(0, 0), Record(0, 2)])
    lib.nd_wal_assign(array, 3, 3, term, last)
    assert [(r.group, r.term, r.index) for r in map(wal.record_of, array)] == [(2, 3, 10), (0, 1, 5), (2, 3, 11)]
    assert list(last) == [5, 0, 11]
    del keep
