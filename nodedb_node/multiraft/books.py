"""What the log's book says of a group ↔ what Raft records and wants to know at its start. Pure.

Invariant: `restored(written(record))` loses nothing that Raft promised: term and vote, entries and where they end, the
configuration in force at the mark and those of later entries, quarantine, replica ids and tombstones. What compaction
writes anew is made from the book, never copied from a file, and implies no truncation.
"""

from collections.abc import Iterator

import msgspec

from nodedb_node.ids import NodeNumber
from nodedb_node.native import wal
from nodedb_node.native.wal import Book, GroupBook
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import (
    CONFIG,
    DATA,
    NOBODY,
    NOOP,
    Append,
    Configuration,
    Entry,
    HardState,
    QuarantineMark,
    ReplicaId,
    Reset,
    Restored,
    Truncate,
)
from nodedb_node.raft.messages import Record as RaftRecord

KIND_TO_WAL = {NOOP: wal.NOOP, DATA: wal.DATA, CONFIG: wal.MEMBERS}
KIND_OF_WAL = {kind: name for name, kind in KIND_TO_WAL.items()}


class Carried(msgspec.Struct, frozen=True, array_like=True):
    """What a checkpoint holds of a group beside its rows: enough to go on with an empty log in another place."""

    replica: int = 0
    term: int = 0
    vote: int = 0
    vote_replica: int = 0
    config_index: int = 0
    configuration: bytes = b""
    installed: bool = False  # by a snapshot: the log may not know of it


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Carried).decode


def carried_bytes(carried: Carried) -> bytes:
    return _encode(carried)


def carried_of(data: bytes, founders: Configuration) -> Carried:
    """Of a group that no checkpoint has held yet: a founder's."""
    return _decode(data) if data else Carried(configuration=configurations.encode(founders))


def carried(book: GroupBook, applied: int) -> Carried:
    """From the live book, for the next checkpoint: with the configuration in force at the entry it is cut at."""
    term, vote, vote_replica = book.hard_state or (0, 0, 0)
    base = next(row for row in reversed(book.configs) if row.index <= applied)
    return Carried(book.replica or 0, term, vote, vote_replica, base.index, base.data)


class Unreadable(Exception):
    """A configuration that this version cannot read."""


# ---- Raft → log ----


def written(group: int, record: RaftRecord) -> list[wal.Record]:
    """Records of the log for one of Raft's; for what is written once in a while, not for the hot path."""
    if isinstance(record, HardState):
        return [_hard_state(group, record.term, record.vote, record.vote_replica)]
    if isinstance(record, Truncate):
        return [wal.Record(wal.TRUNCATE, group, 0, record.last + 1)]
    if isinstance(record, Append):
        return list(_entries(group, record))
    if isinstance(record, QuarantineMark):
        return [wal.Record(wal.QUARANTINE, group, data=bytes((record.on,)))]
    assert isinstance(record, Reset)
    cut = [] if record.keep else [wal.Record(wal.TRUNCATE, group, 0, 1)]
    config = wal.Record(wal.CONFIG, group, record.term, record.config_index, record.configuration)
    # The configuration first: compaction keeps the newest up to its index, and forgets those before.
    return [*cut, config, wal.Record(wal.COMPACT, group, record.term, record.index)]


def _hard_state(group: int, term: int, vote: int, vote_replica: int) -> wal.Record:
    data = vote.to_bytes(8, "little") + vote_replica.to_bytes(8, "little")
    return wal.Record(wal.HARD_STATE, group, term, 0, data)


def _entries(group: int, record: Append) -> Iterator[wal.Record]:
    return (entry(group, index, row) for index, row in enumerate(record.entries, record.first))


def entry(group: int, index: int, row: Entry) -> wal.Record:
    return wal.Record(wal.ENTRY, group, row.term, index, row.data, KIND_TO_WAL[row.kind])


def beginning(group: int, carried: Carried, applied: int, applied_term: int) -> list[wal.Record]:
    """The first records of a replica in this log: its id, its configuration, where its log begins, its hard state."""
    mark = [wal.Record(wal.COMPACT, group, applied_term, applied)] if applied else []
    return [
        wal.Record(wal.REPLICA, group, 0, carried.replica, b"\x01"),
        wal.Record(wal.CONFIG, group, 0, carried.config_index, carried.configuration),
        *mark,
        _hard_state(group, max(carried.term, applied_term), carried.vote, carried.vote_replica),
    ]


def behind_install(group: int, log: Book, applied: int, applied_term: int, carried: bytes) -> list[wal.Record]:
    """What a log lacks whose process died between a snapshot's install and its Reset: the store holds the group up to
    applied, and says that a snapshot brought it there; nothing if the log agrees. The snapshot was of committed
    entries: of the log only what stands behind the same entry can be of their history."""
    if not carried or not (row := _decode(carried)).installed:
        return []
    book = log.group(group)
    if not book.known or applied <= book.compact_index:
        return []
    keep = book.first <= applied <= book.last and log.entry(group, applied).term == applied_term
    if keep:
        return []  # the entries are there, and a checkpoint is nothing else
    return written(group, Reset(applied, applied_term, False, row.config_index, row.configuration))


def tombstone(group: int, replica: ReplicaId) -> wal.Record:
    """The replica was removed; only one with a higher id may come after it."""
    return wal.Record(wal.REPLICA, group, 0, replica, b"\x00")


def rewritten(group: int, log: Book, mark: tuple[int, int]) -> list[wal.Record]:
    """All of a group that must stay when its entries up to mark = (index, term) go, as rewrite records.

    A mark that the log does not have is a Reset's, of the same append: what it takes from the log is its own to say,
    and what the log has below it may be another history."""
    book = log.group(group)
    if book.removed:
        return [tombstone(group, ReplicaId(book.replica or 0)).rewritten()]
    rows = [wal.Record(wal.REPLICA, group, 0, book.replica or 0, b"\x01")]
    index, term = book.compact_index, book.compact_term
    if max(book.first, index + 1) <= mark[0] <= book.last and log.entry(group, mark[0]).term == mark[1]:
        index, term = mark
    base = [row for row in book.configs if row.index <= index][-1:]
    rows += [wal.Record(wal.CONFIG, group, row.term, row.index, row.data) for row in base]
    if index:
        rows.append(wal.Record(wal.COMPACT, group, term, index))
    if book.hard_state:
        rows.append(_hard_state(group, *book.hard_state))
    if book.quarantined:
        rows.append(wal.Record(wal.QUARANTINE, group, data=b"\x01"))
    return [row.rewritten() for row in rows]


# ---- log → Raft ----


def restored(group: int, log: Book, applied: int, promised: bool) -> Restored:
    """What Raft begins with. applied: durable with the rows, and within the log. Unreadable: no such version."""
    book = log.group(group)
    term, vote, vote_replica = book.hard_state or (0, NOBODY, 0)
    base = book.configs[0]
    data = {row.index: row.data for row in book.configs}
    rows = log.entry_rows(group, book.first, book.last)
    entries = [
        Entry(entry_term, KIND_OF_WAL[kind], size, data.get(index) if kind == wal.MEMBERS else None)
        for index, (entry_term, kind, size) in enumerate(rows, book.first)
    ]
    return Restored(
        term=term,
        vote=NodeNumber(vote),
        vote_replica=ReplicaId(vote_replica),
        mark_index=book.first - 1,
        mark_term=book.compact_term,
        config_index=base.index,
        configuration=configuration_of(group, base.data),
        entries=entries,
        applied=applied,
        promised=promised,
        quarantined=book.quarantined,
    )


def settled(group: int, log: Book) -> Restored:
    """Of a sole voter that has applied its whole log: everything durable here is committed, and Raft goes on
    behind it. The entries stay in the log until a checkpoint holds them; who joins later is sent a snapshot."""
    book = log.group(group)
    term, vote, vote_replica = book.hard_state or (0, NOBODY, 0)
    newest = book.configs[-1]
    return Restored(
        term=term,
        vote=NodeNumber(vote),
        vote_replica=ReplicaId(vote_replica),
        mark_index=book.last,
        mark_term=book.last_term,
        config_index=newest.index,
        configuration=configuration_of(group, newest.data),
        applied=book.last,
        promised=True,
    )


def stopped(group: int, log: Book, applied: int, why: str) -> Restored:
    """Of a sole voter whose group does not begin, as of the last entry that its state machine could apply."""
    book = log.group(group)
    term, vote, vote_replica = book.hard_state or (0, NOBODY, 0)
    at = min(max(applied, book.first - 1), book.last)
    return Restored(
        term=term,
        vote=NodeNumber(vote),
        vote_replica=ReplicaId(vote_replica),
        mark_index=at,
        mark_term=log.entry(group, at).term if at >= book.first else book.compact_term,
        applied=at,
        promised=True,
        fault=why,
    )


def fault(group: int, log: Book, stopped_at: int) -> str:
    """What keeps a sole voter from going on; nothing: it may. stopped_at: the entry that could not be applied, or 0."""
    book = log.group(group)
    kinds = enumerate((kind for _, kind, _ in log.entry_rows(group, book.first, book.last)), book.first)
    unknown = next((index for index, kind in kinds if kind not in KIND_OF_WAL), 0)
    if unknown:
        return f"entry {unknown} of its log is of a kind unknown to this version: start the version that wrote it"
    if stopped_at:
        return f"entry {stopped_at} of its log cannot be applied by this version: start the version that wrote it"
    if any(configurations.decode(row.data) is None for row in book.configs):
        return "its log holds a configuration that this version cannot read: start the version that wrote it"
    if book.quarantined:
        return "it may have lost what it acknowledged, and no other replica can refill it: restore it from a backup"
    return ""


def configuration_of(group: int, data: bytes) -> Configuration:
    found = configurations.decode(data)
    if found is None:
        raise Unreadable(f"group {group}: the log holds a configuration that this version cannot read")
    return found


def is_sole_voter(configuration: Configuration, node: NodeNumber) -> bool:
    """The only one who decides: what is durable here is committed."""
    return [member.node for member in configuration.voters] == [node] and not configuration.outgoing
