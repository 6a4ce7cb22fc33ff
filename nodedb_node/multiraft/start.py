"""From a worker's log directory to a running log: recovery, the groups' first records, the first term. World file.

Invariant: before anything leaves this process, everything that only the page cache may hold is on the disk, and every
group's hard state is written. A sole voter campaigns at once, in the first append: what is durable here is committed,
so its entries are applied before it. A log that is not what was written stops the start: there is no peer to refill it.
A group whose own entries or marks keep it from going on is halted, and the others begin.
"""

import errno
import os
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from nodedb_node.errors import Exit, StartError
from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft import books
from nodedb_node.multiraft.core import MultiConfig, MultiRaft
from nodedb_node.multiraft.log import Apply, Parts, RaftLog, append_and_wait
from nodedb_node.multiraft.snapshot.work import SnapshotDisk
from nodedb_node.native import wal
from nodedb_node.native.wal import Book, Record
from nodedb_node.native.walio import Io, IoConfig
from nodedb_node.raft.configuration import founding
from nodedb_node.raft.messages import GroupConfig, ReplicaId, Restored
from nodedb_node.storage import recovery
from nodedb_node.storage.directory import Segments
from nodedb_node.storage.recovery import LogDamaged, LogTooNew, Recovered
from nodedb_node.storage.segments import SegmentBook

MIB = 1024 * 1024
FIRST_SEGMENT_BYTES = 4 * MIB  # a start waits for its zeros
BUFFER_BYTES = 2 * MIB  # registered with the kernel, so pinned in memory; larger appends take a buffer of their own
SPARES_MAX = 2
FOUNDER = NodeNumber(1)  # a node that founded its cluster


class LogConfig(NamedTuple):
    """How one worker's log is written, and whose it is."""

    backend: str = "auto"
    direct: bool = True
    segment_bytes: int = 64 * MIB
    first_segment_bytes: int = FIRST_SEGMENT_BYTES
    floor_bytes: int = 128 * MIB
    node: NodeNumber = FOUNDER
    generation: int = 1  # of this process


class Held(Struct, frozen=True):
    """What the last checkpoint holds of a group: (index, term) applied, and RaftLog.carried's bytes."""

    index: int = 0
    term: int = 0
    carried: bytes = b""


def open_log(
    source: Segments,
    config: LogConfig,
    held: Mapping[int, Held],
    apply: Apply,
    now_us: Callable[[], int],
    sync_us: Any = None,
    snapshots: SnapshotDisk | None = None,
) -> RaftLog:
    """Recover the log of these groups, hand entries behind held[group].index to apply(records, n), open it, lead.

    Whatever only the page cache may hold is on the disk when this returns. StartError: the log is damaged or too new.
    """
    try:
        recovered = recovery.recover(source)
        try:
            opened = _open(recovered, config, held, apply, now_us, sync_us, snapshots)
        except BaseException:
            recovered.close()
            raise
        source.release()
    except BaseException:
        source.close()
        raise
    opened.compact({group: row.index for group, row in held.items()})  # the checkpoint may cover older segments
    return opened


def _open(
    recovered: Recovered,
    config: LogConfig,
    held: Mapping[int, Held],
    apply: Apply,
    now_us: Callable[[], int],
    sync_us: Any,
    snapshots: SnapshotDisk | None,
) -> RaftLog:
    """Takes the book over."""
    for group, row in held.items():
        _check(recovered, group, row)
    recovered.drop_unused()
    segments, last = SegmentBook(), dict[int, int]()
    for known in recovered.segments:
        segments.close_segment(known.header.number, known.last, known.header.bytes)
        last |= {group: max(index, last.get(group, 0)) for group, index in known.last.items()}
    again = recovered.again()
    io = _continue(recovered, config, again, sync_us)
    try:
        book = recovered.book
        _finish_installs(book, io, held, recovered.source.path)
        halts: dict[int, int] = {}
        recovery.replay(recovered, {group: row.index for group, row in held.items()}, _noting(apply, halts))
        replayed = sum(_data_entries(book, group, row.index) for group, row in held.items())
        _begin(book, io, held, config, recovered.source.path)
        restored = _restored(book, held, config, recovered.source.path, halts)
        multi = MultiRaft(_multi(config), restored, random.Random(), now_us())
        groups = [GroupId(group) for group in held]
        parts = Parts(recovered.source, io, book, segments, multi, groups, last, snapshots)
        opened = RaftLog(parts, apply, now_us, replayed)
        opened.lead()
        return opened
    except BaseException:
        io.close()
        raise


def _check(recovered: Recovered, group: int, held: Held) -> None:
    """The log against what the checkpoint holds."""
    book, index, path = recovered.book.group(group), held.index, recovered.source.path
    installed = bool(books.behind_install(group, recovered.book, index, held.term, held.carried))
    if not installed and recovered.sequence and (book.last < index or book.compact_index > index):
        end = max(book.last, book.compact_index)
        raise LogDamaged(path, 0, f"group {group} ends at entry {end}, the checkpoint holds {index}: files are missing")
    if book.last >= book.first > index + 1:
        raise LogDamaged(path, 0, f"group {group} lacks entries {index + 1} to {book.first - 1}: files are missing")
    if book.known and (book.hard_state is None or not book.configs):
        raise LogDamaged(path, 0, f"group {group} has entries and no hard state: files are missing")
    if book.removed:
        raise LogDamaged(path, 0, f"group {group} was removed from this node, and its vShards are still placed here")


def _continue(recovered: Recovered, config: LogConfig, again: list[Record], sync_us: Any) -> Io:
    """Open the log in a new segment, which begins with the last append if that may be only in the page cache."""
    source, end, segments = recovered.source, recovered.end, recovered.segments
    io_config = IoConfig(
        dir=source.path,
        backend=config.backend,
        direct=config.direct,
        log_id=recovered.log_id or int.from_bytes(os.urandom(8), "little"),
        oldest_segment=segments[0].header.number if segments else 1,
        next_segment=segments[-1].header.number + 1 if segments else 1,
        next_sequence=recovered.sequence + (0 if again else 1),
        prev_crc=0 if end is None else end.prev_crc if again else end.crc,
        flags_first=wal.FLAG_AGAIN if again else 0,
        first_segment_bytes=min(config.first_segment_bytes, config.segment_bytes),
        segment_bytes=config.segment_bytes,
        buffer_bytes=BUFFER_BYTES,
        free_floor_bytes=config.floor_bytes,
        spares_max=SPARES_MAX,
    )
    io = source.open_io(io_config, sync_us)
    try:
        if again:
            _append(io, again, source.path)
    except BaseException:
        io.close()
        raise
    return io


def _append(io: Io, records: list[Record], path: str) -> None:
    array, keep = wal.records_array(records)
    try:
        append_and_wait(io, array, len(records), path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StartError(Exit.CANT_CREATE, f"{path}: {error.strerror}") from None
        raise
    del keep


def _note(book: Book, io: Io, records: list[Record]) -> None:
    """The book learns where the records of the append just written stand."""
    if not records:
        return
    array, keep = wal.records_array(records)
    book.write(array, len(records), io.segment(), io.append_off(), wal.group_array())
    del keep


def _finish_installs(book: Book, io: Io, held: Mapping[int, Held], path: str) -> None:
    """Groups whose last life ended when the store had a snapshot, and the log did not say so yet."""
    records: list[Record] = []
    for group, row in held.items():
        records += books.behind_install(group, book, row.index, row.term, row.carried)
    if records:
        _append(io, records, path)
        _note(book, io, records)


def _begin(book: Book, io: Io, held: Mapping[int, Held], config: LogConfig, path: str) -> None:
    """Groups of which the log says nothing: their first records, from what a checkpoint carried or as founders."""
    records: list[Record] = []
    for group, row in held.items():
        if not book.group(group).known:
            carried = books.carried_of(row.carried, founding([config.node]))
            records += books.beginning(group, carried, row.index, row.term)
    if records:
        _append(io, records, path)
        _note(book, io, records)


def _noting(apply: Apply, halts: dict[int, int]) -> Callable[[Any, int], None]:
    """apply, which adds to halts the groups that stop at an entry, and the entry."""

    def apply_and_note(records: Any, n: int) -> None:
        halts.update(apply(records, n) or {})

    return apply_and_note


def _restored(
    book: Book, held: Mapping[int, Held], config: LogConfig, path: str, halts: Mapping[int, int]
) -> dict[GroupId, tuple[ReplicaId, Restored]]:
    """Of every group; the node knows no other voters yet, and has applied all that it has. One that cannot go on is
    halted by itself, the others begin."""
    found = {}
    for group, row in held.items():
        why, replica = books.fault(group, book, halts.get(group, 0)), ReplicaId(book.group(group).replica or 0)
        if why:
            applied = max(row.index, halts.get(group, 0) - 1)
            found[GroupId(group)] = (replica, books.stopped(group, book, applied, why))
            continue
        restored = books.settled(group, book)
        if not books.is_sole_voter(restored.configuration, config.node):
            raise LogTooNew(path, f"group {group} has other voters than this node")
        found[GroupId(group)] = (replica, restored)
    return found


def _data_entries(book: Book, group: int, after: int) -> int:
    """Entries behind `after` that are commands."""
    row = book.group(group)
    kinds = [kind for _, kind, _ in book.entry_rows(group, max(row.first, after + 1), row.last)]
    return kinds.count(wal.DATA)


def _multi(config: LogConfig) -> MultiConfig:
    return MultiConfig(GroupConfig(group=GroupId(0), node=config.node), config.generation)
