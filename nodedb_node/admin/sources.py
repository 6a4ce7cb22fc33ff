"""Where the facts come from: shared memory, /proc, the file system. World file: reads the machine, changes nothing.

Invariant: one call reads everything once and returns frozen facts; a process that dies while it is read is reported as
gone, never as an error. What costs the kernel a walk over a process's memory (Pss) is read only when asked for, and at
most once a second. It never touches a worker: their counters lie in memory that control has mapped.
"""

from __future__ import annotations

import os
import time

from nodedb_node import __version__
from nodedb_node.admin.facts import Disk, Limits, Lives, NodeFacts, PeerFacts, ProcessFacts, State, Usage
from nodedb_node.ids import CONTROL, Process, process_name
from nodedb_node.routing.places import VSHARDS, groups_of_worker
from nodedb_node.supervisor.boot import Boot
from nodedb_node.transport import board
from nodedb_node.transport.board import LaneBoard

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
USAGE_AGE_US_MAX = 1_000_000


def boottime_us() -> int:
    """CLOCK_BOOTTIME, which also runs while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Sources:
    """The readers of one control process; `draining`, `peers` and `admin_refusals` are set by it."""

    def __init__(self, boot: Boot, lives: Lives) -> None:
        self._boot = boot
        self._lives = lives
        self._usages: dict[int, tuple[int, Usage | None]] = {}
        self._groups = [len(groups_of_worker(worker, boot.groups, boot.workers)) for worker in range(boot.workers)]
        self.draining = False
        self.peers = PeerFacts()
        self.admin_refusals = 0

    def facts(self, *, usage: bool) -> NodeFacts:
        """Everything now; what processes use only with `usage`."""
        boot, now_us = self._boot, boottime_us()
        config = boot.config
        return NodeFacts(
            version=__version__,
            node_id=boot.node_id,
            cluster_id=boot.cluster_id,
            generation=boot.node_generation,
            now_us=now_us,
            started_us=boot.started_us,
            wall_ms=time.time_ns() // 1_000_000,
            data_dir=boot.data_dir,
            groups=boot.groups,
            clients_host=boot.ports.clients_host,
            clients_port=boot.ports.clients,
            http_host=boot.ports.http_host,
            http_port=boot.ports.http,
            draining=self.draining,
            disk=_disk(boot.data_dir),
            control=self._process(CONTROL, now_us, usage),
            workers=tuple(self._process(Process(worker + 1), now_us, usage) for worker in range(boot.workers)),
            limits=Limits(
                floor_bytes=config.wal.floor_bytes,
                dirty_bytes_max=config.store.dirty_bytes_max,
                stall_ms=config.supervise.stall_ms,
            ),
            peers=self.peers,
            admin_refusals=self.admin_refusals,
            lanes=self._lanes() if usage else (),
        )

    def _lanes(self) -> tuple[tuple[str, LaneBoard], ...]:
        """What processes that live have written of their lanes; one that died left its own."""
        found = []
        for process in (CONTROL, *(Process(worker + 1) for worker in range(self._boot.workers))):
            shown = board.read(self._boot.board_fds[process])
            if shown is not None and shown.pid == self._lives.life(process).pid:
                found.append((process_name(process), shown))
        return tuple(found)

    def _process(self, process: Process, now_us: int, usage: bool) -> ProcessFacts:
        boot, block = self._boot, self._lives.block(process)
        state, pid, generation = self._lives.life(process)
        alive = state is not State.DOWN and pid > 0
        beat = block.values["heartbeat_us"]
        worker = None if process == CONTROL else process - 1
        groups = 0 if worker is None else self._groups[worker]
        return ProcessFacts(
            name=process_name(process),
            worker=worker,
            state=State.DRAINING if self.draining and state is State.READY else state,
            pid=pid if alive else 0,
            generation=generation,
            heartbeat_age_ms=max(0, now_us - beat) // 1000 if beat else None,
            counters=block,
            usage=self._usage(pid, now_us) if alive and usage else None,
            cores=tuple(boot.pins[process]),
            port=None if worker is None else boot.ports.workers[worker],
            groups=groups,
            vshards=groups * VSHARDS // boot.groups,
        )

    def _usage(self, pid: int, now_us: int) -> Usage | None:
        read_us, found = self._usages.get(pid, (0, None))
        if not read_us or now_us - read_us > USAGE_AGE_US_MAX:
            if len(self._usages) > 2 * len(self._boot.pins):
                self._usages.clear()
            found = read_usage(pid)
            self._usages[pid] = (now_us, found)
        return found


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on; the second may hold blanks and brackets."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_usage(pid: int) -> Usage | None:
    """What the kernel says of `pid`; None when it is gone."""
    fields = stat_fields(pid)
    if fields is None:
        return None
    try:
        sizes = _rollup(pid)
        open_files = len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Usage(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND,
        resident_bytes=sizes.get("Rss", 0),
        pss_bytes=sizes.get("Pss", 0),
        threads=int(fields[17]),
        open_files=open_files,
    )


def _rollup(pid: int) -> dict[str, int]:
    """/proc/PID/smaps_rollup in bytes by name; the kernel yields its lock as it walks: the process is not held up."""
    sizes = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if rest.endswith("kB\n"):
                sizes[name] = int(rest.split()[0]) * 1024
    return sizes


def _disk(path: str) -> Disk | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return Disk(size_bytes=found.f_blocks * found.f_frsize, free_bytes=found.f_bavail * found.f_frsize)
