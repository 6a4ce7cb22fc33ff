"""Quarantine: a replica that may have lost what it acknowledged neither votes nor leads until it is whole again.

Invariant: the mark is durable before anything is sent that depends on it. It ends when a leader that a quorum confirmed
after the restart (a read of its own, reads.Release) has replicated through the commit index it had then. A member's
acknowledgements count for nothing meanwhile: it may have lost its vote in a higher term. With the hard state lost the
replica counts as having voted in the first leader's term.
"""

from nodedb_node.marks import mark
from nodedb_node.raft import reads, roles
from nodedb_node.raft.messages import (
    FOLLOWER,
    NOBODY,
    AppendEntries,
    InstallSnapshot,
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


def on_leader_append(state: State, message: AppendEntries, agreed: LogIndex) -> None:
    """Follower in quarantine: the log agrees with the leader's up to `agreed`."""
    assert state.quarantine
    if message.release_of == state.quarantine and agreed >= message.release_index:
        state.quarantine = 0
        state.records.append(QuarantineMark(False))
        state.emit(QuarantineChanged(False, f"whole up to entry {message.release_index}"))


def on_first_leader(state: State, message: AppendEntries | InstallSnapshot) -> None:
    """With the hard state lost: this term's vote may have been given, and the leader got it as far as anyone knows."""
    assert state.hard_lost and state.term == message.term
    state.hard_lost = False
    state.vote, state.vote_replica = message.sender, message.sender_replica
    state.save_hard_state()


def on_member_changed(state: State, now_us: Micros, peer: Progress, number: int) -> None:
    """Leader: a member entered (a new) quarantine or left it."""
    peer.quarantine = number
    state.count_due = state.changed = True
    peer.release_of = peer.release_index = 0
    if number:
        peer.match = peer.acked = peer.commit_sent = 0
        reads.wait(state, now_us, reads.Release(peer.node, number))
