"""A hybrid logical clock (Kulkarni et al. 2014, section 3): stamps that follow the wall clock and never go back.

A stamp is one u64: milliseconds since 1970 in the upper 48 bits, a logical count in the lower 16, so that stamps
compare as plain integers. Invariant: every stamp handed out is greater than all stamps handed out or taken in
before. A logical count that overflows carries into the milliseconds, which keeps the invariant at the price of
running ahead of the wall by as much.

It reads no clock (the caller passes `wall_ms`), persists nothing (a restart passes the highest stamp of its log as
`last`), and does not slew the wall clock: a wall that jumps back only makes the logical part count.
"""

LOGICAL_BITS = 16
LOGICAL_MASK = (1 << LOGICAL_BITS) - 1
STAMP_MAX = (1 << 64) - 1
SKEW_MS_MAX = 500


class ClockSkew(ValueError):
    """A remote stamp lies further ahead of this wall clock than the limit; it was not taken in."""

    def __init__(self, remote: int, wall_ms: int, skew_ms_max: int) -> None:
        self.ahead_ms = physical_ms(remote) - wall_ms
        self.skew_ms_max = skew_ms_max
        super().__init__(
            f"remote stamp is {self.ahead_ms} ms ahead of this clock, limit {skew_ms_max} ms: check both hosts' time"
        )


def physical_ms(stamp: int) -> int:
    """The milliseconds of a stamp."""
    return stamp >> LOGICAL_BITS


def logical(stamp: int) -> int:
    """The count of a stamp within its millisecond."""
    return stamp & LOGICAL_MASK


class Hlc:
    """The clock of one process; not shared between threads."""

    __slots__ = ("_last", "_skew_ms_max")

    def __init__(self, last: int = 0, skew_ms_max: int = SKEW_MS_MAX) -> None:
        assert 0 <= last <= STAMP_MAX
        assert skew_ms_max >= 0
        self._last = last
        self._skew_ms_max = skew_ms_max

    @property
    def last(self) -> int:
        """The greatest stamp handed out or taken in."""
        return self._last

    def now(self, wall_ms: int) -> int:
        """A stamp greater than every earlier one, at the wall clock when that has moved."""
        self._last = max(wall_ms << LOGICAL_BITS, self._last + 1)
        assert self._last <= STAMP_MAX
        return self._last

    def update(self, remote: int, wall_ms: int) -> int:
        """A stamp greater than `remote` and all earlier ones; raises ClockSkew, unchanged, when it is too far ahead."""
        assert 0 <= remote <= STAMP_MAX
        if physical_ms(remote) > wall_ms + self._skew_ms_max:
            raise ClockSkew(remote, wall_ms, self._skew_ms_max)
        self._last = max(wall_ms << LOGICAL_BITS, remote + 1, self._last + 1)
        assert self._last <= STAMP_MAX
        return self._last
