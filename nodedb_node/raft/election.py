"""Elections: when one is begun, who gets a vote, and what the answers decide.

Invariant: a vote, also the own one, is not given while a promise to a leader holds (lane acknowledgements, append
answers, or those of an earlier process: the boot fence), unless that leader itself asked for the election. PreVote
changes nothing at the voter and nothing of the candidate's term (thesis, 9.6), so a replica that was cut off does not
disturb when it comes back.
"""

from nodedb_node.ids import NodeNumber
from nodedb_node.marks import mark
from nodedb_node.raft import membership, proposals, reads, roles
from nodedb_node.raft.messages import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    NOBODY,
    PRE_CANDIDATE,
    Micros,
    NotReady,
    Refusal,
    RequestVote,
    TimeoutNow,
    VoteResponse,
)
from nodedb_node.raft.quorum import Votes, counted_jointly
from nodedb_node.raft.state import NEVER, State

# ---- beginning ----


def on_election_timeout(state: State, now_us: Micros) -> None:
    """The deadline has passed: no leader was heard of, or no election was won."""
    assert state.role is not LEADER
    config = state.config
    if state.removed:
        state.election_us = NEVER
        return
    leader = _heard_leader(state, now_us)
    if leader != NOBODY:
        if state.leader != leader:
            mark("raft-leader-known-by-lane")
            roles.become_follower(state, now_us, state.term, leader)
        state.election_us = NEVER  # its lane lives and covers this group; lane_lost tells when not
        return
    if state.quarantine or not membership.may_campaign(state):
        _ask_whether_removed(state, now_us)
        return
    free_us = promised_until_us(state)
    if now_us < free_us:
        mark("raft-campaign-waits-for-promise")
        spread_us = config.election_max_us - config.election_min_us
        state.election_us = free_us + state.rng.randrange(0, spread_us)
        return
    begin_pre_election(state, now_us)


def _ask_whether_removed(state: State, now_us: Micros) -> None:
    """The leader may have told it in vain, and no candidacy will: voters say so to whoever asks. PreVote changes
    nothing there, and no vote counts here, as this replica stays a follower."""
    mark("raft-asks-whether-removed")
    send_request_votes(state, pre=True, transfer=False)
    state.election_us = now_us + 4 * state.config.election_max_us


def _heard_leader(state: State, now_us: Micros) -> NodeNumber:
    """Who leads this term as its lane says: a replica that came back to an idle group hears nothing else of it."""
    since_us = now_us - state.config.election_min_us
    candidates = [state.leader] if state.leader != NOBODY else list(state.members)
    heard_us, watched = state.contacts.heard_us, state.contacts.watched
    return next((node for node in candidates if max(0, since_us) < heard_us(node) and watched(node)), NOBODY)


def campaign(state: State, now_us: Micros) -> Refusal | None:
    """An operator's or a test's wish; promises stand."""
    if state.halted or state.quarantine or state.removed or not membership.may_campaign(state):
        return NotReady("this replica may not lead now")
    if state.role is LEADER:
        return NotReady("this replica leads already")
    if now_us < promised_until_us(state):
        return NotReady("a promise to a leader holds")
    begin_pre_election(state, now_us)
    return None


def promised_until_us(state: State) -> Micros:
    """No vote before then, but for a transfer."""
    return max(state.fence_us, state.promise_us, state.contacts.promised_us())


def begin_pre_election(state: State, now_us: Micros) -> None:
    roles.become_pre_candidate(state, now_us)
    send_request_votes(state, pre=True, transfer=False)
    decide(state, now_us)


def begin_election(state: State, now_us: Micros, transfer: bool) -> None:
    if not transfer and now_us < promised_until_us(state):
        mark("raft-promise-during-pre-vote")
        roles.become_follower(state, now_us, state.term, NOBODY)
        return
    roles.become_candidate(state, now_us)
    send_request_votes(state, pre=False, transfer=transfer)
    decide(state, now_us)


def send_request_votes(state: State, pre: bool, transfer: bool) -> None:
    """To every other voter. A real request follows the record of the term and own vote; PreVote promises nothing."""
    current = membership.in_force(state)
    outputs = state.free if pre else state.after
    for member in sorted({*current.voters, *current.outgoing}):
        if member.node != state.node:
            outputs.append(
                RequestVote(
                    state.group,
                    state.node,
                    state.replica,
                    member.node,
                    member.replica,
                    state.term + 1 if pre else state.term,
                    state.request,
                    state.log.last_index,
                    state.log.last_term,
                    pre,
                    transfer,
                    state.bound,
                )
            )
    state.changed = True


# ---- voting ----


def on_request_vote(state: State, now_us: Micros, message: RequestVote) -> None:
    if membership.was_removed(state, message.sender, message.sender_replica):
        mark("raft-vote-asked-by-removed")
        send_vote_response(state, message, False, removed=True)
    elif message.term < state.term or membership.is_observer(state) or _sticks(state, now_us, message):
        send_vote_response(state, message, False)
    elif message.pre:
        send_vote_response(state, message, _would_grant(state, message))
    else:
        if message.term > state.term:
            roles.become_follower(state, now_us, message.term, NOBODY)
        granted = _would_grant(state, message)
        if granted:
            state.vote, state.vote_replica = message.sender, message.sender_replica
            state.save_hard_state()
            roles.arm_election(state, now_us)
        send_vote_response(state, message, granted)


def _sticks(state: State, now_us: Micros, message: RequestVote) -> bool:
    """There is a leader, or may be: neither the vote nor the term is taken (thesis, 4.2.3)."""
    if message.transfer:
        return False
    if now_us < promised_until_us(state):
        return True
    if state.role is LEADER:
        return reads.quorum_contact(state, now_us) + state.config.election_min_us > now_us
    if state.role is FOLLOWER and state.leader != NOBODY:
        heard_us = state.contacts.heard_us(state.leader)
        return heard_us > 0 and heard_us + state.config.election_min_us > now_us
    return False


def _would_grant(state: State, message: RequestVote) -> bool:
    """One vote per term, to a log at least as up to date; never from quarantine, never beside a leader."""
    if state.quarantine or not state.log.is_behind(message.last_index, message.last_term):
        return False
    if message.term > state.term:
        return True
    if state.vote == NOBODY:
        return state.leader == NOBODY
    return state.vote == message.sender and state.vote_replica == message.sender_replica


def send_vote_response(state: State, message: RequestVote, granted: bool, removed: bool = False) -> None:
    assert not (granted and state.quarantine)
    state.send_after(
        VoteResponse(
            state.group,
            state.node,
            state.replica,
            message.sender,
            message.sender_replica,
            state.term,
            message.request,
            message.pre,
            granted,
            state.bound,
            removed,
        )
    )


# ---- counting ----


def on_vote_response(state: State, now_us: Micros, message: VoteResponse) -> None:
    if message.removed and state.role is not LEADER:
        membership.become_removed(state, 0)
        roles.become_follower(state, now_us, state.term, NOBODY)
        return
    if message.term > state.term and not (message.pre and message.granted):
        roles.become_follower(state, now_us, message.term, NOBODY)
        return
    asked = PRE_CANDIDATE if message.pre else CANDIDATE
    if state.role != asked or message.request != state.request:
        state.drop("raft-drop-vote-not-asked")
        return
    if message.granted and not message.pre and message.term != state.term:
        state.drop("raft-drop-vote-of-other-term")
        return
    if state.members.get(message.sender) != message.sender_replica:
        state.drop("raft-drop-vote-of-stranger")
        return
    state.votes[message.sender] = message.granted
    state.bound = max(state.bound, message.bound)
    decide(state, now_us)


def decide(state: State, now_us: Micros) -> None:
    """What the votes amount to. The own one counts once it is durable, as with everybody; others come after it. In a
    group without other members nobody hears of a term that a crash takes back."""
    current = membership.in_force(state)
    voters = [member.node for member in current.voters]
    result = counted_jointly(voters, [member.node for member in current.outgoing], state.votes)
    if result == Votes.LOST:
        roles.become_follower(state, now_us, state.term, NOBODY)
    elif result == Votes.WON and state.role is PRE_CANDIDATE:
        begin_election(state, now_us, transfer=False)
    elif result == Votes.WON and (state.vote_number <= state.saved or len(state.members) == 1):
        begin_leadership(state, now_us)


def begin_leadership(state: State, now_us: Micros) -> None:
    roles.become_leader(state, now_us)
    proposals.append_noop(state)
    assert state.sends_due and not state.own_committed


def on_timeout_now(state: State, now_us: Micros, message: TimeoutNow) -> None:
    """The leader hands over: an election without PreVote, against which no promise stands (thesis, 3.10)."""
    if message.term != state.term or state.leader != message.sender or state.role is not FOLLOWER:
        state.drop("raft-drop-timeout-now-of-another")
    elif state.quarantine or state.removed or not membership.may_campaign(state):
        state.drop("raft-drop-timeout-now-at-no-voter")
    else:
        mark("raft-timeout-now")
        begin_election(state, now_us, transfer=True)


# ---- keeping ----


def on_quorum_timeout(state: State, now_us: Micros) -> None:
    """CheckQuorum: a leader that a quorum has not answered for an election steps down (thesis, 6.2). The deadline runs
    only while some voter is out of contact: lane_lost arms it, and other voters do, as their lanes may have been silent
    before they were any."""
    assert state.role is LEADER
    config = state.config
    contact_us = max(reads.quorum_contact(state, now_us), state.voters_since_us)
    if now_us >= contact_us + config.election_max_us:
        mark("raft-quorum-lost")
        roles.become_follower(state, now_us, state.term, NOBODY)
        return
    # Given up only for lanes that cannot have been silent long enough to say so: what they said is not said again.
    oldest_us = min(
        (state.contacts.acked_us(peer.node) for peer in state.voter_peers + state.outgoing_peers), default=now_us
    )
    quiet = oldest_us + 2 * config.heartbeat_us > now_us
    state.quorum_us = NEVER if quiet else max(now_us + 1, contact_us + config.election_max_us)


def on_lane_lost(state: State, now_us: Micros, peer: NodeNumber, rank: int) -> None:
    """Contact of this group with a peer is no longer watched by its lane."""
    config = state.config
    if state.role is LEADER:
        if state.members.get(peer) is not None and not membership.is_sole_voter(state):
            contact_us = max(reads.quorum_contact(state, now_us), state.voters_since_us)
            state.quorum_us = min(state.quorum_us, contact_us + config.election_max_us)
    elif state.leader == peer and state.election_us == NEVER:  # else its own deadline runs already
        heard_us = state.contacts.heard_us(peer)
        deadline_us = heard_us + state.rng.randrange(config.election_min_us, config.election_max_us)
        state.election_us = max(now_us, deadline_us) + rank * config.rank_us
