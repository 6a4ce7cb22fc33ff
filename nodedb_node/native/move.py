"""csrc/store.h, cut and install: one vShard's rows out of a store and into one. World file: it writes an environment.

Invariant: the target shows the vShard's rows all at once, in one synced transaction, after their count and hash were
found equal to the source's; until then nothing of it is seen. The source is the last completed checkpoint.
"""

import errno
from typing import Any, NamedTuple, Self

from nodedb_node._native import ffi, lib
from nodedb_node.native.store import GroupHeader, Store, check

ROW_BYTES_MAX = (16 << 20) + (1 << 17)  # holds the largest row


class Seal(NamedTuple):
    """What a vShard's rows amount to: the cut says it, the install checks it."""

    applied_index: int
    rows: int
    digest: int  # incremental hash, csrc/hash.h


class Cut:
    """Owner of an nd_cut: one vShard's rows of one moment; a context manager."""

    def __init__(self, source: Store, vshard: int) -> None:
        cut, index, count, digest = ffi.new("nd_cut **"), *(ffi.new("uint64_t *") for _ in range(3))
        check(lib.nd_cut_open(source.handle, vshard, cut, index, count, digest), f"cut of vShard {vshard}")
        self._handle: Any = cut[0]
        self._what = f"cut of vShard {vshard}"
        self.seal = Seal(index[0], count[0], digest[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        lib.nd_cut_close(self._handle)

    def read(self, buffer: Any) -> int:
        """Whole rows into a C buffer: bytes written, 0 = there are no more; -1 = the buffer is smaller than one row."""
        length = lib.nd_cut_next(self._handle, buffer, ffi.sizeof(buffer))
        return -1 if length == -errno.ENOBUFS else check(length, self._what)


class Install:
    """Owner of an nd_install: rows for one vShard, unseen until commit; leaving it without one undoes them."""

    def __init__(self, target: Store, vshard: int, group: int) -> None:
        out = ffi.new("nd_install **")
        self._what = f"install of vShard {vshard}"
        check(lib.nd_install_begin(target.handle, vshard, group, out), self._what)
        self._handle: Any = out[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            lib.nd_install_abort(self._handle)

    def write(self, data: Any, length: int) -> None:
        """Rows as Cut.read gave them: the C buffer itself, or bytes."""
        rows = data if isinstance(data, ffi.CData) else ffi.from_buffer("uint8_t[]", data)
        check(lib.nd_install_chunk(self._handle, rows, length), self._what)

    def commit(self, seal: Seal) -> None:
        """OSError EBADMSG: the rows are not what the seal says, and nothing was switched."""
        handle, self._handle = self._handle, None
        check(lib.nd_install_commit(handle, *seal), self._what)


class Mover:
    """Copies vShards between stores; one buffer for all of them."""

    def __init__(self) -> None:
        self._buffer = ffi.new("uint8_t[]", ROW_BYTES_MAX)

    def copy(self, source: Store, target: Store, vshard: int, group: int) -> int:
        """The number of rows. An empty vShard needs no copy: the group's header says what it has seen."""
        with Cut(source, vshard) as cut:
            if cut.seal.rows:
                with Install(target, vshard, group) as install:
                    while length := cut.read(self._buffer):
                        assert length > 0, "the buffer holds the largest row"
                        install.write(self._buffer, length)
                    install.commit(cut.seal)
            return cut.seal.rows


def put_group(target: Store, group: int, header: GroupHeader) -> None:
    """The group's header, in a synced transaction of its own."""
    state = ffi.from_buffer(header.state)
    row = ffi.new("nd_store_group *")
    row.group, row.applied_index, row.applied_term = group, header.applied_index, header.applied_term
    row.state, row.state_len = ffi.cast("const uint8_t *", state), len(header.state)
    check(lib.nd_store_group_put(target.handle, row), f"header of group {group}")
