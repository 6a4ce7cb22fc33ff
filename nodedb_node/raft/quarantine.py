"""Quarantine: a replica that may have lost what it acknowledged neither votes nor leads until it is whole again.

Invariant: the mark is durable before anything is sent that depends on it. It ends when an entry that a leader appended
after it heard of the quarantine is committed, and the replica has everything that was committed by then. A member's
acknowledgements count for nothing meanwhile: it may have lost its vote in a higher term.

Why an entry: whoever has a vote that was lost asked for it with a log that ended before the quarantine began, and so
before the entry was made. It leads no later term than the leader's, and never will: the entry is committed, without the
replica's word, and every later leader has it (leader completeness; thesis, 3.6.3). So the vote is worth nothing, and so
is what the replica acknowledged in a later term; what it acknowledged in earlier ones, and is committed by that, the
leader has. In the leader's own term the replica counts as having voted for the leader. It does not matter who asked: a
voter, one on its way out, one that is a learner by now, one that nobody has heard of since.
"""

from nodedb_node.marks import mark
from nodedb_node.raft import proposals, roles
from nodedb_node.raft.messages import (
    FOLLOWER,
    NOBODY,
    NOOP,
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
    """A member entered (a new) quarantine or left it. Answers to what it was asked before may be from before, too."""
    peer.quarantine = number
    peer.restart(now_us)
    peer.acked = peer.release_of = peer.release_index = 0
    state.releases.pop(peer.node, None)
    state.count_due = state.sends_due = state.changed = True
    if number:
        peer.round_end, peer.round_us = state.log.last_index, now_us
        state.releases[peer.node] = proposals.append_own(state, NOOP, 0, b"")


def release(state: State) -> None:
    """The commit index rose: let those go whose entry is committed. Everything committed by now they may have lost."""
    for node, index in list(state.releases.items()):
        if index > state.commit:
            continue
        del state.releases[node]
        peer = state.peers.get(node)
        if peer is not None and peer.quarantine:
            mark("raft-quarantine-release")
            peer.release_of, peer.release_index = peer.quarantine, state.commit
            peer.commit_sent = 0
