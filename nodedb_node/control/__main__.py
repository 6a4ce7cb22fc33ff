"""python -m nodedb_node.control --boot-fd N: the control process, started by the supervisor only."""

import sys

from nodedb_node import log
from nodedb_node.control.memory import Memory
from nodedb_node.control.patience import let_workers_start
from nodedb_node.errors import StartError
from nodedb_node.supervisor.child import enter


def main() -> int:
    """Until the node stops; the exit code tells the supervisor whether starting again can help."""
    boot = enter(sys.argv)
    try:
        memory = Memory(boot.shm_fd, boot.bell_fds)
        let_workers_start(boot, memory)
        from nodedb_node.control.process import run  # after the wait, which is about the cost of this import

        run(boot, memory)
    except StartError as error:
        log.error("control cannot run", reason=error)
        return error.code.value
    return 0


if __name__ == "__main__":
    sys.exit(main())
