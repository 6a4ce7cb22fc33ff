"""What a leader's turn costs in the Raft core alone: groups on three nodes, null disk and network, one entry per turn.

    python -m tools.bench.raft_core [--groups 64] [--turns 2000]

Prints µs of CPU per group and per turn of all groups, median and worst decile, for the leader and for one follower.
A busy turn: the answers to the last one, its durability, one proposal, one Ready (commit and appends). A lone turn has
two Readys: the proposal, then answers and commit, which leave as an empty append.
"""

import argparse
import random
import statistics
import time
from typing import Any

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.core import Raft
from nodedb_node.raft.messages import AppendEntries, Entry, GroupConfig, Message, Restored

NODES = (1, 2, 3)
SIZE_BYTES = 1024
HEARTBEAT_US = 100_000


class Lanes:
    """Contacts as fresh as the clock."""

    def __init__(self) -> None:
        self.now_us = 0

    def heard_us(self, leader: NodeNumber) -> int:
        return self.now_us

    def watched(self, leader: NodeNumber) -> bool:
        return True

    def acked_us(self, peer: NodeNumber) -> int:
        return self.now_us

    def promised_us(self) -> int:
        return 0


class Bench:
    def __init__(self, groups: int) -> None:
        self.now_us = 1_000_000_000
        self.lanes = Lanes()
        founding = configurations.founding([NodeNumber(node) for node in NODES])
        self.groups = [
            {
                node: Raft(
                    GroupConfig(GroupId(group), NodeNumber(node)),
                    Restored(configuration=founding),
                    self.lanes,
                    random.Random(group),
                    self.now_us,
                )
                for node in NODES
            }
            for group in range(groups)
        ]
        for rafts in self.groups:
            rafts[NodeNumber(1)].campaign(self.now_us)
            self.settle(rafts)
            assert rafts[NodeNumber(1)].own_committed

    def settle(self, rafts: dict[int, Raft]) -> None:
        messages: list[Message] = []
        while True:
            for raft in rafts.values():
                while (ready := raft.take_ready()) is not None:
                    raft.persisted(self.now_us, ready.number)
                    messages += [*ready.free, *ready.after]
            if not messages:
                return
            for message in messages:
                rafts[message.receiver].step(self.now_us, filled(message))
            messages = []

    def busy(self, turns: int) -> tuple[list[float], list[float]]:
        """(leader, follower) seconds per turn of all groups."""
        leader_s, follower_s = [], []
        leaders = [rafts[1] for rafts in self.groups]
        inbound: list[list[Message]] = [[] for _ in leaders]
        numbers = [0] * len(leaders)
        for _ in range(turns):
            self.now_us += 1000
            self.lanes.now_us = now_us = self.now_us
            readies: list[Any] = []
            begin = time.perf_counter()
            for i, raft in enumerate(leaders):
                for message in inbound[i]:
                    raft.step(now_us, message)
                if numbers[i]:
                    raft.persisted(now_us, numbers[i])
                raft.propose(now_us, SIZE_BYTES)
                readies.append(raft.take_ready())
            leader_s.append(time.perf_counter() - begin)
            numbers = [ready.number for ready in readies]
            follower_s.append(self.follow(readies, inbound))
            self.compact()
        return leader_s, follower_s

    def follow(self, readies: list[Any], inbound: list[list[Message]]) -> float:
        """The followers' half; seconds one of the two takes."""
        messages = [filled(message) for ready in readies for message in ready.free]
        begin = time.perf_counter()
        answers = []
        for message in messages:
            raft = self.groups[message.group][message.receiver]
            raft.step(self.now_us, message)
            ready = raft.take_ready()
            assert ready is not None
            raft.persisted(self.now_us, ready.number)
            answers.append(ready.after)
        spent_s = (time.perf_counter() - begin) / 2
        for group in inbound:
            group.clear()
        for after in answers:
            for message in after:
                inbound[message.group].append(message)
        return spent_s

    def lone(self, turns: int) -> list[float]:
        """Leader's seconds per turn when each proposal is alone: proposed, answered, committed, told."""
        spent = []
        leaders = [rafts[1] for rafts in self.groups]
        for _ in range(turns):
            self.now_us += 1000
            self.lanes.now_us = self.now_us
            inbound: list[list[Message]] = [[] for _ in leaders]
            begin = time.perf_counter()
            readies = [self.proposed(raft) for raft in leaders]
            first_s = time.perf_counter() - begin
            self.follow(readies, inbound)
            begin = time.perf_counter()
            told = list(map(self.answered, leaders, inbound, readies))
            spent.append(first_s + time.perf_counter() - begin)
            self.follow(told, inbound)
            for raft, messages in zip(leaders, inbound, strict=True):
                for message in messages:
                    raft.step(self.now_us, message)
            self.compact()
        return spent

    def proposed(self, raft: Raft) -> Any:
        raft.propose(self.now_us, SIZE_BYTES)
        return raft.take_ready()

    def answered(self, raft: Raft, messages: list[Message], ready: Any) -> Any:
        for message in messages:
            raft.step(self.now_us, message)
        raft.persisted(self.now_us, ready.number)
        return raft.take_ready()

    def compact(self) -> None:
        for rafts in self.groups:
            for raft in rafts.values():
                raft.applied_to(raft.delivered)
                if raft.applied - raft.log.mark_index > 1000:
                    raft.compacted(raft.applied)


def filled(message: Message) -> Message:
    """An append with its entries, as the receiver's decoder hands it over."""
    if not isinstance(message, AppendEntries):
        return message
    entries = tuple(Entry(message.term, 1, SIZE_BYTES) for _ in range(message.last_index - message.prev_index))
    if message.last_index == 1:
        entries = (Entry(message.term, 0, 0, b""),)
    fields = [getattr(message, name) for name in message.__struct_fields__]
    fields[message.__struct_fields__.index("entries")] = entries
    return AppendEntries(*fields)


def row(name: str, seconds: list[float], groups: int) -> str:
    median, worst = statistics.median(seconds), sorted(seconds)[len(seconds) * 9 // 10]
    per_group = median / groups * 1e6
    return f"{name:10} {per_group:6.2f} µs per group   turn {median * 1e3:6.3f} ms median, {worst * 1e3:6.3f} ms p90"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=64)
    parser.add_argument("--turns", type=int, default=2000)
    arguments = parser.parse_args()
    bench = Bench(arguments.groups)
    leader_s, follower_s = bench.busy(arguments.turns)
    print(row("leader", leader_s, arguments.groups))
    print(row("follower", follower_s, arguments.groups))
    print(row("lone", bench.lone(arguments.turns // 2), arguments.groups))


if __name__ == "__main__":
    main()
