"""When a checkpoint begins: bytes of rows, bytes of log, a start that applied entries; never otherwise, never two."""

from nodedb_node.native.store import GroupCut
from workers.shard.checkpoint import RETRY_US, Checkpointer

LOG_BYTES_MAX = 1000


class FakeRows:
    def __init__(self) -> None:
        self.dirty = False
        self.cuts: list[GroupCut] = []
        self.end: bool | None = True

    def wants_checkpoint(self, asked: bool) -> bool:
        return asked or self.dirty

    def checkpoint_begin(self, cuts: list[GroupCut]) -> None:
        self.cuts = cuts

    def checkpoint_end(self) -> bool | None:
        return self.end


class FakeLog:
    def __init__(self, replayed: int = 0, closed: int = 0) -> None:
        self.replayed = replayed
        self.closed = closed
        self.full = False
        self.compacted: list[dict[int, int]] = []

    def closed_bytes(self) -> int:
        return self.closed

    def nospace(self) -> bool:
        return self.full

    def carried(self, group: int, applied: int) -> bytes:
        return b"of %d" % group

    def compact(self, applied: dict[int, int]) -> None:
        self.compacted.append(applied)


def checkpointer(rows: FakeRows, kept: FakeLog) -> Checkpointer:
    return Checkpointer(rows, kept, [3, 4], lambda group: (group * 10, 1), LOG_BYTES_MAX)


def test_an_idle_worker_that_applied_nothing_at_its_start_writes_nothing() -> None:
    one = checkpointer(FakeRows(), FakeLog())
    assert not any(one.maybe_begin(now) for now in range(0, 10**10, 10**8))


def test_changed_rows_begin_one_at_a_time_and_the_log_learns_of_it_when_it_is_durable() -> None:
    rows, kept = FakeRows(), FakeLog()
    one = checkpointer(rows, kept)
    rows.dirty = True
    assert one.maybe_begin(5_000) and one.running and not one.maybe_begin(6_000)
    assert [(cut.group, cut.applied_index) for cut in rows.cuts] == [(3, 30), (4, 40)]
    rows.end = False
    assert one.on_thread(7_000) is None and one.running and kept.compacted == []
    rows.end = True
    assert one.on_thread(9_000) == 4 and not one.running and kept.compacted == [{3: 30, 4: 40}]


def test_a_start_that_applied_entries_is_followed_by_one_checkpoint() -> None:
    one = checkpointer(FakeRows(), FakeLog(replayed=1))
    assert one.maybe_begin(0)
    assert one.on_thread(1) is not None
    assert not one.maybe_begin(2)


def test_a_log_above_its_bound_begins_one_and_then_needs_as_much_again() -> None:
    kept = FakeLog(closed=LOG_BYTES_MAX)
    one = checkpointer(FakeRows(), kept)
    assert not one.maybe_begin(0)
    kept.closed += 1
    assert one.maybe_begin(1)
    kept.closed += 10  # closed while it ran: not covered
    assert one.on_thread(2) is not None
    assert not one.maybe_begin(3), "the compaction of what it covers may take a while"
    kept.closed += LOG_BYTES_MAX - 10
    assert not one.maybe_begin(4)
    kept.closed += 1
    assert one.maybe_begin(5)


def test_when_disk_space_is_short_any_closed_segment_begins_one() -> None:
    kept = FakeLog(closed=1)
    one = checkpointer(FakeRows(), kept)
    assert not one.maybe_begin(0)
    kept.full = True
    assert one.maybe_begin(1)
    assert one.on_thread(2) is not None
    assert not one.maybe_begin(3), "there is nothing more that it could let go"


def test_a_full_disk_is_tried_again_later_and_what_asked_still_asks() -> None:
    rows, kept = FakeRows(), FakeLog(replayed=7)
    one = checkpointer(rows, kept)
    assert one.maybe_begin(0)
    rows.end = None
    assert one.on_thread(10) is None and kept.compacted == []
    assert not one.maybe_begin(9 + RETRY_US)
    assert one.maybe_begin(10 + RETRY_US)
