"""From a worker's directory to rows that hold all of its log.

Invariant: rows of the last checkpoint plus the entries after it, each applied exactly once: an entry's command is
passed over where its vShard's rows hold it already (csrc/engine.h, replay). World file: it opens the directory.
"""

import os
from collections.abc import Callable
from typing import Any

from nodedb_node.config import GIB, StoreSection
from nodedb_node.ids import Group
from nodedb_node.multiraft import start
from nodedb_node.multiraft.log import RaftLog
from nodedb_node.multiraft.start import Held, LogConfig
from nodedb_node.native.engine import Engine
from nodedb_node.native.store import Store, StoreConfig
from nodedb_node.routing.places import vshards_of_group
from nodedb_node.storage.directory import LogDirectory
from nodedb_node.storage.transfers import SnapshotFiles
from nodedb_node.supervisor import cgroup, child
from nodedb_node.supervisor.boot import Boot
from nodedb_node.supervisor.system import read_text

MAP_BYTES = 64 * GIB  # address space, not memory; the store enlarges it between transactions


def open_store(boot: Boot, groups: list[Group]) -> Store:
    """The rows as of the last checkpoint; every vShard of the groups is owned."""
    config = boot.config.store
    path = os.path.join(boot.worker_dir, "store")
    os.makedirs(path, exist_ok=True)
    store = Store(
        StoreConfig(
            path=path,
            map_bytes=MAP_BYTES,
            dirty_bytes_max=config.dirty_bytes_max,
            memory_bytes_max=memory_bytes_max(config, boot.workers),
            txn_rows_max=config.txn_rows_max,
            txn_bytes_max=config.txn_bytes_max,
            pause_us=config.pause_us,
        )
    )
    child.Place(boot).put_thread(store.checkpoint_thread(), own_core=False)
    for group in groups:
        for vshard in vshards_of_group(group, boot.groups):
            store.own(vshard, group)
    return store


def memory_bytes_max(config: StoreSection, workers: int) -> int:
    """Of one worker; auto = its share of half the memory that machine and cgroup allow."""
    if config.memory_bytes_max != "auto":
        return config.memory_bytes_max
    allowed = cgroup.memory_bytes(read_text) or 0  # nothing known: the least that works
    return max(allowed // 2 // workers, 2 * config.dirty_bytes_max)


def open_log(
    boot: Boot, groups: list[Group], store: Store, engine: Engine, now_us: Callable[[], int], sync_us: Any
) -> RaftLog:
    """The worker's log, ready to write, with everything it holds applied to the rows."""
    held = {}
    for group in groups:
        header = store.group(group)
        held[int(group)] = Held(header.applied_index, header.applied_term, header.state)
        engine.set_applied(group, header.applied_index, header.applied_term)
    path = os.path.join(boot.worker_dir, "wal")
    os.makedirs(path, exist_ok=True)
    wal = boot.config.wal
    config = LogConfig(
        backend=wal.backend,
        segment_bytes=wal.segment_bytes,
        floor_bytes=wal.floor_bytes,
        generation=boot.life,
    )
    snapshots = SnapshotFiles(
        os.path.join(boot.worker_dir, "snapshots"),
        store,
        lambda group: vshards_of_group(Group(group), boot.groups),
        wal.floor_bytes,
    )
    return start.open_log(LogDirectory(path), config, held, engine.replay, now_us, sync_us, snapshots)
