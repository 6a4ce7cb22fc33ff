"""The node's shared memory and doorbells as the supervisor makes them. World file.

Invariant: created before the first child, inherited by all, so that no process ever has to find another. The process
table is written here only (states of lives), through C, and every change rings every bell.
"""

import os
from typing import Any

from nodedb_node._native import ffi, lib
from nodedb_node.errors import Exit, StartError


class Shared:
    """The mapping, its descriptor and one eventfd per process."""

    def __init__(self, processes: int, ring_bytes: int) -> None:
        self.fd = lib.nd_shm_create(processes, ring_bytes)
        if self.fd < 0:
            raise StartError(Exit.OS, f"shared memory for {processes} processes: {os.strerror(-self.fd)}")
        handle = ffi.new("nd_shm **")
        code = lib.nd_shm_map(self.fd, handle)
        if code < 0:
            raise StartError(Exit.OS, f"mapping shared memory for {processes} processes: {os.strerror(-code)}")
        self._shm: Any = handle[0]
        self._metrics: list[Any] = [lib.nd_shm_metrics(self._shm, process) for process in range(processes)]
        self.bells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(processes)]

    def started(self, process: int, pid: int) -> None:
        lib.nd_shm_proc_started(self._shm, process, pid)
        self._ring_all()

    def died(self, process: int) -> int:
        """To be called once the process has been reaped; returns the generation of its next life."""
        generation = int(lib.nd_shm_proc_died(self._shm, process))
        self._ring_all()
        return generation

    def beats_us(self) -> list[int]:
        """CLOCK_BOOTTIME of each process's last loop turn; 0 = none yet."""
        return [int(metrics.heartbeat_us) for metrics in self._metrics]

    def _ring_all(self) -> None:
        for bell in self.bells:
            lib.nd_bell_ring(bell)
