"""The node's shared memory and doorbells as the supervisor makes them. World file.

Invariant: created before the first child, inherited by all, so that no process ever has to find another. The process
table is written here only (states of lives), through C, and every change rings every bell. The first routing table is
published here too, so that no worker ever meets an empty page.
"""

import os
import time
from collections.abc import Sequence

from nodedb_node.errors import Exit, StartError
from nodedb_node.native import page
from nodedb_node.native.shm import SharedMemory, create, ring_all
from nodedb_node.routing.table import Route


class Shared:
    """The mapping, its descriptor, and per process an eventfd and a memory file for what it shows of its lanes."""

    def __init__(self, processes: int, ring_bytes: int) -> None:
        try:
            self.fd = create(processes, ring_bytes)
            self.memory = SharedMemory(self.fd)
        except OSError as error:
            raise StartError(Exit.OS, error.strerror or str(error)) from error
        self._metrics = [self.memory.metrics(process) for process in range(processes)]
        self.bells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(processes)]
        self.boards = [os.memfd_create("board", os.MFD_CLOEXEC) for _ in range(processes)]

    def publish_routes(self, routes: Sequence[Route]) -> None:
        """Before the first child starts; from then on the routing page is control's."""
        page.write(self.memory, routes)

    def started(self, process: int, pid: int) -> None:
        self._metrics[process].started_ms = int(time.time() * 1000)
        self.memory.started(process, pid)
        ring_all(self.bells)

    def died(self, process: int) -> int:
        """To be called once the process has been reaped; returns the generation of its next life."""
        generation = self.memory.died(process)
        ring_all(self.bells)
        return generation

    def beats_us(self) -> list[int]:
        """CLOCK_BOOTTIME of each process's last loop turn; 0 = none yet."""
        return [int(metrics.heartbeat_us) for metrics in self._metrics]
