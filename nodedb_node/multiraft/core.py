"""MultiRaft: the groups of one process behind one coordinator. Pure: messages, times and completions in, a Turn out.

One turn is at most one frame per peer at once and one when it is durable, whatever number of groups had something to
do, and the log takes all turns that wait in one append; a group where nothing happened is not looked at. Invariants:
what a group promises by its records leaves only in the `after` of the turn that holds them; groups are served in the
order in which they became busy, at most groups_per_turn of them at a time, and heartbeats go out before any of them.
The rules of one group are nodedb_node.raft's, those of liveness lanes.py's.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

import msgspec

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.marks import mark
from nodedb_node.multiraft.lanes import Inbound, Outbound
from nodedb_node.multiraft.messages import (
    Doubt,
    GroupRecord,
    GroupStatus,
    LaneAck,
    LaneHeartbeat,
    LaneMessage,
    Outcome,
    Reason,
    Turn,
)
from nodedb_node.multiraft.snapshot import messages as snapshot
from nodedb_node.multiraft.snapshot.limits import SnapshotLimits
from nodedb_node.multiraft.snapshot.messages import Manifest
from nodedb_node.multiraft.snapshot.work import Work
from nodedb_node.multiraft.transfers import Transfers
from nodedb_node.multiraft.watchers import Watchers
from nodedb_node.raft.core import Raft
from nodedb_node.raft.messages import (
    NOBODY,
    Busy,
    ConfigChange,
    ConfigurationChanged,
    Event,
    GroupConfig,
    LogIndex,
    Micros,
    Position,
    QuarantineChanged,
    ReadFailure,
    Ready,
    Refusal,
    ReplicaId,
    Restored,
    Rng,
    Role,
    RoleChanged,
    SnapshotOffered,
    Term,
)
from nodedb_node.raft.state import NEVER

SILENCED_US = 60_000_000  # how long a process whose disk stalled lets others campaign first


class MultiConfig(msgspec.Struct, frozen=True, gc=False):
    """Who this process is, and the cluster's settings; `group` is the pattern of every group's configuration."""

    group: GroupConfig
    generation: int
    silence_us: Micros = 500_000  # without a heartbeat for so long a lane is lost
    groups_per_turn: int = 256
    snapshots: SnapshotLimits = SnapshotLimits()

    def __post_init__(self) -> None:
        assert self.generation > 0 and self.groups_per_turn > 0
        assert 2 * self.group.heartbeat_us <= self.silence_us <= self.group.election_min_us


class GroupContacts:
    """raft.Contacts of one group, over the lanes of its process."""

    __slots__ = ("_group", "_in", "_out", "raft")

    def __init__(
        self, group: GroupId, inbound: Mapping[NodeNumber, Inbound], outbound: Mapping[NodeNumber, Outbound]
    ) -> None:
        self._group, self._in, self._out = group, inbound, outbound
        self.raft: Raft | None = None

    def heard_us(self, leader: NodeNumber) -> Micros:
        lane = self._in.get(leader)
        return lane.counted_us(self._group, self._term()) if lane else 0

    def watched(self, leader: NodeNumber) -> bool:
        lane = self._in.get(leader)
        return lane is not None and not lane.lost

    def acked_us(self, peer: NodeNumber) -> Micros:
        lane = self._out.get(peer)
        return lane.acked_us(self._group, self._term()) if lane else 0

    def promised_us(self) -> Micros:
        return max((lane.promised_us(self._group) for lane in self._in.values()), default=0)

    def _term(self) -> Term:
        return self.raft.term if self.raft else 0


class MultiRaft:
    """All groups of one process."""

    def __init__(
        self, config: MultiConfig, restored: Mapping[GroupId, tuple[ReplicaId, Restored]], rng: Rng, now_us: Micros
    ) -> None:
        self.config = config
        self.node = config.group.node
        self.bound = 0  # HLC bound of this process, told to peers; the owner raises it
        self.bound_heard = 0  # the highest bound that a peer told
        self._rng = rng
        self._rafts: dict[GroupId, Raft] = {}
        self._terms: dict[GroupId, Term] = {}  # as last seen, to notice changes
        self._out: dict[NodeNumber, Outbound] = {}
        self._in: dict[NodeNumber, Inbound] = {}
        self._up: dict[NodeNumber, int] = {}  # peers with a lane → generation
        self._busy: dict[GroupId, None] = {}  # may have something to hand out, in order of getting it
        self._deadlines: list[tuple[Micros, GroupId]] = []
        self._due: dict[GroupId, Micros] = {}  # what the heap holds for a group
        self._waiting: set[GroupId] = set()  # whose reads wait for contact
        self._beat_us: Micros = 0
        self._beat_now = False
        self._stalled = self._resigned = False
        self._resign_us: Micros = NEVER  # when a stalled disk has cost this process its leaderships
        self._silenced_until_us: Micros = 0
        self._number = 0
        self._durable = 0
        self._flying: deque[tuple[int, list[tuple[Raft, int]]]] = deque()  # turns not durable: replicas, Ready numbers
        self._lane_messages: dict[NodeNumber, list[LaneMessage]] = {}
        self._waits: list[tuple[Any, Outcome]] = []
        self._late: list[tuple[GroupId, LogIndex, LogIndex]] = []  # committed while an install was out
        self._failures: list[tuple[GroupId, ReadFailure]] = []  # of replicas that are gone
        self._transfers = Transfers(config.snapshots, config.generation, self._rafts, self._touch, now_us)
        self.watchers = Watchers()
        for group, (replica, row) in restored.items():
            self.add_group(group, replica, row, now_us)

    # ---- groups ----

    def add_group(self, group: GroupId, replica: ReplicaId, restored: Restored, now_us: Micros) -> None:
        """A replica of the group begins, or goes on, here."""
        assert group not in self._rafts
        config = msgspec.structs.replace(self.config.group, group=group, replica=replica)
        contacts = GroupContacts(group, self._in, self._out)
        raft = Raft(config, restored, contacts, self._rng, now_us)
        contacts.raft = raft
        self._rafts[group], self._terms[group] = raft, raft.term
        self.watchers.add_group(group, raft.applied)
        self._lanes_changed(group)
        self._arm(group, raft)
        if raft.changed:
            self._touch(group)  # that it is halted, or was removed

    def remove_group(self, now_us: Micros, group: GroupId) -> None:
        """The replica is gone from here; its owner has written the tombstone."""
        self._transfers.drop_group(now_us, group)
        self._fail_reads(self._rafts[group])
        del self._rafts[group], self._terms[group]
        for rows in (self._busy, self._due):
            rows.pop(group, None)
        self._late = [row for row in self._late if row[0] != group]
        self._waiting.discard(group)
        for lane in self._out.values():
            lane.drop(group)
        self._waits += self.watchers.remove_group(group)
        self._lanes_changed(group)

    def _fail_reads(self, raft: Raft) -> None:
        """Of a replica that goes: whoever waits has to ask another, also where an index was found but not told."""
        contexts = [context for context, _, _ in raft.reads] + [state.context for state in raft.read_states]
        failures = raft.read_failures + [ReadFailure(context, raft.not_leader()) for context in contexts]
        self._failures += [(raft.group, failure) for failure in failures]

    def groups(self) -> Iterable[GroupId]:
        return self._rafts.keys()

    def raft(self, group: GroupId) -> Raft:
        """The group's machine, for looking at."""
        return self._rafts[group]

    # ---- what the owner asks ----

    def propose(self, now_us: Micros, turn: Iterable[tuple[GroupId, int, Any]]) -> list[Position | Refusal]:
        """(group, bytes, data) of each entry proposed; data comes back in the turn's Append records."""
        rafts, busy = self._rafts, self._busy
        answers: list[Position | Refusal] = []
        for group, size_bytes, data in turn:
            if self._stalled and rafts[group].peers:
                mark("multi-refused-while-stalled")
                answers.append(Busy("the disk stands still"))
                continue
            busy[group] = None
            answers.append(rafts[group].propose(now_us, size_bytes, data))
        return answers

    def propose_config(self, now_us: Micros, group: GroupId, change: ConfigChange) -> Position | Refusal:
        self._touch(group)
        return self._rafts[group].propose_config(now_us, change)

    def transfer(self, now_us: Micros, group: GroupId, to: NodeNumber) -> Refusal | None:
        self._touch(group)
        return self._rafts[group].transfer(now_us, to)

    def campaign(self, now_us: Micros, group: GroupId) -> Refusal | None:
        self._touch(group)
        return self._rafts[group].campaign(now_us)

    def read(self, now_us: Micros, group: GroupId, context: Any) -> Refusal | None:
        self._touch(group)
        return self._rafts[group].read(now_us, context)

    def wait(self, group: GroupId, index: LogIndex, deadline_us: Micros, token: Any) -> Outcome | bool | None:
        """Until the group has applied index: see Watchers.wait; ends are in Turn.waits."""
        return self.watchers.wait(group, index, deadline_us, token)

    # ---- what happened ----

    def step(self, now_us: Micros, peer: NodeNumber, frame: Sequence[LaneMessage]) -> None:
        """All messages of one frame of the lane to peer, whose identity the lane has proved. now_us is read after the
        frame has arrived: a promise that counted from before would end before the lease that rests on it."""
        rafts, busy = self._rafts, self._busy
        for message in frame:
            if message.sender != peer:
                mark("multi-foreign-sender")
            elif isinstance(message, LaneHeartbeat):
                self._heartbeat(now_us, peer, message)
            elif isinstance(message, LaneAck):
                self._ack(now_us, peer, message)
            elif (raft := rafts.get(message.group)) is not None:
                raft.step(now_us, message)
                if raft.changed:
                    busy[message.group] = None
                elif message.group not in busy:
                    self._arm(message.group, raft)
            else:
                mark("multi-no-such-group")

    def step_bulk(self, now_us: Micros, peer: NodeNumber, messages: Sequence[snapshot.Message]) -> None:
        """Messages of the bulk lane to peer: of snapshots."""
        for message in messages:
            raft = self._rafts.get(GroupId(message.group))
            if raft is None or raft.halted:
                mark("multi-transfer-of-no-group")
            else:
                self._transfers.message(now_us, peer, raft, message)

    # ---- answers to the turn's work ----

    def snapshot_found(self, now_us: Micros, manifest: Manifest, chunks: int) -> None:
        """At the start: a partial snapshot on the disk, its first chunks checked."""
        self._transfers.restore(now_us, manifest, chunks)

    def snapshot_cut(self, now_us: Micros, group: GroupId, made: Manifest | None) -> None:
        """Cut is done, the manifest without configuration; None: it failed."""
        self._transfers.cut(now_us, group, made)

    def snapshot_read(self, now_us: Micros, transfer: int, number: int, data: bytes | None) -> None:
        """Read is done; None: the disk failed."""
        self._transfers.read(now_us, transfer, number, data)

    def snapshot_written(self, now_us: Micros, manifest: Manifest, number: int) -> None:
        self._transfers.written(now_us, manifest, number)

    def snapshot_not_written(self, now_us: Micros, manifest: Manifest, reason: snapshot.Reason) -> None:
        """Begin or Write failed: NO_SPACE or FAILED."""
        self._transfers.write_failed(now_us, manifest, reason)

    def snapshot_installed(self, now_us: Micros, manifest: Manifest) -> None:
        """Install is done, durably."""
        group = GroupId(manifest.group)
        if group in self._transfers.installing:
            self._late += self._transfers.installed(now_us, manifest)
            self._waits += self.watchers.applied(group, manifest.index)

    def snapshot_not_installed(self, now_us: Micros, manifest: Manifest, reason: snapshot.Reason) -> None:
        """Install failed: CORRUPT, NO_SPACE or FAILED."""
        self._late += self._transfers.install_failed(now_us, manifest, reason)

    # ---- durability ----

    def persisted(self, now_us: Micros, number: int) -> None:
        """Turn `number` and all before it are durable."""
        assert self._durable <= number <= self._number
        self._durable = number
        flying = self._flying
        while flying and flying[0][0] <= number:
            for raft, ready in flying.popleft()[1]:
                raft.persisted(now_us, ready)
                if raft.changed and self._rafts.get(raft.group) is raft:
                    self._busy[raft.group] = None

    def applied(self, group: GroupId, index: LogIndex) -> None:
        """The state machine has applied the group's entries up to index."""
        self._rafts[group].applied_to(index)
        self._waits += self.watchers.applied(group, index)

    def alone(self, group: GroupId) -> Position | None:
        """(end of the log, term) if the group's replica here is its only member, leads, and has nothing in flight:
        what the owner appends in this term is committed once durable, and Raft may be told of it later (settle)."""
        raft = self._rafts[group]
        return (raft.log.last_index, raft.term) if raft.is_alone() else None

    def settle(self, group: GroupId, index: LogIndex) -> None:
        """The owner appended entries up to index while the replica was alone; they are durable and applied."""
        self._rafts[group].settle(index)
        self._waits += self.watchers.applied(group, index)

    def compacted(self, positions: Mapping[GroupId, Position]) -> None:
        """A durable checkpoint covers each group up to (index, term), and the log has forgotten that."""
        for group, (index, _) in positions.items():
            self._rafts[group].compacted(index)

    def disk_age(self, now_us: Micros, oldest_unfinished_us: Micros) -> None:
        """How old the oldest unfinished write is. A stalled disk loses leadership by itself, as heartbeats stop and
        nothing new is appended, which would be a sign of life too. After an election's time it is given up: appends of
        what is old may keep a member loyal, and a partition the next term away."""
        config = self.config.group
        stalled = oldest_unfinished_us > config.election_min_us // 2
        if stalled and not self._stalled:
            mark("multi-disk-stalled")
        if stalled:
            self._silenced_until_us = now_us + SILENCED_US
        self._stalled, self._resigned = stalled, self._resigned and stalled
        self._resign_us = NEVER
        if stalled and not self._resigned:
            self._resign_us = now_us - oldest_unfinished_us + config.election_max_us

    def lane_up(self, now_us: Micros, peer: NodeNumber, generation: int) -> None:
        """A session with this process of the peer stands."""
        before = self._up.get(peer)
        self._up[peer] = generation
        lane = self._outbound(peer)
        restarted = lane.peer_generation not in (0, generation)
        lane.peer_generation = max(lane.peer_generation, generation)
        if restarted:
            self._peer_restarted(now_us, peer)
        self._transfers.peer_up(now_us, peer)
        if before is None:
            for group in self._sending_to(peer):
                self._rafts[group].reachable(now_us, peer)
                self._touch(group)
        self._beat_now = True

    def lane_down(self, now_us: Micros, peer: NodeNumber) -> None:
        self._up.pop(peer, None)
        self._transfers.peer_down(now_us, peer)
        for group in self._sending_to(peer):
            self._rafts[group].unreachable(peer)
        self._out_of_contact(now_us, peer)
        out = self._outbound(peer)
        out.waits_us = out.waits_us or now_us  # its silence is told as well: what it said last may be too young now
        lane = self._in.get(peer)
        if lane is not None and not lane.lost:
            self._lane_lost(now_us, lane)

    # ---- time ----

    def next_deadline_us(self) -> Micros | None:
        """When tick is due at the latest; None: nothing to wait for."""
        self._drop_stale_deadlines()
        due_us: Micros = self._deadlines[0][0] if self._deadlines else NEVER
        if not self._stalled and self._has_to_beat():
            due_us = 0 if self._beat_now else min(due_us, self._beat_us)
        silent_us: Micros = due_us - self.config.silence_us
        for lane in self._in.values():
            if lane.heard_us < silent_us and not lane.lost:
                silent_us = lane.heard_us
        for out in self._out.values():
            if 0 < out.waits_us < silent_us and out.set and not out.silent:
                silent_us = out.waits_us
        due_us = silent_us + self.config.silence_us
        if self._resign_us < due_us:
            due_us = self._resign_us
        wait_us, transfer_us = self.watchers.next_deadline_us(), self._transfers.next_deadline_us()
        if wait_us is not None and wait_us < due_us:
            due_us = wait_us
        if transfer_us is not None and transfer_us < due_us:
            due_us = transfer_us
        return None if due_us == NEVER else due_us

    def _has_to_beat(self) -> bool:
        for peer in self._up:
            lane = self._out.get(peer)
            if lane is not None and not lane.idle:
                return True
        return False

    def tick(self, now_us: Micros) -> None:
        """Deadlines that have passed: lanes first, so that no group's work delays a heartbeat."""
        self._beat(now_us)
        if self._resign_us <= now_us:
            self._resign(now_us)
        for lane in self._in.values():
            if not lane.lost and lane.heard_us + self.config.silence_us <= now_us:
                mark("multi-lane-silent")
                self._lane_lost(now_us, lane)
        for peer, out in self._out.items():
            if out.waits_us and out.set and not out.silent and out.waits_us + self.config.silence_us <= now_us:
                mark("multi-lane-unanswered")
                out.silent = True
                self._out_of_contact(now_us, peer)
        self._waits += self.watchers.tick(now_us)
        self._transfers.tick(now_us)
        self._drop_stale_deadlines()
        while self._deadlines and self._deadlines[0][0] <= now_us:
            _, group = heappop(self._deadlines)
            del self._due[group]
            self._rafts[group].tick(now_us)
            self._touch(group)
            self._drop_stale_deadlines()

    def _resign(self, now_us: Micros) -> None:
        self._resigned, self._resign_us = True, NEVER
        for group, raft in self._rafts.items():
            if raft.role is Role.LEADER:
                raft.resign(now_us)
                self._touch(group)

    def _drop_stale_deadlines(self) -> None:
        rows = self._deadlines
        while rows and self._due.get(rows[0][1]) != rows[0][0]:
            heappop(rows)

    # ---- the turn ----

    def take_turn(self, now_us: Micros) -> Turn | None:
        """What all groups have to hand out; None = nothing. Call again: a crowd of busy groups takes several turns."""
        if self._beat_now:
            self._beat(now_us)
        if not (self._busy or self._lane_messages or self._waits or self._transfers.changed):
            return None
        out = _Gathered(self._lane_messages)
        self._lane_messages = {}
        if self._transfers.changed:
            self._take_transfers(now_us, out)
        while self._busy and not out.readies:  # a crowd that has nothing to say does not hide the next one
            self._serve(now_us, out)
        waits, self._waits = self._waits, []
        if not (out.readies or out.free or waits or out.bulk or out.work or out.committed or out.failures):
            return None
        self._number += 1
        self._flying.append((self._number, out.readies))
        lists = (out.records, out.free, out.after, out.committed, out.reads, out.failures)
        return Turn(self._number, *lists, out.bulk, out.work, out.events, waits)

    def _serve(self, now_us: Micros, out: "_Gathered") -> None:
        """The groups that have been busy longest, at most groups_per_turn of them."""
        busy, self._busy = self._busy, {}
        if len(busy) > self.config.groups_per_turn:
            mark("multi-crowded-turn")
            crowd = list(busy)
            busy = dict.fromkeys(crowd[: self.config.groups_per_turn])
            self._busy = dict.fromkeys(crowd[self.config.groups_per_turn :])
        rafts, terms = self._rafts, self._terms
        for group in busy:
            raft = rafts[group]
            ready = raft.take_ready()
            if ready is not None:
                self._gather(now_us, out, group, raft, ready)
            if raft.term != terms[group]:
                self._lanes_changed(group)
            self._arm(group, raft)

    def _take_transfers(self, now_us: Micros, out: "_Gathered") -> None:
        out.work = self._transfers.take(now_us, out.bulk)
        out.committed, self._late = self._late, []
        out.failures, self._failures = self._failures, []

    def _gather(self, now_us: Micros, out: "_Gathered", group: GroupId, raft: Raft, ready: Ready) -> None:
        out.readies.append((raft, ready.number))
        for record in ready.records:
            out.records.append(GroupRecord(group, record))
        if ready.committed is not None:
            committed = (group, *ready.committed)
            if not self._transfers.installing or not self._transfers.hold(committed):
                out.committed.append(committed)
        for message in ready.free:
            out.free.setdefault(message.receiver, []).append(message)
        for message in ready.after:
            out.after.setdefault(message.receiver, []).append(message)
        for event in ready.events:
            self._note(now_us, group, event)
            out.events.append((group, event))
        if ready.read_states or ready.read_failures or ready.snapshots or ready.want_heartbeat:
            self._gather_rare(now_us, out, raft, ready)

    def _gather_rare(self, now_us: Micros, out: "_Gathered", raft: Raft, ready: Ready) -> None:
        group = raft.group
        out.reads += [(group, state) for state in ready.read_states]
        out.failures += [(group, failure) for failure in ready.read_failures]
        for wanted in ready.snapshots:
            self._transfers.wanted(now_us, raft, wanted.node)
        if ready.want_heartbeat:
            self._waiting.add(group)
            self._beat_now = True

    def _note(self, now_us: Micros, group: GroupId, event: Event) -> None:
        if isinstance(event, RoleChanged | ConfigurationChanged):
            self._led(group)
            self._transfers.led(now_us, self._rafts[group])
        elif isinstance(event, SnapshotOffered):
            self._transfers.announced(now_us, event.offer)
        elif isinstance(event, QuarantineChanged):
            self._lanes_changed(group)

    def _touch(self, group: GroupId) -> None:
        self._busy[group] = None

    def _arm(self, group: GroupId, raft: Raft) -> None:
        """The group's deadline into the heap, if it is not there."""
        due = raft.next_deadline_us()
        if due is None:
            self._due.pop(group, None)
        elif self._due.get(group) != due:
            self._due[group] = due
            heappush(self._deadlines, (due, group))

    # ---- lanes ----

    def _outbound(self, peer: NodeNumber) -> Outbound:
        if peer not in self._out:
            self._out[peer] = Outbound(peer)
        return self._out[peer]

    def _sending_to(self, peer: NodeNumber) -> list[GroupId]:
        """Groups led here with a replica there, also one that has still to hear of its removal."""
        return [group for group, raft in self._rafts.items() if peer in raft.peers]

    def _led(self, group: GroupId) -> None:
        """Role, term or members changed: the sets of the lanes follow."""
        raft = self._rafts[group]
        led = raft.members if raft.role == Role.LEADER else {}
        for peer, lane in self._out.items():
            if peer not in led:
                lane.drop(group)
        for peer in led:
            if peer != self.node:
                self._outbound(peer).put(group, raft.term)
                self._beat_now = True

    def _lanes_changed(self, group: GroupId) -> None:
        """What this process says of the group to those who lead it has changed."""
        if group in self._rafts:
            self._terms[group] = self._rafts[group].term
        for lane in self._in.values():
            lane.judge(group, self._judge)

    def _judge(self, group: GroupId, term: Term) -> tuple[Doubt, Term] | None:
        raft = self._rafts.get(group)
        if raft is None:
            return Doubt.ABSENT, 0
        if raft.quarantine:
            return Doubt.QUARANTINED, raft.term
        return (Doubt.TERM, raft.term) if raft.term != term else None

    def _beat(self, now_us: Micros) -> None:
        """Heartbeats that are due, to all peers that have a lane and groups led here."""
        if self._stalled or not (self._beat_now or now_us >= self._beat_us):
            return
        self._beat_now = False
        self._beat_us = now_us + self.config.group.heartbeat_us
        for peer in self._up:
            lane = self._outbound(peer)
            if not lane.idle:
                row = (now_us, self.node, self.config.generation, self.config.group.election_min_us, self.bound)
                self._lane_messages.setdefault(peer, []).append(lane.beat(*row))

    def _heartbeat(self, now_us: Micros, peer: NodeNumber, beat: LaneHeartbeat) -> None:
        for group in self._busy:  # it may have voted for another in this very turn: that is to be told, not promised
            raft = self._rafts[group]
            if raft.term != self._terms[group] or raft.quarantine:
                self._lanes_changed(group)
        lane = self._in.setdefault(peer, Inbound(peer, self.config.group.fence_us))
        own = (self.node, self.config.generation, self.bound)
        ack, left, fresh = lane.take(now_us, beat, own, self._judge)
        self.bound_heard = max(self.bound_heard, beat.bound)
        if fresh and peer in self._out and self._out[peer].peer_generation not in (0, beat.generation):
            self._peer_restarted(now_us, peer)
        for rank, group in enumerate(left):
            self._group_lost(now_us, peer, group, rank)
        if ack is not None and not self._stalled:  # what a stalled disk promises it might not keep
            self._lane_messages.setdefault(peer, []).append(ack)

    def _ack(self, now_us: Micros, peer: NodeNumber, ack: LaneAck) -> None:
        if ack.to_generation != self.config.generation:
            mark("multi-ack-of-other-generation")
            return
        lane = self._outbound(peer)
        known = lane.peer_generation
        doubts = lane.ack(ack)
        self.bound_heard = max(self.bound_heard, ack.bound)
        if known not in (0, lane.peer_generation):
            self._peer_restarted(now_us, peer)
        if doubts is None:
            return
        for group, _, term in doubts:
            self._doubted(now_us, peer, group, term)
        for group in sorted(self._waiting):
            raft = self._rafts[group]
            raft.contact(now_us)
            self._touch(group)
            if not raft.waits_for_contact:
                self._waiting.discard(group)

    def _doubted(self, now_us: Micros, peer: NodeNumber, group: GroupId, term: Term) -> None:
        """The peer is at another term than this process leads the group in, or has no replica of it (term 0)."""
        raft = self._rafts.get(group)
        if raft is not None:
            raft.lane_exception(now_us, peer, term)
            if raft.role is Role.LEADER:  # still: the peer's contact does not count
                raft.lane_lost(now_us, peer)
            self._touch(group)

    def _peer_restarted(self, now_us: Micros, peer: NodeNumber) -> None:
        mark("multi-peer-restarted")
        for group in self._sending_to(peer):
            self._rafts[group].peer_restarted(now_us, peer)
            self._touch(group)

    def _lane_lost(self, now_us: Micros, lane: Inbound) -> None:
        """No word from the peer: its groups start their own deadlines, one after the other."""
        lane.lost = True
        for rank, group in enumerate(sorted(lane.set)):
            self._group_lost(now_us, lane.peer, group, rank)

    def _out_of_contact(self, now_us: Micros, peer: NodeNumber) -> None:
        """The groups led here watch their quorums (CheckQuorum) from now on, until all voters are in contact again."""
        for group in list(self._outbound(peer).set):
            self._rafts[group].lane_lost(now_us, peer)
            self._touch(group)

    def _group_lost(self, now_us: Micros, peer: NodeNumber, group: GroupId, rank: int) -> None:
        raft = self._rafts.get(group)
        if raft is None:
            return
        if now_us < self._silenced_until_us:
            rank += self.config.group.election_max_us // max(1, self.config.group.rank_us)
        raft.lane_lost(now_us, peer, rank)
        self._touch(group)

    # ---- status ----

    def status(self, group: GroupId) -> GroupStatus:
        raft = self._rafts[group]
        last = raft.log.last_index
        lag = {peer: max(0, last - progress.match) for peer, progress in raft.peers.items()}
        position = (raft.role, raft.term, raft.leader, raft.commit, raft.applied, last)
        return GroupStatus(group, *position, lag, self._reason(raft))

    def _reason(self, raft: Raft) -> Reason:
        if raft.halted:
            return Reason.HALTED
        if raft.quarantine:
            return Reason.QUARANTINED
        if raft.leader == NOBODY:
            return Reason.NO_LEADER
        if self._stalled:
            return Reason.DISK
        return Reason.APPLYING if raft.applied < raft.commit else Reason.MOVES


class _Gathered:
    """A turn while it gathers."""

    __slots__ = ("after", "bulk", "committed", "events", "failures", "free", "readies", "reads", "records", "work")

    def __init__(self, free: dict[NodeNumber, list[LaneMessage]]) -> None:
        self.free = free
        self.after: dict[NodeNumber, list[LaneMessage]] = {}
        self.readies: list[tuple[Raft, int]] = []
        self.records: list[GroupRecord] = []
        self.committed: list[tuple[GroupId, LogIndex, LogIndex]] = []
        self.reads: list[Any] = []
        self.failures: list[Any] = []
        self.bulk: dict[NodeNumber, list[snapshot.Message]] = {}
        self.work: list[Work] = []
        self.events: list[tuple[GroupId, Event]] = []
