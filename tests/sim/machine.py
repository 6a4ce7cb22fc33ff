"""MultiRaft as a simulated process uses it, and its sessions with other processes.

A session stands when both processes live and have greeted each other; it ends when one of them dies and the other has
noticed, which may take long, or not at all before the new process greets. Invariant: nothing here decides anything that
multiraft decides.
"""

import random
from typing import Any

import msgspec

from nodedb_node.multiraft.core import MultiConfig, MultiRaft
from nodedb_node.multiraft.messages import Turn
from nodedb_node.raft.core import Raft
from nodedb_node.raft.messages import GroupConfig, Restored
from tests.sim.transfers import LIMITS


class Machine:
    """The coordinator of one life of a process."""

    def __init__(
        self, node: int, settings: GroupConfig, generation: int, groups_per_turn: int, rng: random.Random, now_us: int
    ) -> None:
        pattern = msgspec.structs.replace(settings, node=node)
        config = MultiConfig(pattern, generation, groups_per_turn=groups_per_turn, snapshots=LIMITS)
        self.multi = MultiRaft(config, {}, rng, now_us)
        self.groups: dict[int, Raft] = {}
        self.peers: dict[int, int] = {}  # with a session → generation

    def add_group(self, now_us: int, group: int, replica: int, restored: Restored) -> None:
        self.multi.add_group(group, replica, restored, now_us)  # type: ignore[arg-type]
        self.groups[group] = self.multi.raft(group)  # type: ignore[arg-type]
        self.core(group)

    def remove_group(self, now_us: int, group: int) -> None:
        self.multi.remove_group(now_us, group)  # type: ignore[arg-type]
        del self.groups[group]

    def core(self, group: int) -> Raft:
        """To call what multiraft has no verb for; the next turn looks at the group."""
        self.multi._touch(group)  # type: ignore[arg-type]
        return self.groups[group]

    def step(self, now_us: int, peer: int, generation: int, inbound: list[Any]) -> None:
        if generation > self.peers.get(peer, 0):
            self.lane_up(now_us, peer, generation)
        self.multi.step(now_us, peer, inbound)  # type: ignore[arg-type]

    def step_bulk(self, now_us: int, peer: int, inbound: list[Any]) -> None:
        self.multi.step_bulk(now_us, peer, inbound)  # type: ignore[arg-type]

    def lane_up(self, now_us: int, peer: int, generation: int) -> None:
        if generation >= self.peers.get(peer, 0):
            self.peers[peer] = generation
            self.multi.lane_up(now_us, peer, generation)  # type: ignore[arg-type]

    def lane_down(self, now_us: int, peer: int, generation: int) -> None:
        if self.peers.get(peer) == generation:
            self.multi.lane_down(now_us, peer)  # type: ignore[arg-type]

    def tick(self, now_us: int, write_age_us: int) -> None:
        self.multi.disk_age(now_us, write_age_us)
        self.multi.tick(now_us)

    @property
    def busy(self) -> bool:
        """Some group may have something to hand out."""
        return bool(self.multi._busy)

    def take_turn(self, now_us: int) -> Turn | None:
        turn = self.multi.take_turn(now_us)
        if turn is not None:
            for raft, _ in self.multi._flying[-1][1]:
                raft.check_invariants()
        return turn
