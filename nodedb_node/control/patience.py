"""Lets the workers start first. World file: waits on control's bell.

Invariant: bounded; control starts in any case, only later. Imports of the HTTP server take as much processor time as
a worker needs to start and serve, and clients wait for workers, not for control. It changes nothing but its own bell.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable

from nodedb_node.admin.facts import State
from nodedb_node.control.memory import Memory
from nodedb_node.ids import CONTROL, Process
from nodedb_node.supervisor.boot import Boot

PATIENCE_SECONDS = 1.0


def let_workers_start(boot: Boot, memory: Memory, turn: Callable[[], None], seconds: float = PATIENCE_SECONDS) -> bool:
    """Wait until no worker is starting, at most so long; True when none is. `turn` is called whenever the bell rang:
    workers wait for what control has for them before they serve."""
    bell = boot.bell_fds[CONTROL]
    poll = select.poll()
    poll.register(bell, select.POLLIN)
    deadline = time.monotonic() + seconds
    while any(memory.life(Process(worker + 1)).state is State.STARTING for worker in range(boot.workers)):
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(bell)
        turn()
    return True
