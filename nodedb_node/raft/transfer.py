"""Handing leadership to a chosen voter (thesis, 3.10).

Invariant: while a transfer is under way nothing is proposed; it ends by stepping down or at a deadline, after which
this leader serves again. Once TimeoutNow has left, no lease is believed for the rest of the term: the target may win
although voters promised to this leader.
"""

from nodedb_node.ids import NodeNumber
from nodedb_node.marks import mark
from nodedb_node.raft.messages import (
    LEADER,
    NOBODY,
    BadChange,
    Micros,
    NotReady,
    Refusal,
    TimeoutNow,
    TransferEnded,
    Transferring,
)
from nodedb_node.raft.progress import Progress
from nodedb_node.raft.state import NEVER, State


def transfer(state: State, now_us: Micros, to: NodeNumber) -> Refusal | None:
    """None: begun; TransferEnded or a change of role tells the end."""
    if state.halted:
        return NotReady("the group is halted on this node; see its log")
    if state.role is not LEADER:
        return state.not_leader()
    if state.transfer_to != NOBODY:
        return Transferring(state.transfer_to)
    peer = state.peers.get(to)
    if to == state.node:
        return BadChange("this node leads already")
    if peer is None or peer not in state.voter_peers:
        return BadChange("only a voter can lead")
    if peer.quarantine:
        return BadChange("that replica is in quarantine")
    if not state.own_committed:
        return NotReady("no entry of this leader's term is committed yet")
    state.transfer_to, state.transfer_sent = to, False
    state.transfer_us = now_us + state.config.election_max_us
    maybe_send_timeout_now(state, peer)
    return None


def maybe_send_timeout_now(state: State, peer: Progress) -> None:
    """The target may begin once it has every entry; it is told once."""
    if peer.node == state.transfer_to and not state.transfer_sent and peer.match == state.log.last_index:
        state.transfer_sent = True
        send_timeout_now(state, peer)


def send_timeout_now(state: State, peer: Progress) -> None:
    state.lease_dropped = True
    state.send_free(TimeoutNow(state.group, state.node, state.replica, peer.node, peer.replica, state.term))


def hand_over(state: State) -> None:
    """A leader that is no voter any more names a successor on its way out, so that nobody waits for a deadline."""
    last = state.log.last_index
    for peer in state.voter_peers:
        if peer.match == last and not peer.quarantine:
            send_timeout_now(state, peer)
            return


def on_transfer_timeout(state: State) -> None:
    """The target did not take over in time: this leader serves again, without a lease if TimeoutNow is out there."""
    assert state.transfer_to != NOBODY
    mark("raft-transfer-timeout")
    state.emit(TransferEnded(state.transfer_to, False, "not taken over in time"))
    state.transfer_to, state.transfer_us = NOBODY, NEVER
