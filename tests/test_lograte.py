"""Lines of one kind of trouble: a burst, then one a second, and none uncounted."""

from hypothesis import given
from hypothesis import strategies as st

from nodedb_node.lograte import BURST, PER_SECOND, LineRate

SECOND = 1_000_000


def test_a_burst_is_written_and_then_one_a_second_with_the_count_of_the_others() -> None:
    lines = LineRate()
    assert [lines.take(1, 0) for _ in range(BURST + 5)] == [0] * BURST + [None] * 5
    assert lines.take(1, SECOND // PER_SECOND) == 5
    assert lines.take(1, SECOND // PER_SECOND) is None
    assert lines.take(2, SECOND // PER_SECOND) == 0, "kinds do not share"


def test_the_count_is_told_when_nothing_follows() -> None:
    lines = LineRate()
    for _ in range(BURST + 3):
        lines.take(1, 0)
    assert lines.overdue(SECOND // PER_SECOND - 1) == []
    assert lines.overdue(SECOND // PER_SECOND) == [(1, 3)]
    assert lines.overdue(100 * SECOND) == []


@given(st.lists(st.integers(0, 3 * SECOND), max_size=200))
def test_every_event_is_written_or_counted_and_the_rate_holds(waits: list[int]) -> None:
    lines, now, written, counted = LineRate(), 0, 0, 0
    for wait in waits:
        now += wait
        suppressed = lines.take(7, now)
        if suppressed is not None:
            written, counted = written + 1, counted + suppressed
    counted += sum(count for _, count in lines.overdue(now + 60 * SECOND))
    assert written + counted == len(waits)
    assert written <= BURST + PER_SECOND * now / SECOND + 1
