"""The hybrid logical clock: strictly rising, close to the wall, closed to poisoned stamps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodedb_node.clocks.hlc import LOGICAL_BITS, LOGICAL_MASK, ClockSkew, Hlc, logical, physical_ms

WALL = st.integers(0, 1 << 47)
JUMP = st.integers(-3_600_000, 3_600_000)


def test_stamp_is_milliseconds_then_count() -> None:
    clock = Hlc()
    assert clock.now(1_000) == 1_000 << LOGICAL_BITS
    second = clock.now(1_000)
    assert (physical_ms(second), logical(second)) == (1_000, 1)


def test_count_restarts_with_the_next_millisecond() -> None:
    clock = Hlc()
    clock.now(5)
    clock.now(5)
    assert clock.now(6) == 6 << LOGICAL_BITS


def test_overflowing_count_carries_into_the_milliseconds() -> None:
    clock = Hlc(last=(7 << LOGICAL_BITS) | LOGICAL_MASK)
    assert clock.now(7) == 8 << LOGICAL_BITS


def test_restart_continues_above_the_log() -> None:
    last = (9_000 << LOGICAL_BITS) | 3
    assert Hlc(last=last).now(1_000) == last + 1


def test_stamp_beyond_the_limit_is_refused_and_changes_nothing() -> None:
    clock = Hlc(skew_ms_max=500)
    before = clock.now(10_000)
    with pytest.raises(ClockSkew, match="501 ms ahead of this clock, limit 500 ms"):
        clock.update(10_501 << LOGICAL_BITS, 10_000)
    assert clock.last == before


def test_stamp_at_the_limit_is_taken() -> None:
    clock = Hlc(skew_ms_max=500)
    remote = (10_500 << LOGICAL_BITS) | LOGICAL_MASK
    assert clock.update(remote, 10_000) == remote + 1


@given(start=WALL, jumps=st.lists(JUMP, max_size=50))
def test_rises_whatever_the_wall_does(start: int, jumps: list[int]) -> None:
    clock, wall, previous = Hlc(), start, -1
    for jump in jumps:
        wall = max(0, wall + jump)
        stamp = clock.now(wall)
        assert stamp > previous
        assert physical_ms(stamp) >= wall
        previous = stamp


@given(walls=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400)), min_size=1, max_size=60))
def test_messages_keep_cause_before_effect_and_stay_near_the_wall(walls: list[tuple[int, int]]) -> None:
    """Three clocks whose walls differ by at most 400 ms pass a stamp around: it rises each time and never runs away."""
    clocks = [Hlc() for _ in range(3)]
    base = 1_000_000
    carried = clocks[0].now(base)
    for who, skew in walls:
        stamp = clocks[who].update(carried, base + skew)
        assert stamp > carried
        assert physical_ms(stamp) <= base + 400
        carried = stamp


@given(last=st.integers(0, 1 << 62), remote=st.integers(0, 1 << 62), wall=WALL)
def test_update_exceeds_all_it_knows_or_refuses(last: int, remote: int, wall: int) -> None:
    clock = Hlc(last=last)
    try:
        stamp = clock.update(remote, wall)
    except ClockSkew:
        assert physical_ms(remote) > wall + 500
        assert clock.last == last
    else:
        assert stamp > max(last, remote)
        assert stamp == clock.last
