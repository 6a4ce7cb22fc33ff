"""One replica's log as its process holds it: entries with payloads behind the compaction mark, and how far the disk has
them.

What is written, and what is made of it at the next start, is production's (multiraft.books over the real book); this
is the part that production keeps in C. Invariant: `durable` never names an entry that the disk could lose, and never
one that a later truncation took away.
"""

from typing import Any

from nodedb_node.multiraft import books
from nodedb_node.native import wal
from nodedb_node.native.wal import GroupBook, Record
from nodedb_node.raft.messages import CONFIG, Append, Entry, HardState, QuarantineMark, Reset, Truncate


class Log:
    """The log of one replica."""

    def __init__(self, node: int, replica: int, group: int) -> None:
        self.node, self.replica, self.group = node, replica, group
        self.mark_index = self.mark_term = self.mark_config_index = 0
        self.entries: list[Entry] = []
        self.vote = self.durable_vote = (0, 0, 0)  # term, node, replica
        self.durable = 0
        self.quarantined = False
        self.outstanding: list[list[int]] = []  # [last index] of appends that are not durable yet

    @property
    def last(self) -> int:
        return self.mark_index + len(self.entries)

    def term_at(self, index: int) -> int | None:
        """None: compacted away, or beyond the end."""
        if index <= self.mark_index:
            return self.mark_term if index == self.mark_index else None
        at = index - self.mark_index - 1
        return self.entries[at].term if at < len(self.entries) else None

    def slice(self, first: int, last: int) -> list[Entry]:
        assert self.mark_index < first and last <= self.last, f"{first}..{last} of {self.mark_index}..{self.last}"
        return self.entries[first - self.mark_index - 1 : last - self.mark_index]

    def last_config(self) -> int:
        """Index of the newest configuration entry."""
        for at in range(len(self.entries) - 1, -1, -1):
            if self.entries[at].kind == CONFIG:
                return self.mark_index + 1 + at
        return self.mark_config_index

    # ---- records in ----

    def take(self, record: Any, out: list[Record], effects: list[Any]) -> None:
        """Do what a record of the core says, and add what the disk is to hold of it."""
        out.extend(books.written(self.group, record))
        kind = type(record)
        if kind is Append:
            assert record.first == self.last + 1, f"append at {record.first} behind {self.last}"
            self.entries.extend(record.entries)
            self._promise(self.last, effects)
        elif kind is HardState:
            self.vote = (record.term, record.vote, record.vote_replica)
            effects.append((self, None, self.vote))
        elif kind is Truncate:
            self._cut(record.last)
        elif kind is Reset:
            self._reset(record)
        else:
            assert kind is QuarantineMark
            self.quarantined = record.on

    def _promise(self, last: int, effects: list[Any]) -> None:
        effect = [last]
        self.outstanding.append(effect)
        effects.append((self, effect, None))

    def _cut(self, last: int) -> None:
        del self.entries[last - self.mark_index :]
        self.durable = min(self.durable, last)
        for effect in self.outstanding:
            effect[0] = min(effect[0], last)

    def _reset(self, record: Reset) -> None:
        if record.keep:
            del self.entries[: record.index - self.mark_index]
        else:
            self.entries.clear()
            for effect in self.outstanding:
                effect[0] = min(effect[0], record.index)
            self.durable = record.index
        self.durable = max(self.durable, record.index)  # the checkpoint is, and a restart begins from it
        self.mark_index, self.mark_term = record.index, record.term
        self.mark_config_index = record.config_index

    @staticmethod
    def done(effects: list[Any]) -> None:
        """What these records said is durable now."""
        for log, effect, vote in effects:
            if effect is not None:
                log.outstanding.remove(effect)
                log.durable = max(log.durable, effect[0])
            if vote is not None:
                log.durable_vote = vote

    def compact(self, index: int, term: int, config_index: int) -> list[Record]:
        """A durable checkpoint covers everything up to index; the records that say so."""
        if index <= self.mark_index:
            return []
        assert self.term_at(index) == term and index <= self.durable
        del self.entries[: index - self.mark_index]
        self.mark_index, self.mark_term, self.mark_config_index = index, term, config_index
        return [Record(wal.COMPACT, self.group, term, index)]

    # ---- recovery ----

    def recovered(self, book: GroupBook, entries: list[Entry]) -> None:
        """Become what the book says, which was read from the disk."""
        self.vote = self.durable_vote = book.hard_state or (0, 0, 0)
        self.quarantined = book.quarantined
        self.mark_index, self.mark_term = book.first - 1, book.compact_term
        self.mark_config_index = book.configs[0].index
        self.entries = entries
        self.durable = self.last
        last_term = self.term_at(self.last) or 0
        if last_term > self.vote[0]:  # the hard state was lost, entries of a later term were not
            self.vote = self.durable_vote = (last_term, 0, 0)
