"""The state of one replica, and the outputs that gather in it until they are taken.

Invariant: fields change in the file they are named after below; besides, snapshot.py and core.settle move the log and
what is committed, and roles.py empties what a leader had. Outputs are only appended. A halted replica changes nothing
any more. No rule of Raft is decided here.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, TypeAlias

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.marks import mark
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.log import Log
from nodedb_node.raft.messages import (
    CONFIG,
    FOLLOWER,
    KINDS,
    NOBODY,
    Append,
    Configuration,
    Contacts,
    Entry,
    Event,
    GroupConfig,
    Halted,
    HardState,
    LogIndex,
    Message,
    Micros,
    NotLeader,
    ReadFailure,
    ReadState,
    Record,
    ReplicaId,
    Restored,
    Rng,
    RoleChanged,
    SnapshotWanted,
    Term,
)
from nodedb_node.raft.progress import Progress
from nodedb_node.raft.quorum import EVERYTHING

NEVER: Micros = EVERYTHING

# replication.py: (first, log's end, term before first, last, runs, bytes) of an append
Batch: TypeAlias = tuple[LogIndex, LogIndex, Term, LogIndex, tuple[tuple[LogIndex, Term], ...], int]
NO_BATCH: Batch = (0, 0, 0, 0, (), 0)


class State:
    """All of one replica. Grouped by the file that changes it."""

    __slots__ = (
        "after",
        "applied",
        "batch",
        "bound",
        "changed",
        "commit",
        "config",
        "config_watch",
        "configs",
        "contacts",
        "count_due",
        "delivered",
        "drops",
        "durable",
        "election_us",
        "events",
        "fence_us",
        "free",
        "group",
        "halted",
        "leader",
        "lease_dropped",
        "log",
        "members",
        "node",
        "noop_index",
        "now_us",
        "number",
        "outgoing_peers",
        "outgoing_self",
        "own_committed",
        "peers",
        "pending",
        "promise_us",
        "quarantine",
        "quorum_us",
        "read_failures",
        "read_states",
        "reads",
        "records",
        "releases",
        "removed",
        "replica",
        "request",
        "retry_us",
        "rng",
        "role",
        "saved",
        "send_list",
        "sends_due",
        "snapshots",
        "term",
        "transfer_sent",
        "transfer_to",
        "transfer_us",
        "unsaved",
        "vote",
        "vote_number",
        "vote_replica",
        "voter_peers",
        "voter_self",
        "voters_since_us",
        "votes",
        "want_heartbeat",
    )

    def __init__(self, config: GroupConfig, restored: Restored, contacts: Contacts, rng: Rng, now_us: Micros) -> None:
        self.config, self.contacts, self.rng = config, contacts, rng
        self.group: GroupId = config.group
        self.node: NodeNumber = config.node
        self.replica: ReplicaId = config.replica
        self.now_us = now_us
        self.halted = False
        self.drops = 0  # messages not believed
        self._begin_outputs()
        fault = self._begin_log(restored)
        self._begin_roles(restored, now_us)
        if fault:
            self.halt(fault)

    def _begin_outputs(self) -> None:
        self.number = 0  # of the newest Ready taken
        self.saved = 0  # of the newest Ready that is durable
        self.vote_number = 0  # of the Ready with the vote for this replica's newest candidacy
        self.changed = False  # something may be there to take
        self.records: list[Record] = []
        self.after: list[Message] = []
        self.free: list[Message] = []
        self.events: list[Event] = []
        self.read_states: list[ReadState] = []
        self.read_failures: list[ReadFailure] = []
        self.snapshots: list[SnapshotWanted] = []
        self.want_heartbeat = False

    def _begin_log(self, restored: Restored) -> str:
        """What stops the group from the start; empty = nothing."""
        # log, following.py and proposals.py
        self.log = Log(restored.mark_index, restored.mark_term)
        self.log.append_entries(restored.entries)
        self.durable = self.log.last_index
        self.pending: deque[tuple[int, LogIndex]] = deque()  # (Ready number, last entry in it), not yet durable
        self.unsaved = False  # entries that no Ready has taken
        # commit.py
        assert restored.mark_index <= restored.applied <= self.log.last_index, "the checkpoint is ahead of the log"
        self.commit = self.delivered = self.applied = restored.applied
        # membership.py: (index, configuration), the one in force last; the first is committed
        self.configs: list[tuple[LogIndex, Configuration]] = [(restored.config_index, restored.configuration)]
        assert restored.config_index <= restored.mark_index and not configurations.fault(restored.configuration)
        self.config_watch: LogIndex = NEVER  # newest configuration that is not committed
        self.removed = False
        self.peers: dict[NodeNumber, Progress] = {}  # of a leader: all members but itself
        self.send_list: tuple[Progress, ...] = ()
        self.voter_peers: tuple[Progress, ...] = ()
        self.voter_self = False
        self.outgoing_peers: tuple[Progress, ...] = ()
        self.outgoing_self = False
        self.members: dict[NodeNumber, ReplicaId] = {}
        return restored.fault or self._restore_configurations(restored)

    def _restore_configurations(self, restored: Restored) -> str:
        for index, entry in enumerate(restored.entries, restored.mark_index + 1):
            if entry.kind not in KINDS:
                return f"entry {index} of the log has the unknown kind {entry.kind}: a newer version wrote it"
            if entry.kind == CONFIG:
                configuration = configurations.decode_entry(entry.data)
                if configuration is None:
                    return f"entry {index} of the log is no configuration this version can read"
                self.configs.append((index, configuration))
        return ""

    def _begin_roles(self, restored: Restored, now_us: Micros) -> None:
        # roles.py, election.py
        self.role = FOLLOWER
        self.term: Term = max(restored.term, self.log.last_term)
        own = restored.term == self.term
        self.vote, self.vote_replica = (restored.vote, restored.vote_replica) if own else (NOBODY, ReplicaId(0))
        self.leader = NOBODY
        self.votes: dict[NodeNumber, bool] = {}
        self.request = self.rng.randrange(1, 1 << 32)  # of the newest campaign; answers to an older process's miss it
        self.bound = restored.bound
        fenced = restored.promised and self.config.lease_us
        self.fence_us: Micros = now_us + self.config.fence_us if fenced else 0
        self.promise_us: Micros = 0
        # quarantine.py
        self.quarantine = self.rng.randrange(1, 1 << 32) if restored.quarantined else 0
        # deadlines; NEVER = none
        self.election_us: Micros = NEVER
        self.quorum_us: Micros = NEVER
        self.retry_us: Micros = NEVER
        self.transfer_us: Micros = NEVER
        # of a leader
        self.voters_since_us: Micros = 0  # it leads these voters: what contact is counted from, however old
        self.noop_index: LogIndex = 0  # its first entry
        self.own_committed = False
        self.sends_due = False  # something for send_appends
        self.count_due = False  # a member's match or the own durable index rose: commit.maybe_commit
        self.batch = NO_BATCH
        self.releases: dict[NodeNumber, LogIndex] = {}  # quarantine.py: members that wait → for what entry's commit
        # reads.py
        self.reads: deque[tuple[Any, LogIndex, Micros]] = deque()  # (context, index, arrival)
        self.lease_dropped = False
        # transfer.py
        self.transfer_to = NOBODY
        self.transfer_sent = False

    # ---- outputs ----

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.changed = True

    def emit_role(self) -> None:
        self.emit(RoleChanged(self.role, self.term, self.leader, self.bound))

    def save_hard_state(self) -> None:
        """Term or vote changed: a record before anything that depends on it."""
        records = self.records
        if records and type(records[-1]) is HardState:
            records.pop()
        records.append(HardState(self.term, self.vote, self.vote_replica))
        self.changed = True

    def save_entries(self, entries: Sequence[Entry]) -> None:
        """Into the log's shape and the records."""
        assert entries
        records, log = self.records, self.log
        newest = records[-1] if records else None
        if type(newest) is Append:
            assert isinstance(newest.entries, list)
            newest.entries.extend(entries)
        else:
            records.append(Append(log.last_index + 1, list(entries)))
        for entry in entries:
            log.append(entry.term, entry.size_bytes)
        self.unsaved = self.changed = True

    def send_after(self, message: Message) -> None:
        """A promise: it leaves when everything recorded until now is durable."""
        self.after.append(message)
        self.changed = True

    def send_free(self, message: Message) -> None:
        self.free.append(message)
        self.changed = True

    def fail_read(self, context: Any) -> None:
        self.read_failures.append(ReadFailure(context, self.not_leader()))
        self.changed = True

    def not_leader(self) -> NotLeader:
        return NotLeader(NOBODY if self.leader == self.node else self.leader)

    def drop(self, name: str) -> None:
        """A message that is not believed: stale, foreign or malformed. Never fatal, never answered. name: its mark."""
        self.drops += 1
        mark(name)

    def halt(self, why: str) -> None:
        """This group stops, the worker goes on. Records stay, so that what was promised is kept."""
        if self.halted:
            return
        mark("raft-halt")
        self.halted = True
        self.after, self.free = [], []
        self.emit(Halted(why, self.dump()))

    def dump(self) -> str:
        """The machine's state in words, for whoever looks at a halted group."""
        log, configuration = self.log, self.configs[-1]
        peers = ", ".join(f"{p.node}/{p.replica}:{p.flow.name.lower()} {p.match}<{p.next}" for p in self.peers.values())
        return (
            f"group {self.group} node {self.node}/{self.replica} {self.role.name.lower()} term {self.term} "
            f"vote {self.vote} leader {self.leader} log {log.mark_index}/{log.mark_term}.."
            f"{log.last_index}/{log.last_term} "
            f"durable {self.durable} commit {self.commit} delivered {self.delivered} applied {self.applied} "
            f"quarantine {self.quarantine} configuration {configuration[0]}: {configuration[1]} peers {peers or 'none'}"
        )
