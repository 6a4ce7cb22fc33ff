"""A store with rows in it, without a node around: entries are made by hand and replayed."""

import select
import struct
from contextlib import closing
from pathlib import Path

from nodedb_node._native import ffi
from nodedb_node.native import wal
from nodedb_node.native.engine import Engine, EngineConfig
from nodedb_node.native.kernels import slot_of_key
from nodedb_node.native.store import GroupCut, Store, StoreConfig
from workers.commands.table import build_cmdtab

GROUPS = 256  # four vShards each
SET = 1  # id of the command


def vshards_of(group: int) -> list[int]:
    return list(range(group * 4, group * 4 + 4))


def open_store(path: Path, groups: list[int], txn_bytes_max: int = 1 << 20, pause_us: int = 0) -> Store:
    path.mkdir(exist_ok=True)
    config = StoreConfig(
        path=str(path),
        map_bytes=1 << 20,
        dirty_bytes_max=64 << 20,
        memory_bytes_max=64 << 20,
        txn_rows_max=1000,
        txn_bytes_max=txn_bytes_max,
        pause_us=pause_us,
    )
    store = Store(config)
    for group in groups:
        for vshard in vshards_of(group):
            store.own(vshard, group)
    return store


def set_entry(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """The payload of an entry of SET commands (byte table: csrc/batch.c)."""
    parts = [struct.pack("<HHIQQ", 1, 0, len(pairs), 1 << 40, 7)]
    for key, value in pairs:
        parts.append(struct.pack("<HHI", SET, slot_of_key(key) // 16, 3))
        parts += [struct.pack("<I", len(arg)) + arg for arg in (b"set", key, value)]
    return b"".join(parts)


def keys_of_group(group: int, n: int) -> list[bytes]:
    keys, number = [], 0
    while len(keys) < n:
        key = b"key:%d" % number
        if slot_of_key(key) // 64 == group:
            keys.append(key)
        number += 1
    return keys


def fill(
    store: Store,
    group: int,
    pairs: list[tuple[bytes, bytes]],
    index: int,
    checkpoint: bool = True,
    state: bytes = b"state",
    term: int = 2,
) -> None:
    """One entry, applied and, if asked, checkpointed with this as the group's state."""
    config = EngineConfig(
        worker=0,
        workers=1,
        groups=GROUPS,
        generation=1,
        connections_max=64,
        deadline_ms=4000,
        output_bytes_max=1 << 20,
        query_bytes_max=1 << 20,
        forward_bytes_max=1 << 20,
        gather_bytes_max=1 << 20,
        moved=False,
    )
    with closing(Engine(config, store, build_cmdtab(), ffi.new("nd_metrics *"))) as engine:
        engine.set_applied(group, index - 1, term)
        array, keep = wal.records_array([wal.Record(wal.ENTRY, group, term, index, set_entry(pairs), wal.DATA)])
        engine.replay(array, 1)
        del keep
    if checkpoint:
        checkpoint_now(store, group, index, state, term)


def checkpoint_now(store: Store, group: int, index: int, state: bytes = b"state", term: int = 2) -> None:
    store.checkpoint_begin([GroupCut(group, index, term, state)])
    while store.checkpoint_end() is False:
        select.select([store.checkpoint_fd()], [], [], 10)


def contents(store: Store, group: int) -> list[tuple[int, int]]:
    """(rows, hash) of each vShard."""
    return [(store.count(vshard), store.hash(vshard)) for vshard in vshards_of(group)]
