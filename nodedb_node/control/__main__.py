"""python -m nodedb_node.control --boot-fd N: the control process, started by the supervisor only."""

import sys
import threading
from importlib import import_module
from pathlib import Path

from nodedb_node import log
from nodedb_node.control.memory import Memory
from nodedb_node.control.patience import let_workers_start
from nodedb_node.control.post import Post
from nodedb_node.errors import StartError
from nodedb_node.ids import CONTROL
from nodedb_node.metadata.catalog import Catalog, Identity
from nodedb_node.supervisor.boot import Boot
from nodedb_node.supervisor.child import enter

PROCESS = "nodedb_node.control.process"


def claimed(boot: Boot) -> Catalog:
    """The node's catalog, made or checked to be that of this data directory."""
    catalog = Catalog.open(Path(boot.data_dir) / "catalog")
    try:
        identity = Identity(cluster_id=boot.cluster_id, node_id=boot.node_id, groups=boot.groups)
        catalog.claim(identity, boot.node_generation)
    except StartError:
        catalog.close()
        raise
    return catalog


def main() -> int:
    """Until the node stops; the exit code tells the supervisor whether starting again can help."""
    boot = enter(sys.argv)
    try:
        memory = Memory(boot.shm_fd, boot.bell_fds)
        with claimed(boot) as catalog:
            post = Post(boot, memory, catalog)
            if boot.pins[CONTROL]:  # its core is its own: no worker is slowed down by the imports
                threading.Thread(target=import_module, args=(PROCESS,), daemon=True).start()
            let_workers_start(boot, memory, post.turn)
            from nodedb_node.control.process import run  # after the wait, which is about the cost of this import

            run(boot, memory, catalog, post)
    except StartError as error:
        log.error("control cannot run", reason=error)
        return error.code.value
    return 0


if __name__ == "__main__":
    sys.exit(main())
