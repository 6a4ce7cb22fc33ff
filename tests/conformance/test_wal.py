"""What every log must do, on io_uring, on the thread, and on the simulated disk."""

import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodedb_node._native import ffi, lib
from nodedb_node.errors import StartError
from nodedb_node.native import wal
from nodedb_node.native.wal import Record
from nodedb_node.storage.directory import LogDirectory, Segments
from nodedb_node.storage.onevoter import LogConfig, OneVoterLog, open_log
from tests.conformance.wal_disk import SimSegments

GROUPS = [0, 1, 5]
SEGMENT_BYTES = 64 * 1024
Entries = dict[int, list[tuple[int, bytes]]]


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

    def open(self, applied: dict[int, int] | None = None, **changes: Any) -> tuple[OneVoterLog, Entries]:
        got: Entries = {}

        def apply(records: Any, n: int) -> None:
            for i in range(n):
                row = wal.record_of(records[i])
                got.setdefault(row.group, []).append((row.index, row.data))

        return open_log(self.segments(), self.config(**changes), GROUPS, applied or {}, apply), got


def propose(
    log: OneVoterLog, turn: list[tuple[int, bytes]], reserve: bool = False
) -> list[tuple[int, int, int]] | None:
    """One turn, until it is committed: (group, first, last) of all; None = refused."""
    array, keep = wal.records_array([Record(0, group, data=data) for group, data in turn])
    if not log.propose(array, len(turn), reserve):
        return None
    commits = wait(log)
    del keep
    return commits


def wait(log: OneVoterLog) -> list[tuple[int, int, int]]:
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
        (0, 1, 1),
        (1, 1, 1),
        (0, 2, 3),
        (5, 1, 1),
    ]
    assert propose(log, [(5, b"x")]) == [(5, 2, 2)]
    assert log.last(0) == (3, 1)
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
    assert propose(log, [(1, b"next")]) == [(1, len(expected[1]) + 1, len(expected[1]) + 1)]
    log.close(mark)
    log, got = place.open(applied={0: 10, 1: 20, 5: 100})
    assert got[0] == expected[0][10:]
    assert got[1] == [*expected[1][20:], (len(expected[1]) + 1, b"next")]
    assert 5 not in got
    log.close(mark)


def test_ten_starts_in_a_row_without_a_clean_end_keep_all(place: Place) -> None:
    expected = []
    for i in range(10):
        log, got = place.open()
        assert got.get(0, []) == expected
        propose(log, [(0, b"%d" % i)])
        expected.append((i + 1, b"%d" % i))
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
    log, got = place.open(applied={0: 20})
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
    assert got == {0: [(1, b"small")], 1: [(1, big)]}
    log.close(mark=True)


def test_a_turn_above_one_append_is_committed_as_a_whole(place: Place) -> None:
    log, _ = place.open()
    turn = [(0, bytes(20_000)) for _ in range(12)]
    assert propose(log, turn) == [(0, 1, 12)]
    assert log.stats().appends == 5  # the first hard states, then three entries each
    log.close(mark=False)
    log, got = place.open()
    assert [index for index, _ in got[0]] == list(range(1, 13))
    log.close(mark=True)


def test_compaction_drops_old_segments_and_keeps_what_is_needed(place: Place) -> None:
    log, _ = place.open()
    for i in range(100):
        propose(log, [(0, bytes(5000)), (1, b"%d" % i)])
    segment = log.stats().segment
    assert segment > 5
    log.compact({0: 60, 1: 60, 5: 0})
    propose(log, [(0, b"with the compaction")])
    wait_until_dropped(log)
    assert 1 < log.stats().oldest_segment < segment
    log.close(mark=False)
    log, got = place.open(applied={0: 60, 1: 60})
    assert [index for index, _ in got[0]] == list(range(61, 102))
    assert got[1] == [(i + 1, b"%d" % i) for i in range(60, 100)]
    log.compact({0: 101, 1: 100})
    log.tick()  # nobody proposes: the tick writes it
    wait(log)
    wait_until_dropped(log)
    assert log.stats().oldest_segment == log.stats().segment
    log.close(mark=True)
    log, got = place.open(applied={0: 101, 1: 100})
    assert got == {}
    assert propose(log, [(1, b"on")]) == [(1, 101, 101)]
    log.close(mark=True)


def wait_until_dropped(log: OneVoterLog) -> None:
    """The files go in the background: wait for the oldest to be what the log's book says."""
    keep = log._state.segments.dead_before(log._state.compact, log.stats().segment)
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
            log.compact({0: i - 5})
            wait_until_dropped(log)
    log.close(mark=False)
    log, got = place.open(applied={0: 190})
    assert got[0] == [(i, bytes([i]) * 12_000) for i in range(191, 201)]
    log.close(mark=True)


def test_a_checkpoint_ahead_of_the_log_stops_the_start(place: Place) -> None:
    log, _ = place.open()
    propose(log, [(0, b"a")])
    log.close(mark=True)
    with pytest.raises(StartError, match="group 0 ends at entry 1, the checkpoint holds 2"):
        place.open(applied={0: 2})


def test_a_fresh_log_goes_on_after_the_checkpoint(place: Place) -> None:
    log, _ = place.open(applied={0: 7})
    assert propose(log, [(0, b"a")]) == [(0, 8, 8)]
    log.close(mark=False)
    log, got = place.open(applied={0: 7})
    assert got == {0: [(8, b"a")]}
    log.close(mark=False)


def test_a_fresh_log_after_a_checkpoint_may_die_at_once(place: Place) -> None:
    """Before its first entry, and with groups that never get one."""
    for _ in range(2):
        log, got = place.open(applied={0: 7, 1: 3})
        assert (got, log.last(0), log.last(1)) == ({}, (7, 1), (3, 1))
        log.close(mark=False)
    log, _ = place.open(applied={0: 7, 1: 3})
    assert propose(log, [(0, b"a")]) == [(0, 8, 8)]
    log.close(mark=False)
    log, got = place.open(applied={0: 7, 1: 3})
    assert (got, log.last(1)) == ({0: [(8, b"a")]}, (3, 1))
    log.close(mark=True)


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
    assert plain == list(range(1, 62))  # 60 turns and the first hard states
    assert [sequence for sequence, flags in sequences if flags] == [21, 41]


def test_assign_leaves_no_hole(place: Place) -> None:
    last = ffi.new("uint64_t[]", [4, 0, 9])
    term = ffi.new("uint64_t[]", [1, 2, 3])
    array, keep = wal.records_array([Record(0, 2), Record(0, 0), Record(0, 2)])
    lib.nd_wal_assign(array, 3, 3, term, last)
    assert [(r.group, r.term, r.index) for r in map(wal.record_of, array)] == [(2, 3, 10), (0, 1, 5), (2, 3, 11)]
    assert list(last) == [5, 0, 11]
    del keep
