"""csrc/walio.h: one durable append at a time into a worker's segment files. World file: it writes them.

Invariant: an open C object is closed exactly once. A failed disk becomes an OSError here and nowhere else; after one,
every call raises the same.
"""

import errno
import os
from typing import Any, NamedTuple, Protocol

from nodedb_node._native import ffi, lib

BACKENDS = {"auto": lib.ND_WALIO_AUTO, "thread": lib.ND_WALIO_THREAD, "uring": lib.ND_WALIO_URING}
BACKEND_NAMES = {lib.ND_WALIO_THREAD: "thread", lib.ND_WALIO_URING: "uring"}


class IoConfig(NamedTuple):
    """Where a log goes on and how it is written (csrc/walio.h has the units)."""

    dir: str
    backend: str
    direct: bool
    log_id: int
    oldest_segment: int
    next_segment: int
    next_sequence: int
    prev_crc: int
    flags_first: int
    first_segment_bytes: int
    segment_bytes: int
    buffer_bytes: int
    free_floor_bytes: int
    spares_max: int


class IoStats(NamedTuple):
    appends: int
    bytes: int
    segment: int
    oldest_segment: int
    segments: int
    segment_bytes: int
    last_us: int
    waits: int
    backend: str
    direct: bool
    uring_errno: int
    nospace: bool


class Io(Protocol):
    """What a log needs of a disk; the simulated disk has the same."""

    fd: int

    def append(self, records: Any, n: int, reserve: bool) -> int:
        """The append's sequence; 0 = refused below the free-space floor, nothing written."""

    def reap(self) -> int:
        """The sequence that is durable now, 0 = nothing yet."""

    def wait(self, timeout_ms: int) -> int:
        """Block until the append in flight is durable: its sequence, 0 = not in time."""

    def append_bytes_max(self) -> int: ...
    def segment(self) -> int: ...
    def append_off(self) -> int:
        """Where in that segment the last append stands."""

    def inflight_us(self) -> int: ...
    def nospace(self) -> bool: ...
    def drop_before(self, number: int) -> None: ...
    def stats(self) -> IoStats: ...
    def close(self) -> None: ...


class Walio:
    """Owner of an nd_walio."""

    def __init__(self, config: IoConfig, sync_us: Any = None, fault: Any = None) -> None:
        """sync_us: an nd_hist *; fault: an nd_walio_fault * of a test. Both are borrowed."""
        name = ffi.new("char[]", os.fsencode(config.dir))
        cfg = ffi.new("nd_walio_cfg *")
        cfg.dir, cfg.backend, cfg.direct = name, BACKENDS[config.backend], config.direct
        for field in config._fields[3:]:
            setattr(cfg, field, getattr(config, field))
        cfg.sync_us = sync_us or ffi.NULL
        cfg.fault = fault or ffi.NULL
        out = ffi.new("nd_walio **")
        _check(lib.nd_walio_open(cfg, out), config.dir)
        self._handle: Any = out[0]
        self._dir = config.dir
        self._borrowed = (sync_us, fault)
        self._sequence = ffi.new("uint64_t *")
        self._stats = ffi.new("nd_walio_stats *")
        self.fd = int(lib.nd_walio_fd(self._handle))

    def append(self, records: Any, n: int, reserve: bool) -> int:
        code = lib.nd_walio_append(self._handle, records, n, reserve)
        if code == -errno.ENOSPC:  # a refusal; a disk that fails for lack of space says EIO
            return 0
        return _check(code, self._dir)

    def reap(self) -> int:
        return self._sequence[0] if _check(lib.nd_walio_reap(self._handle, self._sequence), self._dir) else 0

    def wait(self, timeout_ms: int) -> int:
        code = lib.nd_walio_wait(self._handle, self._sequence, timeout_ms)
        return self._sequence[0] if _check(code, self._dir) else 0

    def append_bytes_max(self) -> int:
        return int(lib.nd_walio_append_bytes_max(self._handle))

    def segment(self) -> int:
        return int(lib.nd_walio_segment(self._handle))

    def append_off(self) -> int:
        return int(lib.nd_walio_append_off(self._handle))

    def inflight_us(self) -> int:
        return int(lib.nd_walio_inflight_us(self._handle))

    def nospace(self) -> bool:
        return bool(lib.nd_walio_nospace(self._handle))

    def drop_before(self, number: int) -> None:
        lib.nd_walio_drop_before(self._handle, number)

    def stats(self) -> IoStats:
        s = self._stats
        lib.nd_walio_stats_get(self._handle, s)
        files = (s.segment, s.oldest_segment, s.segments, s.segment_bytes, s.last_us, s.waits)
        kind = (BACKEND_NAMES[s.backend], bool(s.direct), s.uring_error, bool(s.nospace))
        return IoStats(s.appends, s.bytes, *files, *kind)

    def close(self) -> None:
        if self._handle is not None:
            lib.nd_walio_close(self._handle)
            self._handle = None


def _check(code: int, what: str) -> int:
    if code < 0:
        raise OSError(-code, os.strerror(-code), what)
    return int(code)
