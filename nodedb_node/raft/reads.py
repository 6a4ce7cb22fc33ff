"""Linearizable reads: by lease, or by contact with a quorum after the read arrived (ReadIndex; thesis, 6.4).

Invariant: a read is given an index only by a leader that has committed in its own term, and only if a quorum of each
set of voters took it for their leader at or after the read's arrival, or promised to until later than now. Contact is
dated by when it was *sent*. Waiting reads are one queue: one contact answers all that arrived before it.
"""

from typing import Any

from nodedb_node.raft.messages import LEADER, Busy, LogIndex, Micros, NotReady, ReadState, Refusal
from nodedb_node.raft.progress import Progress
from nodedb_node.raft.quorum import reached
from nodedb_node.raft.state import State

INDEX_UNKNOWN: LogIndex = -1


def read(state: State, now_us: Micros, context: Any) -> Refusal | None:
    """None: the answer comes in read_states or read_failures of some Ready, not later than leadership lasts."""
    if state.halted:
        return NotReady("the group is halted on this node; see its log")
    if state.role is not LEADER:
        return state.not_leader()
    if len(state.reads) >= state.config.reads_max:
        return Busy("waiting reads")
    state.changed = True
    if lease_valid(state, now_us):
        state.read_states.append(ReadState(context, state.commit, True))
        return None
    wait(state, now_us, context)
    return None


def wait(state: State, now_us: Micros, context: Any) -> None:
    index = state.commit if state.own_committed else INDEX_UNKNOWN
    state.reads.append((context, index, now_us))
    state.want_heartbeat = state.changed = True
    confirm(state, now_us)


def set_index(state: State, now_us: Micros) -> None:
    """The leader has just committed in its own term: reads that waited for it get this index."""
    assert state.own_committed
    reads = state.reads
    for _ in range(len(reads)):
        context, index, arrival_us = reads.popleft()
        assert index == INDEX_UNKNOWN
        reads.append((context, state.commit, arrival_us))
    confirm(state, now_us)


def confirm(state: State, now_us: Micros) -> None:
    """Contact may have risen: answer every read that arrived before it."""
    if not state.own_committed or not state.reads:
        return
    contact_us = quorum_contact(state, now_us)
    reads = state.reads
    while reads and reads[0][2] <= contact_us:
        context, index, _ = reads.popleft()
        assert 0 <= index <= state.commit
        state.read_states.append(ReadState(context, index, False))
        state.changed = True


def quorum_contact(state: State, now_us: Micros, promised: bool = False) -> Micros:
    """Since when, by send time, a quorum of each set of voters has not taken anyone else for the leader; promised: and
    does not as long as a lease from then on lasts."""
    assert state.role is LEADER
    contact_us = reached(_contacts(state, state.voter_peers, state.voter_self, now_us, promised))
    if state.outgoing_peers or state.outgoing_self:
        outgoing = _contacts(state, state.outgoing_peers, state.outgoing_self, now_us, promised)
        contact_us = min(contact_us, reached(outgoing))
    return contact_us


def _contacts(state: State, peers: tuple[Progress, ...], own: bool, now_us: Micros, promised: bool) -> list[Micros]:
    """A lane's acknowledgement is a promise for as long as the heartbeat asked."""
    acked_us = state.contacts.acked_us
    times = [
        0 if peer.quarantine else max(peer.promised_us if promised else peer.contact_us, acked_us(peer.node))
        for peer in peers
    ]
    if own:
        times.append(now_us)
    return times


def lease_valid(state: State, now_us: Micros) -> bool:
    """Nobody else can be leader now: a quorum promised so, in contact sent since the voters last changed.

    Check again after the values were read: the process may have been stopped in between.
    """
    if state.role is not LEADER or not state.own_committed or state.lease_dropped or state.halted:
        return False
    contact_us = quorum_contact(state, now_us, promised=True)
    return state.voters_since_us <= contact_us and now_us < contact_us + state.config.lease_us
