"""The injector: what happens to a cluster besides bad weather and crash points, one method per kind of fault.

A fault begins at random intervals, and most end by themselves. Invariant: never is every copy harmed: damaged, wiped
and quarantined replicas together stay a minority of each group, as then stopping would be the right answer. Every fault
is counted; a fault of the spec that never happened fails the run.
"""

from typing import Any

from nodedb_node.raft.messages import NOBODY, ConfigChange, TimeoutNow
from tests.sim.cluster import Cluster
from tests.sim.disk import SimDisk
from tests.sim.forging import false_votes, from_itself, nonsense
from tests.sim.process import Process
from tests.sim.spec import FaultShape

COMEBACK_US = 60_000


class Injector:
    """Owner of all faults that are going on."""

    def __init__(self, cluster: Cluster, shapes: tuple[FaultShape, ...]) -> None:
        self.cluster, self.world, self.shapes = cluster, cluster.world, shapes
        self.active = True
        self.away: dict[int, int] = {}  # by group, the leader whose streams stand still
        self.forges_votes = False
        cluster.on_candidate = self._on_candidate
        for shape in shapes:
            assert hasattr(self, f"do_{shape.kind}"), f"no such fault: {shape.kind}"

    def start(self) -> None:
        for shape in self.shapes:
            self._next(shape)

    def _next(self, shape: FaultShape) -> None:
        low, high = shape.every_ms
        self.world.after(self.world.between(low, high) * 1000, self._begin, shape)

    def _begin(self, shape: FaultShape) -> None:
        if not self.active:
            return
        low, high = shape.for_ms
        if getattr(self, f"do_{shape.kind}")(self.world.between(low, high) * 1000):
            self.world.fault(f"fault.{shape.kind}")
        self._next(shape)

    def heal(self) -> None:
        """Everything works again, at once."""
        self.active = False
        cluster = self.cluster
        cluster.crashing = False
        cluster.network.heal()
        self.away.clear()
        for process in cluster.processes.values():
            process.slow_until = process.busy_until = 0
            process.unhang()
            process.resume()
            if process.alive:
                process.log.full = False
            else:
                cluster.restart_later(process)

    # ---- the network ----

    def do_partition(self, for_us: int) -> bool:
        """Two sides that do not hear each other."""
        nodes = list(self.cluster.nodes)
        side = set(self.world.rng.sample(nodes, self.world.between(1, len(nodes) - 1)))
        return self._block(self.cluster.network.across(side), for_us)

    def do_isolate_leader(self, for_us: int) -> bool:
        leader = self._leader()
        return leader is not None and self._block(self.cluster.network.across({leader.node}), for_us)

    def do_one_way(self, for_us: int) -> bool:
        """A node that is heard by nobody, or hears nobody; or one link of one direction."""
        network, node = self.cluster.network, self._node()
        links = [network.out_of(node), network.into(node)][self.world.between(0, 1)]
        return self._block(links if self.world.chance(0.5) else [self.world.rng.choice(links)], for_us)

    def do_mesh(self, for_us: int) -> bool:
        """A partial mesh: two nodes do not hear each other, others hear both."""
        a, b = self.world.rng.sample(list(self.cluster.nodes), 2)
        return self._block([(a, b), (b, a)], for_us)

    def do_clog(self, for_us: int) -> bool:
        """Swizzle: links stop one by one and are let go one by one; what was sent arrives late."""
        nodes = self.world.rng.sample(list(self.cluster.nodes), self.world.between(1, len(self.cluster.nodes) - 1))
        for node in nodes:
            begin, end = self.world.between(0, for_us // 2), self.world.between(for_us // 2, for_us)
            links = self.cluster.network.out_of(node) + self.cluster.network.into(node)
            self.world.after(begin, self._clog, links, self.world.now_us + end)
        return True

    def _clog(self, links: list[tuple[int, int]], until_us: int) -> None:
        if self.active:
            self.cluster.network.clog(links, until_us)

    def _block(self, links: list[tuple[int, int]], for_us: int) -> bool:
        self.cluster.network.block(links)
        self.world.after(for_us, self.cluster.network.unblock, links)
        return True

    def do_comeback(self, for_us: int) -> bool:
        """The leader's streams stand still until somebody else campaigns."""
        group = self.world.rng.choice(list(self.cluster.groups))
        leader = self.cluster.leader(group)
        if leader is None or group in self.away:
            return False
        network, self.away[group] = self.cluster.network, leader.node
        network.hold(network.out_of(leader.node))
        network.block(network.into(leader.node))
        self.world.after(for_us, self._come_back, group, NOBODY)
        return True

    def _come_back(self, group: int, candidate: int) -> None:
        """All it said arrives at once, beside the requests for votes, at voters that are busy. It hears everybody but
        the candidate."""
        node = self.away.pop(group, None)
        if node is None:
            return
        network = self.cluster.network
        network.release(network.out_of(node))
        for link in network.into(node):
            self.world.after(COMEBACK_US if link[0] == candidate else 0, network.unblock, [link])
        for host in self.cluster.hosts(group):
            if host.node not in (node, candidate):
                host.busy_until = self.world.now_us + COMEBACK_US

    def do_busy(self, for_us: int) -> bool:
        """A process whose loop comes round late."""
        process = self._leader() if self.world.chance(0.3) else self._process()
        if process is None or not process.alive:
            return False
        process.busy_until = self.world.now_us + for_us
        return True

    def do_forge(self, for_us: int) -> bool:
        """A peer says what nobody should believe: now, as what is false of this term may be true of a later one."""
        process, peer = self._process(), self._process()
        groups = list(process.machine.groups) if process.alive and not process.paused else []
        if not groups or peer is process or not peer.alive or peer.worker != process.worker:
            return False
        core = process.machine.groups[self.world.rng.choice(groups)]
        core.step(process.now(), from_itself(core))
        process.frame(process.now(), peer, peer.generation, nonsense(core, peer.node), 0)
        process.stir()
        self.forges_votes = True  # for the next candidate
        return True

    def _on_candidate(self, process: Process, group: int) -> None:
        if self.forges_votes:
            self.forges_votes = False
            self.world.after(1, self._vote_falsely, process, process.life, group)
        if self.away.get(group, process.node) != process.node:
            self._come_back(group, process.node)

    def _vote_falsely(self, process: Process, life: int, group: int) -> None:
        core = process.machine.groups.get(group)
        if core is None or process.life != life or process.paused:
            return
        for host in self.cluster.hosts(group):
            if host is not process and host.alive:
                process.frame(process.now(), host, host.generation, false_votes(core, host.node), 0)
        process.stir()

    # ---- processes ----

    def do_kill(self, for_us: int) -> bool:
        process = self._process()
        if not process.alive:
            return False
        process.die()
        self.cluster.restart_later(process)
        return True

    def do_kill_leader(self, for_us: int) -> bool:
        leader = self._leader()
        if leader is None:
            return False
        leader.die()
        self.cluster.restart_later(leader)
        return True

    def do_power_cut(self, for_us: int) -> bool:
        self.cluster.cut_power(self._node())
        return True

    def do_power_cut_all(self, for_us: int) -> bool:
        for node in self.cluster.nodes:
            self.cluster.cut_power(node)
        return True

    def do_mutiny(self, for_us: int) -> bool:
        """The leader is cut off while its lease runs, all others die, come back at once, and one campaigns."""
        group = self.world.rng.choice(list(self.cluster.groups))
        leader = self.cluster.leader(group)
        if leader is None:
            return False
        self._block(self.cluster.network.across({leader.node}), for_us)
        others = [host for host in self.cluster.hosts(group) if host is not leader and host.alive and not host.hung]
        for host in others:
            host.resume()
            host.die()
            self.world.after(self.world.between(1_000, 40_000), self.cluster.restart, host, host.life)
        for at in range(100_000, 700_000, 100_000):
            if others:
                self.world.after(at, self._campaign, self.world.rng.choice(others), group)
        return True

    def _campaign(self, process: Process, group: int) -> None:
        if self.active and process.alive and not process.paused and group in process.machine.groups:
            process.machine.core(group).campaign(process.now())
            process.stir()

    def do_pause(self, for_us: int) -> bool:
        """SIGSTOP, or a machine suspended: time goes on without it. Between two rounds of its loop, or in one that has
        read the clock and done nothing yet."""
        process = self._leader() if self.world.chance(0.5) else self._process()
        if process is None or not process.alive or process.paused or process.stops_for_us:
            return False
        if self.world.chance(0.5):
            process.pause(for_us)
        else:
            process.stops_for_us = for_us
        return True

    # ---- disks ----

    def do_slow_disk(self, for_us: int) -> bool:
        process = self._leader() or self._process()
        process.slow_until = self.world.now_us + for_us
        return True

    def do_hang_disk(self, for_us: int) -> bool:
        process = self._process()
        if not process.alive or process.hung:
            return False
        process.hung = True
        self.world.after(for_us, self._unhang, process, process.life)
        return True

    def _unhang(self, process: Process, life: int) -> None:
        if process.life == life:
            process.unhang()

    def do_full_disk(self, for_us: int) -> bool:
        """Below the free-space floor: proposals are refused, the reserve still serves votes and markers."""
        process = self._process()
        if not process.alive:
            return False
        process.log.full = True
        self.world.after(for_us, self._emptied, process, process.life)
        return True

    def _emptied(self, process: Process, life: int) -> None:
        if process.life == life and process.alive:
            process.log.full = False

    def do_misdirect(self, for_us: int) -> bool:
        return self._damage(True)

    def do_rot(self, for_us: int) -> bool:
        return self._damage(False)

    def _damage(self, misdirect: bool) -> bool:
        """A write that went elsewhere, or rot: found when the process starts again."""
        process = self._process()
        if not process.alive or not self._may_harm(process):
            return False
        if not process.disk.damage(lambda n: self.world.between(0, n - 1), misdirect):
            return False
        process.die()
        self.cluster.restart_later(process)
        return True

    def do_forget(self, for_us: int) -> bool:
        """Rot takes the hard states of a process and nothing else: found when it starts again. At times just when it
        has voted, while its candidate waits for other votes and the leader makes another candidate."""
        group = self.world.rng.choice(list(self.cluster.groups))
        leader = self.cluster.leader(group)
        others = [host for host in self.cluster.hosts(group) if host is not leader and self._is_whole(host, group)]
        if leader is None or len(others) < 4 or self.world.chance(0.3):
            return self._forget(self._process())
        voter, first, second, _ = self.world.rng.sample(others, 4)
        network, now_us = self.cluster.network, self.world.now_us
        network.clog([link for link in network.out_of(first.node) if link[1] != voter.node], now_us + 700_000)
        self._block([(voter.node, leader.node)], 60_000)  # the leader does not learn of the term
        core = leader.machine.core(group)
        if core.transfer(leader.now(), first.node) is None:
            late = TimeoutNow(group, leader.node, core.replica, second.node, core.members[second.node], core.term)
            self.world.after(600_000, self._hand_over, leader, late, second)
        leader.stir()
        self.world.after(50_000, self._forget, voter)
        return True

    def _forget(self, process: Process) -> bool:
        if not self.active or not process.alive or not self._may_harm(process):
            return False
        process.forgets = True
        process.die()
        self.world.after(self.world.between(1_000, 40_000), self.cluster.restart, process, process.life)
        return True

    def _hand_over(self, leader: Process, late: TimeoutNow, to: Process) -> None:
        """A frame of an earlier transfer of the same leader, which was not taken over in time. Only one that the leader
        knows to be under way: its lease ended with it."""
        core = leader.machine.groups.get(late.group)
        if core is None or not (core.term > late.term or core.lease_dropped):
            return
        if self.active and leader.alive and to.alive:
            self.cluster.network.clog([(to.node, leader.node)], self.world.now_us + 300_000)
            to.deliver(leader, leader.generation, [late], 0)

    def do_suspect(self, for_us: int) -> bool:
        """A scrub finds damage in what a running replica has."""
        process = self._process()
        groups = list(process.machine.groups) if process.alive and not process.paused else []
        if not groups or not self._may_harm(process):
            return False
        process.machine.core(self.world.rng.choice(groups)).quarantine_now(process.now(), "a scrub found damage")
        process.stir()
        return True

    def do_wipe(self, for_us: int) -> bool:
        """The directory is lost. The node comes back under a new incarnation: its old replicas never live again."""
        process = self._process()
        if not process.alive or not process.logs or not self._may_harm(process):
            return False
        process.die()
        process.life += 1
        for group, log in process.logs.items():
            process.tombstones[group] = max(log.replica, process.tombstones.get(group, -1))
        process.founded.clear()
        process.present.clear()
        process.disk = SimDisk()
        process.logs = {}
        self.cluster.restart_later(process)
        return True

    def _may_harm(self, process: Process) -> bool:
        """Would every group keep a majority of whole voters, and is no change under way that counts on this one?"""
        for group in process.logs:
            hosts = self.cluster.hosts(group)
            voters = self._voters(group)
            if not voters:
                return False
            whole = [host for host in hosts if host is not process and self._is_whole(host, group)]
            for part in voters:
                if part and 2 * sum(host.node in part for host in whole) <= len(part):
                    return False
        return True

    def _voters(self, group: int) -> list[set[int]]:
        """Voters and outgoing voters of every configuration that any live replica believes in."""
        found = []
        for host in self.cluster.hosts(group):
            core = host.machine.groups.get(group) if host.alive else None
            if core is not None:
                for part in (core.configs[-1][1].voters, core.configs[-1][1].outgoing):
                    found.append({member.node for member in part})
        return found

    def _is_whole(self, host: Process, group: int) -> bool:
        core = host.machine.groups.get(group) if host.alive else None
        return core is not None and not core.quarantine and not host.logs[group].quarantined

    # ---- the operator ----

    def do_transfer(self, for_us: int) -> bool:
        group = self.world.rng.choice(list(self.cluster.groups))
        leader = self.cluster.leader(group)
        if leader is None:
            return False
        core = leader.machine.core(group)
        voters = [member.node for member in core.configs[-1][1].voters if member.node != leader.node]
        if not voters:
            return False
        refused = core.transfer(leader.now(), self.world.rng.choice(voters))
        leader.stir()
        return refused is None

    def do_campaign(self, for_us: int) -> bool:
        """Somebody starts an election that nobody needs."""
        process = self._process()
        groups = list(process.machine.groups) if process.alive and not process.paused else []
        if not groups:
            return False
        self._campaign(process, self.world.rng.choice(groups))
        return True

    def do_membership(self, for_us: int) -> bool:
        """One step of change: what heals the group first, else at random."""
        group = self.world.rng.choice(list(self.cluster.groups))
        leader = self.cluster.leader(group)
        if leader is None or leader.paused:
            return False
        core = leader.machine.core(group)
        change = self.change(group, core.configs[-1][1], leader.node)
        if change is None:
            return False
        result = core.propose_config(leader.now(), change)
        leader.stir()
        return isinstance(result, tuple)

    def change(self, group: int, configuration: Any, leader: int) -> ConfigChange | None:
        """The next step towards enough voters on whole nodes; with enough of them, something else."""
        target = self.cluster.spec.cluster.voters
        voters = {member.node: member.replica for member in configuration.voters}
        learners = {member.node: member.replica for member in configuration.learners}
        gone = [node for node, replica in {**voters, **learners}.items() if self._is_gone(group, node, replica)]
        spare = [node for node in self.cluster.nodes if node not in voters and node not in learners]
        whole = {host.node for host in self.cluster.hosts(group) if self._is_whole(host, group)}
        caught_up = [node for node in learners if node in self.cluster.caught_up[group] and node in whole]
        if gone and (len(voters) > 1 or gone[0] not in voters):
            return ConfigChange(remove=(gone[0],))  # type: ignore[arg-type]
        if caught_up and len(voters) < target + 2:
            self.cluster.caught_up[group].discard(caught_up[0])
            return ConfigChange(promote=(caught_up[0],))
        if len(voters) + len(learners) < target and spare:
            return ConfigChange(add_learners=(self.world.rng.choice(spare),))  # type: ignore[arg-type]
        if not self.active or not self._all_whole(group, voters):
            return None
        return self._random_change(voters, learners, spare)

    def _all_whole(self, group: int, voters: Any) -> bool:
        """An operator takes no voter away while another one is damaged: what is left might not be a majority."""
        return all(self._is_whole(host, group) for host in self.cluster.hosts(group) if host.node in voters)

    def _random_change(self, voters: Any, learners: Any, spare: list[int]) -> ConfigChange | None:
        kind, rng = self.world.between(0, 4), self.world.rng
        if kind == 0 and len(voters) > 1:
            return ConfigChange(remove=(rng.choice(list(voters)),))
        if kind == 1 and len(voters) > 1:
            return ConfigChange(demote=(rng.choice(list(voters)),))
        if kind == 2 and learners and spare and len(voters) > 1:
            swap = (rng.choice(list(learners)),)
            out = (rng.choice(list(voters)),)
            return ConfigChange(promote=swap, remove=out, add_learners=(rng.choice(spare),))  # type: ignore[arg-type]
        if kind == 3 and learners:
            return ConfigChange(remove=(rng.choice(list(learners)),))
        if spare:
            return ConfigChange(add_learners=(rng.choice(spare),))  # type: ignore[arg-type]
        return None

    def _is_gone(self, group: int, node: int, replica: int) -> bool:
        process = self.cluster.process(node, self.cluster.worker_of(group))
        return process.tombstones.get(group, -1) >= replica

    # ---- picking ----

    def _node(self) -> int:
        return self.world.between(1, len(self.cluster.nodes))

    def _process(self) -> Process:
        return self.cluster.process(self._node(), self.world.between(0, self.cluster.spec.cluster.workers - 1))

    def _leader(self) -> Process | None:
        return self.cluster.leader(self.world.rng.choice(list(self.cluster.groups)))
