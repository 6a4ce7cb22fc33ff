"""Is a history of concurrent operations linearizable? Wing and Gong's search with Lowe's memory of configurations.

Operations overlap in real time; the search looks for an order, one point inside each operation's interval, in which a
sequential model gives every answer that was given (Wing and Gong 1993). A configuration (set of operations done, state)
that was tried once is never tried again (Lowe 2017). Histories are split by key first: a history is linearizable if and
only if each key's is (Herlihy and Wing 1990, locality). An operation without an answer may take effect at any time after
its call, or never. It knows no clock and no consensus: it judges what clients saw.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

STEPS_MAX = 3_000_000


class Operation(NamedTuple):
    """One call of one client on one key."""

    client: int
    call_us: int
    return_us: int | None  # None: no answer came, and none will
    request: tuple[Any, ...]
    answer: Any = None


# step(state, request, answer, known) -> the state after, or None when the model would have answered otherwise; with
# known False any answer is right. States are hashable.
Step = Callable[[Any, tuple[Any, ...], Any, bool], Hashable | None]


class Verdict(NamedTuple):
    """ok, or the longest order found; undecided: the search was given up after STEPS_MAX steps."""

    ok: bool
    undecided: bool
    steps: int
    linearized: list[Operation]
    stuck_at: list[Operation]  # operations that could have come next, none of which fits


def check(operations: Sequence[Operation], step: Step, initial: Hashable, steps_max: int = STEPS_MAX) -> Verdict:
    """Judge one key's history."""
    search = _Search(operations, step, initial)
    return search.run(steps_max)


def by_key(operations: Iterable[tuple[Hashable, Operation]]) -> dict[Hashable, list[Operation]]:
    """One history per key, in the order in which keys first appear."""
    histories: dict[Hashable, list[Operation]] = {}
    for key, operation in operations:
        histories.setdefault(key, []).append(operation)
    return histories


class _Search:
    """Depth first over orders. Calls and returns stand in one linked list in real-time order; an operation is taken out
    of the list when it is given its point, and put back when that did not lead on."""

    def __init__(self, operations: Sequence[Operation], step: Step, initial: Hashable) -> None:
        self.operations, self.step, self.state = operations, step, initial
        n = len(operations)
        # Node 2i is the call of operation i, 2i + 1 its return; 2n is the head. At equal times calls come first: then
        # both orders are allowed.
        times = [(op.call_us, 0, 2 * i) for i, op in enumerate(operations)]
        times += [(op.return_us, 1, 2 * i + 1) for i, op in enumerate(operations) if op.return_us is not None]
        self.head = 2 * n
        self.after = [-1] * (2 * n + 1)
        self.before = [-1] * (2 * n + 1)
        at = self.head
        for _, _, node in sorted(times):
            self.after[at], self.before[node] = node, at
            at = node
        self.returns = sum(op.return_us is not None for op in operations)
        self.done = 0  # bit i: operation i has its point
        self.stack: list[tuple[int, Any]] = []
        self.best: list[int] = []
        self.best_stuck: list[int] = []

    def run(self, steps_max: int) -> Verdict:
        seen: set[tuple[int, Any]] = set()
        operations, step, after = self.operations, self.step, self.after
        node, steps = after[self.head], 0
        while self.returns:
            steps += 1
            if steps > steps_max:
                return self._verdict(False, True, steps)
            if node != -1 and not node & 1:
                i = node >> 1
                op = operations[i]
                state = step(self.state, op.request, op.answer, op.return_us is not None)
                if state is not None and (self.done | 1 << i, state) not in seen:
                    seen.add((self.done | 1 << i, state))
                    self._take(i, state)
                    node = after[self.head]
                else:
                    node = after[node]
                continue
            # The return of an operation without a point, or the end: nothing that could come next fits.
            self._remember()
            if not self.stack:
                return self._verdict(False, False, steps)
            node = after[self._put_back()]
        return self._verdict(True, False, steps)

    def _take(self, i: int, state: Any) -> None:
        self.stack.append((i, self.state))
        self.state, self.done = state, self.done | 1 << i
        self._unlink(2 * i)
        if self.operations[i].return_us is not None:
            self._unlink(2 * i + 1)
            self.returns -= 1

    def _put_back(self) -> int:
        i, self.state = self.stack.pop()
        self.done &= ~(1 << i)
        if self.operations[i].return_us is not None:
            self._link(2 * i + 1)
            self.returns += 1
        self._link(2 * i)
        return 2 * i

    def _unlink(self, node: int) -> None:
        before, after = self.before[node], self.after[node]
        self.after[before] = after
        if after != -1:
            self.before[after] = before

    def _link(self, node: int) -> None:
        before, after = self.before[node], self.after[node]
        self.after[before] = node
        if after != -1:
            self.before[after] = node

    def _remember(self) -> None:
        if len(self.stack) < len(self.best) or self.best_stuck and len(self.stack) == len(self.best):
            return
        self.best = [i for i, _ in self.stack]
        self.best_stuck = []
        node = self.after[self.head]
        while node != -1 and not node & 1:
            self.best_stuck.append(node >> 1)
            node = self.after[node]

    def _verdict(self, ok: bool, undecided: bool, steps: int) -> Verdict:
        order = [i for i, _ in self.stack] if ok else self.best
        stuck = [] if ok else self.best_stuck
        return Verdict(
            ok, undecided, steps, [self.operations[i] for i in order], [self.operations[i] for i in stuck]
        )
