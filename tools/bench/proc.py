"""What the kernel says about processes: trees, CPU time, memory shares, foreign load.

Invariant: foreign CPU time is everything the machine spent outside the measured trees and kernel threads, steal
included, so a compiler that starts and ends between two samples is still seen. It does not start or stop anything.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1
KTHREADD_PID = 2


@dataclass(frozen=True)
class ProcessStat:
    pid: int
    ppid: int
    name: str
    cpu_ticks: int
    """utime + stime of the living process."""
    reaped_ticks: int
    """cutime + cstime: children that ended and were waited for."""


def read_stat(pid: int) -> ProcessStat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name_end = text.rindex(")")
    fields = text[name_end + 2 :].split()
    own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return ProcessStat(pid, int(fields[1]), text[text.index("(") + 1 : name_end], own, reaped)


def all_stats() -> dict[int, ProcessStat]:
    found = (read_stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {stat.pid: stat for stat in found if stat is not None}


def tree_of(root: int, stats: dict[int, ProcessStat] | None = None) -> list[int]:
    """The living processes at and below root, root first."""
    stats = all_stats() if stats is None else stats
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.ppid, []).append(stat.pid)
    found, pending = [], [root] if root in stats else []
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending.extend(children.get(pid, []))
    return found


def machine_busy_ticks() -> tuple[int, int]:
    """(user + nice + system, steal) of all cores. Interrupt time is nobody's: loopback traffic runs there."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return fields[0] + fields[1] + fields[2], fields[7]


@dataclass(frozen=True)
class CpuSample:
    """Cumulative ticks at one moment."""

    seconds: float
    busy: int
    steal: int
    kernel_threads: int
    own: int
    """This process and the children it has waited for (the clients), without those that still live (the servers)."""
    tree: int
    """The measured server's process tree, with the children it has reaped."""


def sample(root: int | None) -> CpuSample:
    stats = all_stats()
    busy, steal = machine_busy_ticks()
    kernel = sum(stat.cpu_ticks for stat in stats.values() if stat.ppid == KTHREADD_PID)
    own = stats[os.getpid()]
    members = [] if root is None else tree_of(root, stats)
    tree = sum(stats[pid].cpu_ticks + stats[pid].reaped_ticks for pid in members)
    return CpuSample(time.monotonic(), busy, steal, kernel, own.cpu_ticks + own.reaped_ticks, tree)


@dataclass(frozen=True)
class CpuUse:
    """What happened between two samples, in seconds of CPU time."""

    server: float
    client: float
    foreign_percent: float
    """Of the whole machine; steal counts as foreign."""


def use(before: CpuSample, after: CpuSample) -> CpuUse:
    server, client = after.tree - before.tree, after.own - before.own
    kernel, steal = after.kernel_threads - before.kernel_threads, after.steal - before.steal
    foreign = max(0, after.busy - before.busy - server - client - kernel + steal)
    elapsed = max(after.seconds - before.seconds, 1e-9)
    return CpuUse(server / TICKS_PER_S, client / TICKS_PER_S, 100.0 * foreign / TICKS_PER_S / elapsed / CORES)


def affinity(pid: int) -> list[int]:
    return sorted(os.sched_getaffinity(pid))


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pss_bytes(pid: int, clean_free: str = "data.mdb") -> int:
    """Proportional share of one process, without the clean pages of files named clean_free (the LMDB map)."""
    total, exempt, size, dirty = 0, False, 0, 0
    try:
        text = Path(f"/proc/{pid}/smaps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in text.splitlines():
        key = line.split(None, 1)[0]
        if not key.endswith(":"):
            total += dirty if exempt else size
            exempt, size, dirty = line.removesuffix(" (deleted)").endswith(clean_free), 0, 0
        elif key == "Pss:":
            size = int(line.split()[1]) * 1024
        elif key == "Pss_Dirty:":
            dirty = int(line.split()[1]) * 1024
    return total + (dirty if exempt else size)


def tree_pss_bytes(root: int) -> int:
    return sum(pss_bytes(pid) for pid in tree_of(root))


def thread_seconds(pid: int) -> float:
    """CPU time of a process's living threads, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
