"""Random walks of a few replicas: loss, duplicates, reordering, cuts, crashes, slow disks, changes of membership.

A small cousin of tests/sim that finds most defects of the core in seconds. Group checks after each call: invariants,
one leader per term, the same entry at each committed index, each delivered once and in order.
"""

import os
import random

import pytest

from nodedb_node.ids import NodeNumber
from nodedb_node.raft.messages import ConfigChange, Ready, Role, SnapshotOffered
from tests.raft.group import MS, Group

SEED = int(os.environ.get("NODEDB_TEST_SEED", "1"))
SMALL = {"batch_bytes_max": 40, "inflight_bytes_max": 100, "inflight_messages_max": 3}


class Walk:
    """One walk over a group, drawing what happens next."""

    def __init__(self, seed: int, voters: int) -> None:
        self.rng = random.Random(seed)
        self.group = Group(voters, **SMALL)
        self.group.on_ready = self.snapshots
        self.proposed = 0
        self.loss = self.rng.choice((0.0, 0.05, 0.2))

    def step(self) -> None:
        draw = self.rng.random()
        group, rng = self.group, self.rng
        if draw < 0.45:
            self.deliver()
        elif draw < 0.60:
            self.turn(rng.choice(list(group.replicas)))
        elif draw < 0.75:
            self.propose()
        elif draw < 0.90:
            group.advance(rng.randrange(1, 200) * MS)
        elif draw < 0.94:
            group.beat()
        else:
            self.trouble()

    def turn(self, node: int) -> None:
        replica = self.group.replicas[node]
        if replica.alive:
            self.group.take(node)
            if self.rng.random() < 0.7:
                self.group.persist(node)

    def snapshots(self, node: int, ready: Ready) -> None:
        raft = self.group[node]
        for wanted in ready.snapshots:
            index = raft.applied
            refusal = raft.offer_snapshot(self.group.now_us, wanted.node, index, raft.log.term(index))
            if refusal is not None:
                raft.snapshot_failed(self.group.now_us, wanted.node)
        for event in ready.events:
            if isinstance(event, SnapshotOffered):
                if self.rng.random() < 0.8:
                    raft.snapshot_installed(self.group.now_us, event.offer)
                else:
                    raft.snapshot_refused(self.group.now_us, event.offer)

    def deliver(self) -> None:
        network = self.group.network
        if network:
            message = network.pop(self.rng.randrange(len(network)) if self.rng.random() < 0.3 else 0)
            if self.rng.random() < 0.05:
                network.append(message)
            if self.rng.random() >= self.loss:
                self.group.deliver(message)
            del network[:-200]

    def propose(self) -> None:
        for node, replica in self.group.replicas.items():
            if replica.alive and replica.raft.role == Role.LEADER:
                self.proposed += 1
                self.group.propose(node, f"p{self.proposed}", self.rng.randrange(0, 50))
                if self.rng.random() < 0.2:
                    replica.raft.read(self.group.now_us, self.proposed)

    def trouble(self) -> None:
        group, rng = self.group, self.rng
        node = rng.choice(list(group.replicas))
        kind = rng.randrange(7)
        if kind == 0 and group.replicas[node].alive and self.down() < (len(group.replicas) - 1) // 2:
            group.crash(node)
        elif kind == 1 and not group.replicas[node].alive:
            group.restart(node)
        elif kind == 2:
            group.cut.add((node, rng.choice(list(group.replicas))))
        elif kind == 3:
            group.cut.clear()
        elif kind == 4 and group.replicas[node].alive:
            self.compact(node)
        elif kind == 5:
            self.change()
        elif kind == 6 and group.replicas[node].alive and group[node].role == Role.LEADER:
            group[node].transfer(group.now_us, NodeNumber(rng.choice(list(group.replicas))))

    def down(self) -> int:
        return sum(not replica.alive for replica in self.group.replicas.values())

    def compact(self, node: int) -> None:
        raft, disk = self.group[node], self.group.replicas[node].disk
        index = min(raft.applied, disk.last)
        if index > disk.mark_index and index > raft.log.mark_index and not self.group.replicas[node].unsynced:
            disk.compact(index, raft.configuration_at(index))
            disk.applied = index
            raft.compacted(index)

    def change(self) -> None:
        """Learners come, are promoted; voters are demoted or leave and may come again as new replicas."""
        group, rng = self.group, self.rng
        for node, replica in list(group.replicas.items()):
            raft = replica.raft
            if not replica.alive or raft.role != Role.LEADER:
                continue
            current = raft.configs[-1][1]
            voters = [member.node for member in current.voters]
            learners = tuple(member.node for member in current.learners)
            others = [NodeNumber(n) for n in range(1, 6) if n not in voters and n not in learners]
            if others and rng.random() < 0.4:
                change = ConfigChange(add_learners=(rng.choice(others),))
            elif learners:
                leaving = (rng.choice(voters),) if len(voters) > 2 and rng.random() < 0.5 else ()
                change = ConfigChange(promote=learners, remove=leaving)
            else:
                change = ConfigChange(demote=(rng.choice(voters),))
            result = raft.propose_config(group.now_us, change)
            if isinstance(result, tuple):
                for added in change.add_learners:
                    group.network = [m for m in group.network if added not in (m.sender, m.receiver)]
                    group.add(added, replica=result[0])
            group.check(node)

    def heal(self) -> None:
        """Everything works again: the group must too."""
        group = self.group
        group.cut.clear()
        for node, replica in list(group.replicas.items()):
            if not replica.alive:
                group.restart(node)
        self.loss = 0.0
        for _ in range(150):
            group.run(200 * MS)


@pytest.mark.parametrize("number", range(30))
def test_walk(number: int) -> None:
    seed = SEED * 1000 + number
    walk = Walk(seed, voters=1 + number % 5)
    for _ in range(1500):
        walk.step()
        for node in walk.group.replicas:
            walk.group.check(node)
    walk.heal()
    leader = walk.group.leader
    assert isinstance(walk.group.propose(leader.node, "last"), tuple), f"seed {seed}: no service after healing"
    walk.group.run(1000 * MS)
    members = set(leader.members)
    behind = [n for n in members if "last" not in walk.group.data(n)]
    assert not behind, f"seed {seed}: members {behind} do not catch up"
