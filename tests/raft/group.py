"""A few replicas of one group by hand: a network of held messages, a disk each, lanes as a table. For tests only.

Nothing moves by itself: a test delivers, persists, beats and advances time, or calls `settle` to do all of it until
nothing is left. Every replica's invariants are checked after each call.
"""

import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.core import Raft
from nodedb_node.raft.messages import (
    Append,
    AppendEntries,
    Configuration,
    Entry,
    GroupConfig,
    HardState,
    Message,
    QuarantineMark,
    Ready,
    ReplicaId,
    Reset,
    Restored,
    Role,
    Truncate,
)

MS = 1000
FOUNDER = ReplicaId(0)
START_US = 10_000_000


def header(sender: int, receiver: int, term: int) -> tuple[GroupId, NodeNumber, ReplicaId, NodeNumber, ReplicaId, int]:
    return (GroupId(1), NodeNumber(sender), FOUNDER, NodeNumber(receiver), FOUNDER, term)


class LaneTable:
    """Contacts of one replica, set by hand or by Group.beat."""

    def __init__(self) -> None:
        self.heard: dict[int, int] = {}
        self.acked: dict[int, int] = {}
        self.promised = 0

    def heard_us(self, leader: NodeNumber) -> int:
        return self.heard.get(leader, 0)

    def watched(self, leader: NodeNumber) -> bool:
        return True

    def acked_us(self, peer: NodeNumber) -> int:
        return self.acked.get(peer, 0)

    def promised_us(self) -> int:
        return self.promised


class Disk:
    """What is durable of one replica: its records applied, as storage books would."""

    def __init__(self, configuration: Configuration, config_index: int = 0) -> None:
        self.term, self.vote, self.vote_replica = 0, 0, 0
        self.mark_index, self.mark_term = 0, 0
        self.config_index, self.configuration = config_index, configuration
        self.entries: list[Entry] = []
        self.applied = 0
        self.quarantined = False

    @property
    def last(self) -> int:
        return self.mark_index + len(self.entries)

    def entry(self, index: int) -> Entry:
        return self.entries[index - self.mark_index - 1]

    def write(self, records: Iterable[Any]) -> None:
        for record in records:
            if isinstance(record, HardState):
                assert record.term >= self.term
                self.term, self.vote, self.vote_replica = record.term, record.vote, record.vote_replica
            elif isinstance(record, Truncate):
                assert record.last <= self.last
                del self.entries[record.last - self.mark_index :]
            elif isinstance(record, Append):
                assert record.first == self.last + 1, "records leave a hole"
                self.entries += record.entries
            elif isinstance(record, Reset):
                self.reset(record)
            else:
                assert isinstance(record, QuarantineMark)
                self.quarantined = record.on

    def reset(self, record: Reset) -> None:
        kept = self.entries[record.index - self.mark_index :] if record.keep else []
        self.mark_index, self.mark_term, self.entries = record.index, record.term, kept
        self.config_index = record.config_index
        self.configuration = configurations.decode(record.configuration) or Configuration()
        self.applied = record.index

    def compact(self, index: int, configuration: tuple[int, Configuration]) -> None:
        self.mark_term = self.entry(index).term
        del self.entries[: index - self.mark_index]
        self.mark_index = index
        self.config_index, self.configuration = configuration

    def restored(self, **changes: Any) -> Restored:
        names = ("term", "vote", "vote_replica", "mark_index", "mark_term", "config_index", "configuration")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        fields |= {"entries": list(self.entries), "applied": self.applied, "quarantined": self.quarantined}
        return Restored(**(fields | {"promised": True} | changes))


class Replica:
    """One core with its disk and what waits for it."""

    def __init__(self, config: GroupConfig, disk: Disk, restored: Restored, now_us: int) -> None:
        self.config, self.disk, self.lanes = config, disk, LaneTable()
        self.raft = Raft(config, restored, self.lanes, random.Random(config.node), now_us)
        self.unsynced: list[Ready] = []  # taken, not durable
        self.memory = list(disk.entries)  # entries behind the mark, durable or not
        self.memory_mark = disk.mark_index
        self.state = [f"{i}" for i in range(restored.applied)]  # what was delivered, by index - 1
        self.log: list[Any] = []  # every Ready
        self.events: list[Any] = []
        self.reads: list[Any] = []
        self.disk_stopped = False
        self.alive = True

    def payload(self, index: int) -> Entry:
        return self.memory[index - self.memory_mark - 1]


class Group:
    """Replicas 1 .. n with founders as voters, and the network between them."""

    def __init__(self, voters: int | Iterable[int] = 3, trace: Callable[[str], None] | None = None, **settings: Any):
        nodes = list(range(1, voters + 1)) if isinstance(voters, int) else list(voters)
        self.settings = settings
        self.on_ready: Callable[[int, Ready], None] = lambda node, ready: None  # the owner: snapshots are its affair
        self.now_us = START_US
        self.replicas: dict[int, Replica] = {}
        self.network: list[Message] = []
        self.cut: set[tuple[int, int]] = set()  # (from, to)
        self.trace = trace or (lambda line: None)
        self.leaders: dict[int, int] = {}  # term → node
        self.committed: dict[int, tuple[int, Any]] = {}  # index → (term, data) as first delivered
        founding = configurations.founding([NodeNumber(node) for node in nodes])
        for node in nodes:
            self.add(node, configuration=founding)

    # ---- replicas ----

    def add(self, node: int, replica: int = 0, configuration: Configuration | None = None) -> Replica:
        disk = Disk(configuration or Configuration())
        return self._start(node, replica, disk, disk.restored(promised=False))

    def _start(self, node: int, replica: int, disk: Disk, restored: Restored) -> Replica:
        config = GroupConfig(GroupId(1), NodeNumber(node), ReplicaId(replica), **self.settings)
        made = Replica(config, disk, restored, self.now_us)
        self.replicas[node] = made
        made.raft.check_invariants()
        return made

    def crash(self, node: int) -> None:
        """What is not durable is gone, and so are messages on their way to it."""
        self.replicas[node].alive = False
        self.network = [message for message in self.network if node not in (message.sender, message.receiver)]

    def restart(self, node: int, **changes: Any) -> Replica:
        old = self.replicas[node]
        made = self._start(node, old.config.replica, old.disk, old.disk.restored(**changes))
        made.state = old.state[: made.disk.applied]
        for other in self.replicas.values():
            if other is not made and other.alive:
                other.raft.peer_restarted(self.now_us, NodeNumber(node))
                self.check(other.config.node)
        return made

    def __getitem__(self, node: int) -> Raft:
        return self.replicas[node].raft

    @property
    def leader(self) -> Raft:
        leading = [r.raft for r in self.replicas.values() if r.alive and r.raft.role == Role.LEADER]
        return max(leading, key=lambda raft: raft.term)

    # ---- outputs ----

    def check(self, node: int) -> None:
        raft = self[node]
        raft.check_invariants()
        if raft.role == Role.LEADER and not raft.halted:
            assert self.leaders.setdefault(raft.term, node) == node, f"two leaders in term {raft.term}"

    def take(self, node: int) -> Ready | None:
        """One Ready: free messages leave, the rest waits for persist."""
        replica = self.replicas[node]
        ready = replica.raft.take_ready() if replica.alive else None
        self.check(node)
        if ready is None:
            return None
        replica.log.append(ready)
        self._remember(replica, ready)
        replica.unsynced.append(ready)
        for message in ready.free:
            self.post(message)
        replica.events += ready.events
        for event in ready.events:
            self.trace(f"{node}: {words(event)}")
        for wanted in ready.snapshots:
            self.trace(f"{node}: {words(wanted)}")
        replica.reads += [*ready.read_states, *ready.read_failures]
        self._deliver_committed(replica, ready)
        self.on_ready(node, ready)
        return ready

    def _remember(self, replica: Replica, ready: Ready) -> None:
        for record in ready.records:
            if isinstance(record, Truncate):
                del replica.memory[record.last - replica.memory_mark :]
            elif isinstance(record, Append):
                replica.memory += record.entries
            elif isinstance(record, Reset):
                replica.memory = replica.memory[record.index - replica.memory_mark :] if record.keep else []
                replica.memory_mark = record.index
                replica.state = [self.committed[index][1] for index in range(1, record.index + 1)]

    def _deliver_committed(self, replica: Replica, ready: Ready) -> None:
        if ready.committed is None:
            return
        first, last = ready.committed
        assert first == len(replica.state) + 1, "each index once, in order"
        for index in range(first, last + 1):
            entry = replica.payload(index)
            assert self.committed.setdefault(index, (entry.term, entry.data)) == (entry.term, entry.data)
            replica.state.append(entry.data)
        replica.raft.applied_to(last)

    def persist(self, node: int) -> None:
        """Everything taken becomes durable, and what waited for it leaves."""
        replica = self.replicas[node]
        for ready in replica.unsynced:
            replica.disk.write(ready.records)
            replica.raft.persisted(self.now_us, ready.number)
            for message in ready.after:
                self.post(message)
        replica.unsynced = []
        self.check(node)

    def post(self, message: Message) -> None:
        if isinstance(message, AppendEntries):
            source = self.replicas[message.sender]
            entries = tuple(source.payload(i) for i in range(message.prev_index + 1, message.last_index + 1))
            message = msgspec.structs.replace(message, entries=entries)
        self.trace(f"{message.sender} -> {message.receiver}: {words(message)}")
        if (message.sender, message.receiver) not in self.cut:
            self.network.append(message)

    # ---- inputs ----

    def flush(self) -> None:
        """Take and persist until nobody has anything more to say by itself."""
        for node, replica in self.replicas.items():
            while replica.alive and (self.take(node) or replica.unsynced):
                if replica.disk_stopped:
                    break
                self.persist(node)

    def deliver(self, message: Message) -> None:
        replica = self.replicas.get(message.receiver)
        if replica is not None and replica.alive:
            replica.raft.step(self.now_us, message)
            self.check(message.receiver)

    def exchange(self) -> None:
        """Flush, and deliver what is on its way once."""
        self.flush()
        held, self.network = self.network, []
        for message in held:
            self.deliver(message)

    def settle(self, rounds: int = 200) -> None:
        """Flush and deliver in order until the network is empty."""
        for _ in range(rounds):
            self.flush()
            if not self.network:
                return
            held, self.network = self.network, []
            for message in held:
                self.deliver(message)
                self.flush()
        raise AssertionError("messages without end")

    def beat(self) -> None:
        """Every leader's lanes beat and are acknowledged at once, where the network lets them."""
        for node, source in self.replicas.items():
            raft = source.raft
            if not source.alive or raft.role != Role.LEADER:
                continue
            for peer, progress in list(raft.peers.items()):
                self._beat(node, raft, peer, progress.replica)
            raft.contact(self.now_us)
            self.check(node)
        self.watch()

    def watch(self) -> None:
        """Lanes that were silent for half an election are lost to the groups they covered."""
        for node, replica in self.replicas.items():
            raft = replica.raft
            if not replica.alive:
                continue
            since_us = self.now_us - raft.config.election_min_us // 2
            for peer in [raft.leader] if raft.role != Role.LEADER else list(raft.peers):
                lanes = replica.lanes.heard if raft.role != Role.LEADER else replica.lanes.acked
                if lanes.get(peer, 0) < since_us:
                    raft.lane_lost(self.now_us, peer)
            self.check(node)

    def _beat(self, node: int, raft: Raft, peer: int, replica: int) -> None:
        target = self.replicas.get(peer)
        if target is None or not target.alive or (node, peer) in self.cut or target.config.replica != replica:
            return
        term = target.raft.term
        if term == raft.term and target.raft.leader == node:
            target.lanes.heard[node] = self.now_us
        if (peer, node) in self.cut:
            return
        if target.raft.quarantine:
            return
        if term != raft.term or target.raft.leader != node:
            raft.lane_exception(self.now_us, NodeNumber(peer), term)
        else:
            target.lanes.promised = self.now_us + target.config.election_min_us
            source = self.replicas[node]
            source.lanes.acked[peer] = self.now_us

    def advance(self, us: int) -> None:
        """Time passes; deadlines fire in order, nothing is delivered."""
        end_us = self.now_us + us
        while True:
            due = [
                (deadline, node)
                for node, replica in self.replicas.items()
                if replica.alive and (deadline := replica.raft.next_deadline_us()) is not None and deadline <= end_us
            ]
            if not due:
                break
            deadline, node = min(due)
            self.now_us = max(self.now_us, deadline)
            self[node].tick(self.now_us)
            self.check(node)
            self.flush()
        self.now_us = end_us

    def run(self, us: int, step_us: int = 100 * MS) -> None:
        """A living cluster: lanes beat, messages arrive, deadlines fire."""
        end_us = self.now_us + us
        while self.now_us < end_us:
            self.beat()
            self.settle()
            self.advance(step_us)
            self.settle()

    def elect(self, node: int) -> Raft:
        """Make this replica the leader, however it stands between the others."""
        self.settle()
        for _ in range(3):  # others may campaign by themselves, and split the vote
            for replica in self.replicas.values():
                replica.lanes.promised, replica.lanes.heard = 0, {}
            self.now_us += 3_000_000
            refusal = self[node].campaign(self.now_us)
            assert refusal is None, refusal
            self.settle()
            if self[node].role == Role.LEADER:
                break
        assert self[node].role == Role.LEADER, self[node].dump()
        return self[node]

    def propose(self, node: int, data: Any, size_bytes: int = 10) -> Any:
        return self[node].propose(self.now_us, size_bytes, data)

    def data(self, node: int) -> list[Any]:
        """What this replica's state machine got, without entries of Raft's own."""
        return [item for item in self.replicas[node].state if isinstance(item, str) and item]


def words(thing: Any) -> str:
    """A message or event in one line, short: what a reader of a script compares."""
    name = type(thing).__name__
    hidden = {
        "promise_us",
        "group",
        "sender",
        "receiver",
        "sender_replica",
        "receiver_replica",
        "entries",
        "runs",
        "offer",
        "dump",
    }
    parts = []
    for field in thing.__struct_fields__:
        value = getattr(thing, field)
        if field in hidden or value in (0, False, None, ()) or field == "request":
            continue
        parts.append(f"{field}={short(value)}" if value is not True else field)
    if isinstance(thing, AppendEntries):
        parts.append("[" + " ".join(f"{entry.term}:{text(entry)}" for entry in thing.entries) + "]")
    return " ".join([name, *parts])


def text(entry: Entry) -> str:
    return {0: "noop", 1: str(entry.data), 2: "config"}.get(entry.kind, f"kind{entry.kind}")


def short(value: Any) -> str:
    if isinstance(value, Configuration):
        sets = [
            ",".join(f"{m.node}/{m.replica}" if m.replica else str(m.node) for m in part) for part in value_sets(value)
        ]
        names = ("", "outgoing ", "learners ", "observers ")
        return "(" + "; ".join(name + part for name, part in zip(names, sets, strict=True) if part) + ")"
    if isinstance(value, bytes):
        decoded = configurations.decode(value)
        return short(decoded) if decoded is not None else f"{len(value)}B"
    return value.name.lower() if isinstance(value, Role) else str(value)


def value_sets(configuration: Configuration) -> tuple[Any, ...]:
    return configuration.voters, configuration.outgoing, configuration.learners, configuration.observers
