"""Which segments of a log may die: per segment the highest entry index of each group, nothing per entry. Pure.

Invariant: segments die oldest first, and one dies only when every entry in it is covered by an applied index that a
synced checkpoint holds. Hard states and configurations in dying segments are not counted here: compaction writes all
of them anew before anything dies.
"""

from collections.abc import Mapping


class SegmentBook:
    """The closed segments, oldest first; the one being written to is not among them."""

    def __init__(self) -> None:
        self._closed: list[tuple[int, dict[int, int], int]] = []  # (number, highest index by group, bytes)
        self.bytes_ever = 0  # of all files closed so far, dead ones included

    def close_segment(self, number: int, last: Mapping[int, int], size: int) -> None:
        """last[group]: an index that no entry of the group in this segment is above; size in bytes."""
        assert not self._closed or number > self._closed[-1][0]
        self._closed.append((number, dict(last), size))
        self.bytes_ever += size

    @property
    def bytes(self) -> int:
        """Of the closed segments' files."""
        return sum(size for _, _, size in self._closed)

    def dead_before(self, applied: Mapping[int, int], current: int) -> int:
        """All segments with a lower number than the result may die, given what a synced checkpoint covers."""
        for number, last, _ in self._closed:
            if any(index > applied.get(group, 0) for group, index in last.items()):
                return number
        return current

    def forget_before(self, number: int) -> None:
        self._closed = [row for row in self._closed if row[0] >= number]
