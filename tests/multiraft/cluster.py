"""Whole processes of MultiRaft in virtual time, with lanes that can be cut: the least that the unit tests of this
directory need. Disks are instant unless held; faults of every kind are tests/sim's."""

import random
from collections import defaultdict
from typing import Any

import msgspec

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.core import MultiConfig, MultiRaft
from nodedb_node.multiraft.messages import LaneAck, LaneHeartbeat, Turn
from nodedb_node.raft.configuration import founding
from nodedb_node.raft.messages import (
    FOUNDER,
    Append,
    AppendEntries,
    Entry,
    GroupConfig,
    HardState,
    Restored,
    Role,
    Truncate,
)

STEP_US = 10_000


class Process:
    """One process and what its disk would hold."""

    def __init__(self, cluster: "Cluster", node: int, generation: int = 1) -> None:
        self.node, self.generation = NodeNumber(node), generation
        self.hard: dict[int, HardState] = {}
        self.entries: dict[int, list[Entry]] = defaultdict(list)
        self.committed: dict[int, int] = defaultdict(int)
        self.turns: list[Turn] = []
        self.held: list[Turn] = []  # not durable
        self.disk_waits = False
        self.start(cluster)

    def start(self, cluster: "Cluster") -> None:
        pattern = GroupConfig(group=GroupId(0), node=self.node)
        rows = {GroupId(group): (FOUNDER, self.restored(cluster, group)) for group in cluster.groups_of[self.node]}
        config = MultiConfig(pattern, self.generation, **cluster.options)
        self.multi = MultiRaft(config, rows, random.Random(self.node * 100 + self.generation), cluster.now_us)

    def restored(self, cluster: "Cluster", group: int) -> Restored:
        hard = self.hard.get(group, HardState(0, NodeNumber(0), FOUNDER))
        return Restored(
            term=hard.term,
            vote=hard.vote,
            vote_replica=hard.vote_replica,
            configuration=founding(cluster.members[group]),
            entries=tuple(self.entries[group]),
            applied=self.committed[group],
            promised=self.generation > 1,
        )


class Cluster:
    """Nodes 1..n; every group on all of them unless `members` says otherwise."""

    def __init__(self, nodes: int, groups: int, **options: Any) -> None:
        self.now_us = 1_000_000
        self.options = options
        everyone = [NodeNumber(node) for node in range(1, nodes + 1)]
        self.members = dict.fromkeys(range(groups), everyone)
        self.groups_of = {node: list(range(groups)) for node in everyone}
        self.cut: set[tuple[int, int]] = set()
        self.frames: dict[tuple[int, int], list[Any]] = defaultdict(list)  # sent in this step
        self.sent: list[tuple[int, int, list[Any]]] = []  # all frames since it was last emptied
        self.processes = {node: Process(self, node) for node in everyone}
        for process in self.processes.values():
            for peer in everyone:
                if peer != process.node:
                    process.multi.lane_up(self.now_us, peer, 1)

    # ---- life ----

    def run(self, us: int) -> None:
        end = self.now_us + us
        while self.now_us < end:
            self.step()

    def until(self, done: Any, us: int = 20_000_000) -> None:
        end = self.now_us + us
        while not done():
            assert self.now_us < end, "not within the time"
            self.step()

    def step(self) -> None:
        self.now_us += STEP_US
        for process in self.processes.values():
            due = process.multi.next_deadline_us()
            if due is not None and due <= self.now_us:
                process.multi.tick(self.now_us)
            self.pump(process)
        for _ in range(4):  # answers of answers within the step
            self.deliver()

    def pump(self, process: Process) -> None:
        while (turn := process.multi.take_turn(self.now_us)) is not None:
            process.turns.append(turn)
            process.held.append(turn)
            self.send(process, turn.free)
            if not process.disk_waits:
                self.sync(process)

    def sync(self, process: Process) -> None:
        """Everything taken so far is durable."""
        for turn in process.held:
            for row in turn.records:
                self.store(process, row.group, row.record)
        if process.held:
            process.multi.persisted(self.now_us, process.held[-1].number)
        for turn in process.held:
            self.send(process, turn.after)
            for group, first, last in turn.committed:
                assert first == process.committed[group] + 1
                process.committed[group] = last
                process.multi.applied(group, last)
        process.held = []

    def store(self, process: Process, group: int, record: Any) -> None:
        entries = process.entries[group]
        if isinstance(record, HardState):
            process.hard[group] = record
        elif isinstance(record, Truncate):
            del entries[record.last :]
        elif isinstance(record, Append):
            assert record.first == len(entries) + 1
            entries += record.entries

    def send(self, process: Process, messages: dict[NodeNumber, list[Any]]) -> None:
        for peer, frame in messages.items():
            full = [self.attach(process, message) for message in frame]
            self.sent.append((process.node, peer, full))
            if (process.node, peer) not in self.cut:
                self.frames[process.node, peer] += full

    def attach(self, process: Process, message: Any) -> Any:
        """The encoder's part: payloads of the entries that an append names."""
        if not isinstance(message, AppendEntries):
            return message
        unwritten = {
            index: entry
            for turn in process.held
            for row in turn.records
            if row.group == message.group and isinstance(row.record, Append)
            for index, entry in enumerate(row.record.entries, row.record.first)
        }
        stored = process.entries[message.group]
        rows = [
            unwritten[index] if index in unwritten else stored[index - 1]
            for index in range(message.prev_index + 1, message.last_index + 1)
        ]
        return msgspec.structs.replace(message, entries=tuple(rows))

    def deliver(self) -> None:
        frames, self.frames = self.frames, defaultdict(list)
        for (sender, receiver), frame in frames.items():
            process = self.processes.get(NodeNumber(receiver))
            if process is not None:
                process.multi.step(self.now_us, NodeNumber(sender), frame)
        for process in self.processes.values():
            self.pump(process)

    # ---- faults ----

    def isolate(self, node: int) -> None:
        for other in self.processes:
            if other != node:
                self.cut |= {(node, other), (other, node)}

    def heal(self) -> None:
        self.cut.clear()

    def restart(self, node: int) -> Process:
        process = self.processes[NodeNumber(node)]
        process.held, process.generation = [], process.generation + 1
        process.start(self)
        for peer, other in self.processes.items():
            if peer != node:
                process.multi.lane_up(self.now_us, peer, other.generation)
                other.multi.lane_down(self.now_us, NodeNumber(node))
                other.multi.lane_up(self.now_us, NodeNumber(node), process.generation)
        return process

    # ---- looking ----

    def leader(self, group: int) -> int | None:
        """Who leads in the newest term."""
        found = [
            (p.multi.raft(GroupId(group)).term, p.node)
            for p in self.processes.values()
            if group in p.multi.groups() and p.multi.raft(GroupId(group)).role == Role.LEADER
        ]
        return max(found)[1] if found else None

    def led(self) -> bool:
        """Every group has a leader that has committed in its term, and nobody is behind."""
        for group, members in self.members.items():
            leader = self.leader(group)
            if leader is None or not self.processes[NodeNumber(leader)].multi.raft(GroupId(group)).own_committed:
                return False
            ends = {len(self.processes[m].entries[group]) for m in members if m in self.processes}
            commits = {self.processes[m].committed[group] for m in members if m in self.processes}
            if len(ends) != 1 or commits != ends:
                return False
        return True

    def propose(self, group: int, data: bytes) -> tuple[int, int]:
        leader = self.leader(group)
        assert leader is not None
        process = self.processes[NodeNumber(leader)]
        (answer,) = process.multi.propose(self.now_us, [(GroupId(group), len(data), data)])
        assert isinstance(answer, tuple), answer
        return answer


def lane_messages(sent: list[tuple[int, int, list[Any]]]) -> list[Any]:
    return [message for _, _, frame in sent for message in frame if isinstance(message, LaneHeartbeat | LaneAck)]
