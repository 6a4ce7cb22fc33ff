"""The log of a node that is its only voter: durable is committed. Raft takes this class's place.

propose(turn) gives each record its term and index and writes all groups' records in one append; reap() says what is
committed. Invariants: at most one append is in flight; indexes of a group have no hole; nothing is reported committed
that is not durable; a segment dies only after the hard states, configurations and compaction marks it may hold were
written anew, durably. It does not know what an entry means, and keeps no payload. World file.
"""

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nodedb_node import log
from nodedb_node._native import ffi, lib
from nodedb_node.errors import Exit, StartError
from nodedb_node.native import wal
from nodedb_node.native.wal import GROUPS_MAX, Record
from nodedb_node.native.walio import BACKENDS, Io, IoConfig, IoStats
from nodedb_node.storage import recovery
from nodedb_node.storage.directory import LogDirectory, Segments
from nodedb_node.storage.recovery import LogDamaged, Recovered
from nodedb_node.storage.segments import SegmentBook

MIB = 1024 * 1024
FIRST_SEGMENT_BYTES = 4 * MIB  # a start waits for its zeros
BUFFER_BYTES = 2 * MIB  # registered with the kernel, so pinned in memory; larger appends take a buffer of their own
SPARES_MAX = 2
ONLY_TERM = 1
START_WAIT_MS = 30_000
SLOW_APPEND_US = 1_000_000

Apply = Callable[[Any, int], None]


class LogConfig(NamedTuple):
    """How one worker's log is written."""

    backend: str = "auto"
    direct: bool = True
    segment_bytes: int = 64 * MIB
    first_segment_bytes: int = FIRST_SEGMENT_BYTES
    floor_bytes: int = 128 * MIB


class OneVoterLog:
    """Owner of the directory and the IO. Loop thread only; watch `fd` and call reap() when it is readable."""

    def __init__(self, source: Segments, io: Io, state: "LogState") -> None:
        """Use open_log."""
        self.fd = io.fd
        self.busy = False
        self._source, self._io, self._state = source, io, state
        self._term = ffi.new("uint64_t[]", GROUPS_MAX)
        self._last = ffi.new("uint64_t[]", GROUPS_MAX)
        for group, last in state.last.items():
            self._term[group], self._last[group] = state.hard[group][0], last
        self._commits, self._commits_cap = ffi.new("nd_commit[]", GROUPS_MAX), GROUPS_MAX
        self._turn: tuple[Any, int] = (ffi.NULL, 0)  # the records that are being written
        self._rest: tuple[Any, int] = (ffi.NULL, 0)  # those of them that did not fit in the append in flight
        self._segment, self._segment_bytes = io.segment(), io.stats().segment_bytes
        self._compact_to: dict[int, int] = {}  # not yet in the log
        self._dead_before = 0  # once the append in flight is durable
        self._slow_told = False
        self.replayed = 0  # entries that the start applied

    # ---- the turn ----

    def propose(self, records: Any, n: int, reserve: bool) -> bool:
        """Give each record its term and index and write all; False: below the free-space floor, nothing done.

        The record array and its payloads must stay as they are until reap has named the last of them.
        """
        assert not self.busy and n > 0, "one append at a time"
        if not reserve and self._io.nospace():
            return False
        lib.nd_wal_assign(records, n, GROUPS_MAX, self._term, self._last)
        self._turn = self._rest = (records, n)
        self._write()
        return True

    def reap(self) -> tuple[Any, int]:
        """(nd_commit array, length) of what is committed now, valid until the next reap; length 0 = nothing.

        A turn is committed as a whole, however many appends it took. Length 0 and not busy: a compaction is durable.
        OSError: the disk failed; nothing more may be acknowledged and the process must end.
        """
        if not self._io.reap():
            return self._commits, 0
        return self._take_durable()

    def tick(self) -> None:
        """A few times a second: compaction of an idle log, and a word about a slow disk."""
        if not self.busy and self._compact_to:
            self._write()
        inflight_us = self._io.inflight_us()
        if inflight_us > SLOW_APPEND_US and not self._slow_told:
            log.warning("append to the log is slow", ms=inflight_us // 1000, path=self._source.path)
        self._slow_told = inflight_us > SLOW_APPEND_US

    # ---- compaction ----

    def compact(self, applied: Mapping[int, int]) -> None:
        """A synced checkpoint covers each group's entries up to applied[group]: what only they need may go."""
        self._compact_to = dict(applied)

    def _compaction_records(self) -> list[Record]:
        """The live book anew, for the append about to be written; nothing when no segment would die by it."""
        applied, self._compact_to = self._compact_to, {}
        state = self._state
        for group, index in applied.items():
            state.compact[group] = max(index, state.compact.get(group, 0))
        dead_before = state.segments.dead_before(state.compact, self._segment)
        if dead_before <= self._io.stats().oldest_segment:
            return []
        self._dead_before = dead_before
        return [record.rewritten() for record in state.records()]

    # ---- one append ----

    def _write(self) -> None:
        """Submit what fits of the rest of the turn, and what compaction wants rewritten."""
        records, n = self._rest
        bytes_max = self._io.append_bytes_max()
        fit = lib.nd_wal_append_fit(records, n, bytes_max) if n else 0
        extra = self._compaction_records() if self._compact_to and fit == n else []
        if n == 0 and not extra:
            return
        self._rest = (records + fit, n - fit)
        if extra:
            records, keep = _joined(records, fit, extra)
            self._submit(records, fit + len(extra))
            del keep
        else:
            self._submit(records, fit)

    def _submit(self, records: Any, n: int) -> None:
        if not self._io.append(records, n, True):
            raise OSError(errno.ENOSPC, "no room even for the reserve", self._source.path)
        self.busy = True
        segment = self._io.segment()
        if segment != self._segment:
            # Indexes of this turn are counted to the closed segment too: it dies a little later, never too early.
            self._state.segments.close_segment(self._segment, list(self._last), self._segment_bytes)
            self._segment, self._segment_bytes = segment, self._io.stats().segment_bytes

    def _take_durable(self) -> tuple[Any, int]:
        self.busy = False
        if self._dead_before:
            self._state.segments.forget_before(self._dead_before)
            self._io.drop_before(self._dead_before)
            self._dead_before = 0
        if self._rest[1]:
            self._write()
            return self._commits, 0
        records, n = self._turn
        self._turn = (ffi.NULL, 0)
        if n > self._commits_cap:
            self._commits, self._commits_cap = ffi.new("nd_commit[]", n), n
        return self._commits, lib.nd_wal_commits(records, n, self._commits)

    # ---- figures and end ----

    def last(self, group: int) -> tuple[int, int]:
        """(index, term) of the group's newest entry."""
        return int(self._last[group]), int(self._term[group])

    def inflight_us(self) -> int:
        return self._io.inflight_us()

    def nospace(self) -> bool:
        return self._io.nospace()

    def closed_bytes(self) -> int:
        """Of all segments closed so far, those found at the start and those that died since included."""
        return self._state.segments.bytes_ever

    def stats(self) -> IoStats:
        return self._io.stats()

    def copy_figures(self, metrics: Any) -> None:
        """Into an nd_metrics."""
        stats = self._io.stats()
        metrics.wal_appends, metrics.wal_bytes = stats.appends, stats.bytes
        metrics.wal_backend = BACKENDS[stats.backend]
        metrics.wal_segments = stats.segments
        metrics.wal_segment_bytes = self._state.segments.bytes + stats.segment_bytes
        metrics.nospace = stats.nospace

    def close(self, mark: bool) -> None:
        """mark: everything written is durable and a clean end is written; without it the next start recovers."""
        try:
            if mark:
                self._finish()
        finally:
            self._io.close()
            self._source.close()

    def _finish(self) -> None:
        while self.busy:
            if not self._io.wait(START_WAIT_MS):
                raise OSError(errno.ETIMEDOUT, "the last append did not end", self._source.path)
            self._take_durable()
        array, keep = wal.records_array([Record(wal.MARK)])
        _append_and_wait(self._io, array, 1, self._source.path)
        del keep


def open_log(
    source: Segments,
    config: LogConfig,
    groups: list[int],
    applied: Mapping[int, int],
    apply: Apply,
    sync_us: Any = None,
) -> OneVoterLog:
    """Recover the log of these groups, hand entries with index > applied[group] to apply(records, n), open it.

    Whatever only the page cache may hold is on the disk when this returns. StartError: the log is damaged or too new.
    """
    try:
        recovered = recovery.recover(source)
        try:
            state = _state_of(recovered, groups, applied)
            recovered.drop_unused()
            _close_segments(state, recovered)
            io = _continue(recovered, config, sync_us)
            try:
                replayed = recovery.replay(recovered, dict(applied), apply)
                _begin_groups(io, state, groups, source.path)
            except BaseException:
                io.close()
                raise
        finally:
            recovered.close()
        source.release()
    except BaseException:
        source.close()
        raise
    opened = OneVoterLog(source, io, state)
    opened.replayed = replayed
    opened.compact(applied)  # the checkpoint may cover segments of the life before
    return opened


class LogState:
    """What must stay in the log whatever is compacted: the live book of its groups."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self.hard: dict[int, tuple[int, int]] = {}  # term, vote
        self.config: dict[int, tuple[int, int, bytes]] = {}  # index, term, bytes
        self.compact: dict[int, int] = {}
        self.segments = SegmentBook()

    def records(self) -> list[Record]:
        """All of it, as records."""
        rows = []
        for group, (term, vote) in self.hard.items():
            rows.append(Record(wal.HARD_STATE, group, term, 0, vote.to_bytes(8, "little")))
            if group in self.config:
                index, at_term, data = self.config[group]
                rows.append(Record(wal.CONFIG, group, at_term, index, data))
            if self.compact.get(group):
                rows.append(Record(wal.COMPACT, group, term, self.compact[group]))
        return rows


def _state_of(recovered: Recovered, groups: list[int], applied: Mapping[int, int]) -> LogState:
    """Check the log against what the checkpoint holds, and take over what stays."""
    state, path = LogState(), recovered.source.path
    for group in groups:
        book, index = recovered.book.group(group), applied.get(group, 0)
        if recovered.sequence and (book.last < index or book.compact_index > index):
            end = max(book.last, book.compact_index)
            raise LogDamaged(
                path, 0, f"group {group} ends at entry {end}, the checkpoint holds {index}: files are missing"
            )
        if book.last >= book.first > index + 1:
            raise LogDamaged(path, 0, f"group {group} lacks entries {index + 1} to {book.first - 1}: files are missing")
        if book.last >= book.first and book.hard_state is None:
            raise LogDamaged(path, 0, f"group {group} has entries and no hard state: files are missing")
        state.last[group] = max(book.last, index)
        if book.hard_state:
            state.hard[group] = book.hard_state
        if book.config:
            state.config[group] = book.config
        state.compact[group] = book.compact_index
    return state


def _close_segments(state: LogState, recovered: Recovered) -> None:
    for known in recovered.segments:
        state.segments.close_segment(known.header.number, known.last, known.header.bytes)


def _continue(recovered: Recovered, config: LogConfig, sync_us: Any) -> Io:
    """Open the log in a new segment, which begins with the last append if that may be only in the page cache."""
    source, end, again = recovered.source, recovered.end, recovered.again()
    segments = recovered.segments
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
    array, keep = wal.records_array(again)
    io = source.open_io(io_config, sync_us)
    try:
        if again:
            _append_and_wait(io, array, len(again), source.path)
    except BaseException:
        io.close()
        raise
    del keep
    return io


def _begin_groups(io: Io, state: LogState, groups: list[int], path: str) -> None:
    """A group's first records: its hard state, with the only term there is and its only voter's vote, and where its log
    begins when a checkpoint came before it (the node's number of workers changed)."""
    new = [group for group in groups if group not in state.hard]
    if not new:
        return
    for group in new:
        state.hard[group] = (ONLY_TERM, 0)
        state.compact[group] = state.last[group]
    records = [record for record in state.records() if record.group in set(new)]
    array, keep = wal.records_array(records)
    _append_and_wait(io, array, len(records), path)
    del keep


def _append_and_wait(io: Io, records: Any, n: int, path: str) -> None:
    if not io.append(records, n, True):
        raise StartError(Exit.CANT_CREATE, f"{path}: no disk space for the log; free some and start again")
    if not io.wait(START_WAIT_MS):
        raise OSError(errno.ETIMEDOUT, "the disk does not answer", path)


def _joined(records: Any, n: int, extra: list[Record]) -> tuple[Any, Any]:
    """One array of both, and what keeps the extra payloads alive."""
    array, keep = wal.records_array(extra)
    joined = ffi.new("nd_wal_rec[]", n + len(extra))
    size = ffi.sizeof("nd_wal_rec")
    if n:
        ffi.memmove(joined, records, n * size)
    ffi.memmove(joined + n, array, len(extra) * size)
    return joined, keep


def open_directory(
    path: str, config: LogConfig, groups: list[int], applied: Mapping[int, int], apply: Apply, sync_us: Any = None
) -> OneVoterLog:
    """open_log on a directory of the filesystem."""
    return open_log(LogDirectory(path), config, groups, applied, apply, sync_us)
