"""From a worker's directory to rows that hold all of its log.

Invariant: rows of the last checkpoint plus the entries after it, each applied exactly once: an entry's command is passed
over where its vShard's rows hold it already (csrc/engine.h, replay). World file: it opens the directory.
"""

import os
import time

from nodedb_node import log
from nodedb_node.config import GIB
from nodedb_node.native.engine import Engine
from nodedb_node.native.store import Store, StoreConfig
from nodedb_node.routing.places import vshards_of_group
from nodedb_node.storage.onevoter import OneVoterLog
from nodedb_node.supervisor.boot import Boot

MAP_BYTES = 64 * GIB


def open_store(boot: Boot, groups: list[int]) -> Store:
    """The rows as of the last checkpoint; every vShard of the groups is owned."""
    config = boot.config.store
    path = os.path.join(boot.worker_dir, "store")
    os.makedirs(path, exist_ok=True)
    memory = config.memory_bytes_max
    if memory == "auto":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // boot.workers
    store = Store(
        StoreConfig(
            path=path,
            map_bytes=MAP_BYTES,
            dirty_bytes_max=config.dirty_bytes_max,
            memory_bytes_max=memory,
            txn_rows_max=config.txn_rows_max,
            pause_us=config.pause_us,
        )
    )
    for group in groups:
        for vshard in vshards_of_group(group, boot.groups):
            store.own(vshard, group)
    return store
