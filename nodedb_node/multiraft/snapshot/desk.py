"""Does what snapshots ask of disk and store: a turn's Work into SnapshotDisk's calls, their ends into MultiRaft's.

Invariant: a step is as short as the disk's smallest piece, so that a caller who takes a few per turn delays nobody.
Cuts and installs take many; one of the short pieces is done between two of theirs, so that transfers go on. Each kind
is done in the order it came, and a long piece begins behind all short ones that came before it. An install that is
discarded before its end is given up. It retries nothing: a failure is MultiRaft's to judge. World file, as its disk is.
"""

import errno
from collections import deque
from collections.abc import Iterable, Iterator

from nodedb_node import log
from nodedb_node.ids import GroupId
from nodedb_node.multiraft.core import MultiRaft
from nodedb_node.multiraft.snapshot.messages import Manifest, Reason
from nodedb_node.multiraft.snapshot.receiver import Begin, Discard, Write
from nodedb_node.multiraft.snapshot.sender import Read
from nodedb_node.multiraft.snapshot.work import Cut, Install, Release, SnapshotDamaged, SnapshotDisk, Work
from nodedb_node.raft.messages import Micros

Long = Cut | Install
Short = Read | Release | Begin | Write | Discard


class Desk:
    """Of one process."""

    def __init__(self, disk: SnapshotDisk, multi: MultiRaft) -> None:
        self._disk, self._multi = disk, multi
        self._short: deque[Short] = deque()
        self._long: deque[tuple[Long, int]] = deque()  # and how many short pieces came before it
        self._came = self._done = 0  # short pieces
        self._steps: Iterator[None] | None = None  # of the first long one
        self._long_next = False

    def restore(self, now_us: Micros) -> None:
        """At the start: tell MultiRaft what earlier lives left."""
        for manifest, chunks in self._disk.found():
            self._multi.snapshot_found(now_us, manifest, chunks)

    def close(self) -> None:
        """What is half done is given up."""
        self._steps = None
        self._short.clear()
        self._long.clear()
        self._disk.close()

    def take(self, work: Iterable[Work]) -> None:
        """Of one turn."""
        for row in work:
            if isinstance(row, Cut | Install):
                self._long.append((row, self._came))
                continue
            if isinstance(row, Discard):
                self._take_back(row.manifest)
            self._short.append(row)
            self._came += 1

    def _take_back(self, manifest: Manifest) -> None:
        first = self._long[0][0] if self._long else None
        if isinstance(first, Install) and first.manifest == manifest:
            self._steps = None
        taken = [row for row in self._long if not isinstance(row[0], Install) or row[0].manifest != manifest]
        self._long = deque(taken)

    def step(self, now_us: Micros) -> bool:
        """One piece; False: there is none."""
        may_begin = bool(self._long) and self._long[0][1] <= self._done
        if may_begin and (self._long_next or not self._short):
            self._long_next = False
            self._step_long(now_us, self._long[0][0])
        elif self._short:
            self._long_next = True
            self._done += 1
            self._step_short(now_us, self._short.popleft())
        else:
            return False
        return True

    def _step_short(self, now_us: Micros, row: Short) -> None:
        if isinstance(row, Read):
            self._read(now_us, row)
        elif isinstance(row, Begin | Write):
            self._write(now_us, row)
        else:
            self._forget(row)

    def _step_long(self, now_us: Micros, row: Long) -> None:
        try:
            if self._steps is None:
                self._steps = self._begin(row)
            next(self._steps)
        except StopIteration:
            self._end(now_us, row, None)
        except SnapshotDamaged:
            self._end(now_us, row, Reason.CORRUPT)
        except OSError as error:
            self._end(now_us, row, _reason(error))

    def _begin(self, row: Long) -> Iterator[None]:
        if isinstance(row, Cut):
            return self._disk.cut(row.group, self._multi.config.snapshots.chunk_bytes)
        return self._disk.install(row.manifest, row.state)

    def _end(self, now_us: Micros, row: Long, reason: Reason | None) -> None:
        self._steps = None
        self._long.popleft()
        if isinstance(row, Cut):
            made = self._disk.made(row.group) if reason is None else None
            self._multi.snapshot_cut(now_us, GroupId(row.group), made)
        elif reason is None:
            self._multi.snapshot_installed(now_us, row.manifest)
        else:
            self._multi.snapshot_not_installed(now_us, row.manifest, reason)

    def _read(self, now_us: Micros, row: Read) -> None:
        try:
            data = self._disk.read(row.manifest, row.number)
        except OSError:
            self._multi.snapshot_read(now_us, row.transfer, row.number, None)
        else:
            self._multi.snapshot_read(now_us, row.transfer, row.number, data)

    def _write(self, now_us: Micros, row: Begin | Write) -> None:
        try:
            if isinstance(row, Begin):
                self._disk.begin(row.manifest)
                return
            self._disk.write(row.manifest, row.number, row.data)
        except OSError as error:
            self._multi.snapshot_not_written(now_us, row.manifest, _reason(error))
        else:
            self._multi.snapshot_written(now_us, row.manifest, row.number)

    def _forget(self, row: Discard | Release) -> None:
        """A file that stays takes space, and nobody waits for its end: it goes with the next start at the latest."""
        try:
            if isinstance(row, Discard):
                self._disk.discard(row.manifest)
            else:
                self._disk.release(row.manifest)
        except OSError as error:
            log.warning("a snapshot's file cannot be removed", group=row.manifest.group, why=error)


def _reason(error: OSError) -> Reason:
    return Reason.NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else Reason.FAILED
