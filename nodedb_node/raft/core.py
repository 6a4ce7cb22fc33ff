"""One replica of one group: the machine's verbs, its table of messages, and its invariants.

    message            handler                              made by
    RequestVote        election.on_request_vote             election.send_request_votes
    VoteResponse       election.on_vote_response            election.send_vote_response
    AppendEntries      following.on_append_entries          replication.send_append
    AppendResponse     replication.on_append_response       following._send_response
    TimeoutNow         election.on_timeout_now              transfer.send_timeout_now
    InstallSnapshot    snapshot.on_install_snapshot         snapshot.offer_snapshot
    SnapshotResponse   snapshot.on_snapshot_response        snapshot.send_response

Invariant: check_invariants holds between any two calls. Time is what the caller says; durability is what `persisted`
says. A halted replica takes nothing and gives nothing but the event that says why.
"""

from collections.abc import Callable
from typing import Any

from nodedb_node.ids import NodeNumber
from nodedb_node.raft import (
    commit,
    election,
    membership,
    proposals,
    quarantine,
    reads,
    replication,
    roles,
    snapshot,
    transfer,
)
from nodedb_node.raft.following import on_append_entries
from nodedb_node.raft.messages import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    NOBODY,
    PRE_CANDIDATE,
    TERM_MAX,
    AppendEntries,
    AppendResponse,
    ConfigChange,
    Configuration,
    Contacts,
    GroupConfig,
    InstallSnapshot,
    LogIndex,
    Message,
    Micros,
    Position,
    Ready,
    Refusal,
    RequestVote,
    Restored,
    Rng,
    SnapshotResponse,
    Term,
    TimeoutNow,
    VoteResponse,
)
from nodedb_node.raft.quorum import EVERYTHING
from nodedb_node.raft.state import NEVER, State

HANDLERS: dict[type, Callable[[Any, Micros, Any], None]] = {
    AppendEntries: on_append_entries,
    AppendResponse: replication.on_append_response,
    RequestVote: election.on_request_vote,
    VoteResponse: election.on_vote_response,
    TimeoutNow: election.on_timeout_now,
    InstallSnapshot: snapshot.on_install_snapshot,
    SnapshotResponse: snapshot.on_snapshot_response,
}


class Raft(State):
    """The verbs. Status (role, term, leader, commit, applied, log, peers, configs, …) is read from the fields."""

    __slots__ = ()

    def __init__(self, config: GroupConfig, restored: Restored, contacts: Contacts, rng: Rng, now_us: Micros) -> None:
        super().__init__(config, restored, contacts, rng, now_us)
        membership.refresh(self)
        if not self.halted:
            membership.check_removed(self)  # told before, and its process ended before the tombstone was there
        if membership.is_sole_voter(self) and self.config_watch == EVERYTHING:
            # It can have promised nothing to anyone. Not yet committed, a leader outside may still rest on its promise.
            self.fence_us = 0
            self.election_us = now_us
        elif not self.removed:
            roles.arm_election(self, now_us)

    # ---- messages and time ----

    def step(self, now_us: Micros, message: Message) -> None:
        """One message. What is stale, foreign or malformed is dropped and counted."""
        self.now_us = now_us
        if self.halted:
            return
        handler, sender = HANDLERS.get(type(message)), message.sender
        if handler is None or message.receiver != self.node or message.receiver_replica != self.replica:
            self.drop("raft-drop-foreign")
        elif sender == self.node or sender <= NOBODY:
            self.drop("raft-drop-from-nobody")
        elif self.members.get(sender, message.sender_replica) > message.sender_replica:
            self.drop("raft-drop-replaced-replica")
        elif message.term > TERM_MAX:
            self.drop("raft-drop-term-without-next")
        else:
            handler(self, now_us, message)

    def tick(self, now_us: Micros) -> None:
        """Deadlines that have passed."""
        self.now_us = now_us
        if self.halted:
            return
        if self.election_us <= now_us:
            election.on_election_timeout(self, now_us)
        if self.quorum_us <= now_us:
            election.on_quorum_timeout(self, now_us)
        if self.transfer_us <= now_us:
            transfer.on_transfer_timeout(self)
        if self.retry_us <= now_us:
            replication.on_retry_timeout(self, now_us)

    def next_deadline_us(self) -> Micros | None:
        """When tick has something to do; None while nothing waits."""
        if self.halted:
            return None
        if self.role is LEADER:
            deadline_us = self.quorum_us if self.quorum_us < self.retry_us else self.retry_us
            if self.transfer_us < deadline_us:
                deadline_us = self.transfer_us
        else:
            deadline_us = self.election_us
        return None if deadline_us == NEVER else deadline_us

    # ---- wishes ----

    def propose(self, now_us: Micros, size_bytes: int, data: Any = None) -> Position | Refusal:
        """Append one entry; (index, term) identify its fate: committed there in that term, or overwritten."""
        self.now_us = now_us
        return proposals.propose(self, now_us, size_bytes, data)

    def propose_config(self, now_us: Micros, change: ConfigChange) -> Position | Refusal:
        """Begin a change of membership; it is done when a configuration that is not joint is announced committed."""
        self.now_us = now_us
        return proposals.propose_config(self, now_us, change)

    def transfer(self, now_us: Micros, to: NodeNumber) -> Refusal | None:
        self.now_us = now_us
        return transfer.transfer(self, now_us, to)

    def read(self, now_us: Micros, context: Any) -> Refusal | None:
        """A linearizable read; context comes back in read_states or read_failures."""
        self.now_us = now_us
        return reads.read(self, now_us, context)

    def lease_valid(self, now_us: Micros) -> bool:
        return reads.lease_valid(self, now_us)

    def campaign(self, now_us: Micros) -> Refusal | None:
        self.now_us = now_us
        return election.campaign(self, now_us)

    def quarantine_now(self, now_us: Micros, why: str) -> None:
        """The owner found damage in what this replica has acknowledged."""
        self.now_us = now_us
        quarantine.enter(self, now_us, why)

    def resign(self, now_us: Micros) -> None:
        """The owner cannot do what a leader must; somebody else may be able to."""
        self.now_us = now_us
        if self.role is LEADER and not membership.is_sole_voter(self):
            roles.become_follower(self, now_us, self.term, NOBODY)

    def halt(self, why: str) -> None:
        """Besides, it leads no more: its lanes would keep the others from electing a leader that goes on."""
        super().halt(why)
        if self.role is LEADER:
            roles.become_follower(self, self.now_us, self.term, NOBODY)

    def raise_bound(self, bound: int) -> None:
        """The owner's highest HLC bound; carried by votes."""
        self.bound = max(self.bound, bound)

    # ---- peers ----

    @property
    def waits_for_contact(self) -> bool:
        return bool(self.reads)

    def contact(self, now_us: Micros) -> None:
        """A lane acknowledgement arrived: reads may be answered."""
        self.now_us = now_us
        if self.role is LEADER and self.reads:
            reads.confirm(self, now_us)

    def lane_lost(self, now_us: Micros, peer: NodeNumber, rank: int = 0) -> None:
        """This group's contact with a peer has ended: lane dead, new generation, or out of its set. Call it whatever
        the role; rank (0, 1, …) spreads the elections of a lane's groups."""
        self.now_us = now_us
        assert rank >= 0
        if not self.halted:
            election.on_lane_lost(self, now_us, peer, rank)

    def lane_exception(self, now_us: Micros, peer: NodeNumber, term: Term) -> None:
        """A lane acknowledgement said: this group is not hosted (term 0), at another term, or in quarantine. A higher
        term deposes the leader; otherwise the member missed the leader's appends."""
        self.now_us = now_us
        if self.halted:
            return
        if term > TERM_MAX:
            self.drop("raft-drop-term-without-next")
        elif term > self.term:
            roles.become_follower(self, now_us, term, NOBODY)
        elif self.role is LEADER and peer in self.peers and not self.peers[peer].inflight:
            replication.probe(self, now_us, self.peers[peer])

    def unreachable(self, peer: NodeNumber) -> None:
        """The lane to a peer is down: nothing is sent until reachable, peer_restarted or a message of its."""
        progress = self.peers.get(peer)
        if progress is not None:
            replication.pause(self, progress)

    def reachable(self, now_us: Micros, peer: NodeNumber) -> None:
        """The lane to a peer is up, to the same process as before."""
        self.now_us = now_us
        progress = self.peers.get(peer)
        if progress is not None:
            replication.probe(self, now_us, progress)

    def peer_restarted(self, now_us: Micros, peer: NodeNumber) -> None:
        """The peer's process is a new one: what the old one said, and had in flight, is void."""
        self.now_us = now_us
        if self.role in (CANDIDATE, PRE_CANDIDATE) and peer != self.node:
            self.votes.pop(peer, None)  # it may have lost it; asking again is cheap
        progress = self.peers.get(peer)
        if progress is not None:
            progress.restart(now_us)
            progress.reachable = True
            self.sends_due = self.changed = True

    # ---- durability, state machine, snapshots ----

    def persisted(self, now_us: Micros, number: int) -> None:
        """The records of Ready `number` and of all before it are durable."""
        self.now_us = now_us
        assert number <= self.number, "a Ready that was never taken"
        self.saved = number
        if self.role is CANDIDATE and not self.halted:
            election.decide(self, now_us)
        pending, durable = self.pending, self.durable
        while pending and pending[0][0] <= number:
            durable = pending.popleft()[1]
        if durable <= self.durable or self.halted:
            return
        self.durable = durable
        self.changed = self.changed or durable > self.delivered
        if self.role is LEADER and durable > self.commit:
            self.count_due = self.changed = True

    def applied_to(self, index: LogIndex) -> None:
        """The state machine has applied everything up to index. Never goes back."""
        assert index <= self.delivered, "applied what was not delivered"
        self.applied = max(self.applied, index)

    def compacted(self, index: LogIndex) -> None:
        """A checkpoint durably covers the entries up to index: they may be forgotten."""
        assert index <= self.applied, "a checkpoint of what is not applied"
        if index > self.log.mark_index:
            self.log.compact(index)
            membership.compact(self, index)

    def is_alone(self) -> bool:
        """The only member, leading, with nothing in flight: a quorum of one, of whose entries nobody else asks."""
        if self.role is not LEADER or len(self.members) != 1 or self.send_list or not self.voter_self:
            return False
        busy = self.changed or self.reads or self.transfer_to != NOBODY
        return not (busy or self.halted) and self.own_committed and self.delivered == self.log.last_index

    def settle(self, index: LogIndex) -> None:
        """The owner appended entries of this term up to index by itself, and they are durable and applied. They are
        remembered as if they were compacted: who becomes a member later is sent a snapshot, or what comes after."""
        assert self.is_alone() and index >= self.log.last_index
        if index > self.log.last_index:
            self.log.reset(index, self.term)
            self.durable = self.commit = self.delivered = self.applied = index
            membership.compact(self, index)

    def retained_index(self) -> LogIndex:
        """Leader: entries above it are needed by some voter or learner that is in contact; the owner may keep them."""
        return replication.retained_index(self)

    def configuration_at(self, index: LogIndex) -> tuple[LogIndex, Configuration]:
        """(entry, configuration) in force at an index not compacted away: what a checkpoint up to there must hold."""
        assert self.log.mark_index <= index <= self.log.last_index
        return membership.at(self, index)

    def offer_snapshot(
        self, now_us: Micros, peer: NodeNumber, index: LogIndex, term: Term, transfer: int = 0
    ) -> Refusal | None:
        self.now_us = now_us
        return snapshot.offer_snapshot(self, now_us, peer, index, term, transfer)

    def snapshot_failed(self, now_us: Micros, peer: NodeNumber) -> None:
        self.now_us = now_us
        snapshot.snapshot_failed(self, now_us, peer)

    def snapshot_installed(self, now_us: Micros, offer: InstallSnapshot) -> None:
        self.now_us = now_us
        snapshot.snapshot_installed(self, now_us, offer)

    def snapshot_refused(self, now_us: Micros, offer: InstallSnapshot) -> None:
        self.now_us = now_us
        snapshot.snapshot_refused(self, offer)

    # ---- outputs ----

    def take_ready(self) -> Ready | None:
        """What has gathered, if anything. Commits are counted and appends made here."""
        if not self.changed:
            return None
        if self.count_due and not self.halted:
            commit.maybe_commit(self, self.now_us)  # once per turn, whatever the number of answers
        if self.sends_due and not self.halted:
            replication.send_appends(self)
        committed = None
        target = self.commit if self.commit < self.durable else self.durable
        if target > self.delivered and not self.halted:
            committed = (self.delivered + 1, target)
            self.delivered = target
        self.changed = False
        if not (committed or self.free or self.records or self.after or self._has_rare()):
            return None
        number = self.number + 1
        if self.unsaved:
            self.unsaved = False
            self.pending.append((number, self.log.last_index))
        ready = Ready(
            number,
            self.records,
            self.after,
            self.free,
            committed,
            self.read_states,
            self.read_failures,
            self.snapshots,
            self.events,
            self.want_heartbeat,
        )
        self.number = number
        self.records, self.after, self.free = [], [], []
        self._clear_rare()
        return ready

    def _has_rare(self) -> bool:
        return bool(self.read_states or self.read_failures or self.snapshots or self.events or self.want_heartbeat)

    def _clear_rare(self) -> None:
        """New lists only for what was used: most turns have none of these."""
        if self.read_states:
            self.read_states = []
        if self.read_failures:
            self.read_failures = []
        if self.snapshots:
            self.snapshots = []
        if self.events:
            self.events = []
        self.want_heartbeat = False

    # ---- invariants ----

    def check_invariants(self) -> None:
        """Everything that must hold between two calls. Tests and the simulator ask after every step."""
        self.log.check_invariants()
        assert self.log.mark_index <= self.applied <= self.delivered <= self.commit <= self.log.last_index
        assert self.delivered <= self.durable <= self.log.last_index
        assert self.log.last_term <= self.term
        if self.pending:
            numbers = [number for number, _ in self.pending]
            assert numbers == sorted(set(numbers))
            assert all(self.durable <= last <= self.log.last_index for _, last in self.pending)
        self._check_configurations()
        if self.quarantine:
            assert self.role is FOLLOWER, "a replica in quarantine neither leads nor campaigns"
        _CHECKS[self.role](self)

    def _check_configurations(self) -> None:
        newest = self.configs[-1][0]
        assert newest <= self.log.last_index and self.config_watch in (EVERYTHING, newest)
        if len(self.configs) > 1:
            indexes = [index for index, _ in self.configs]
            assert indexes == sorted(set(indexes))
            assert indexes[0] <= self.log.mark_index or indexes[0] <= self.commit
        assert self.halted or (self.config_watch == EVERYTHING) == (newest <= self.commit)

    def _check_not_leading(self) -> None:
        assert self.leader != self.node
        assert not self.peers and not self.voter_peers and not self.reads and not self.releases
        assert self.transfer_to == NOBODY
        assert self.quorum_us == self.retry_us == self.transfer_us == NEVER
        assert self.removed or self.election_us != NEVER or self.leader != NOBODY, "nobody would ever campaign"

    def _check_follower(self) -> None:
        self._check_not_leading()

    def _check_candidate(self) -> None:
        self._check_not_leading()
        assert self.leader == NOBODY and self.votes.get(self.node) is True
        if self.role is CANDIDATE:
            assert self.vote == self.node

    def _check_leader(self) -> None:
        assert self.leader == self.node and self.vote == self.node
        assert self.noop_index <= self.log.last_index or self.halted
        assert self.own_committed == (self.commit >= self.noop_index)
        assert self.election_us == NEVER
        assert len(self.reads) <= self.config.reads_max
        configuration = self.configs[-1][1]
        assert {member.node for member in configuration.voters} - {self.node} == {p.node for p in self.voter_peers}
        for peer in self.send_list:
            peer.check_invariants()
            assert self.peers[peer.node] is peer
            assert peer.match <= self.log.last_index and peer.next <= self.log.last_index + 1
            assert len(peer.inflight) <= self.config.inflight_messages_max
            if peer.inflight and peer.reachable:
                assert self.retry_us != NEVER, "a lost append would never be noticed"


_CHECKS = {
    FOLLOWER: Raft._check_follower,
    PRE_CANDIDATE: Raft._check_candidate,
    CANDIDATE: Raft._check_candidate,
    LEADER: Raft._check_leader,
}
