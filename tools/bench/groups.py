"""What Raft costs without disk and network: a leader's CPU per turn with many busy groups, a worker's with many idle
ones. Three processes of MultiRaft in one, handed each other's messages; only the measured one's time is counted."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.core import MultiConfig, MultiRaft
from nodedb_node.multiraft.messages import Turn
from nodedb_node.raft.configuration import founding
from nodedb_node.raft.messages import FOUNDER, AppendEntries, Entry, GroupConfig, Restored

NODES = (NodeNumber(1), NodeNumber(2), NodeNumber(3))
PAYLOAD = bytes(1024)
STEP_US = 100_000


class Busy(NamedTuple):
    """A leader's turns: proposals of every group, the sync, the acknowledgements, the commits."""

    groups: int
    turns: int
    leader_us_per_turn: float


class Idle(NamedTuple):
    """Per second of a cluster in which nothing happens; both roles of the measured process counted."""

    groups: int
    led: int
    core_percent: float
    messages_per_peer: float


class Three:
    """Three processes; node 1 leads what `led` names, node 2 the rest. `clock` counts node 1's time only."""

    def __init__(self, groups: int, led: int) -> None:
        self.now_us, self.clock_ns, self.messages = 1_000_000, 0, 0
        self.groups = [GroupId(group) for group in range(groups)]
        self.processes = {node: self._process(node) for node in NODES}
        for node, process in self.processes.items():
            for peer in NODES:
                if peer != node:
                    process.lane_up(self.now_us, peer, 1)
        for group in self.groups:
            leader = NODES[0] if group < led else NODES[1]
            self.processes[leader].campaign(self.now_us, group)
        for _ in range(20):
            self.settle()
        assert all(self.processes[NODES[0]].raft(group).leader for group in self.groups)

    def _process(self, node: NodeNumber) -> MultiRaft:
        config = GroupConfig(group=GroupId(0), node=node)
        restored = Restored(configuration=founding([*NODES]))
        rows = dict.fromkeys(self.groups, (FOUNDER, restored))
        return MultiRaft(MultiConfig(config, 1, groups_per_turn=4096), rows, random.Random(node), self.now_us)

    def timed(self, node: NodeNumber, work: Callable[..., Any], *arguments: Any) -> Any:
        if node != NODES[0]:
            return work(*arguments)
        began = time.thread_time_ns()
        result = work(*arguments)
        self.clock_ns += time.thread_time_ns() - began
        return result

    def settle(self) -> None:
        """Turns of all, until nobody has anything to say."""
        moved = True
        while moved:
            moved = False
            for node, process in self.processes.items():
                while (turn := self.timed(node, process.take_turn, self.now_us)) is not None:
                    moved = True
                    self._finish(node, process, turn)

    def _finish(self, node: NodeNumber, process: MultiRaft, turn: Turn) -> None:
        self.timed(node, process.persisted, self.now_us, turn.number)
        self.timed(node, applied, process, turn)
        for frames in (turn.free, turn.after):
            for peer, frame in frames.items():
                full = [attached(message) for message in frame]
                self.messages += node == NODES[0] or peer == NODES[0]
                self.timed(peer, self.processes[peer].step, self.now_us, node, full)


def applied(process: MultiRaft, turn: Turn) -> None:
    """One reading of the clock for all groups: it costs as much as the call."""
    for group, _, last in turn.committed:
        process.applied(group, last)


def attached(message: Any) -> Any:
    """Payloads, as the codec attaches them."""
    if not isinstance(message, AppendEntries) or message.last_index == message.prev_index:
        return message
    entry = Entry(message.term, 1 if message.prev_index else 0, len(PAYLOAD), PAYLOAD)
    return msgspec.structs.replace(message, entries=(entry,) * (message.last_index - message.prev_index))


def busy(groups: int, turns: int) -> Busy:
    """Every group proposes one batch of 1 KiB in every turn."""
    three = Three(groups, groups)
    leader = three.processes[NODES[0]]
    proposals = [(group, len(PAYLOAD), None) for group in three.groups]
    for turn in range(-20, turns):
        if turn == 0:
            three.clock_ns = 0
        three.now_us += 1_000
        three.timed(NODES[0], leader.propose, three.now_us, proposals)
        three.settle()
    assert all(leader.raft(group).commit >= turns for group in three.groups)
    return Busy(groups, turns, three.clock_ns / turns / 1000)


def idle(groups: int, seconds: int) -> Idle:
    """Half of the groups led by the measured process, half followed."""
    three = Three(groups, groups // 2)
    for second in range(-5, seconds):
        if second == 0:
            three.clock_ns = three.messages = 0
        for _ in range(1_000_000 // STEP_US):
            three.now_us += STEP_US
            for node, process in three.processes.items():
                due = three.timed(node, process.next_deadline_us)
                if due is not None and due <= three.now_us:
                    three.timed(node, process.tick, three.now_us)
            three.settle()
    percent = three.clock_ns / 1e9 / seconds * 100
    return Idle(groups, groups // 2, percent, three.messages / seconds / 2)
