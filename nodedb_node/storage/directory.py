"""A worker's log directory: its lock, its segment files by number, their bytes. World file: it reads and removes
files.

Invariant: nothing is read before the exclusive lock is held, and the lock is held until close: a predecessor that
hangs in the kernel keeps its successor out. Segment files are made, recycled and dropped by csrc/walprep.c only; this
file removes what a crash left half-made, hands a new life the spare files of the one before, and removes what the
repair verb is told to.
"""

import errno
import fcntl
import mmap
import os
import re
from typing import Any, Protocol

from nodedb_node import log
from nodedb_node.errors import Exit, StartError
from nodedb_node.native.walio import Io, IoConfig, Walio

SEGMENT_NAME = re.compile(r"wal-(\d{16})")
HALF_MADE = "next.tmp"
SPARE_NAME = re.compile(r"spare-(\d+)")


class Segments(Protocol):
    """What recovery needs of a place with segments; the simulated disk has the same."""

    path: str

    def numbers(self) -> list[int]:
        """Of the segment files there are, rising."""

    def name(self, number: int) -> str:
        """How errors name a segment."""

    def read(self, number: int) -> memoryview:
        """All bytes of a segment; valid until the next read."""

    def remove(self, number: int) -> None:
        """The newest segment, which holds nothing: its file may become a later one; synced."""

    def release(self) -> None:
        """Give back the memory of the last read."""

    def open_io(self, config: IoConfig, sync_us: Any) -> Io: ...
    def close(self) -> None: ...


class LogDirectory:
    """The real thing."""

    def __init__(self, path: str, fault: Any = None) -> None:
        """Takes the lock; StartError when another process has it."""
        self.path = path
        self._fault = fault
        self._buffer: mmap.mmap | None = None
        os.makedirs(path, exist_ok=True)
        self._lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_fd)
            raise StartError(Exit.TEMPORARY, f"{path} is in use by another process; stop it first") from None

    def numbers(self) -> list[int]:
        return sorted(int(match[1]) for match in map(SEGMENT_NAME.fullmatch, os.listdir(self.path)) if match)

    def name(self, number: int) -> str:
        return os.path.join(self.path, f"wal-{number:016d}")

    def read(self, number: int) -> memoryview:
        """By read calls, not by mapping the file: a bad sector is an OSError, not a signal."""
        with open(self.name(number), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            view = self._view(size)
            done = 0
            while done < size:
                n = file.readinto(view[done:])
                if not n:
                    raise OSError(errno.EIO, "file ends early", self.name(number))
                done += n
        return view

    def remove(self, number: int) -> None:
        free = max((spare for spare, _ in self._spares()), default=-1) + 1
        os.rename(self.name(number), os.path.join(self.path, f"spare-{free}"))
        os.fsync(self._lock_fd)

    def keep_spares(self, bytes_each: int, count_max: int) -> None:
        """Name the spare files that a log with such segments can use 0, 1, …; remove the others and what is half-made.

        All of a spare's bytes were written once, so that a start does not write zeros again for what a crash left.
        """
        half_made = os.path.join(self.path, HALF_MADE)
        if os.path.exists(half_made):
            os.unlink(half_made)
        kept = 0
        for _, path in self._spares():
            if kept == count_max or os.path.getsize(path) != bytes_each:
                os.unlink(path)
            else:
                os.rename(path, os.path.join(self.path, f"spare-{kept}"))
                kept += 1

    def _spares(self) -> list[tuple[int, str]]:
        """(number, path), rising."""
        found = ((SPARE_NAME.fullmatch(name), name) for name in os.listdir(self.path))
        return sorted((int(match[1]), os.path.join(self.path, name)) for match, name in found if match)

    def open_io(self, config: IoConfig, sync_us: Any) -> Io:
        disk = os.statvfs(self.path)
        short = disk.f_bavail * disk.f_frsize < config.free_floor_bytes
        self.keep_spares(config.segment_bytes, 0 if short else config.spares_max)
        try:
            io = Walio(config, sync_us, self._fault)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StartError(Exit.CANT_CREATE, f"{self.path}: no disk space for the log; free some") from None
            raise
        stats = io.stats()
        if stats.uring_errno:
            log.warning("io_uring refused, the log is written by a thread", errno=os.strerror(stats.uring_errno))
        return io

    def release(self) -> None:
        self._buffer = None

    def close(self) -> None:
        self.release()
        os.close(self._lock_fd)

    def _view(self, size: int) -> memoryview:
        if self._buffer is None or len(self._buffer) < size:
            self.release()
            self._buffer = mmap.mmap(-1, max(size, mmap.PAGESIZE))
        return memoryview(self._buffer)[:size]
