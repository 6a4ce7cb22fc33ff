"""The words of one Raft group: messages between replicas, what the core hands out (Ready) and what it takes back.

Invariant: fields are only ever added at the end, with a default. Every response names the request it answers and the
term it was made in. Nothing here decides anything; the rules are in the handlers (core.py lists them).

Terms and indexes are plain integers with a name: arithmetic on them is everywhere. The identities are types.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NewType, Protocol, TypeAlias

import msgspec

from nodedb_node.ids import GroupId, NodeNumber

ReplicaId = NewType("ReplicaId", int)  # index of the configuration entry that added the replica; founders: 0
Term: TypeAlias = int  # 0: before the first election
LogIndex: TypeAlias = int  # the first entry is 1
Micros: TypeAlias = int  # of CLOCK_BOOTTIME

TERM_MAX: Term = 1 << 62  # of what a peer says: the own next term must fit into a record
ENTRY_BYTES_MAX = 1 << 32  # of what a peer says: the sum over a log must fit into 64 bits

NOBODY = NodeNumber(0)  # no leader known, no vote given
FOUNDER = ReplicaId(0)

# Kinds of entries. An entry of another kind stops the group: it was written by a newer version.
NOOP, DATA, CONFIG = 0, 1, 2
KINDS = frozenset({NOOP, DATA, CONFIG})


class Rng(Protocol):
    """The part of random.Random the core uses."""

    def randrange(self, start: int, stop: int) -> int: ...


class Contacts(Protocol):
    """What the lanes know of one group's peers; multiraft's, asked by the core.

    The core raises these by what it sees itself: an acknowledged append is contact, and a promise by its follower.
    """

    def heard_us(self, leader: NodeNumber) -> Micros:
        """Follower: arrival of that node's newest lane heartbeat whose set holds this group at our term; 0 = never."""

    def watched(self, leader: NodeNumber) -> bool:
        """Follower: that node's lane has not gone silent: lane_lost will be told when it does."""

    def acked_us(self, peer: NodeNumber) -> Micros:
        """Leader: *send* time of the newest lane heartbeat which that peer acknowledged with this group in the set at
        our current term and without exception; 0 = never in this term."""

    def promised_us(self) -> Micros:
        """Voter: until when a promise given with a lane acknowledgement of this group holds; 0 = none."""


# ---- configuration ----


class Member(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """A replica: the node that holds it and the index of the entry that added it."""

    node: NodeNumber
    replica: ReplicaId = FOUNDER


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """Who belongs to the group. `outgoing` not empty: joint, both sets of voters must agree (thesis, 4.3).

    Invariant: each tuple is sorted by node; a node is in at most one of voters, learners and observers, always with
    one replica id; only outgoing overlaps (with voters: stays; with learners: is demoted; with none: leaves).
    """

    voters: tuple[Member, ...] = ()
    outgoing: tuple[Member, ...] = ()
    learners: tuple[Member, ...] = ()
    observers: tuple[Member, ...] = ()


class ConfigChange(msgspec.Struct, frozen=True, array_like=True):
    """What is to become of a configuration, by nodes. Voters come only from learners, and leave in one joint change
    with the voters that come: 1 → 3 is ConfigChange(promote=(2, 3))."""

    add_learners: tuple[NodeNumber, ...] = ()
    add_observers: tuple[NodeNumber, ...] = ()
    promote: tuple[NodeNumber, ...] = ()  # learner → voter
    demote: tuple[NodeNumber, ...] = ()  # voter → learner
    remove: tuple[NodeNumber, ...] = ()  # of any role


# ---- messages between replicas ----
# Each begins with the same six fields. A replica drops what does not name its own replica id, or comes from a replica
# that was replaced. Origin (that the peer really is `sender`) is checked by the caller against the lane.


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One entry of the log. data belongs to the caller (bytes, or a handle to them); of CONFIG entries it is bytes."""

    term: Term
    kind: int
    size_bytes: int
    data: Any = None


class RequestVote(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=1):
    """Candidate → voter. pre: would you vote for me in `term`? Nothing is promised (thesis, 9.6). Also from
    a replica that may not campaign, to be told if it was removed."""

    group: GroupId
    sender: NodeNumber
    sender_replica: ReplicaId
    receiver: NodeNumber
    receiver_replica: ReplicaId
    term: Term  # the term to be elected in, also when pre
    request: int
    last_index: LogIndex
    last_term: Term
    pre: bool
    transfer: bool  # the old leader asked for this election: stickiness and promises do not stand against it
    bound: int = 0  # the candidate's highest HLC bound, opaque


class VoteResponse(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=2):
    """Voter → candidate."""

    group: GroupId
    sender: NodeNumber
    sender_replica: ReplicaId
    receiver: NodeNumber
    receiver_replica: ReplicaId
    term: Term  # the voter's own, after handling
    request: int
    pre: bool
    granted: bool
    bound: int = 0  # the voter's highest HLC bound: the winner starts above all of them
    removed: bool = False  # a committed configuration of the voter's no longer holds this replica: it is to be quiet


class AppendEntries(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=3):
    """Leader → member: the entries prev_index + 1 .. last_index.

    Out of the core `entries` is empty and the encoder attaches them (terms by run in `runs`: (first index, term), the
    first run starts at prev_index + 1); into the core `entries` holds all of them and `runs` is not looked at.
    """

    group: GroupId
    sender: NodeNumber
    sender_replica: ReplicaId
    receiver: NodeNumber
    receiver_replica: ReplicaId
    term: Term
    request: int  # rises with every append to this peer
    prev_index: LogIndex
    prev_term: Term
    last_index: LogIndex
    commit: LogIndex
    acked: LogIndex  # what the member acknowledged to this leader: if its log is shorter it has lost entries
    runs: tuple[tuple[LogIndex, Term], ...] = ()
    entries: Sequence[Entry] = ()
    release_of: int = 0  # quarantine (its number) that ends once release_index is durable; 0 = none
    release_index: LogIndex = 0
    promise_us: Micros = 0  # for so long the leader's lease wants no vote given; 0 = the member's own election minimum


class AppendResponse(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=4):
    """Member → leader. ok: the log agrees up to and including index = prev_index + number of entries, durably.
    Not ok: index is the refused prev_index; the hint is the term there and the first index of that term (term 0: the
    log ends before, at hint_index - 1)."""

    group: GroupId
    sender: NodeNumber
    sender_replica: ReplicaId
    receiver: NodeNumber
    receiver_replica: ReplicaId
    term: Term
    request: int
    ok: bool
    index: LogIndex
    hint_term: Term = 0
    hint_index: LogIndex = 0
    quarantine: int = 0  # number of the quarantine this replica is in; 0 = none
    promise_us: Micros = 0  # for so long from the append's arrival no vote is given, over restarts; 0: not promised


class TimeoutNow(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=5):
    """Leader → voter that has everything: start an election now (thesis, 3.10)."""

    group: GroupId
    sender: NodeNumber
    sender_replica: ReplicaId
    receiver: NodeNumber
    receiver_replica: ReplicaId
    term: Term


class InstallSnapshot(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=6):
    """Leader → member: take this snapshot instead of entries I no longer have. The bytes travel beside Raft."""

    group: GroupId
    sender: NodeNumber
    sender_replica: ReplicaId
    receiver: NodeNumber
    receiver_replica: ReplicaId
    term: Term
    request: int
    snapshot_index: LogIndex
    snapshot_term: Term
    config_index: LogIndex
    configuration: bytes  # encoded, as in a CONFIG entry
    transfer: int = 0  # the owner's number for the bytes, opaque


class SnapshotResponse(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=7):
    """Member → leader: installed durably up to index, or ok = False: not taken, offer again later."""

    group: GroupId
    sender: NodeNumber
    sender_replica: ReplicaId
    receiver: NodeNumber
    receiver_replica: ReplicaId
    term: Term
    request: int
    ok: bool
    index: LogIndex
    quarantine: int = 0


Message: TypeAlias = (
    RequestVote | VoteResponse | AppendEntries | AppendResponse | TimeoutNow | InstallSnapshot | SnapshotResponse
)

# ---- records: persist them in the order given, all of one Ready before its `after` ----


class HardState(msgspec.Struct, frozen=True, gc=False):
    """Term and vote: replaces the one before."""

    term: Term
    vote: NodeNumber
    vote_replica: ReplicaId


class Truncate(msgspec.Struct, frozen=True, gc=False):
    """Entries above `last` are gone."""

    last: LogIndex


class Append(msgspec.Struct, frozen=True, gc=False):
    """Entries first, first + 1, …, right behind the log's end."""

    first: LogIndex
    entries: Sequence[Entry]


class Reset(msgspec.Struct, frozen=True, gc=False):
    """A snapshot was installed: the log begins behind (index, term), with this configuration in force there.
    keep: entries above index stay; otherwise all are gone."""

    index: LogIndex
    term: Term
    keep: bool
    config_index: LogIndex
    configuration: bytes


class QuarantineMark(msgspec.Struct, frozen=True, gc=False):
    """on: from now the replica neither votes nor leads; off: it is whole again. Must survive compaction."""

    on: bool


Record: TypeAlias = HardState | Truncate | Append | Reset | QuarantineMark

# ---- refusals: values, never exceptions ----


class NotLeader(msgspec.Struct, frozen=True, gc=False):
    """Ask `leader` (never this node itself; NOBODY = not known)."""

    leader: NodeNumber


class Busy(msgspec.Struct, frozen=True, gc=False):
    """A bound is reached (`what` says which); try again."""

    what: str


class Transferring(msgspec.Struct, frozen=True, gc=False):
    """Leadership is being handed to `to`; try again there."""

    to: NodeNumber


class ChangePending(msgspec.Struct, frozen=True, gc=False):
    """The change in entry `index` is not finished; one at a time."""

    index: LogIndex


class NotCaughtUp(msgspec.Struct, frozen=True, gc=False):
    """This member's log is not near enough to the leader's end, or it is in quarantine or out of contact."""

    node: NodeNumber


class NotReady(msgspec.Struct, frozen=True, gc=False):
    """The leader has not committed an entry of its own term yet, or the replica is quarantined or halted."""

    why: str


class BadChange(msgspec.Struct, frozen=True, gc=False):
    """The change or transfer asked for makes no sense here, and why."""

    why: str


Refusal: TypeAlias = NotLeader | Busy | Transferring | ChangePending | NotCaughtUp | NotReady | BadChange
Position: TypeAlias = tuple[LogIndex, Term]

# ---- events: facts for the owner; never needed for safety ----


class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


FOLLOWER, PRE_CANDIDATE, CANDIDATE, LEADER = Role  # by these names: looking up an enum's member costs a call


class RoleChanged(msgspec.Struct, frozen=True, gc=False):
    """Role, term or known leader changed. bound: for a new leader, above every voter's HLC bound."""

    role: Role
    term: Term
    leader: NodeNumber
    bound: int


class ConfigurationChanged(msgspec.Struct, frozen=True, gc=False):
    """The configuration in force is now that of entry `index` (appended, undone by truncation, or of a snapshot)."""

    index: LogIndex
    configuration: Configuration
    committed: bool


class CaughtUp(msgspec.Struct, frozen=True, gc=False):
    """Leader: a learner's log has come so near to the end that it may be promoted (thesis, 4.2.1)."""

    node: NodeNumber


class TransferEnded(msgspec.Struct, frozen=True, gc=False):
    """Leader: the transfer was given up (`done` False, and why), or this node stepped down for it."""

    to: NodeNumber
    done: bool
    why: str


class SnapshotOffered(msgspec.Struct, frozen=True, gc=False):
    """Member: fetch and install this, then call snapshot_installed, or snapshot_refused."""

    offer: InstallSnapshot


class QuarantineChanged(msgspec.Struct, frozen=True, gc=False):
    on: bool
    why: str


class Removed(msgspec.Struct, frozen=True, gc=False):
    """A committed configuration, of entry `index` or later, lacks this replica: leave a tombstone and drop it."""

    index: LogIndex


class Halted(msgspec.Struct, frozen=True, gc=False):
    """The group does nothing more until someone looks: why, and the machine's state as text."""

    why: str
    dump: str


Event: TypeAlias = (
    RoleChanged
    | ConfigurationChanged
    | CaughtUp
    | TransferEnded
    | SnapshotOffered
    | QuarantineChanged
    | Removed
    | Halted
)

# ---- what goes out per turn ----


class ReadState(msgspec.Struct, frozen=True, gc=False):
    """A read may be answered from the state machine once it has applied index. lease: only while lease_valid(now) is
    still true after the values were read."""

    context: Any
    index: LogIndex
    lease: bool


class ReadFailure(msgspec.Struct, frozen=True, gc=False):
    context: Any
    refusal: Refusal


class SnapshotWanted(msgspec.Struct, frozen=True, gc=False):
    """Leader: this member needs entries that are compacted away. Make a cut and call offer_snapshot, or
    snapshot_failed; until then it is not asked for again."""

    node: NodeNumber
    replica: ReplicaId


class Ready(msgspec.Struct, frozen=True, gc=False):
    """One turn's outputs. Persist `records` in order; send `free` at once, `after` when this number is durable.

    Numbers rise by one. A Ready without records is durable as soon as the one before it is. `committed` (first, last)
    is delivered once, in order, and only when durable here; it starts behind Restored.applied.
    """

    number: int
    records: Sequence[Record]
    after: Sequence[Message]
    free: Sequence[Message]
    committed: tuple[LogIndex, LogIndex] | None
    read_states: Sequence[ReadState]
    read_failures: Sequence[ReadFailure]
    snapshots: Sequence[SnapshotWanted]
    events: Sequence[Event]
    want_heartbeat: bool  # reads wait for contact: all lanes beat with the next turn


# ---- what comes in at the start ----


class GroupConfig(msgspec.Struct, frozen=True, gc=False):
    """Who this replica is, and the cluster's settings. Durations in µs, sizes in bytes.

    Relations are asserted: a lease must end before the promise it rests on, though clocks run apart by drift_ppm on
    both sides; an entry must fit in the inflight window. Nodes may change them one after the other, as promises are
    asked and given in microseconds; but fence_us is lowered only once no node has the longer election_min_us any more.
    """

    group: GroupId
    node: NodeNumber
    replica: ReplicaId = FOUNDER
    election_min_us: int = 1_000_000  # of the randomised deadline; the promise a contact gives is as long
    election_max_us: int = 2_000_000
    heartbeat_us: int = 100_000
    lease_us: int = 900_000  # 0.9 × election minimum; 0: no lease reads
    drift_ppm: int = 10_000
    fence_us: int = 2_000_000  # longest promise a process of this cluster can have given
    rank_us: int = 2_000  # a lost lane's groups start their elections this far apart
    batch_bytes_max: int = 1 << 20  # of one AppendEntries, unless one entry alone is larger
    inflight_bytes_max: int = 32 << 20  # per peer, unless one entry alone is larger
    inflight_messages_max: int = 64  # per peer
    uncommitted_bytes_max: int = 64 << 20  # proposals above it are refused as Busy
    reads_max: int = 4096  # waiting reads

    def __post_init__(self) -> None:
        million = 1_000_000
        assert 0 < self.heartbeat_us * 2 < self.election_min_us < self.election_max_us
        assert self.fence_us >= self.election_min_us, "a promise may outlive the fence"
        assert self.lease_us * (million + self.drift_ppm) ** 2 <= self.election_min_us * million**2, "lease too long"
        assert 0 < self.batch_bytes_max <= self.inflight_bytes_max <= self.uncommitted_bytes_max
        assert self.inflight_messages_max > 0 and self.reads_max > 0 and self.rank_us >= 0
        assert self.node > 0 and self.replica >= 0


class Restored(msgspec.Struct, frozen=True, gc=False):
    """What the storage books know of this replica when the process starts; the defaults are a new, empty replica.

    The log is mark (the last compacted entry, 0 = none) and the entries behind it; `configuration` is in force at the
    mark. Of entries only term, kind, size and, of CONFIG, data are looked at.
    """

    term: Term = 0
    vote: NodeNumber = NOBODY
    vote_replica: ReplicaId = FOUNDER
    mark_index: LogIndex = 0
    mark_term: Term = 0
    config_index: LogIndex = 0
    configuration: Configuration = Configuration()
    entries: Sequence[Entry] = ()
    applied: LogIndex = 0  # durable with the state machine; delivery goes on behind it
    promised: bool = False  # an earlier process of this replica may have given promises: the boot fence stands
    quarantined: bool = False  # QuarantineMark(on) was the last, or recovery found damage or no hard state (the mark
    # is then durable)
    bound: int = 0  # highest HLC bound persisted
    fault: str = ""  # why the group does not begin: it is halted from the start
