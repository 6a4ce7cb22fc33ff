"""The child's side of the supervisor: enter() first thing in main, ready() once it serves.

Invariant: a process that returned from enter() dies with its supervisor (the kernel kills it, so even a hung one
goes; what it acknowledged is on disk), logs under its name and runs where the pin plan says. World file: it touches
the system for the child and for nothing else.
"""

import os
from contextlib import suppress

from nodedb_node import log
from nodedb_node.ids import Process, process_name
from nodedb_node.native import pin
from nodedb_node.supervisor.aside import Aside
from nodedb_node.supervisor.boot import Boot, decode

BOOT_BYTES_MAX = 1 << 20


def enter(argv: list[str]) -> Boot:
    """Read the Boot of `python -m MODULE --boot-fd N`, tie this process to the supervisor, set up its log, pin it."""
    if len(argv) != 3 or argv[1] != "--boot-fd" or not argv[2].isdecimal():
        raise SystemExit("this module is started by nodedb-node, not by hand")
    fd = int(argv[2])
    boot = decode(os.pread(fd, BOOT_BYTES_MAX, 0))
    os.close(fd)
    pin.die_with_parent(boot.supervisor_pid)
    name = process_name(Process(boot.process))
    pin.set_name(f"nodedb-{name}")
    log.setup(name, boot.config.log.level)
    for fd in inherited(boot):
        os.set_inheritable(fd, False)
    _pin(boot)
    return boot


def inherited(boot: Boot) -> list[int]:
    """Descriptors that the Boot names; a process that runs before the others has none."""
    return [fd for fd in (boot.shm_fd, boot.status_fd, boot.lane_fd, *boot.bell_fds, *boot.board_fds) if fd >= 0]


def _pin(boot: Boot) -> None:
    """Best effort: an unpinned worker is slower, not wrong, and the cores allowed may have changed since the plan."""
    cores, node = boot.pins[boot.process], boot.memory_nodes[boot.process]
    if cores:
        try:
            os.sched_setaffinity(0, cores)
        except OSError as error:
            log.warning("not pinned", cores=cores, error=error)
    if node >= 0:
        error_number = pin.prefer_memory(node)
        if error_number:
            log.warning("memory not bound", node=node, error=os.strerror(error_number))


class Place:
    """Where a process's first thread and its background threads run, after enter() has put them all on its core."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        pins = boot.pins[boot.process]
        self._aside = Aside(pins[0], boot.spares[boot.process], os.sysconf("SC_CLK_TCK")) if pins else None

    @property
    def away(self) -> bool:
        """Stepped aside."""
        return self._aside is not None and self._aside.core != self._aside.home

    def look(self, now_us: int) -> bool:
        """Step aside or home if it is time; True = on another core now.

        From the first thread, some times a second while there is work, or while away.
        """
        aside = self._aside
        if aside is None or not aside.look(now_us, _read("/proc/self/schedstat"), lambda: _read("/proc/stat")):
            return False
        with suppress(OSError):  # as in _pin
            os.sched_setaffinity(0, [aside.core])
        return True

    def put_thread(self, thread_id: int, own_core: bool) -> None:
        """Keep a background thread of a pinned process on the other cores, where there are any, or let it come home.

        At the lowest priority on its own core such a thread still holds a busy loop up for a scheduler's tick, 4 ms
        with 250 Hz, several times a second. Where the other cores are full it gets nowhere: then own_core, for a while.
        """
        own = self._aside.core if self._aside else None
        cores = self._boot.background_cores(own)
        if cores:
            with suppress(OSError):
                os.sched_setaffinity(thread_id, [*cores, own] if own_core and own is not None else cores)


def _read(path: str) -> str:
    """Empty where the kernel was built without it."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def ready(boot: Boot) -> None:
    """Tell the supervisor that this process serves; a short line is written whole."""
    os.write(boot.status_fd, f"ready {boot.process} {boot.generation}\n".encode())
