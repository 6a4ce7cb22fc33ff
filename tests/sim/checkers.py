"""What must hold at every moment, checked as it happens, at the cost of what happened.

Each rule is named as in the Raft papers: election safety, log matching, leader completeness, state machine safety; and
what practice added: one vote per term over restarts, promises only from durable state, commits backed by a durable
quorum, commit and applied never going back, configurations changing only through joint ones, leases that end before
another leader begins. The checkers see all replicas at once and never tell the replicas anything. Invariant: a truth
once recorded (a leader of a term, a vote, an entry at an index and term, a committed entry) is never replaced.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import msgspec

from nodedb_node.raft.messages import (
    CONFIG,
    DATA,
    AppendEntries,
    AppendResponse,
    Configuration,
    Entry,
    GroupConfig,
    Member,
    RequestVote,
    SnapshotResponse,
    VoteResponse,
)
from tests.sim.world import Violation

_configuration = msgspec.msgpack.Decoder(Configuration).decode


class ReplicaLog(Protocol):
    """What the checkers ask of one replica's log: terms by index, and how far the disk has it."""

    node: int
    replica: int
    last: int
    durable: int
    vote: tuple[int, int, int]  # term, node, replica
    durable_vote: tuple[int, int, int]

    def term_at(self, index: int) -> int | None: ...


class Known(NamedTuple):
    """An entry of the whole group: found once, then equal for ever."""

    previous_term: int
    content: int


class Truth:
    """What is known of one group, over all its replicas and all their lives."""

    def __init__(self, group: int, founders: Configuration) -> None:
        self.group = group
        self.leaders: dict[int, tuple[int, int]] = {}  # term -> (node, replica)
        self.votes: dict[tuple[int, int, int], tuple[int, int]] = {}  # (node, replica, term) -> candidate
        self.lost: set[tuple[int, int, int]] = set()  # votes whose voter does not know of them any more
        self.beaten: set[tuple[int, tuple[int, int]]] = set()  # (term, candidate) whose vote was given again
        self.entries: dict[tuple[int, int], Known] = {}  # (index, term)
        self.committed: list[int] = [0]  # term by index
        self.committed_in: list[int] = [0]  # by index, the term of who first said so; rises
        self.chains: list[int] = [0]  # the state's hash by index, as the first replica that applied it had it
        self.configurations: list[tuple[int, Configuration]] = [(0, founders)]  # committed ones
        self.max_leader_term = 0
        # (leader, its term, member, its replica) -> index up to which answers of that term have arrived
        self.answers: dict[tuple[int, int, int, int], int] = {}


def require(holds: bool, rule: str, *facts: object) -> None:
    if not holds:
        raise Violation(f"{rule}: {' '.join(str(fact) for fact in facts)}")


class Checkers:
    """All rules over all groups."""

    def __init__(self) -> None:
        self.truths: dict[int, Truth] = {}

    def add_group(self, group: int, founders: Configuration) -> None:
        self.truths[group] = Truth(group, founders)

    # ---- the log ----

    def appended(self, group: int, log: ReplicaLog, first: int, entries: Any) -> None:
        """Log matching (Raft 5.3): an index and term name one entry, and by induction all before it."""
        known = self.truths[group].entries
        previous = log.term_at(first - 1)
        for index, entry in enumerate(entries, first):
            found = known.get((index, entry.term))
            content = crc32(entry.data, entry.kind) if entry.data else entry.kind
            if found is None:
                assert previous is not None
                known[index, entry.term] = Known(previous, content)
            elif found.previous_term != previous or found.content != content:
                raise Violation(f"log matching: group {group} entry {index} of term {entry.term} is not one entry")
            previous = entry.term

    def proposed_configuration(self, group: int, committed: int, index: int, last_config: int) -> None:
        """A leader appends a configuration only when it has committed the one before."""
        if last_config > committed:
            raise Violation(f"configuration safety: group {group}: {index} while {last_config} is open")

    # ---- leaders ----

    def leader(self, group: int, log: ReplicaLog, term: int) -> None:
        """Election safety (5.2), and leader completeness (5.4): it has every entry committed in earlier terms."""
        truth, me = self.truths[group], (log.node, log.replica)
        other = truth.leaders.setdefault(term, me)
        require(other == me, "election safety", f"group {group} term {term}: leaders {other} and {me}")
        require((term, me) not in truth.beaten, "lost vote", f"group {group} term {term}: {me} has one given again")
        truth.max_leader_term = max(term, truth.max_leader_term)
        last = bisect_left(truth.committed_in, term) - 1
        require(
            last <= 0 or (log.term_at(last) in (truth.committed[last], None) and log.last >= last),
            "leader completeness",
            f"group {group} term {term}: {me} has term {log.term_at(last)} at {last}, committed in term",
            truth.committed[last],
        )

    def chosen(self, group: int, log: ReplicaLog, term: int, configuration: Configuration) -> None:
        """A leader was voted for in its term, by a majority of each set of voters (5.2)."""
        votes, me = self.truths[group].votes, (log.node, log.replica)
        for part in (configuration.voters, configuration.outgoing):
            given = sum((m.node, m.replica) == me or votes.get((m.node, m.replica, term)) == me for m in part)
            require(
                not part or given * 2 > len(part), "chosen", f"group {group} term {term}: {me} by {given} of {part}"
            )

    def answered(self, message: AppendResponse | SnapshotResponse) -> None:
        """A member's acknowledgement is about to arrive."""
        answers = self.truths[message.group].answers
        key = (message.receiver, message.term, message.sender, message.sender_replica)
        if message.index > answers.get(key, 0):
            answers[key] = message.index

    def believed(self, group: int, leader: int, term: int, member: tuple[int, int], match: int) -> None:
        """A leader believes of a member what it acknowledged in the leader's term, and nothing else."""
        said = self.truths[group].answers.get((leader, term, *member), 0)
        if match > said:
            raise Violation(f"ack of this term: group {group}: {leader} in {term}: {member} at {match}, said {said}")

    def vouched(self, group: int, node: int, commit: int, known: int) -> None:
        """A follower commits what an append says is committed, and only as far as that append reaches (5.3)."""
        if commit > known:
            raise Violation(f"commit of what is vouched for: group {group}: {node} at {commit} of {known}")

    def in_contact(self, group: int, leader: int, term: int, since_us: int, config: GroupConfig) -> None:
        """A leader that no quorum answers steps down (6.2). since_us: the age of the newest contact with one."""
        if since_us >= 2 * config.election_max_us:
            raise Violation(f"check quorum: group {group}: node {leader} leads {term}, in contact {since_us} us ago")

    def matched(self, group: int, leader: ReplicaLog, match: int, member: ReplicaLog) -> None:
        """What a leader believes a member has, it has, durably."""
        terms = (leader.term_at(match), member.term_at(match))
        if match > member.durable or (terms[0] != terms[1] and None not in terms):
            what = f"group {group}: node {member.node} at {match}: terms {terms}, durable {member.durable}"
            raise Violation(f"match: {what}")

    # ---- promises ----

    def sent(self, group: int, log: ReplicaLog, message: Any) -> None:
        """What leaves a replica is already on its disk, and no vote contradicts another of its term."""
        kind = type(message)
        if kind is AppendEntries:
            require(self.truths[group].leaders.get(message.term) == (log.node, log.replica), "leads", message)
        elif kind is AppendResponse:
            # What a later term truncated meanwhile was durable in this one.
            if message.ok and message.index > log.durable and message.term == log.vote[0]:
                raise Violation(f"persist before promise: group {group}: {message} {log.durable}")
            if message.term > log.durable_vote[0]:
                raise Violation(f"term before promise: group {group}: {message}")
        elif kind is SnapshotResponse:
            if message.ok and message.index > log.durable:
                raise Violation(f"persist before promise: group {group}: {message} {log.durable}")
        elif kind is VoteResponse:
            if message.granted and not message.pre:
                self._voted(group, log, message.term, (message.receiver, message.receiver_replica))
        elif kind is RequestVote and not message.pre:
            self._voted(group, log, message.term, (message.sender, message.sender_replica))

    def agreed(self, group: int, log: ReplicaLog, index: int, leader: ReplicaLog) -> None:
        """What is acknowledged is the leader's entry."""
        terms = (log.term_at(index), leader.term_at(index))
        if (terms[0] != terms[1] and None not in terms) or index > leader.last:
            raise Violation(f"ack of what agrees: group {group} entry {index}: terms {terms}")

    def _voted(self, group: int, log: ReplicaLog, term: int, candidate: tuple[int, int]) -> None:
        durable = log.durable_vote
        require(durable[0] > term or durable == (term, *candidate), "vote before promise", f"group {group} {candidate}")
        truth, voter = self.truths[group], (log.node, log.replica, term)
        first = truth.votes.setdefault(voter, candidate)
        if first != candidate:
            again = voter in truth.lost and truth.leaders.get(term) != first
            require(again, "one vote per term", f"group {group} {voter}: {first} and {candidate}")
            truth.lost.discard(voter)
            truth.beaten.add((term, first))
            truth.votes[voter] = candidate

    def forgotten(self, group: int, node: int, replica: int) -> None:
        """The replica lost its hard state. Votes for itself are gone for good where it did not win with them: only its
        dead process could have counted them. All other votes stand, but may be given again to another candidate when
        the first can never win that term."""
        truth, me = self.truths[group], (node, replica)
        truth.lost |= {voter for voter in truth.votes if voter[:2] == me}
        lost = [voter for voter, candidate in truth.votes.items() if voter[:2] == me == candidate]
        for voter in lost:
            if truth.leaders.get(voter[2]) != me:
                del truth.votes[voter]

    # ---- commits ----

    def committed(
        self,
        group: int,
        log: ReplicaLog,
        first: int,
        last: int,
        term_now: int,
        backing: Callable[[], tuple[list[Configuration], dict[int, Any]]],
    ) -> None:
        """State machine safety for what a replica reports committed; the first to report shows a durable quorum.

        term_now: the reporter's; backing: asked of the first only, the configurations of reporter and leader, and by
        node the group's replicas, dead ones too.
        """
        truth = self.truths[group]
        known = truth.committed
        for index in range(first, last + 1):
            term = log.term_at(index)
            assert term is not None
            if index < len(known):
                if known[index] != term:
                    raise Violation(f"state machine safety: group {group} entry {index}: term {term}")
            else:
                if index != len(known):
                    raise Violation(f"commit without hole: group {group} {first}..{last}")
                known.append(term)
                truth.committed_in.append(max(term_now, truth.committed_in[-1]))
                if index == last:
                    self._backed(group, index, term, *backing())

    def counted(self, group: int, leader_term: int, term: int | None, index: int) -> None:
        """A leader commits entries of its own term only; earlier ones come with them (5.4.2, figure 8)."""
        if term not in (leader_term, None):
            raise Violation(f"commit of own term: group {group} {index}: {term} in {leader_term}")

    def _backed(self, group: int, index: int, term: int, beliefs: list[Configuration], logs: dict[int, Any]) -> None:
        for belief in beliefs:
            parts = (belief.voters, belief.outgoing)
            counts = [(sum(holds(logs.get(m.node), m, index, term) for m in part), len(part)) for part in parts]
            if all(not voters or have * 2 > voters for have, voters in counts):
                return
        raise Violation(f"durable quorum: group {group} entry {index} of term {term}: {beliefs}")

    def configured(self, group: int, index: int, configuration: Configuration) -> None:
        """A committed configuration entry: voters change through a joint configuration, one change at a time (4.3)."""
        known = self.truths[group].configurations
        if index <= known[-1][0]:
            require((index, configuration) in known, "configuration safety", f"group {group} {index}: {configuration}")
            return
        before = known[-1][1]
        if before.outgoing:
            fits = configuration.voters == before.voters and not configuration.outgoing
        elif configuration.outgoing:
            fits = configuration.outgoing == before.voters
        else:
            fits = configuration.voters == before.voters
        require(
            fits or not before.voters, "configuration safety", f"group {group} {index}: {before} to {configuration}"
        )
        known.append((index, configuration))

    # ---- the state ----

    def applied(self, group: int, index: int, chain: int) -> None:
        """Every replica goes through the same states."""
        chains = self.truths[group].chains
        if index < len(chains):
            if chains[index] != chain:
                raise Violation(f"state machine safety: group {group} states differ at {index}")
        else:
            if index != len(chains):
                raise Violation(f"apply without hole: group {group}: {index} after {len(chains) - 1}")
            if index >= len(self.truths[group].committed):
                raise Violation(f"applied before commit: group {group} {index}")
            chains.append(chain)

    # ---- leases ----

    def lease_used(self, group: int, term: int, node: int) -> None:
        """A read under a lease: nobody leads in a later term."""
        latest = self.truths[group].max_leader_term
        if latest > term:
            raise Violation(f"lease: group {group}: node {node} reads in term {term}, a leader of {latest} exists")


class Gone(NamedTuple):
    """A replica that will never speak again: removed, or its disk was lost. It can take nothing back."""

    replica: int


def holds(log: Any, member: Member, index: int, term: int) -> bool:
    """Has that replica the entry, or a snapshot beyond it, on its disk?"""
    if type(log) is Gone:
        return log.replica >= member.replica
    if log is None or log.replica != member.replica or log.durable < index:
        return False
    return log.term_at(index) in (term, None)


def content_of(entry: Entry) -> bytes:
    return entry.data if entry.kind in (DATA, CONFIG) else b""
