"""One replica's log as its process holds it: entries with their payloads behind the compaction mark, and how far the disk
has them.

Invariant: `durable` never names an entry that the disk could lose, and never one that a later truncation took away.
"""

from typing import Any

from nodedb_node.native import wal
from nodedb_node.native.wal import GroupBook, Record
from nodedb_node.raft.messages import (
    CONFIG,
    Append,
    Entry,
    HardState,
    QuarantineMark,
    Reset,
    Restored,
    Truncate,
)
from tests.sim.store import Snapshot

VOTE_REPLICA_SHIFT = 16


class Log:
    """The log of one replica. slot: its number in the shared write-ahead log, another for each replica of a group."""

    def __init__(self, node: int, replica: int, slot: int, configuration: bytes) -> None:
        self.node, self.replica, self.slot = node, replica, slot
        self.mark_index = self.mark_term = self.mark_config_index = 0
        self.mark_configuration = configuration
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
        kind, slot = type(record), self.slot
        if kind is Append:
            assert record.first == self.last + 1, f"append at {record.first} behind {self.last}"
            self.entries.extend(record.entries)
            for index, entry in enumerate(record.entries, record.first):
                out.append(Record(wal.ENTRY, slot, entry.term, index, bytes((entry.kind,)) + (entry.data or b"")))
            effect = [self.last]
            self.outstanding.append(effect)
            effects.append((self, effect, None))
        elif kind is HardState:
            self.vote = (record.term, record.vote, record.vote_replica)
            out.append(self._vote_record())
            effects.append((self, None, self.vote))
        elif kind is Truncate:
            self._cut(record.last)
            out.append(Record(wal.TRUNCATE, slot, 0, record.last + 1))
        elif kind is Reset:
            self._reset(record, out, effects)
        else:
            assert kind is QuarantineMark
            self.quarantined = record.on
            out.append(Record(wal.QUARANTINE, slot, data=bytes((record.on,))))

    def _cut(self, last: int) -> None:
        del self.entries[last - self.mark_index :]
        self.durable = min(self.durable, last)
        for effect in self.outstanding:
            effect[0] = min(effect[0], last)

    def _reset(self, record: Reset, out: list[Record], effects: list[Any]) -> None:
        if record.keep:
            del self.entries[: record.index - self.mark_index]
        else:
            self._cut(min(self.last, max(record.index, self.mark_index)))
            self.entries.clear()
        self.mark_index, self.mark_term = record.index, record.term
        self.mark_config_index, self.mark_configuration = record.config_index, record.configuration
        out.append(self._mark_record())
        if not record.keep:
            out.append(Record(wal.TRUNCATE, self.slot, 0, record.index + 1))
        out.append(self._config_record())
        effect = [record.index]
        self.outstanding.append(effect)
        effects.append((self, effect, None))

    @staticmethod
    def done(effects: list[Any]) -> None:
        """What these records said is durable now."""
        for log, effect, vote in effects:
            if effect is not None:
                log.outstanding.remove(effect)
                log.durable = max(log.durable, effect[0])
            if vote is not None:
                log.durable_vote = vote

    def compact(self, index: int, term: int, config_index: int, configuration: bytes) -> list[Record]:
        """A durable checkpoint covers everything up to index; the records that say so."""
        if index <= self.mark_index:
            return []
        assert self.term_at(index) == term and index <= self.durable
        del self.entries[: index - self.mark_index]
        self.mark_index, self.mark_term = index, term
        self.mark_config_index, self.mark_configuration = config_index, configuration
        return [self._mark_record(), self._config_record()]

    def live_records(self) -> list[Record]:
        """What must stay in the write-ahead log whatever dies."""
        rows = [self._vote_record(), self._mark_record(), self._config_record()]
        if self.quarantined:
            rows.append(Record(wal.QUARANTINE, self.slot, data=b"\1"))
        return [row.rewritten() for row in rows]

    def _vote_record(self) -> Record:
        term, node, replica = self.vote
        return Record(wal.HARD_STATE, self.slot, term, 0, (replica << VOTE_REPLICA_SHIFT | node).to_bytes(8, "little"))

    def _mark_record(self) -> Record:
        return Record(wal.COMPACT, self.slot, self.mark_term, self.mark_index)

    def _config_record(self) -> Record:
        return Record(wal.CONFIG, self.slot, self.mark_term, self.mark_config_index, self.mark_configuration)

    # ---- recovery ----

    def recovered(self, book: GroupBook, entries: list[Entry], snapshot: Snapshot | None) -> list[Record]:
        """Become what the write-ahead log and the newest checkpoint hold together; what must be written before
        anything else is."""
        if book.hard_state:
            term, vote = book.hard_state
            self.vote = self.durable_vote = (term, vote & (1 << VOTE_REPLICA_SHIFT) - 1, vote >> VOTE_REPLICA_SHIFT)
        self.quarantined = book.quarantined
        self.mark_index, self.mark_term = book.compact_index, book.compact_term
        if book.config:
            self.mark_config_index, self.mark_configuration = book.config[0], book.config[2]
        self.entries = entries
        ahead = snapshot is not None and snapshot.applied > self.mark_index
        records = self._behind(snapshot) if ahead and snapshot else []
        self.durable = self.last
        last_term = self.term_at(self.last) or 0
        if last_term > self.vote[0]:  # the hard state was lost, entries of a later term were not
            self.vote = self.durable_vote = (last_term, 0, 0)
        return records

    def _behind(self, snapshot: Snapshot) -> list[Record]:
        """A checkpoint is ahead of the mark: an install whose Reset was not yet written, or a mark that was lost."""
        if self.term_at(snapshot.applied) == snapshot.term:
            return []
        self.entries = []
        self.mark_index, self.mark_term = snapshot.applied, snapshot.term
        self.mark_config_index, self.mark_configuration = snapshot.config_index, snapshot.configuration
        cut = Record(wal.TRUNCATE, self.slot, 0, snapshot.applied + 1)
        return [self._mark_record(), cut, self._config_record()]

    def quarantine(self) -> list[Record]:
        """Damage was found: the record that must be durable before this replica says anything."""
        self.quarantined = True
        return [Record(wal.QUARANTINE, self.slot, data=b"\1")]

    def restored(self, applied: int, configuration: Any, promised: bool, hard_state_lost: bool) -> Restored:
        term, node, replica = self.vote
        return Restored(
            term=term,
            vote=node,
            vote_replica=replica,
            mark_index=self.mark_index,
            mark_term=self.mark_term,
            config_index=self.mark_config_index,
            configuration=configuration,
            entries=list(self.entries),
            applied=applied,
            promised=promised,
            quarantined=self.quarantined,
            hard_state_lost=hard_state_lost,
        )
