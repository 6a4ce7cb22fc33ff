"""Transitions between roles. Each leaves the whole state fit for the new role; nothing else changes role or term.

    FOLLOWER → PRE_CANDIDATE → CANDIDATE → LEADER, and from each back to FOLLOWER

Invariant: the term never falls; a vote is given once per term, is forgotten only with a higher term, and is recorded
before anything that depends on it: the vote for another is given by election.py, and taken as given by quarantine.py.
Whether a transition is due is decided by election.py and the message handlers.
"""

from nodedb_node.ids import NodeNumber
from nodedb_node.raft import membership
from nodedb_node.raft.messages import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    NOBODY,
    PRE_CANDIDATE,
    Micros,
    NotLeader,
    ReadFailure,
    ReplicaId,
    Term,
    TransferEnded,
)
from nodedb_node.raft.state import NEVER, State


def become_follower(state: State, now_us: Micros, term: Term, leader: NodeNumber) -> None:
    """Of a higher term, or of the same one, for any reason to stop leading or campaigning. The vote of a term stays."""
    assert term >= state.term
    assert leader != state.node, "a node does not follow itself"
    before = (state.role, state.term, state.leader)
    if state.role is LEADER:
        _leave_leadership(state, leader)
    state.role, state.leader = FOLLOWER, leader
    state.votes = {}
    if term > state.term:
        state.term = term
        state.vote, state.vote_replica = NOBODY, ReplicaId(0)
        state.save_hard_state()
    arm_election(state, now_us)  # until the leader's lane covers this group: following.rearm, on_election_timeout
    if before != (state.role, state.term, state.leader):
        state.emit_role()


def become_pre_candidate(state: State, now_us: Micros) -> None:
    """Asks whether an election could be won; term and vote stay (thesis, 9.6)."""
    assert state.role in (FOLLOWER, PRE_CANDIDATE, CANDIDATE)
    state.role, state.leader = PRE_CANDIDATE, NOBODY
    _begin_campaign(state, now_us)


def become_candidate(state: State, now_us: Micros) -> None:
    """A new term, with the own vote in it."""
    assert state.role is not LEADER
    assert not state.quarantine and not state.halted
    state.role, state.leader = CANDIDATE, NOBODY
    state.term += 1
    state.vote, state.vote_replica = state.node, state.replica
    state.save_hard_state()
    state.vote_number = state.number + 1
    _begin_campaign(state, now_us)


def become_leader(state: State, now_us: Micros) -> None:
    """Won: everything known of the members begins anew. The caller appends the first entry of the term at once."""
    assert state.role is CANDIDATE and state.vote == state.node
    assert not state.quarantine
    state.role, state.leader = LEADER, state.node
    state.voters_since_us = now_us
    state.noop_index = state.log.last_index + 1
    state.own_committed = state.lease_dropped = state.transfer_sent = False
    state.transfer_to = NOBODY
    state.peers = {}
    membership.refresh(state)
    state.election_us = state.transfer_us = NEVER
    state.quorum_us = NEVER if membership.is_sole_voter(state) else now_us + state.config.election_max_us
    state.emit_role()


def arm_election(state: State, now_us: Micros) -> None:
    """The randomised deadline, from now on."""
    config = state.config
    state.election_us = now_us + state.rng.randrange(config.election_min_us, config.election_max_us)


def _begin_campaign(state: State, now_us: Micros) -> None:
    state.votes = {state.node: True}
    state.request += 1
    arm_election(state, now_us)
    state.emit_role()


def _leave_leadership(state: State, successor: NodeNumber) -> None:
    """What a leader had under way is answered: reads fail, a transfer ends, members' progress is forgotten."""
    refusal = NotLeader(successor)
    state.read_failures += [ReadFailure(context, refusal) for context, _, _ in state.reads]
    state.reads.clear()
    state.releases.clear()
    if state.transfer_to != NOBODY:
        done = state.transfer_sent and successor in (NOBODY, state.transfer_to)
        state.emit(TransferEnded(state.transfer_to, done, "stepped down"))
        state.transfer_to = NOBODY
    state.peers, state.send_list, state.voter_peers, state.outgoing_peers = {}, (), (), ()
    state.quorum_us = state.retry_us = state.transfer_us = NEVER
    state.sends_due = state.count_due = state.want_heartbeat = False
