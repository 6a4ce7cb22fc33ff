"""Does what snapshots ask of disk and store: a turn's Work into SnapshotDisk's calls, their ends into MultiRaft's.

Invariant: pieces are done one after the other in the order they came, and a step is as short as the disk's smallest
piece, so that a caller who takes a few per turn delays nobody. An install that is discarded before its end is given up.
It retries nothing: a failure is MultiRaft's to judge. World file, as its disk is.
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


class Desk:
    """Of one process."""

    def __init__(self, disk: SnapshotDisk, multi: MultiRaft) -> None:
        self._disk, self._multi = disk, multi
        self._queue: deque[Work] = deque()
        self._steps: Iterator[None] | None = None  # of the first in the queue

    def restore(self, now_us: Micros) -> None:
        """At the start: tell MultiRaft what earlier lives left."""
        for manifest, chunks in self._disk.found():
            self._multi.snapshot_found(now_us, manifest, chunks)

    def close(self) -> None:
        """What is half done is given up."""
        self._steps = None
        self._queue.clear()
        self._disk.close()

    def take(self, work: Iterable[Work]) -> None:
        """Of one turn."""
        for row in work:
            if isinstance(row, Discard):
                self._take_back(row.manifest)
            self._queue.append(row)

    def _take_back(self, manifest: Manifest) -> None:
        first = self._queue[0] if self._queue else None
        if isinstance(first, Install) and first.manifest == manifest:
            self._steps = None
        self._queue = deque(row for row in self._queue if not isinstance(row, Install) or row.manifest != manifest)

    def step(self, now_us: Micros) -> bool:
        """One piece; False: there is none."""
        if not self._queue:
            return False
        row = self._queue[0]
        if isinstance(row, Cut | Install):
            self._step_long(now_us, row)
            return True
        self._queue.popleft()
        if isinstance(row, Read):
            self._read(now_us, row)
        elif isinstance(row, Begin | Write):
            self._write(now_us, row)
        else:
            self._forget(row)
        return True

    def _step_long(self, now_us: Micros, row: Cut | Install) -> None:
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

    def _begin(self, row: Cut | Install) -> Iterator[None]:
        if isinstance(row, Cut):
            return self._disk.cut(row.group, self._multi.config.snapshots.chunk_bytes)
        return self._disk.install(row.manifest, row.state)

    def _end(self, now_us: Micros, row: Cut | Install, reason: Reason | None) -> None:
        self._steps = None
        self._queue.popleft()
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
