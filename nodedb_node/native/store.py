"""csrc/store.h: the rows of one worker. World file: it opens an LMDB environment and starts the checkpoint thread.

Invariant: an owned C store is closed exactly once; every negative return becomes an OSError here and nowhere else.
Row operations are not wrapped: commands call them in C, a batch at a time.
"""

import errno
import os
from typing import Any, NamedTuple, Self

from nodedb_node._native import ffi, lib


class StoreConfig(NamedTuple):
    path: str
    map_bytes: int
    dirty_bytes_max: int
    memory_bytes_max: int
    txn_rows_max: int
    txn_bytes_max: int
    pause_us: int


class GroupHeader(NamedTuple):
    """A group's part of the last checkpoint; index 0 = none yet."""

    applied_index: int
    applied_term: int
    state: bytes


class GroupCut(NamedTuple):
    group: int
    applied_index: int
    applied_term: int
    state: bytes


GROUP_STATE_BYTES_MAX = 1 << 20


def check(code: int, what: str) -> int:
    """A C return code: itself when not negative, else OSError."""
    if code < 0:
        raise OSError(-code, f"{what}: {os.strerror(-code)}")
    return code


class Store:
    """Owner of an nd_store; a context manager."""

    def __init__(self, config: StoreConfig) -> None:
        path = ffi.new("char[]", os.fsencode(config.path))
        cfg = ffi.new("nd_store_cfg *")
        cfg.path = path
        cfg.map_bytes = config.map_bytes
        cfg.dirty_bytes_max = config.dirty_bytes_max
        cfg.memory_bytes_max = config.memory_bytes_max
        cfg.txn_rows_max = config.txn_rows_max
        cfg.txn_bytes_max = config.txn_bytes_max
        cfg.pause_us = config.pause_us
        out = ffi.new("nd_store **")
        check(lib.nd_store_open(cfg, out), f"store {config.path}")
        self.handle: Any = out[0]
        self.stats: Any = ffi.new("nd_store_stats *")
        self._groups: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for a running checkpoint transaction."""
        if self.handle is not None:
            lib.nd_store_close(self.handle)
            self.handle = None

    def own(self, vshard: int, group: int) -> None:
        check(lib.nd_store_own(self.handle, vshard, group), f"vShard {vshard}")

    def group(self, group: int) -> GroupHeader:
        """The group's header in the last synced checkpoint."""
        index, term, length = ffi.new("uint64_t *"), ffi.new("uint64_t *"), ffi.new("uint32_t *")
        state = ffi.new("uint8_t[]", GROUP_STATE_BYTES_MAX)
        found = check(
            lib.nd_store_group_get(self.handle, group, index, term, state, GROUP_STATE_BYTES_MAX, length),
            f"group {group}",
        )
        return GroupHeader(index[0], term[0], bytes(ffi.buffer(state, length[0]))) if found else GroupHeader(0, 0, b"")

    def count(self, vshard: int) -> int:
        return int(lib.nd_store_count(self.handle, vshard))

    def hash(self, vshard: int) -> int:
        return int(lib.nd_store_hash(self.handle, vshard))

    def read_stats(self) -> Any:
        """The figures of now, in a struct that the next call overwrites."""
        lib.nd_store_stats_get(self.handle, self.stats)
        return self.stats

    def wants_checkpoint(self, asked: bool) -> bool:
        """One should begin now: the last is over, and changed rows are above their bound or `asked`."""
        return bool(lib.nd_store_wants_checkpoint(self.handle, asked))

    def checkpoint_begin(self, cuts: list[GroupCut]) -> None:
        """Freeze all vShards and start writing them; the groups' headers go in with the last transaction."""
        groups = ffi.new("nd_store_group[]", len(cuts))
        states = [ffi.from_buffer(cut.state) for cut in cuts]
        for row, cut, state in zip(groups, cuts, states, strict=True):
            row.group, row.applied_index, row.applied_term = cut.group, cut.applied_index, cut.applied_term
            row.state, row.state_len = ffi.cast("const uint8_t *", state), len(cut.state)
        check(lib.nd_store_checkpoint_begin(self.handle, groups, len(cuts)), "checkpoint")

    def checkpoint_thread(self) -> int:
        """The kernel's number of the thread that writes checkpoints."""
        return int(lib.nd_store_checkpoint_thread(self.handle))

    def checkpoint_fd(self) -> int:
        return int(lib.nd_store_checkpoint_fd(self.handle))

    def checkpoint_end(self) -> bool | None:
        """True = durable, False = still running, None = no disk space: nothing is lost, try again later."""
        code = lib.nd_store_checkpoint_end(self.handle)
        if code == -errno.ENOSPC:
            return None
        return check(code, "checkpoint") == 1

    def housekeep(self, rows_max: int) -> int:
        return check(lib.nd_store_housekeep(self.handle, rows_max), "store housekeeping")
