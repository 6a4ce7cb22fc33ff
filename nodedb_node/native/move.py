"""csrc/store.h, cut and install: one vShard's rows from one store into another. World file: it writes an environment.

Invariant: the target shows the vShard's rows all at once, in one synced transaction, after their count and hash were
found equal to the source's; until then nothing of it is seen. The source is the last completed checkpoint.
"""

from typing import Any

from nodedb_node._native import ffi, lib
from nodedb_node.native.store import GroupHeader, Store, check

CHUNK_BYTES = (16 << 20) + (1 << 17)  # holds the largest row


class Mover:
    """Copies vShards; one buffer for all of them."""

    def __init__(self) -> None:
        self._buffer = ffi.new("uint8_t[]", CHUNK_BYTES)

    def copy(self, source: Store, target: Store, vshard: int, group: int) -> int:
        """The number of rows. An empty vShard needs no copy: the group's header says what it has seen."""
        cut, index, count, digest = ffi.new("nd_cut **"), *(ffi.new("uint64_t *") for _ in range(3))
        check(lib.nd_cut_open(source.handle, vshard, cut, index, count, digest), f"cut of vShard {vshard}")
        try:
            if count[0]:
                self._install(cut[0], target, vshard, group, (index[0], count[0], digest[0]))
        finally:
            lib.nd_cut_close(cut[0])
        return int(count[0])

    def _install(self, cut: Any, target: Store, vshard: int, group: int, seal: tuple[int, int, int]) -> None:
        install = ffi.new("nd_install **")
        what = f"install of vShard {vshard}"
        check(lib.nd_install_begin(target.handle, vshard, group, install), what)
        try:
            while length := check(lib.nd_cut_next(cut, self._buffer, CHUNK_BYTES), what):
                check(lib.nd_install_chunk(install[0], self._buffer, length), what)
        except OSError:
            lib.nd_install_abort(install[0])
            raise
        check(lib.nd_install_commit(install[0], *seal), what)


def put_group(target: Store, group: int, header: GroupHeader) -> None:
    """The group's header, in a synced transaction of its own."""
    state = ffi.from_buffer(header.state)
    row = ffi.new("nd_store_group *")
    row.group, row.applied_index, row.applied_term = group, header.applied_index, header.applied_term
    row.state, row.state_len = ffi.cast("const uint8_t *", state), len(header.state)
    check(lib.nd_store_group_put(target.handle, row), f"header of group {group}")
