"""A process's own end of the node's shared memory: its rings, its routing page, its metrics. World file.

Invariant: mapped once per process and never unmapped before it ends, so everything C borrows from it stays valid.
"""

import os
from typing import Any

from nodedb_node._native import ffi, lib


class OwnEnd:
    """Of process number `process` (0 = control, worker + 1)."""

    def __init__(self, shm_fd: int, process: int, bell_fds: list[int], overflow_bytes: int) -> None:
        handle, ringset, page = ffi.new("nd_shm **"), ffi.new("nd_ringset **"), ffi.new("nd_page **")
        self._check(lib.nd_shm_map(shm_fd, handle), "shared memory")
        self.shm: Any = handle[0]
        self.process = process
        self.metrics: Any = lib.nd_shm_metrics(self.shm, process)
        self._check(lib.nd_ringset_open(self.shm, process, bell_fds, overflow_bytes, ringset), "rings")
        self.ringset: Any = ringset[0]
        self._check(lib.nd_page_open(self.shm, page), "routing page")
        self.page: Any = page[0]
        self.bell = bell_fds[process]

    @staticmethod
    def _check(code: int, what: str) -> None:
        if code < 0:
            raise OSError(-code, f"{what}: {os.strerror(-code)}")

    def ready(self, ports: list[int]) -> None:
        """Say in the process table that this process serves, and where."""
        lib.nd_shm_proc_ready(self.shm, self.process, ports)

    def observe(self, histogram: str, value: int) -> None:
        """Count a value in one of this process's histograms."""
        lib.nd_hist_add(ffi.addressof(self.metrics, histogram), value)


def write_routes(shm: Any, worker_by_vshard: list[int], group_by_vshard: list[int]) -> None:
    """Publish the single node's routing table: every vShard is served, by this node."""
    routes = ffi.new("nd_route[]", len(worker_by_vshard))
    for row, worker, group in zip(routes, worker_by_vshard, group_by_vshard, strict=True):
        row.epoch, row.node, row.group, row.worker, row.state = 1, 0, group, worker, lib.ND_ROUTE_SERVING
    lib.nd_page_write(shm, routes)
