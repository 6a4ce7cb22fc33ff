"""The simulated cluster: nodes with clocks, processes, a network, and who is asked for what.

Invariant: processes reach each other only through the network, and time only through their node's clock (BOOTTIME: it
drifts within bounds, goes on while a process is paused, and begins anew when a node's power was cut). What is shared
here otherwise is the simulator's: chance, checkers, clients' answers.
"""

from collections.abc import Callable
from typing import Any

from nodedb_node.raft import configuration as configurations
from nodedb_node.raft import reads
from nodedb_node.raft.messages import CaughtUp, Configuration, GroupConfig, Role, RoleChanged
from tests.sim.checkers import Checkers, Gone, require
from tests.sim.machine import Machine
from tests.sim.network import Network, Weather
from tests.sim.process import Process, Request
from tests.sim.spec import Spec
from tests.sim.world import World

MILLION = 1_000_000
WATCH_US = 500_000


class Clock:
    """One node's BOOTTIME."""

    def __init__(self, offset_us: int, ppm: int) -> None:
        self.offset_us, self.ppm = offset_us, ppm

    def read(self, now_us: int) -> int:
        return self.offset_us + now_us + now_us * self.ppm // MILLION

    def when(self, local_us: int) -> int:
        """The first world time at which the clock shows local_us or later."""
        at = (local_us - self.offset_us) * MILLION // (MILLION + self.ppm)
        while self.read(at) < local_us:
            at += 1
        return at


class Cluster:
    """Everything that runs."""

    def __init__(self, world: World, spec: Spec) -> None:
        self.world, self.spec = world, spec
        self.checkers = Checkers()
        shape = spec.cluster
        self.network = Network(world, shape.nodes, Weather(*_values(spec.network)))
        self.clocks = {node: self._clock() for node in self.nodes}
        self.settings = GroupConfig(
            group=0,
            node=1,
            lease_us=900_000 if shape.lease else 0,
            batch_bytes_max=shape.batch_bytes_max,
            inflight_bytes_max=shape.batch_bytes_max * shape.inflight_messages_max,
            inflight_messages_max=shape.inflight_messages_max,
            uncommitted_bytes_max=shape.uncommitted_bytes_max,
        )
        self.verbose = False
        self.client_messages = 0  # requests and answers that arrived
        self.crashing = True
        self.on_candidate: Callable[[Process, int], None] = lambda process, group: None
        self.caught_up: dict[int, set[int]] = {group: set() for group in self.groups}
        self.processes = {
            (node, worker): Process(self, node, worker) for node in self.nodes for worker in range(shape.workers)
        }
        for group in self.groups:
            self._found(group)

    @property
    def nodes(self) -> range:
        return range(1, self.spec.cluster.nodes + 1)

    @property
    def groups(self) -> range:
        return range(1, self.spec.cluster.groups + 1)

    def _found(self, group: int) -> None:
        shape = self.spec.cluster
        founders = sorted((group + i) % shape.nodes + 1 for i in range(shape.voters))
        configuration = configurations.founding(founders)  # type: ignore[arg-type]
        self.checkers.add_group(group, configuration)
        for node in founders:
            self.processes[node, self.worker_of(group)].found(group, configuration)

    def start(self) -> None:
        for process in self.processes.values():
            self.world.after(self.world.between(0, 5_000), process.start)
        self.world.after(WATCH_US, self._watch)

    def _watch(self) -> None:
        """CheckQuorum: whoever leads was answered by a quorum not long ago, of the voters it has since then. A process
        that was paused finds out at its own pace: what it slept through is not held against it."""
        for process in self.processes.values():
            if process.alive and not process.paused:
                now_us = process.now()
                for group, core in process.machine.groups.items():
                    if core.role is Role.LEADER:
                        contact_us = max(reads.quorum_contact(core, now_us), core.voters_since_us, process.resumed_us)
                        self.checkers.in_contact(group, process.node, core.term, now_us - contact_us, core.config)
        self.world.after(WATCH_US, self._watch)

    # ---- who and when ----

    def worker_of(self, group: int) -> int:
        return group % self.spec.cluster.workers

    def process(self, node: int, worker: int) -> Process:
        return self.processes[node, worker]

    def hosts(self, group: int) -> list[Process]:
        """Processes where a replica of the group may be, one per node."""
        return [self.processes[node, self.worker_of(group)] for node in self.nodes]

    def logs_of(self, group: int) -> dict[int, Any]:
        logs = {}
        for process in self.hosts(group):
            log = process.logs.get(group)
            logs[process.node] = Gone(process.tombstones.get(group, -1)) if log is None else log
        return logs

    def leader(self, group: int) -> Process | None:
        """Who leads in the highest term, among those that run."""
        best, found = -1, None
        for process in self.hosts(group):
            core = process.machine.groups.get(group) if process.alive and not process.paused else None
            if core is not None and core.role is Role.LEADER and core.term > best:
                best, found = core.term, process
        return found

    def leader_of(self, group: int, node: int, term: int) -> Any:
        """That node's log, if it leads the group in that term now."""
        process = self.processes[node, self.worker_of(group)]
        core = process.machine.groups.get(group) if process.alive else None
        return process.logs.get(group) if core is not None and core.role is Role.LEADER and core.term == term else None

    def backing(self, group: int, core: Any) -> tuple[list[Configuration], dict[int, Any]]:
        """What a commit rests on: the configuration in force at a replica that reports it, and at the leader, whose
        count it was; and the replicas' logs."""
        found = [core.configs[-1][1]]
        leader = self.leader(group)
        if leader is not None:
            found.append(leader.machine.groups[group].configs[-1][1])
        return found, self.logs_of(group)

    def _clock(self) -> Clock:
        drift = self.spec.cluster.drift_ppm
        return Clock(self.world.between(10 * MILLION, 900 * MILLION), self.world.between(-drift, drift))

    def machine(self, node: int, generation: int) -> Machine:
        now_us, crowd = self.clocks[node].read(self.world.now_us), self.spec.cluster.groups_per_turn
        return Machine(node, self.settings, generation, crowd, self.world.rng, now_us)

    # ---- sessions ----

    def greet(self, process: Process) -> None:
        """A process that begins opens sessions with its peers' processes, as soon as it can reach them."""
        for node in self.nodes:
            if node != process.node:
                self.world.after(self.world.between(200, 5_000), self._session, process, process.life, node)

    def _session(self, process: Process, life: int, node: int) -> None:
        if process.life != life:
            return
        peer = self.process(node, process.worker)
        both_ways = self.network.open(process.node, node) and self.network.open(node, process.node)
        if not peer.alive or peer.paused or process.paused or not both_ways:
            self.world.after(300_000, self._session, process, life, node)
            return
        for one, other in ((process, peer), (peer, process)):
            one.arrive(one.lane_up, other.node, other.generation)

    def parted(self, process: Process) -> None:
        """Peers notice the end of a process after a while, some only when the next one greets."""
        for node in self.nodes:
            peer = self.process(node, process.worker)
            if peer is not process and peer.alive and self.world.chance(0.6):
                delay = self.world.between(100, 400_000)
                self.world.after(delay, self._lane_down, peer, peer.life, process.node, process.generation)

    def _lane_down(self, process: Process, life: int, node: int, generation: int) -> None:
        if process.life == life:
            process.arrive(process.lane_down, node, generation)

    # ---- chance, asked by processes ----

    def crash_at(self, point: str) -> bool:
        crash = self.spec.crash
        return point in crash and self.crashing and self.world.chance(crash[point])

    def disk_fails(self, process: Process) -> bool:
        """A write or sync that fails is the end of the process: what it wrote may be there or not."""
        fail = self.spec.disk.fail
        if not fail or not self.crashing or not self.world.chance(fail):
            return False
        self.world.fault("disk.failed")
        process.disk.cut_power(lambda: self.world.chance(0.5))
        return True

    def sync_us(self, process: Process, size: int) -> int:
        low, high = self.spec.disk.sync_us
        took = self.world.between(low, high) + size // 500
        return took * 200 if process.slow_until > self.world.now_us else took

    def restart_later(self, process: Process) -> None:
        low, high = self.spec.restart_ms
        self.world.after(self.world.between(low, high) * 1000, self.restart, process, process.life)

    def restart(self, process: Process, life: int) -> None:
        if not process.alive and process.life == life:
            process.start()

    def cut_power(self, node: int) -> None:
        """All processes of a node end, sectors that were not synced may be lost, and its clock begins anew."""
        low, high = self.spec.restart_ms
        delay = self.world.between(low, high) * 1000
        share = self.world.rng.choice([0.0, 0.3, 0.7, 1.0])
        for worker in range(self.spec.cluster.workers):
            process = self.processes[node, worker]
            process.die()
            process.life += 1
            lost = process.disk.cut_power(lambda: self.world.chance(share))
            if lost:
                self.world.fault("disk.sectors-lost")
            self.world.after(delay, self.restart, process, process.life)
        clock, now_us = self.clocks[node], self.world.now_us
        clock.offset_us += self.world.between(1, 100 * MILLION) - clock.read(now_us)

    # ---- what processes tell ----

    def answer(self, process: Process, request: Request, outcome: str, value: Any) -> None:
        """To the client, over a network of its own that only loses."""
        if self.world.chance(self.network.weather.loss):
            return
        self.world.after(self.world.between(100, 500), request.client.answered, request.serial, outcome, value)

    def elected(self, process: Process, group: int, term: int) -> None:
        log = process.logs[group]
        self.checkers.leader(group, log, term)
        self.checkers.chosen(group, log, term, process.machine.groups[group].configs[-1][1])
        for other in self.hosts(group):
            core = other.machine.groups.get(group) if other.alive and other is not process else None
            if core is not None and core.term < term:
                valid = core.lease_valid(other.now())
                require(not valid, "lease", f"group {group}: node {other.node} in {core.term}, elected in {term}")

    def noticed(self, process: Process, group: int, event: Any) -> None:
        if type(event) is CaughtUp:
            self.caught_up[group].add(event.node)
        elif type(event) is RoleChanged and event.role is Role.CANDIDATE and self.crashing:
            self.on_candidate(process, group)


def _values(struct: Any) -> tuple[Any, ...]:
    return tuple(getattr(struct, name) for name in struct.__struct_fields__)
