"""Whether the node serves, as named checks: what /readyz answers and what the status document gives as reasons.

Invariant: a pure function of the facts; each check names one thing an operator can act on, and says what to do when
it fails. A draining node is unready before anything else of it changes, so that load balancers leave first. It
judges this node only: whether groups have leaders elsewhere is not a question of one node's readiness.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from nodedb_node.admin.facts import NodeFacts, ProcessFacts, State
from nodedb_node.multiraft.messages import Reason

HALTED_SHOWN_MAX = 4
DIRTY_FACTOR = 4
"""Changed rows start a checkpoint at their limit; at this many times that it does not keep up."""


class Check(Struct, frozen=True):
    """The outcome of one check; `detail` is never empty when it failed."""

    name: str
    ok: bool
    detail: str = ""


def readiness(facts: NodeFacts) -> tuple[Check, ...]:
    """Every check, in the order they are shown."""
    checks = [
        Check(
            "drain", not facts.draining, "the node is draining: clients should go elsewhere" if facts.draining else ""
        )
    ]
    checks += [_worker(worker) for worker in facts.workers]
    checks += [
        _over("loop", facts, _loop),
        _over("wal", facts, _wal),
        _over("groups", facts, _groups),
        _over("store", facts, _store),
        _disk(facts),
    ]
    return tuple(checks)


def excluded(checks: tuple[Check, ...], names: frozenset[str]) -> tuple[Check, ...]:
    """The checks that count when `names` are left out."""
    return tuple(check for check in checks if check.name not in names)


def _worker(worker: ProcessFacts) -> Check:
    match worker.state:
        case State.READY:
            return Check(worker.name, ok=True)
        case State.STARTING:
            return Check(worker.name, ok=False, detail="starting: recovering its log, not yet listening")
        case State.DRAINING:
            return Check(worker.name, ok=False, detail="draining")
        case State.DOWN:
            return Check(
                worker.name, ok=False, detail="not running: the supervisor starts it again; see its last log lines"
            )


def _over(name: str, facts: NodeFacts, complaint: Callable[[NodeFacts, ProcessFacts], str]) -> Check:
    """One check over all workers that run: the complaints of each, joined."""
    found = [(worker.name, complaint(facts, worker)) for worker in facts.workers if worker.state is State.READY]
    text = "; ".join(f"{who}: {what}" for who, what in found if what)
    return Check(name, not text, text)


def _loop(facts: NodeFacts, worker: ProcessFacts) -> str:
    age, limit = worker.heartbeat_age_ms, facts.limits.stall_ms // 2
    if age is None:
        return "has not turned its loop yet"
    if age > limit:
        return f"loop has not turned for {age} ms (limit {limit}): stopped, starved of CPU or stuck on the disk"
    return ""


def _wal(facts: NodeFacts, worker: ProcessFacts) -> str:
    if worker.counters.values["nospace"]:
        return "refuses writes for lack of disk space: free some, it takes writes again by itself"
    if not worker.counters.values["wal_backend"]:
        return "log is not open"
    return ""


def _groups(_: NodeFacts, worker: ProcessFacts) -> str:
    halted = [(group, row) for group, row in worker.counters.groups.items() if row.reason == Reason.HALTED]
    text = "; ".join(f"group {group} is halted: {row.why or 'see the log'}" for group, row in halted[:HALTED_SHOWN_MAX])
    return text + (f"; {len(halted) - HALTED_SHOWN_MAX} more" if len(halted) > HALTED_SHOWN_MAX else "")


def _store(facts: NodeFacts, worker: ProcessFacts) -> str:
    dirty, limit = worker.counters.values["store_dirty_bytes"], DIRTY_FACTOR * facts.limits.dirty_bytes_max
    if dirty > limit:
        return f"{dirty >> 20} MiB of changed rows wait for a checkpoint, limit {limit >> 20}: is the disk slow?"
    return ""


def _disk(facts: NodeFacts) -> Check:
    disk = facts.disk
    if disk is None:
        return Check("disk", ok=False, detail=f"the file system of {facts.data_dir} does not answer")
    if disk.free_bytes < facts.limits.floor_bytes:
        free, floor = disk.free_bytes >> 20, facts.limits.floor_bytes >> 20
        text = f"{free} MiB free below {facts.data_dir}, the floor is {floor} MiB: free some"
        return Check("disk", ok=False, detail=text)
    return Check("disk", ok=True)
