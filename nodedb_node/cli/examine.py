"""The judgements of nodedb-node doctor: from a reading of the machine to a finding with its advice.

Invariant: pure; each names the reading it is based on, and whatever is not ok says what to do. A reading that
is missing (other kernels, containers) is at most a warning: doctor must not fail a machine that works.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from nodedb_node.config import StoreSection, WalSection
from nodedb_node.supervisor import descriptors
from nodedb_node.supervisor.pinplan import Machine, Plan

PYTHON_MIN = (3, 11)
KERNEL_MIN = (5, 4)
KERNEL_URING = (5, 6)
SYNC_US_SLOW = 10_000
LOCKED_BYTES_MIN = 8 << 20
CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "xen")
VOLATILE = ("tmpfs", "ramfs")
REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse", "glusterfs")
LAYERED = ("overlay", "aufs")


class Verdict(Enum):
    """How bad a finding is; larger is worse."""

    OK = 0
    WARN = 1
    FAIL = 2


class Finding(NamedTuple):
    """One line of doctor; `advice` is empty when all is well."""

    name: str
    verdict: Verdict
    text: str
    advice: str = ""


class Syncs(NamedTuple):
    """Durations of durable appends in microseconds, or why there are none."""

    took_us: tuple[int, ...]
    error: str


def passed(name: str, text: str) -> Finding:
    return Finding(name, Verdict.OK, text)


def warned(name: str, text: str, advice: str) -> Finding:
    return Finding(name, Verdict.WARN, text, advice)


def failed(name: str, text: str, advice: str) -> Finding:
    return Finding(name, Verdict.FAIL, text, advice)


def python(version: tuple[int, ...], assertions: bool) -> Finding:
    text = ".".join(str(part) for part in version)
    if version[:2] < PYTHON_MIN:
        return failed("python", text, f"install {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or later")
    if not assertions:
        return failed("python", f"{text} without assertions", "do not use python -O: they guard the data")
    return passed("python", text)


def kernel(release: str) -> Finding:
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < KERNEL_MIN:
        return failed("kernel", release, f"pidfd and others are missing; use {KERNEL_MIN[0]}.{KERNEL_MIN[1]} or later")
    if version < KERNEL_URING:
        return warned("kernel", f"{release}, too old for io_uring", "the log is written by a thread; newer is faster")
    return passed("kernel", release)


def cores(machine: Machine, plan: Plan) -> Finding:
    allowed = ",".join(str(cpu.number) for cpu in machine.cpus)
    quota = "no quota" if machine.quota is None else f"quota {machine.quota:g}"
    pins = ", ".join("+".join(str(core) for core in cores) or "any" for cores in plan.pins[1:])
    where = f"on cores {pins}" if plan.pinned else "not pinned"
    text = f"allowed {allowed} ({quota}); {plan.workers} worker(s) {where}"
    if machine.quota is not None and plan.workers > machine.quota:
        return warned("cores", text, "fewer workers than the cgroup's quota: throttled workers stall all their clients")
    return passed("cores", text)


def clock(source: str | None) -> Finding:
    name = (source or "").strip()
    if name in CLOCKS:
        return passed("clock", name)
    return warned(
        "clock", name or "unknown source", "reading the time may cost a system call; tsc or kvm-clock is fast"
    )


def huge_pages(setting: str | None) -> Finding:
    found = re.search(r"\[(\w+)\]", setting or "")
    name = found[1] if found else "unknown"
    if name == "always":
        advice = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: memory and pauses grow with always"
        return warned("hugepages", name, advice)
    return passed("hugepages", name)


def open_files(hard: int, connections_max: int) -> Finding:
    """By the hard limit: a start raises the soft one. With fewer a node starts all the same, for fewer clients."""
    needed = connections_max + descriptors.OWN
    text = f"{_limit(hard)} open files, {needed} needed for connections_max = {connections_max}"
    if hard < 0 or hard >= needed:
        return passed("files", text)
    return warned("files", text, f"LimitNOFILE={needed} in the unit, ulimit -Hn, or lower [clients] connections_max")


def locked_memory(limit: int, privileged: bool) -> Finding:
    if privileged or limit < 0 or limit >= LOCKED_BYTES_MIN:
        return passed("memlock", "privileged" if privileged else _limit(limit))
    advice = f"ulimit -l {LOCKED_BYTES_MIN >> 10}, or LimitMEMLOCK= in the unit: io_uring's buffers are locked memory"
    return warned("memlock", f"{limit >> 10} KiB", advice)


def _limit(limit: int) -> str:
    return "unlimited" if limit < 0 or limit >= 1 << 60 else str(limit)


def memory(meminfo: str, allowed: int | None, store: StoreSection) -> Finding:
    """allowed: bytes, as cgroup.memory_bytes tells."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.M)
    if not found:
        return warned("memory", "unknown", "set [store] memory_bytes_max")
    available = int(found[1]) << 10
    if allowed is not None:
        available = min(available, allowed)
    text = f"{available >> 20} MiB available"
    if available < 4 * store.dirty_bytes_max:
        advice = "lower [store] dirty_bytes_max and memory_bytes_max, or the system will kill the node"
        return warned("memory", f"{text}, little for dirty_bytes_max = {store.dirty_bytes_max >> 20} MiB", advice)
    return passed("memory", text)


def file_system(mountinfo: str, path: str) -> str:
    """The type of the file system that holds `path`, from /proc/self/mountinfo; empty when it cannot be told."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4] if len(fields.split()) > 4 else ""
        inside = point == "/" or path == point or path.startswith(point + "/")
        if point and inside and len(point) >= best:
            best, kind = len(point), rest.split()[0] if rest else ""
    return kind


def directory(path: str, exists: bool, kind: str) -> Finding:
    text = f"{path} on {kind or 'an unknown file system'}" + ("" if exists else " (will be made)")
    if kind in VOLATILE:
        return warned("directory", text, "its contents are lost with power: put the data on a disk")
    if kind in LAYERED:
        return warned("directory", text, "a container's own layer is slow and goes with it: mount a volume")
    if kind.split(".")[0] in REMOTE:
        return warned("directory", text, "a sync is as durable as the server behind it: put the data on a local disk")
    return passed("directory", text)


def space(free_bytes: int, limits: WalSection) -> Finding:
    text = f"{free_bytes >> 20} MiB free, writes stop below {limits.floor_bytes >> 20} MiB"
    if free_bytes < limits.floor_bytes:
        return failed("space", text, "free some, or lower [wal] floor_bytes")
    if free_bytes < limits.floor_bytes + 4 * limits.segment_bytes:
        return warned("space", text, "the log alone may need that much: free some")
    return passed("space", text)


def io_uring(found: Syncs, wanted: str) -> Finding:
    if not found.error:
        return passed("io_uring", "allowed")
    if wanted == "uring":
        return failed("io_uring", found.error, "allow it (kernel.io_uring_disabled, seccomp), or [wal] backend = auto")
    return warned("io_uring", found.error, "the log is written by a thread: as durable, a little slower")


def sync_times(found: Mapping[str, Syncs]) -> Finding:
    """What a durable write costs with each backend; the faster one judges the disk."""
    measured = {name: sorted(syncs.took_us) for name, syncs in found.items() if syncs.took_us}
    if not measured:
        errors = "; ".join(f"{name}: {syncs.error}" for name, syncs in found.items())
        return failed("syncs", f"no durable write succeeded: {errors}", "the disk or its file system refuses to sync")
    text = ", ".join(f"{name} {_quantile(took, 50)} us ({_quantile(took, 99)} p99)" for name, took in measured.items())
    if min(_quantile(took, 50) for took in measured.values()) > SYNC_US_SLOW:
        return warned("syncs", text, "each turn waits that long: a disk with power-loss protection answers below 1 ms")
    return passed("syncs", text)


def _quantile(ordered: list[int], percent: int) -> int:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
