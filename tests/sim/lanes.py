"""The coordinator's twin: the groups of one process on the bare core, with liveness per lane, and no more than that.

It exists so that raft/ is searched for faults without multiraft/: one heartbeat per peer with the whole set each time,
one message list per peer and turn. It has the same methods and the same Turn as the simulator's adapter of multiraft.
Invariant: contact counts for a group only as 03-consensus.md says: in the acknowledged set, at the current term,
without exception.
"""

import random
from typing import Any, NamedTuple

import msgspec

from nodedb_node.raft import messages
from nodedb_node.raft.core import Raft
from nodedb_node.raft.messages import GroupConfig, Message, Restored, Role


class Heartbeat(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=20):
    """groups: (group, term) of every group led by the sender that the receiver belongs to."""

    number: int
    groups: tuple[tuple[int, int], ...]


class Ack(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=21):
    """exceptions: (group, own term) of those that do not count."""

    number: int
    exceptions: tuple[tuple[int, int], ...]


LaneMessage = Message | Heartbeat | Ack


class Turn(NamedTuple):
    """One process's outputs. records: (group, record), in order; messages by peer."""

    number: int
    records: list[tuple[int, Any]]
    after: dict[int, list[Any]]
    free: dict[int, list[Any]]
    committed: list[tuple[int, int, int]]
    reads: list[tuple[int, Any]]
    failures: list[tuple[int, Any]]
    snapshots: list[tuple[int, Any]]
    events: list[tuple[int, Any]]


class GroupContacts:
    """messages.Contacts of one group."""

    def __init__(self) -> None:
        self.heard: dict[int, int] = {}
        self.acked: dict[int, int] = {}
        self.promised = 0

    def heard_us(self, leader: int) -> int:
        return self.heard.get(leader, 0)

    def acked_us(self, peer: int) -> int:
        return self.acked.get(peer, 0)

    def promised_us(self) -> int:
        return self.promised


class LanePeer:
    """What is known of one peer's lane."""

    def __init__(self) -> None:
        self.generation = 0
        self.heard_us = 0
        self.alive = False
        self.set: frozenset[int] = frozenset()
        self.sent: dict[int, tuple[int, dict[int, int]]] = {}  # heartbeat number -> (send time, group -> term)


class LaneTwin:
    """All groups of one process."""

    def __init__(self, node: int, settings: GroupConfig, rng: random.Random) -> None:
        self.node, self.settings, self.rng = node, settings, rng
        self.groups: dict[int, Raft] = {}
        self.contacts: dict[int, GroupContacts] = {}
        self.peers: dict[int, LanePeer] = {}
        self.deadlines: dict[int, int] = {}
        self.number = self.turn = 0
        self.beat_us = 0
        self.beat_wanted = False
        self.dirty: dict[int, None] = {}  # groups whose core was touched since the last turn, in that order
        self.free: dict[int, list[Any]] = {}
        self.readies: list[tuple[int, dict[int, int]]] = []  # turn -> number of each group's Ready

    # ---- groups ----

    def add_group(self, now_us: int, group: int, replica: int, restored: Restored) -> None:
        config = msgspec.structs.replace(self.settings, group=group, node=self.node, replica=replica)
        self.contacts[group] = GroupContacts()
        self.groups[group] = Raft(config, restored, self.contacts[group], self.rng, now_us)
        self.touch(group)

    def remove_group(self, group: int) -> None:
        for table in (self.groups, self.contacts, self.deadlines, self.dirty):
            table.pop(group, None)  # type: ignore[attr-defined]

    def core(self, group: int) -> Raft:
        """To call a method of the core; the next turn takes what comes of it."""
        self.touch(group)
        return self.groups[group]

    def touch(self, group: int) -> None:
        self.dirty[group] = None

    # ---- in ----

    def step(self, now_us: int, peer: int, generation: int, inbound: list[Any]) -> None:
        lane = self.peers.setdefault(peer, LanePeer())
        if generation > lane.generation:
            self._restarted(now_us, peer, lane, generation)
        for message in inbound:
            kind = type(message)
            if kind is Heartbeat:
                if generation == lane.generation:
                    self._on_heartbeat(now_us, peer, lane, message)
            elif kind is Ack:
                if generation == lane.generation:
                    self._on_ack(now_us, peer, lane, message)
            elif message.group in self.groups and message.receiver == self.node:
                self.core(message.group).step(now_us, message)

    def _restarted(self, now_us: int, peer: int, lane: LanePeer, generation: int) -> None:
        first = lane.generation == 0
        lane.generation, lane.set, lane.alive = generation, frozenset(), False
        lane.sent.clear()
        if first:
            return
        for group in list(self.groups):
            core = self.core(group)
            core.lane_lost(now_us, peer, 0)
            core.peer_restarted(now_us, peer)

    def _on_heartbeat(self, now_us: int, peer: int, lane: LanePeer, beat: Heartbeat) -> None:
        lane.heard_us, lane.alive = now_us, True
        exceptions = []
        for group, term in beat.groups:
            core = self.groups.get(group)
            if core is None:
                exceptions.append((group, 0))
            elif core.term != term or core.leader != peer or core.quarantine:
                exceptions.append((group, core.term))
            else:
                contacts = self.contacts[group]
                contacts.heard[peer] = now_us
                contacts.promised = now_us + self.settings.election_min_us
                self.touch(group)
        named = frozenset(group for group, _ in beat.groups)
        for group in sorted(lane.set - named):
            if group in self.groups:
                self.core(group).lane_lost(now_us, peer, 0)
        lane.set = named
        self._send(peer, Ack(beat.number, tuple(exceptions)))

    def _on_ack(self, now_us: int, peer: int, lane: LanePeer, ack: Ack) -> None:
        sent = lane.sent.pop(ack.number, None)
        if sent is None:
            return
        sent_us, terms = sent
        exceptions = dict(ack.exceptions)
        for group, term in terms.items():
            core = self.groups.get(group)
            if core is None or core.role is not Role.LEADER or core.term != term:
                continue
            if group not in exceptions:
                acked = self.contacts[group].acked
                acked[peer] = max(sent_us, acked.get(peer, 0))
                self.core(group).contact(now_us)
            else:
                self.core(group).lane_exception(now_us, peer, exceptions[group])

    # ---- time ----

    def tick(self, now_us: int) -> None:
        for group, core in self.groups.items():
            due = core.next_deadline_us()
            if due is not None and due <= now_us:
                core.tick(now_us)
                self.touch(group)
        for peer, lane in self.peers.items():
            if lane.alive and now_us >= lane.heard_us + self.settings.election_min_us:
                lane.alive = False
                self._lane_died(now_us, peer)
        if now_us >= self.beat_us:
            self.beat(now_us)

    def _lane_died(self, now_us: int, peer: int) -> None:
        rank = 0
        for group in list(self.groups):
            self.core(group).lane_lost(now_us, peer, rank)
            rank += 1

    def beat(self, now_us: int) -> None:
        """One heartbeat to every peer that belongs to a group led here."""
        self.beat_us = now_us + self.settings.heartbeat_us
        by_peer: dict[int, list[tuple[int, int]]] = {}
        for group, core in self.groups.items():
            if core.role is Role.LEADER:
                for peer in core.members:
                    if peer == self.node:
                        continue
                    by_peer.setdefault(peer, []).append((group, core.term))
        for peer, groups in by_peer.items():
            lane = self.peers.setdefault(peer, LanePeer())
            self.number += 1
            lane.sent[self.number] = (now_us, dict(groups))
            if len(lane.sent) > 64:
                del lane.sent[next(iter(lane.sent))]
            self._send(peer, Heartbeat(self.number, tuple(groups)))

    def next_deadline_us(self) -> int | None:
        due = list(self.deadlines.values())
        due += [lane.heard_us + self.settings.election_min_us for lane in self.peers.values() if lane.alive]
        due.append(self.beat_us)
        return min(due)

    # ---- out ----

    def _send(self, peer: int, message: Any) -> None:
        self.free.setdefault(peer, []).append(message)

    def take_turn(self, now_us: int) -> Turn | None:
        """Everything the cores want since the last turn; None: nothing."""
        numbers: dict[int, int] = {}
        after: dict[int, list[Any]] = {}
        free, self.free = self.free, {}
        turn = Turn(self.turn + 1, [], after, free, [], [], [], [], [])
        dirty, self.dirty = self.dirty, {}
        for group in dirty:
            core = self.groups.get(group)
            if core is not None:
                self._take(group, core, turn, numbers)
                core.check_invariants()
        if self.beat_wanted:
            self.beat_wanted = False
            self.beat(now_us)
            for peer, extra in self.free.items():
                free.setdefault(peer, []).extend(extra)
            self.free = {}
        if not numbers and not free:
            return None
        self.turn += 1
        self.readies.append((self.turn, numbers))
        return turn

    def _take(self, group: int, core: Raft, turn: Turn, numbers: dict[int, int]) -> None:
        ready = core.take_ready()
        while ready is not None:
            numbers[group] = ready.number
            turn.records.extend([(group, record) for record in ready.records])
            for target, batch in ((turn.after, ready.after), (turn.free, ready.free)):
                for message in batch:
                    target.setdefault(message.receiver, []).append(message)
            if ready.committed:
                turn.committed.append((group, *ready.committed))
            turn.reads.extend([(group, state) for state in ready.read_states])
            turn.failures.extend([(group, failure) for failure in ready.read_failures])
            turn.snapshots.extend([(group, wanted) for wanted in ready.snapshots])
            turn.events.extend([(group, event) for event in ready.events])
            self.beat_wanted |= ready.want_heartbeat
            ready = core.take_ready()
        due = core.next_deadline_us()
        if due is None:
            self.deadlines.pop(group, None)
        else:
            self.deadlines[group] = due

    def persisted(self, now_us: int, number: int) -> None:
        """Turn `number` and all before it are durable."""
        newest: dict[int, int] = {}
        while self.readies and self.readies[0][0] <= number:
            newest.update(self.readies.pop(0)[1])
        for group, ready in newest.items():
            if group in self.groups:
                self.core(group).persisted(now_us, ready)


assert messages.NOBODY == 0, "the twin takes 0 for no node"
