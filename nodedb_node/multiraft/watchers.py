"""Who waits until a group has applied an index: reached, timed out, or the group is gone.

Invariant: every wait ends exactly once. An index that is applied already wins over a deadline that has passed and over
a group that goes. A wait on a group that is not here is refused, so that nobody waits for a name that means nothing.
It keeps no time of its own; deadlines are looked at when the owner ticks.
"""

from heapq import heappop, heappush
from typing import Any

from nodedb_node.ids import GroupId
from nodedb_node.multiraft.messages import Outcome
from nodedb_node.raft.messages import LogIndex, Micros

WAITS_MAX = 65_536  # of one process; more are refused
SWEEP_ROWS = 64  # ended waits are left where they are up to so many


class Watchers:
    """The waits of one process: a heap by index for each group, one by deadline for all."""

    def __init__(self) -> None:
        self._applied: dict[GroupId, LogIndex] = {}
        self._by_index: dict[GroupId, list[tuple[LogIndex, int, Any]]] = {}
        self._by_deadline: list[tuple[Micros, int, GroupId]] = []
        self._open: dict[int, Any] = {}  # waits not ended, by number
        self._number = 0

    def __len__(self) -> int:
        return len(self._open)

    def add_group(self, group: GroupId, applied: LogIndex) -> None:
        assert group not in self._applied
        self._applied[group] = applied
        self._by_index[group] = []

    def remove_group(self, group: GroupId) -> list[tuple[Any, Outcome]]:
        """The group is gone, and with it all waits for it."""
        del self._applied[group]
        rows = self._by_index.pop(group)
        ended = [(number, token) for _, number, token in sorted(rows) if number in self._open]
        for number, _ in ended:
            del self._open[number]
        return [(token, Outcome.GONE) for _, token in ended]

    def wait(self, group: GroupId, index: LogIndex, deadline_us: Micros, token: Any) -> Outcome | bool | None:
        """The outcome if it is known already, None: `token` will be reported; False: refused, too many wait."""
        applied = self._applied.get(group)
        if applied is None:
            return Outcome.GONE
        if applied >= index:
            return Outcome.REACHED
        if len(self._open) >= WAITS_MAX:
            return False
        self._number += 1
        self._open[self._number] = token
        heappush(self._by_index[group], (index, self._number, token))
        heappush(self._by_deadline, (deadline_us, self._number, group))
        if len(self._by_deadline) > 2 * len(self._open) + SWEEP_ROWS:
            self._sweep_deadlines()
        return None

    def applied(self, group: GroupId, index: LogIndex) -> list[tuple[Any, Outcome]]:
        """The group has applied index; it never falls."""
        if index <= self._applied[group]:
            return []
        self._applied[group] = index
        rows = self._by_index[group]
        ended = []
        while rows and rows[0][0] <= index:
            _, number, token = heappop(rows)
            if self._open.pop(number, None) is not None:
                ended.append((token, Outcome.REACHED))
        return ended

    def next_deadline_us(self) -> Micros | None:
        while self._by_deadline and self._by_deadline[0][1] not in self._open:
            heappop(self._by_deadline)
        return self._by_deadline[0][0] if self._by_deadline else None

    def tick(self, now_us: Micros) -> list[tuple[Any, Outcome]]:
        """Waits whose deadline has passed."""
        ended = []
        while (deadline_us := self.next_deadline_us()) is not None and deadline_us <= now_us:
            _, number, group = heappop(self._by_deadline)
            ended.append((self._open.pop(number), Outcome.TIMED_OUT))
            self._sweep(group)
        return ended

    def _sweep(self, group: GroupId) -> None:
        """A heap of waits that timed out is emptied of them once they are most of it."""
        rows = self._by_index.get(group, [])
        live = [row for row in rows if row[1] in self._open] if len(rows) > SWEEP_ROWS else rows
        if len(live) * 2 < len(rows):
            rows[:] = sorted(live)

    def _sweep_deadlines(self) -> None:
        """Waits that were reached stay in the heap behind one that is open and due earlier."""
        self._by_deadline = sorted(row for row in self._by_deadline if row[1] in self._open)
