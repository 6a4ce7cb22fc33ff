"""The worker's log: Raft groups on the write-ahead log, behind the verbs that a worker's turn knows. World file.

propose(records) gives each sealed batch its term and index and puts all groups' records of the turn in one append, or
few; reap() says what is committed. Invariants: at most one append is in flight, and what happens meanwhile gathers for
the next; the book learns every append as it is submitted, so that it is the book a restart will find; a segment dies
only after all that must stay of it was written anew, durably, from that book. Payloads stay where the engine has them:
Raft sees an entry's size and a handle, the number of its record in the engine's array. Start is start.py's.

While every group is alone (its replica here is the only member and leads: a single node), durable is committed and
nobody else asks: then a turn is two calls of C for all groups, and Raft hears of it at a tick between appends (settle).
Any other business of a group first tells Raft everything.
"""

import errno
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nodedb_node import log
from nodedb_node._native import ffi, lib
from nodedb_node.ids import GroupId
from nodedb_node.multiraft import books
from nodedb_node.multiraft.core import MultiRaft
from nodedb_node.multiraft.messages import Turn
from nodedb_node.multiraft.snapshot.desk import Desk
from nodedb_node.multiraft.snapshot.work import SnapshotDisk
from nodedb_node.native import wal
from nodedb_node.native.engine import TEXT_CLUSTERDOWN, TEXT_HALTED, TEXT_OVERLOAD
from nodedb_node.native.wal import GROUPS_MAX, Book, Record
from nodedb_node.native.walio import BACKENDS, Io, IoStats
from nodedb_node.raft.messages import Append, Busy, Halted, Position, QuarantineChanged, Refusal, RoleChanged
from nodedb_node.storage.directory import Segments
from nodedb_node.storage.segments import SegmentBook

SLOW_APPEND_US = 1_000_000
END_WAIT_MS = 30_000
SNAPSHOT_PIECES = 16  # done per tick
FIGURE_GROUPS = 64  # whose figures are copied at a time

Apply = Callable[[Any, int], dict[int, int] | None]
"""(records, n) → the groups that hold an entry which cannot be applied, and its index: they stop there."""


class Rows(NamedTuple):
    """Records for one append: an nd_wal_rec array, its length, and what keeps payloads alive that are not C's."""

    array: Any
    n: int
    keep: Any


class Parts(NamedTuple):
    """What a start made ready."""

    source: Segments
    io: Io
    book: Book
    segments: SegmentBook
    multi: MultiRaft
    groups: list[GroupId]
    last: dict[int, int]  # highest index that the log ever held, by group
    snapshots: SnapshotDisk | None  # None: this process keeps no store (a tool, a test)


class RaftLog:
    """Owner of the directory, the IO, the book and the groups. Loop thread only; watch `fd`, reap() when readable."""

    def __init__(self, parts: Parts, apply: Apply, now_us: Callable[[], int], replayed: int) -> None:
        """Use start.open_log. apply(records, n) takes committed entries that no batch of the engine stands for."""
        self.fd = parts.io.fd
        self.busy = False
        self.replayed = replayed  # entries that the start applied
        self._source, self._io, self._book, self._segments = parts.source, parts.io, parts.book, parts.segments
        self._multi, self._groups = parts.multi, parts.groups
        self._apply, self._now_us = apply, now_us
        self._last = wal.group_array(parts.last)  # highest index ever appended
        self._commits, self._commits_cap = ffi.new("nd_commit[]", GROUPS_MAX), GROUPS_MAX
        self._waiting: list[Rows] = []  # of turns not yet submitted
        self._rest: Rows | None = None  # what did not fit in the append in flight
        self._turn = self._turn_flying = self._turn_durable = 0  # newest taken; in flight or durable; durable
        self._own: dict[int, list[int]] = {}  # group → [first, last] of entries for which the engine has batches
        self._alone: set[GroupId] = set()
        self.halted: dict[GroupId, str] = {}  # groups that serve no more here, and why; the others go on
        self._halts: list[GroupId] = []  # that take_halted has not told
        self._own_turn: Rows | None = None  # proposed while all were alone, and not durable
        self._terms, self._ends = wal.group_array(), wal.group_array()  # of groups that are alone
        self._ends_view = memoryview(ffi.buffer(self._ends))
        self._settled = b""  # the ends as Raft knows them
        self._segment, self._segment_bytes = parts.io.segment(), parts.io.stats().segment_bytes
        self._compact_to: dict[int, int] = {}  # not yet in the log
        self._marks: dict[GroupId, Position] = {}  # in the append in flight
        self._dead_before = 0  # once the append in flight is durable
        self._slow_told = False
        self._desk = Desk(parts.snapshots, parts.multi) if parts.snapshots is not None else None
        self._figure = 0  # the group whose figures were copied last

    def lead(self) -> None:
        """A sole voter waits for no one: the first term's records are written before this returns."""
        now_us = self._now_us()
        if self._desk is not None:
            self._desk.restore(now_us)
        self._multi.tick(now_us)
        self._take_turns(now_us, None)
        self._write()
        self._drain()

    # ---- the turn ----

    def propose(self, records: Any, n: int, reserve: bool) -> bool:
        """Give each record its term and index and write all; False: below the free-space floor, nothing done.

        The record array and its payloads must stay as they are until reap has named the last of them. A record that its
        group does not take comes back with index 0 and the text that answers it as its term (csrc/engine.h).
        """
        assert not self.busy and n > 0, "one append at a time"
        if not reserve and self._io.nospace():
            return False
        if self._all_are_alone(records, n):
            lib.nd_wal_assign(records, n, GROUPS_MAX, self._terms, self._ends)
            self._own_turn = Rows(records, n, None)
            self._waiting.append(self._own_turn)
        else:
            self._propose(records, n)
        self._write()
        return True

    def _propose(self, records: Any, n: int) -> None:
        now_us, own = self._now_us(), self._own
        self._settle()
        answers = self._multi.propose(now_us, [(records[i].group, records[i].len, i) for i in range(n)])
        for i, answer in enumerate(answers):
            record = records[i]
            if not isinstance(answer, tuple):
                record.index, record.term = 0, self._refusal_text(record.group, answer)
                continue
            record.index, record.term = answer
            own.setdefault(record.group, [answer[0], 0])[1] = answer[0]
        self._take_turns(now_us, Rows(records, n, None))

    def _all_are_alone(self, records: Any, n: int) -> bool:
        """Every group that serves, and no record is of another."""
        halted = self.halted
        if len(self._alone) + len(halted) != len(self._groups):
            return False
        return not halted or not any(records[i].group in halted for i in range(n))

    def _refusal_text(self, group: int, refusal: Refusal) -> int:
        """An error of the engine's for what a group says."""
        if group in self.halted:
            return TEXT_HALTED
        return TEXT_OVERLOAD if isinstance(refusal, Busy) else TEXT_CLUSTERDOWN

    def take_halted(self) -> list[tuple[GroupId, str]]:
        """Groups that were halted since the last call, and why: nothing more of theirs is committed."""
        halts, self._halts = self._halts, []
        return [(group, self.halted[group]) for group in halts]

    def reap(self) -> tuple[Any, int]:
        """(nd_commit array, length) of what is committed now, valid until the next reap; length 0 = nothing.

        The caller applies it before it asks anything else. Length 0 and not busy: something of the log's own is
        durable. OSError: the disk failed; nothing more may be acknowledged and the process must end.
        """
        if not self._io.reap():
            return self._commits, 0
        return self._commits, self._take_durable()

    def tick(self) -> None:
        """A few times a second: Raft's deadlines, compaction of an idle log, and a word about a slow disk."""
        now_us, inflight_us = self._now_us(), self._io.inflight_us()
        self._multi.disk_age(now_us, inflight_us)
        if self._own_turn is None:
            self._settle()
            self._multi.tick(now_us)
            self._do_snapshots(now_us)
            commits = self._take_turns(now_us, None)
            assert not commits, "a sole voter commits when something becomes durable"
        if not self.busy:
            self._write()
        if inflight_us > SLOW_APPEND_US and not self._slow_told:
            log.warning("append to the log is slow", ms=inflight_us // 1000, path=self._source.path)
        self._slow_told = inflight_us > SLOW_APPEND_US

    def _do_snapshots(self, now_us: int) -> None:
        """A few pieces of what they want of disk and store."""
        pieces = SNAPSHOT_PIECES
        while pieces and self._desk is not None and self._desk.step(now_us):
            pieces -= 1

    def _settle(self) -> None:
        """Tell Raft what was written while its groups were alone; all of it is durable."""
        assert self._own_turn is None
        ends = self._ends_view.tobytes()
        if ends != self._settled:
            self._settled = ends
            for group in self._alone:
                self._multi.settle(group, self._ends[group])

    def _look_who_is_alone(self) -> None:
        """After anything that Raft handed out."""
        for group in self._groups:
            position = self._multi.alone(group)
            if position is None:
                self._alone.discard(group)
            else:
                self._alone.add(group)
                self._ends[group], self._terms[group] = position

    def _take_turns(self, now_us: int, own: Rows | None) -> int:
        """What the groups hand out; own: the records that were just proposed. How many commits were noted."""
        commits, number = 0, self._turn
        while (turn := self._multi.take_turn(now_us)) is not None:
            self._turn = turn.number
            assert not (turn.free or turn.after or turn.bulk), "a sole voter has nobody to talk to"
            if turn.work:
                assert self._desk is not None, "snapshots need a store"
                self._desk.take(turn.work)
            if turn.records:
                self._waiting.append(self._rows(turn, own))
            for group, first, last in turn.committed:
                commits = self._committed(commits, group, first, last)
            for group, event in turn.events:
                self._tell(group, event)
        if number != self._turn:
            self._look_who_is_alone()
        return commits

    def _rows(self, turn: Turn, own: Rows | None) -> Rows:
        """The turn's records as the log writes them; the engine's array as it is, when there is nothing else."""
        if own is not None and all(type(row.record) is Append for row in turn.records):
            appends = [row.record for row in turn.records if type(row.record) is Append]
            if sum(len(append.entries) for append in appends) == own.n:
                return own
        rows: list[Record | int] = []
        for row in turn.records:
            if type(row.record) is Append and any(type(entry.data) is int for entry in row.record.entries):
                rows += [
                    entry.data if type(entry.data) is int else books.entry(row.group, index, entry)
                    for index, entry in enumerate(row.record.entries, row.record.first)
                ]
            else:
                rows += books.written(row.group, row.record)
        return _mixed(rows, own)

    def _committed(self, at: int, group: int, first: int, last: int) -> int:
        """Note the engine's part of first..last in the commits, from `at` on; the rest is applied at once."""
        own = self._own.get(group)
        if own is None or own[0] > last:
            self._apply_from_log(group, first, last)
        else:
            if first < own[0]:
                self._apply_from_log(group, first, own[0] - 1)
            assert last <= own[1], "what the engine has no batch for stands behind its batches"
            row = self._commits[at]
            row.group, row.first, row.last = group, own[0], last
            at += 1
            if last == own[1]:
                del self._own[group]
            else:
                own[0] = last + 1
        self._multi.applied(GroupId(group), last)
        return at

    def _apply_from_log(self, group: int, first: int, last: int) -> None:
        """Entries without a batch; none of a sole voter's but the first of its term carries nothing."""
        rows = [self._book.entry(group, index) for index in range(first, last + 1)]
        assert all(row.kind != wal.DATA for row in rows), "a command without a batch"
        records = [Record(wal.ENTRY, group, row.term, first + i, b"", row.kind) for i, row in enumerate(rows)]
        array, keep = wal.records_array(records)
        self._apply(array, len(records))
        del keep

    def _tell(self, group: int, event: Any) -> None:
        if isinstance(event, Halted):
            log.error("group halted", group=group, why=event.why, state=event.dump)
            self._halt(GroupId(group), event.why)
        elif isinstance(event, QuarantineChanged) and event.on:
            self._halt(GroupId(group), f"{event.why}; there is no other replica to refill it")
        elif isinstance(event, RoleChanged):
            log.debug("group", group=group, role=event.role.name.lower(), term=event.term, leader=event.leader)

    def _halt(self, group: GroupId, why: str) -> None:
        self.halted.setdefault(group, why)
        self._halts.append(group)

    # ---- compaction ----

    def compact(self, applied: Mapping[int, int]) -> None:
        """A synced checkpoint covers each group's entries up to applied[group]: what only they need may go."""
        self._compact_to = dict(applied)

    def _compaction_records(self) -> list[Record]:
        """The live book anew, for the append about to be written; nothing when no segment would die by it."""
        applied, self._compact_to = self._compact_to, {}
        group_books = {group: self._book.group(group) for group in self._groups}
        marks = {group: self._mark(group, book, applied.get(group, 0)) for group, book in group_books.items()}
        covered = {int(group): index for group, (index, _) in marks.items()}
        dead_before = self._segments.dead_before(covered, self._segment)
        if dead_before <= self._io.stats().oldest_segment:
            return []
        self._dead_before, self._marks = dead_before, marks
        return [row for group, mark in marks.items() for row in books.rewritten(group, self._book, mark)]

    def _mark(self, group: GroupId, book: wal.GroupBook, index: int) -> Position:
        """(index, term) up to which the group's entries may go."""
        if index < book.first or (group in self.halted and index > book.last):
            return book.compact_index, book.compact_term
        assert index <= book.last, "a checkpoint is never ahead of the log"
        return index, self._book.entry(group, index).term

    # ---- one append ----

    def _write(self) -> None:
        """Submit what waits, and what compaction wants rewritten."""
        assert not self.busy
        rows = self._rest or self._gathered()
        extra = self._compaction_records() if self._compact_to else []
        if extra:
            rows = _joined(rows, extra)
        if rows is None:
            self._durable_at_once()
            return
        fit = lib.nd_wal_append_fit(rows.array, rows.n, self._io.append_bytes_max())
        self._rest = Rows(rows.array + fit, rows.n - fit, rows) if fit < rows.n else None
        self._submit(rows.array, fit)

    def _gathered(self) -> Rows | None:
        """Everything that waits; what is taken from now on belongs to a later append."""
        waiting, self._waiting = self._waiting, []
        self._turn_flying = self._turn
        if len(waiting) < 2:
            return waiting[0] if waiting else None
        total = sum(rows.n for rows in waiting)
        array, at = ffi.new("nd_wal_rec[]", total), 0
        for rows in waiting:
            ffi.memmove(array + at, rows.array, rows.n * ffi.sizeof("nd_wal_rec"))
            at += rows.n
        return Rows(array, total, [rows.keep for rows in waiting])

    def _durable_at_once(self) -> None:
        """Turns without records are durable as soon as those before them are, and nothing is in flight."""
        self._persisted(self._now_us())

    def _persisted(self, now_us: int) -> None:
        if self._turn_durable < self._turn_flying:
            self._turn_durable = self._turn_flying
            self._multi.persisted(now_us, self._turn_durable)

    def _submit(self, array: Any, n: int) -> None:
        if not self._io.append(array, n, True):
            raise OSError(errno.ENOSPC, "no room even for the reserve", self._source.path)
        self.busy = True
        segment = self._io.segment()
        if segment != self._segment:
            # Indexes of this turn are counted to the closed segment too: it dies a little later, never too early.
            self._segments.close_segment(self._segment, wal.by_group(self._last), self._segment_bytes)
            self._segment, self._segment_bytes = segment, self._io.stats().segment_bytes
        self._book.write(array, n, segment, self._io.append_off(), self._last)

    def _take_durable(self) -> int:
        self.busy = False
        if self._rest:
            self._write()
            return 0
        now_us = self._now_us()
        own, self._own_turn = self._own_turn, None
        self._persisted(now_us)
        if self._dead_before:
            self._compacted()
        if own is None:
            return self._take_turns(now_us, None)
        if own.n > self._commits_cap:
            self._commits, self._commits_cap = ffi.new("nd_commit[]", own.n), own.n
        return int(lib.nd_wal_commits(own.array, own.n, self._commits))

    def _compacted(self) -> None:
        """What must stay is durable a second time: the segments that only it kept may die."""
        self._segments.forget_before(self._dead_before)
        self._io.drop_before(self._dead_before)
        self._dead_before = 0
        self._settle()
        self._multi.compacted(self._marks)

    # ---- figures and end ----

    def last(self, group: int) -> tuple[int, int]:
        """(index, term) of the group's newest entry."""
        book = self._book.group(group)
        return book.last, book.last_term

    def carried(self, group: int, applied: int) -> bytes:
        """What a checkpoint up to applied must hold of the group beside its rows."""
        return books.carried_bytes(books.carried(self._book.group(group), applied))

    def inflight_us(self) -> int:
        return self._io.inflight_us()

    def nospace(self) -> bool:
        return self._io.nospace()

    def closed_bytes(self) -> int:
        """Of all segments closed so far, those found at the start and those that died since included."""
        return self._segments.bytes_ever

    def stats(self) -> IoStats:
        return self._io.stats()

    def copy_figures(self, metrics: Any) -> None:
        """Into an nd_metrics."""
        stats = self._io.stats()
        metrics.wal_appends, metrics.wal_bytes = stats.appends, stats.bytes
        metrics.wal_backend = BACKENDS[stats.backend]
        metrics.wal_segments = stats.segments
        metrics.wal_segment_bytes = self._segments.bytes + stats.segment_bytes
        metrics.nospace = stats.nospace
        self._copy_groups(metrics.groups)
        for row, (group, why) in zip(metrics.halts, self.halted.items(), strict=False):
            text = why.encode()[: ffi.sizeof(row.why) - 1]
            ffi.memmove(row.why, text, len(text))
            row.group, row.held = group, 1

    def _copy_groups(self, rows: Any) -> None:
        """Some groups at a time, so that many of them cost no more than a few."""
        if self._own_turn is None:
            self._settle()
        for _ in range(min(FIGURE_GROUPS, len(self._groups))):
            self._figure = (self._figure + 1) % len(self._groups)
            found = self._multi.status(self._groups[self._figure])
            row = rows[found.group]
            row.role, row.term, row.leader, row.reason = found.role, found.term, found.leader, found.reason
            row.commit, row.applied, row.last, row.held = found.commit, found.applied, found.last, 1

    def close(self, mark: bool) -> None:
        """mark: everything written is durable and a clean end is written; without it the next start recovers."""
        try:
            if mark:
                self._finish()
        finally:
            if self._desk is not None:
                self._desk.close()
            self._io.close()
            self._book.close()
            self._source.close()

    def _drain(self) -> None:
        """Until nothing is in flight."""
        while self.busy:
            if not self._io.wait(END_WAIT_MS):
                raise OSError(errno.ETIMEDOUT, "the last append did not end", self._source.path)
            self._take_durable()

    def _finish(self) -> None:
        self._drain()
        array, keep = wal.records_array([Record(wal.MARK)])
        append_and_wait(self._io, array, 1, self._source.path)
        del keep


def append_and_wait(io: Io, records: Any, n: int, path: str) -> None:
    """One append of the start or the end, until it is durable."""
    if not io.append(records, n, True):
        raise OSError(errno.ENOSPC, "no disk space for the log; free some and start again", path)
    if not io.wait(END_WAIT_MS):
        raise OSError(errno.ETIMEDOUT, "the disk does not answer", path)


def _joined(rows: Rows | None, extra: list[Record]) -> Rows:
    """One array of the extra records and the rows. The extra ones are made from the book as it was before these rows:
    behind them an old vote would be the last word at the next start."""
    array, keep = wal.records_array(extra)
    if rows is None:
        return Rows(array, len(extra), keep)
    joined = ffi.new("nd_wal_rec[]", rows.n + len(extra))
    size = ffi.sizeof("nd_wal_rec")
    ffi.memmove(joined, array, len(extra) * size)
    ffi.memmove(joined + len(extra), rows.array, rows.n * size)
    return Rows(joined, rows.n + len(extra), (rows, keep))


def _mixed(rows: list[Record | int], own: Rows | None) -> Rows:
    """One array, in this order, of records made here and (by number) records of the engine's array."""
    made, keep = wal.records_array([row for row in rows if isinstance(row, Record)])
    array, at = ffi.new("nd_wal_rec[]", max(1, len(rows))), 0
    for i, row in enumerate(rows):
        if isinstance(row, Record):
            array[i], at = made[at], at + 1
        else:
            assert own is not None
            array[i] = own.array[row]
    return Rows(array, len(rows), keep)
