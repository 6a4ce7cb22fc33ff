"""The node's shared memory as control sees it: everybody's state and counters, its own heartbeat. World file.

Invariant: control writes only what is its own (its heartbeat, its row of the process table); all else is read, and each
read is bounded. The mapping lives as long as the process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from nodedb_node._native import ffi, lib
from nodedb_node.admin.facts import Life, State
from nodedb_node.errors import Exit, StartError
from nodedb_node.ids import CONTROL, Process
from nodedb_node.native.metrics import BLOCK_BYTES, Block, decode

STATES = {
    lib.ND_PROC_NONE: State.STARTING,
    lib.ND_PROC_STARTING: State.STARTING,
    lib.ND_PROC_READY: State.READY,
    lib.ND_PROC_DOWN: State.DOWN,
}


class Memory:
    """The mapping of the block whose descriptor was inherited."""

    def __init__(self, descriptor: int, bells: Sequence[int]) -> None:
        handle = ffi.new("nd_shm **")
        code = lib.nd_shm_map(descriptor, handle)
        if code < 0:
            raise StartError(Exit.SOFTWARE, f"shared memory cannot be mapped: {os.strerror(-code)}")
        self._shm: Any = handle[0]
        self._bells = bells
        self._info: Any = ffi.new("nd_proc_info *")
        self._metrics = [lib.nd_shm_metrics(self._shm, process) for process in range(lib.nd_shm_processes(self._shm))]

    def life(self, process: Process) -> Life:
        """What the supervisor has written about a process."""
        lib.nd_shm_proc_get(self._shm, process, self._info)
        return Life(STATES[self._info.state], self._info.pid, self._info.generation)

    def block(self, process: Process) -> Block:
        """A process's counters."""
        return decode(ffi.buffer(self._metrics[process], BLOCK_BYTES)[:])

    def beat(self, now_us: int) -> None:
        """Say that control's loop turns; the supervisor kills a process that stops saying so."""
        self._metrics[CONTROL].heartbeat_us = now_us

    def ready(self, http_port: int) -> None:
        """Say that control serves, and on which port."""
        ports = ffi.new("uint16_t[]", lib.ND_PORTS)
        ports[lib.ND_PORT_HTTP] = http_port
        lib.nd_shm_proc_ready(self._shm, CONTROL, ports)
        for bell in self._bells:
            lib.nd_bell_ring(bell)
