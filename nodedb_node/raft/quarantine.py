"""Quarantine: a replica that may have lost what it acknowledged neither votes nor leads until it is whole again.

Invariant: the mark is durable before anything is sent that depends on it. It ends when a leader, after it heard of the
quarantine, was confirmed by a quorum *and* by every other voter in its term, and has replicated through the commit
index it had then. A member's acknowledgements count for nothing meanwhile: it may have lost its vote in a higher term.

Why every other voter: whom the lost vote was for had that vote's term on its disk before it asked. If all of them are
in the leader's term after the restart, the lost vote was for no later term; and in the leader's own term the replica
counts as having voted for the leader. A quorum would not do: a candidate outside of it could still win with the lost
vote, and another one with a second vote of the same replica in the same term. A voter that never comes back thus has to
be removed before the quarantine ends, or the quarantined replica itself is replaced by one with a new replica id.
"""

from nodedb_node.ids import NodeNumber
from nodedb_node.marks import mark
from nodedb_node.raft import reads, roles
from nodedb_node.raft.messages import (
    FOLLOWER,
    NOBODY,
    AppendEntries,
    LogIndex,
    Micros,
    QuarantineChanged,
    QuarantineMark,
)
from nodedb_node.raft.progress import Progress
from nodedb_node.raft.state import State


def enter(state: State, now_us: Micros, why: str) -> None:
    """Also for the owner, when a scrub finds damage while running."""
    if state.quarantine or state.halted:
        return
    mark("raft-quarantine")
    state.quarantine = state.rng.randrange(1, 1 << 32)
    state.records.append(QuarantineMark(True))
    state.emit(QuarantineChanged(True, why))
    if state.role is not FOLLOWER:
        roles.become_follower(state, now_us, state.term, NOBODY)


# ---- the member ----


def on_leader_append(state: State, message: AppendEntries, agreed: LogIndex) -> None:
    """Follower in quarantine: the log agrees with the leader's up to `agreed`."""
    assert state.quarantine and state.term == message.term
    if message.release_of != state.quarantine or agreed < message.release_index:
        return
    if state.vote == NOBODY:  # it may have been given in this term, and the leader got it as far as anyone knows
        state.vote, state.vote_replica = message.sender, message.sender_replica
        state.save_hard_state()
    state.quarantine = 0
    state.records.append(QuarantineMark(False))
    state.emit(QuarantineChanged(False, f"whole up to entry {message.release_index}"))


# ---- the leader ----


def on_member_changed(state: State, now_us: Micros, peer: Progress, number: int) -> None:
    """A member entered (a new) quarantine or left it."""
    peer.quarantine = number
    state.count_due = state.changed = True
    peer.release_of = peer.release_index = 0
    state.releases.pop(peer.node, None)
    if not number:
        return
    peer.match = peer.acked = peer.commit_sent = 0
    peer.caught_up, peer.round_end, peer.round_us = False, state.log.last_index, now_us
    state.releases[peer.node] = now_us
    state.want_heartbeat = True
    for other in _other_voters(state, peer.node):
        if other.quarantine:  # its lane vouches for nothing: an append asks it
            other.commit_sent = 0
            state.sends_due = True
    release(state, now_us)


def release(state: State, now_us: Micros) -> None:
    """Contact may have risen: let those go for whom everybody spoke. What is committed by now they may have lost."""
    if not state.own_committed:
        return
    quorum_us = reads.quorum_contact(state, now_us)
    for node, since_us in list(state.releases.items()):
        peer = state.peers.get(node)
        if peer is None or not peer.quarantine:
            del state.releases[node]
        elif since_us <= quorum_us and _everybody_spoke(state, node, since_us):
            mark("raft-quarantine-release")
            del state.releases[node]
            peer.release_of, peer.release_index = peer.quarantine, state.commit
            peer.commit_sent = 0
            state.sends_due = state.changed = True


def _everybody_spoke(state: State, node: NodeNumber, since_us: Micros) -> bool:
    """Every voter but this one was in the leader's term at or after since_us. One in quarantine can say that too."""
    acked_us = state.contacts.acked_us
    return all(since_us <= max(peer.contact_us, acked_us(peer.node)) for peer in _other_voters(state, node))


def _other_voters(state: State, node: NodeNumber) -> list[Progress]:
    return [peer for peer in state.voter_peers + state.outgoing_peers if peer.node != node]
