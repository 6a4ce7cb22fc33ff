"""The log's shape against a plain list of (term, size)."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nodedb_node.raft.log import UNKNOWN, Log


class LogMachine(RuleBasedStateMachine):
    """Append, truncate, compact, reset in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log()
        self.mark = (0, 0)
        self.entries: list[tuple[int, int]] = []  # (term, size) behind the mark

    @property
    def last(self) -> int:
        return self.mark[0] + len(self.entries)

    @rule(more=st.integers(0, 2), size=st.integers(0, 100), count=st.integers(1, 5))
    def append(self, more: int, size: int, count: int) -> None:
        term = max(1, self.log.last_term + more)
        for _ in range(count):
            assert self.log.append(term, size) == self.last + 1
            self.entries.append((term, size))

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        last = data.draw(st.integers(self.mark[0], self.last - 1))
        self.log.truncate(last)
        del self.entries[last - self.mark[0] :]

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.mark[0], self.last))
        term = self.model_term(index)
        self.log.compact(index)
        del self.entries[: index - self.mark[0]]
        self.mark = (index, term)

    @rule(ahead=st.integers(1, 10), more=st.integers(0, 2))
    def reset(self, ahead: int, more: int) -> None:
        self.mark = (self.last + ahead, max(1, self.log.last_term + more))
        self.log.reset(*self.mark)
        self.entries = []

    def model_term(self, index: int) -> int:
        if index == self.mark[0]:
            return self.mark[1]
        return self.entries[index - self.mark[0] - 1][0] if self.mark[0] < index <= self.last else UNKNOWN

    @invariant()
    def same_terms(self) -> None:
        self.log.check_invariants()
        assert (self.log.mark_index, self.log.mark_term) == self.mark
        assert (self.log.last_index, self.log.last_term) == (self.last, self.model_term(self.last))
        for index in range(self.mark[0] - 2, self.last + 3):
            if index >= 0:
                assert self.log.term(index) == self.model_term(index)

    @invariant()
    def same_runs_and_sizes(self) -> None:
        base = self.mark[0]
        for first in range(base + 1, self.last + 1):
            sizes = [size for _, size in self.entries[first - base - 1 :]]
            assert self.log.size_bytes(first - 1, self.last) == sum(sizes)
            terms = [term for term, _ in self.entries[first - base - 1 :]]
            runs = [(first + i, t) for i, t in enumerate(terms) if i == 0 or t != terms[i - 1]]
            assert list(self.log.runs(first, self.last)) == runs
            same = [i for i in range(base + 1, self.last + 1) if self.model_term(i) == self.model_term(first)]
            assert self.log.run_first(first) == same[0] and self.log.term_last(self.model_term(first)) == same[-1]

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), bytes_max=st.integers(0, 300))
    def within(self, data: st.DataObject, bytes_max: int) -> None:
        first = data.draw(st.integers(self.mark[0] + 1, self.last))
        last = first
        while last < self.last and self.log.size_bytes(first - 1, last + 1) <= bytes_max:
            last += 1
        assert self.log.last_within(first, bytes_max) == last


TestLog = LogMachine.TestCase


@given(st.lists(st.integers(1, 4)), st.integers(0, 10), st.integers(0, 5))
def test_up_to_date_is_by_last_term_then_length(terms: list[int], last_index: int, last_term: int) -> None:
    """Thesis 3.6.1."""
    log = Log()
    for term in sorted(terms):
        log.append(term, 1)
    assert log.is_behind(last_index, last_term) == ((last_term, last_index) >= (log.last_term, log.last_index))


def test_a_term_the_log_does_not_have() -> None:
    log = Log(5, 2)
    log.append(4, 1)
    assert (log.term_last(3), log.term_last(2), log.term_last(4), log.term_last(9)) == (0, 5, 6, 0)
