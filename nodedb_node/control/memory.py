"""The node's shared memory as control sees it: everybody's life and counters, its own heartbeat. World file.

Invariant: control writes only what is its own (its heartbeat, its row of the process table); all else is read, and each
read is bounded. The mapping lives as long as the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodedb_node._native import ffi
from nodedb_node.admin.facts import Life, State
from nodedb_node.errors import Exit, StartError
from nodedb_node.ids import CONTROL, Process
from nodedb_node.native import shm
from nodedb_node.native.metrics import BLOCK_BYTES, Block, decode

STATES = {shm.NONE: State.STARTING, shm.STARTING: State.STARTING, shm.READY: State.READY, shm.DOWN: State.DOWN}


class Memory:
    """The mapping of the block whose descriptor was inherited."""

    def __init__(self, descriptor: int, bells: Sequence[int]) -> None:
        try:
            self.shared = shm.SharedMemory(descriptor)
        except OSError as error:
            raise StartError(Exit.SOFTWARE, error.strerror or str(error)) from error
        self._bells = bells

    def life(self, process: Process) -> Life:
        """What the supervisor has written about a process."""
        info = self.shared.info(process)
        return Life(STATES[info.state], info.pid, info.generation)

    def block(self, process: Process) -> Block:
        """A process's counters."""
        return decode(ffi.buffer(self.shared.metrics(process), BLOCK_BYTES)[:])

    def own_metrics(self) -> Any:
        """Control's own nd_metrics."""
        return self.shared.metrics(CONTROL)

    def beat(self, now_us: int) -> None:
        """Say that control's loop turns; the supervisor kills a process that stops saying so."""
        self.shared.metrics(CONTROL).heartbeat_us = now_us

    def ready(self, http_port: int) -> None:
        """Say that control serves, and on which port."""
        self.shared.ready(CONTROL, [0, 0, http_port, 0])
        shm.ring_all(self._bells)
