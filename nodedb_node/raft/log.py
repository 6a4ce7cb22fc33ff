"""What the core knows of a group's log: the term of each entry, in runs, and the bytes, as running totals.

Invariant: the log is the mark (the last entry known to be compacted away, 0 = none) and entries mark + 1 .. last, terms
never falling. Payloads and kinds are not here: they stay with the caller, who is told of every change by records.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from nodedb_node.raft.messages import Entry, LogIndex, Term

UNKNOWN: Term = -1  # no such entry, or compacted away


class Log:
    """Term runs and sizes of one log. All lookups are O(log n) in runs or entries; the last entry's are O(1)."""

    __slots__ = ("_bytes", "_ends", "_firsts", "_terms", "last_index", "last_term", "mark_index", "mark_term")

    def __init__(self, mark_index: LogIndex = 0, mark_term: Term = 0) -> None:
        self.reset(mark_index, mark_term)

    def reset(self, index: LogIndex, term: Term) -> None:
        """No entries, and the mark at (index, term)."""
        assert index >= 0 and term >= 0 and (index == 0) == (term == 0)
        self.mark_index, self.mark_term = index, term
        self.last_index, self.last_term = index, term
        self._firsts: list[LogIndex] = []  # of each run of entries of one term
        self._terms: list[Term] = []
        self._ends = array("Q")  # running total of bytes up to and including entry mark + 1 + i
        self._bytes = 0  # the running total at the mark

    def term(self, index: LogIndex) -> Term:
        """Term of an entry or of the mark; UNKNOWN outside."""
        if index == self.last_index:
            return self.last_term
        if index <= self.mark_index:
            return self.mark_term if index == self.mark_index else UNKNOWN
        if index > self.last_index:
            return UNKNOWN
        return self._terms[bisect_right(self._firsts, index) - 1]

    def append(self, term: Term, size_bytes: int) -> LogIndex:
        """One more entry; its index."""
        assert term >= self.last_term and size_bytes >= 0
        index = self.last_index + 1
        ends = self._ends
        ends.append((ends[-1] if ends else self._bytes) + size_bytes)
        if term != self.last_term or not self._firsts:
            self._firsts.append(index)
            self._terms.append(term)
            self.last_term = term
        self.last_index = index
        return index

    def append_entries(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.append(entry.term, entry.size_bytes)

    def truncate(self, last: LogIndex) -> None:
        """Entries above last are gone."""
        assert self.mark_index <= last < self.last_index
        del self._ends[last - self.mark_index :]
        while self._firsts and self._firsts[-1] > last:
            self._firsts.pop()
            self._terms.pop()
        self.last_index = last
        self.last_term = self._terms[-1] if self._terms else self.mark_term

    def compact(self, index: LogIndex) -> None:
        """The mark moves up to index; entries up to it are forgotten."""
        assert self.mark_index <= index <= self.last_index
        if index == self.mark_index:
            return
        term = self.term(index)
        self._bytes = self._ends[index - self.mark_index - 1]
        del self._ends[: index - self.mark_index]
        runs = bisect_right(self._firsts, index + 1) - 1 if index < self.last_index else len(self._firsts)
        del self._firsts[:runs], self._terms[:runs]
        if self._firsts:
            self._firsts[0] = max(self._firsts[0], index + 1)
        self.mark_index, self.mark_term = index, term

    def size_bytes(self, after: LogIndex, last: LogIndex) -> int:
        """Bytes of the entries after + 1 .. last."""
        assert self.mark_index <= after <= last <= self.last_index
        return self._end(last) - self._end(after) if after < last else 0

    def last_within(self, first: LogIndex, bytes_max: int) -> LogIndex:
        """The largest index so that entries first .. index hold at most bytes_max, but at least first."""
        assert self.mark_index < first <= self.last_index
        if self._ends[-1] - self._end(first - 1) <= bytes_max:
            return self.last_index
        limit = self._end(first - 1) + bytes_max
        return max(first, self.mark_index + bisect_right(self._ends, limit, first - self.mark_index - 1))

    def runs(self, first: LogIndex, last: LogIndex) -> tuple[tuple[LogIndex, Term], ...]:
        """Terms of the entries first .. last: (first index, term) of each run among them."""
        assert self.mark_index < first <= last + 1 <= self.last_index + 1
        if first > last:
            return ()
        if first >= self._firsts[-1]:
            return ((first, self.last_term),)
        begin = bisect_right(self._firsts, first) - 1
        end = bisect_right(self._firsts, last)
        return tuple((max(first, self._firsts[run]), self._terms[run]) for run in range(begin, end))

    def run_first(self, index: LogIndex) -> LogIndex:
        """First index known of the term that entry `index` has."""
        assert self.mark_index <= index <= self.last_index
        if index == self.mark_index:
            return index
        return self._firsts[bisect_right(self._firsts, index) - 1]

    def term_last(self, term: Term) -> LogIndex:
        """Last index of this term; 0 when the log has none."""
        run = bisect_left(self._terms, term)
        if run < len(self._terms) and self._terms[run] == term:
            return self._firsts[run + 1] - 1 if run + 1 < len(self._firsts) else self.last_index
        return self.mark_index if term == self.mark_term else 0

    def is_behind(self, last_index: LogIndex, last_term: Term) -> bool:
        """A log that ends so is at least as up to date as this one (thesis, 3.6.1)."""
        return last_term > self.last_term or (last_term == self.last_term and last_index >= self.last_index)

    def _end(self, index: LogIndex) -> int:
        return self._ends[index - self.mark_index - 1] if index > self.mark_index else self._bytes

    def check_invariants(self) -> None:
        assert self.mark_index <= self.last_index
        assert len(self._ends) == self.last_index - self.mark_index
        assert len(self._firsts) == len(self._terms) and bool(self._firsts) == bool(self._ends)
        if len(self._terms) > 1:
            assert self._terms == sorted(set(self._terms)), "terms of runs rise"
            assert self._firsts == sorted(set(self._firsts))
        if self._firsts:
            assert self._firsts[0] == self.mark_index + 1 and self._firsts[-1] <= self.last_index
            assert self._terms[0] >= self.mark_term and self._terms[-1] == self.last_term
        else:
            assert self.last_term == self.mark_term
