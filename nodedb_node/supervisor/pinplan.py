"""Which process runs on which core: a pure function of what sysfs says, the process's affinity and the [cpu] section.

Invariant: the plan names only cores this process may use (affinity, online, not reserved), never more workers' worth
of cores than the cgroup's quota allows by default, and no core twice. A list that cannot be satisfied is an error
here, before anything starts. Units of planning are cores: one hardware thread of each with smt = "one", every thread
with smt = "all".
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nodedb_node.config import WORKERS_MAX, CpuSection
from nodedb_node.supervisor import cgroup
from nodedb_node.supervisor.cgroup import Read


class Cpu(NamedTuple):
    """One hardware thread."""

    number: int
    core: tuple[int, int]  # (package, core id): threads with the same one share a physical core
    node: int


class Machine(NamedTuple):
    """What the plan depends on, as read from a system or from a recording."""

    cpus: tuple[Cpu, ...]  # those this process may use
    nodes: int
    quota: float | None  # cores' worth of time the cgroup allows; None = no limit


class Plan(NamedTuple):
    """All but the first and `pinned` go by process number, control first; empty and -1 = left to the kernel."""

    workers: int
    pins: list[list[int]]
    memory_nodes: list[int]
    pinned: bool
    spares: list[list[int]]  # by process: cores that no worker is pinned to, control's among them (aside.py)


class PlanError(ValueError):
    """A [cpu] section this machine cannot satisfy."""


def machine(read: Read, affinity: Iterable[int]) -> Machine:
    """Parse the topology. Missing files mean the simplest machine: cores without siblings, one node, no quota."""
    allowed = set(affinity)
    online = read("/sys/devices/system/cpu/online")
    if online:
        allowed &= set(cpu_list(online))
    nodes = cpu_list(read("/sys/devices/system/node/online") or "0")
    node_of = {
        cpu: node for node in nodes for cpu in cpu_list(read(f"/sys/devices/system/node/node{node}/cpulist") or "")
    }
    cpus = tuple(Cpu(number, _core(read, number), node_of.get(number, 0)) for number in sorted(allowed))
    return Machine(cpus, len(nodes), cgroup.cores_quota(read))


def cpu_list(text: str) -> list[int]:
    """The kernel's list format: 0-3,8,10-11."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.extend(range(int(first), int(last or first) + 1))
    return found


def _core(read: Read, number: int) -> tuple[int, int]:
    base = f"/sys/devices/system/cpu/cpu{number}/topology"
    package, core = read(f"{base}/physical_package_id"), read(f"{base}/core_id")
    return (int(package or 0), int(core)) if core else (0, number)


def plan(here: Machine, cpu: CpuSection) -> Plan:
    """Place control and the workers, or say which key cannot be satisfied and what would be possible."""
    allowed = [c for c in here.cpus if c.number not in cpu.reserved]
    if not allowed:
        raise PlanError(f"[cpu] reserved leaves no core: this process may use {_numbers(here.cpus)}")
    control = _control_core(cpu, allowed)
    units = _units(allowed, cpu.smt, control)
    usable = len(units) if here.quota is None else max(1, min(len(units), int(here.quota)))
    workers = min(max(1, usable - 1), WORKERS_MAX) if cpu.workers == "auto" else cpu.workers
    pinned = cpu.pin if cpu.pin != "auto" else usable > workers
    if not pinned:
        nowhere: list[list[int]] = [[] for _ in range(workers + 1)]
        return Plan(workers, nowhere, [-1] * (workers + 1), False, nowhere)
    cores = _place(units, workers, control)
    bind = cpu.numa and here.nodes > 1
    node_of = {c.number: c.node for c in allowed}
    pins = [[] if core is None else [core] for core in cores]
    nodes = [node_of[core] if bind and core is not None else -1 for core in cores]
    spares = set(units) - set(cores[1:])
    near = [sorted(c for c in spares if not bind or core is None or node_of[c] == node_of[core]) for core in cores[1:]]
    return Plan(workers, pins, nodes, True, [[], *near])


def _control_core(cpu: CpuSection, allowed: Sequence[Cpu]) -> int | None:
    if cpu.control_core == "auto":
        return None
    if cpu.control_core not in {c.number for c in allowed}:
        raise PlanError(f"[cpu] control_core = {cpu.control_core} is not one of the cores allowed: {_numbers(allowed)}")
    return cpu.control_core


def _units(allowed: Sequence[Cpu], smt: str, control: int | None) -> list[int]:
    """Cores to plan with, NUMA node by node. An explicit control core represents its physical core."""
    ordered = sorted(allowed, key=lambda c: (c.node, c.core, c.number))
    if smt == "all":
        return [c.number for c in ordered]
    first: dict[tuple[int, int], int] = {}
    for c in ordered:
        if c.core not in first or c.number == control:
            first[c.core] = c.number
    return list(first.values())


def _place(units: list[int], workers: int, control: int | None) -> list[int | None]:
    """Control on its core or, when one is left, on the first; workers on the next ones in order."""
    if control is None and len(units) > workers:
        control = units[0]
    free = [unit for unit in units if unit != control]
    if len(free) < workers:
        left = "beside control " if control is not None else ""
        raise PlanError(
            f"[cpu] workers = {workers} cannot be pinned: {len(free)} of the allowed cores {left}can take one"
            f" ({_ranges(free)}); use fewer workers or pin = false"
        )
    return [control, *free[:workers]]


def _numbers(cpus: Iterable[Cpu]) -> str:
    return _ranges([c.number for c in cpus])


def _ranges(numbers: list[int]) -> str:
    return ",".join(str(number) for number in numbers) or "none"
