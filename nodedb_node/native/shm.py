"""csrc/shm.h: the memory that a node's processes share: creation, mapping, the process table, bells. World file.

Invariant: a mapping, once made, stays for the life of the object, so everything C borrows from it stays valid until
unmap. The order of the stores is C's part; this file only calls.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from nodedb_node._native import ffi
from nodedb_node._native import lib as _lib

Pointer = Any


class _Lib(Protocol):
    """The functions used here, as csrc/shm.h declares them."""

    ND_PROC_NONE: int
    ND_PROC_STARTING: int
    ND_PROC_READY: int
    ND_PROC_DOWN: int

    def nd_shm_create(self, processes: int, ring_bytes: int) -> int: ...
    def nd_shm_map(self, fd: int, out: Pointer) -> int: ...
    def nd_shm_unmap(self, shm: Pointer) -> None: ...
    def nd_shm_processes(self, shm: Pointer) -> int: ...
    def nd_shm_ring_bytes(self, shm: Pointer) -> int: ...
    def nd_shm_metrics(self, shm: Pointer, process: int) -> Pointer: ...
    def nd_shm_proc_get(self, shm: Pointer, process: int, out: Pointer) -> None: ...
    def nd_shm_proc_started(self, shm: Pointer, process: int, pid: int) -> None: ...
    def nd_shm_proc_ready(self, shm: Pointer, process: int, ports: Sequence[int]) -> None: ...
    def nd_shm_proc_died(self, shm: Pointer, process: int) -> int: ...
    def nd_bell_ring(self, fd: int) -> int: ...


lib: _Lib = _lib

NONE = lib.ND_PROC_NONE
STARTING = lib.ND_PROC_STARTING
READY = lib.ND_PROC_READY
DOWN = lib.ND_PROC_DOWN


class ProcessInfo(NamedTuple):
    """A row of the process table; ports by ND_PORT_*, 0 = none."""

    generation: int
    pid: int
    state: int
    ports: tuple[int, ...]


def check(code: int, what: str) -> int:
    """A C return code: itself when not negative, else OSError."""
    if code < 0:
        raise OSError(-code, f"{what}: {os.strerror(-code)}")
    return code


def create(processes: int, ring_bytes: int) -> int:
    """The descriptor of a new block (close-on-exec), sealed in size."""
    return check(lib.nd_shm_create(processes, ring_bytes), f"shared memory for {processes} processes")


class SharedMemory:
    """A mapping of the block; the descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        out = ffi.new("nd_shm **")
        check(lib.nd_shm_map(fd, out), "mapping shared memory")
        self.handle: Pointer = out[0]
        self.processes = lib.nd_shm_processes(self.handle)
        self.ring_bytes = lib.nd_shm_ring_bytes(self.handle)

    def unmap(self) -> None:
        """Nothing that was borrowed from it may be used afterwards."""
        lib.nd_shm_unmap(self.handle)
        self.handle = ffi.NULL

    def metrics(self, process: int) -> Pointer:
        """The process's nd_metrics."""
        return lib.nd_shm_metrics(self.handle, process)

    def info(self, process: int) -> ProcessInfo:
        row = ffi.new("nd_proc_info *")
        lib.nd_shm_proc_get(self.handle, process, row)
        return ProcessInfo(row.generation, row.pid, row.state, tuple(row.ports))

    def started(self, process: int, pid: int) -> None:
        lib.nd_shm_proc_started(self.handle, process, pid)

    def ready(self, process: int, ports: Sequence[int]) -> None:
        lib.nd_shm_proc_ready(self.handle, process, ports)

    def died(self, process: int) -> int:
        """To be called once the process has been reaped; returns the generation of its next life."""
        return lib.nd_shm_proc_died(self.handle, process)


def ring_all(bells: Sequence[int]) -> None:
    """After a change of the process table: everybody looks at it."""
    for bell in bells:
        lib.nd_bell_ring(bell)
