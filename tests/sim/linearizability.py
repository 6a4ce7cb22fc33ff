"""Is a history of concurrent operations linearizable? Wing and Gong's search with Lowe's memory of configurations.

Operations overlap in real time; the search looks for an order, one point inside each operation's interval, in which a
sequential model gives every answer that was given (Wing and Gong 1993). A configuration (set of operations done, state)
that was tried once is never tried again (Lowe 2017). Histories are split by key first: a history is linearizable if and
only if each key's is (Herlihy and Wing 1990, locality). An operation without an answer may take effect at any time
after its call, or never. It knows no clock and no consensus: it judges what clients saw.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

STEPS_MAX = 3_000_000
NO_MOVE = (-1, False, None)


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
    """Depth first over orders. Calls and returns of answered operations stand in one linked list in real-time order; an
    operation is taken out of the list when it is given its point, and put back when that did not lead on.

    Unanswered operations are tried last and never needed: a configuration is not tried again with fewer of them left.
    """

    def __init__(self, operations: Sequence[Operation], step: Step, initial: Hashable) -> None:
        self.operations, self.step, self.state = operations, step, initial
        n = len(operations)
        self.unknown = sorted((op.call_us, i) for i, op in enumerate(operations) if op.return_us is None)
        # Node 2i is the call of operation i, 2i + 1 its return; 2n is the head. At equal times calls come first: then
        # both orders are allowed.
        times = [(op.call_us, 0, 2 * i) for i, op in enumerate(operations) if op.return_us is not None]
        times += [(op.return_us, 1, 2 * i + 1) for i, op in enumerate(operations) if op.return_us is not None]
        self.head = 2 * n
        self.after = [-1] * (2 * n + 1)
        self.before = [-1] * (2 * n + 1)
        at = self.head
        for _, _, node in sorted(times):
            self.after[at], self.before[node] = node, at
            at = node
        self.left = n - len(self.unknown)  # answered operations without a point
        self.done = 0  # bit i: answered operation i has its point
        self.spent = 0  # bit i: unanswered operation i has one
        self.seen: dict[tuple[int, Any], list[int]] = {}  # (done, state) -> what was spent there, smallest sets only
        self.stack: list[tuple[int, Any, Iterator[tuple[int, bool, Any]]]] = []
        self.best: list[int] = []
        self.best_stuck: list[int] = []

    def run(self, steps_max: int) -> Verdict:
        moves, steps = self._moves(), 0
        while self.left:
            i, known, state = next(moves, NO_MOVE)
            steps += 1
            if steps > steps_max:
                return self._verdict(False, True, steps)
            if i == -1:
                self._remember()
                if not self.stack:
                    return self._verdict(False, False, steps)
                moves = self._put_back()
                continue
            done, spent = (self.done | 1 << i, self.spent) if known else (self.done, self.spent | 1 << i)
            if self._is_new(done, spent, state):
                self._take(i, known, state, moves)
                self.done, self.spent = done, spent
                moves = self._moves()
        return self._verdict(True, False, steps)

    def _moves(self) -> Iterator[tuple[int, bool, Any]]:
        """(operation, answered, state after) of each that fits here. One that is answered and changes nothing is the
        only one: wherever else it fits, it fits here as well."""
        operations, step, state = self.operations, self.step, self.state
        found = []
        for i in self._choices():
            op = operations[i]
            known = op.return_us is not None
            after = step(state, op.request, op.answer, known)
            if after is None:
                continue
            if after != state:
                found.append((i, known, after))
            elif known:
                return iter(((i, known, after),))
        return iter(found)

    def _choices(self) -> Iterator[int]:
        """Operations that may come next: called before the first return of one that has no point."""
        node = self.after[self.head]
        while not node & 1:
            yield node >> 1
            node = self.after[node]
        if node == -1:
            return  # all that were answered have their points
        first_return_us = self.operations[node >> 1].return_us
        assert first_return_us is not None
        tried = set()
        for call_us, i in self.unknown:
            if call_us > first_return_us:
                return
            # Of equal ones the earliest will do: it could be anywhere where the others could.
            if not self.spent >> i & 1 and self.operations[i].request not in tried:
                tried.add(self.operations[i].request)
                yield i

    def _is_new(self, done: int, spent: int, state: Any) -> bool:
        """Not tried before with the same or more unanswered operations left."""
        tried = self.seen.get((done, state))
        if tried is None:
            self.seen[done, state] = [spent]
            return True
        for other in tried:
            if other & spent == other:
                return False
        tried[:] = [other for other in tried if spent & other != spent]
        tried.append(spent)
        return True

    def _take(self, i: int, known: bool, state: Any, moves: Iterator[tuple[int, bool, Any]]) -> None:
        self.stack.append((i, self.state, moves))
        self.state = state
        if known:
            self._unlink(2 * i)
            self._unlink(2 * i + 1)
            self.left -= 1

    def _put_back(self) -> Iterator[tuple[int, bool, Any]]:
        i, self.state, moves = self.stack.pop()
        if self.operations[i].return_us is None:
            self.spent &= ~(1 << i)
            return moves
        self.done &= ~(1 << i)
        self._link(2 * i + 1)
        self._link(2 * i)
        self.left += 1
        return moves

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
        if len(self.stack) <= len(self.best) and self.best_stuck:
            return
        self.best = [i for i, _, _ in self.stack]
        self.best_stuck = list(self._choices())

    def _verdict(self, ok: bool, undecided: bool, steps: int) -> Verdict:
        order = [i for i, _, _ in self.stack] if ok else self.best
        stuck = [] if ok else self.best_stuck
        return Verdict(ok, undecided, steps, [self.operations[i] for i in order], [self.operations[i] for i in stuck])
