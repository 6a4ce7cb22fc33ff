"""One run: a spec and a seed become a cluster that works under faults, is healed, and is judged.

Two phases, as in VOPR: safety (faults, checkers at every step), then liveness (no faults: within a bound of virtual
time every group has a leader, every open operation is answered, all members are equal). Invariant: a run's result, its
digest included, depends on spec, seed and steps only.
"""

import gc
import time
import traceback
from collections import Counter
from typing import NamedTuple

from nodedb_node import marks
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.quorum import EVERYTHING
from tests.sim.checkers import require
from tests.sim.cluster import Cluster
from tests.sim.faults import Injector
from tests.sim.spec import Spec
from tests.sim.workloads import Workload
from tests.sim.world import World

LIVENESS_US = 120_000_000
SETTLE_US = 100_000
VIRTUAL_US_MAX = 3_600_000_000


class Result(NamedTuple):
    """events: messages between processes, ticks and disk completions; client_messages: requests and answers that
    arrived. failure: empty, or what was broken, with the place."""

    spec: str
    seed: int
    digest: str
    events: int
    client_messages: int
    virtual_s: float
    wall_s: float
    operations: int
    undecided: int
    faults: Counter[str]
    marks: dict[str, int]
    failure: str


class Run:
    """The pieces of one run."""

    def __init__(self, spec: Spec, seed: int) -> None:
        self.spec = spec
        self.world = World(seed)
        self.cluster = Cluster(self.world, spec)
        self.workloads = [Workload(self.cluster, shape, i) for i, shape in enumerate(spec.workload)]
        self.injector = Injector(self.cluster, spec.fault)

    def go(self, steps: int) -> None:
        for workload in self.workloads:
            workload.setup()
        self.cluster.start()
        for workload in self.workloads:
            workload.start()
        self.injector.start()
        world = self.world
        world.run(steps, VIRTUAL_US_MAX)
        require(world.events >= steps, "progress", f"only {world.events} events in {world.now_us} µs")
        self.heal()
        self.check(steps)

    def heal(self) -> None:
        """Liveness: without faults everything comes to an end, and to one state."""
        world, begin_us = self.world, self.world.now_us
        self.injector.heal()
        for workload in self.workloads:
            workload.stop()
        why = "not looked at"
        while why:
            require(world.now_us - begin_us < LIVENESS_US, "liveness", why)
            self._operate()
            until_us = world.now_us + SETTLE_US
            world.at(until_us, _nothing)
            world.run(EVERYTHING, until_us)
            why = self.unsettled()

    def _operate(self) -> None:
        """The operator puts whole replicas in the place of those that are gone."""
        for group in self.cluster.groups:
            leader = self.cluster.leader(group)
            if leader is None:
                continue
            core = leader.machine.core(group)
            change = self.injector.change(group, core.configs[-1][1], leader.node)
            if change is not None:
                core.propose_config(leader.now(), change)
                leader.stir()

    def unsettled(self) -> str:
        """Why the cluster has not come to rest; empty: it has."""
        for group in self.cluster.groups:
            leader = self.cluster.leader(group)
            if leader is None:
                return f"group {group} has no leader"
            core, store = leader.machine.groups[group], leader.stores[group]
            if core.configs[-1][1].outgoing:
                return f"group {group} is in a joint configuration"
            for node, replica in configurations.members(core.configs[-1][1]).items():
                process = self.cluster.process(node, leader.worker)
                log = process.logs.get(group)
                if not process.alive or log is None or log.replica != replica:
                    return f"group {group}: node {node} does not run replica {replica}"
                if process.stores[group].applied != log.last or log.last != leader.logs[group].last:
                    return f"group {group}: node {node} is at {process.stores[group].applied}, leader {store.applied}"
                if log.quarantined:
                    return f"group {group}: node {node} is in quarantine"
        busy = [client.number for workload in self.workloads for client in workload.clients if client.operation]
        return f"clients {busy} wait" if busy else ""

    def check(self, steps: int) -> None:
        """At the end: equal states, histories that are linearizable, faults that happened."""
        for group in self.cluster.groups:
            leader = self.cluster.leader(group)
            assert leader is not None
            state = leader.stores[group].state()
            for node in configurations.members(leader.machine.groups[group].configs[-1][1]):
                other = self.cluster.process(node, leader.worker).stores[group].state()
                require(state == other, "equal states", f"group {group}: nodes {leader.node} and {node}")
        for workload in self.workloads:
            workload.check()
        if steps >= self.spec.steps:
            quiet = self.quiet()
            require(not quiet, "quiet injector", quiet)

    def quiet(self) -> list[str]:
        """Faults the spec asks for that did not happen."""
        wanted = [f"fault.{shape.kind}" for shape in self.spec.fault]
        wanted += [f"crash.{point}" for point, chance in self.spec.crash.items() if chance]
        weather = self.spec.network
        wanted += [f"net.{name}" for name, chance in weather_of(weather) if chance]
        shape = self.spec.snapshot
        wanted += [f"snapshot.{name}" for name in shape.__struct_fields__ if getattr(shape, name)]
        wanted += ["disk.failed"] if self.spec.disk.fail else []
        return [name for name in wanted if not self.world.faults[name] and name not in self.spec.quiet]


def weather_of(weather: object) -> list[tuple[str, float]]:
    names = {"lost": "loss", "duplicated": "duplicate", "reordered": "reorder"}
    return [(name, getattr(weather, field)) for name, field in names.items()]


def _nothing() -> None:
    """Time passes."""


def run(spec: Spec, seed: int, steps: int = 0) -> Result:
    """Never raises for a finding: the result says it. steps 0: the spec's own."""
    marks.hits = {}
    began = time.perf_counter()
    failure = ""
    one = Run(spec, seed)
    gc.disable()  # a tenth of the time, for cycles that a run this long does not make many of
    try:
        one.go(steps or spec.steps)
    except Exception as error:  # noqa: BLE001 - whatever the code under test raises is a finding
        frames = traceback.extract_tb(error.__traceback__)
        where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))
        failure = f"{type(error).__name__}: {error} [{where}]"
    finally:
        gc.enable()
    hits, marks.hits = marks.hits, None
    world = one.world
    operations = sum(len(h) for workload in one.workloads for h in workload.histories.values())
    undecided = sum(workload.undecided for workload in one.workloads)
    took = time.perf_counter() - began
    virtual = world.now_us / 1e6
    done = (operations, undecided, world.faults, hits, failure)
    asked = one.cluster.client_messages
    return Result(spec.name, seed, world.digest, world.events, asked, virtual, took, *done)
