"""Snapshot hand-off: the offer, its result, and the log that begins behind an installed snapshot.

Invariant: a leader resumes at index + 1 only by the member's own word that it has installed up to index. A member keeps
the entries behind a snapshot only if its entry at the boundary has the snapshot's term (thesis, 5: otherwise the whole
log is another history). The bytes, their chunks and checks are not here: owners move them, and tell the end.
"""

from nodedb_node.ids import NodeNumber
from nodedb_node.marks import mark
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft import following, membership, quarantine, roles
from nodedb_node.raft.messages import (
    FOLLOWER,
    LEADER,
    NOBODY,
    BadChange,
    InstallSnapshot,
    LogIndex,
    Micros,
    Refusal,
    Reset,
    SnapshotOffered,
    SnapshotResponse,
    Term,
)
from nodedb_node.raft.progress import SNAPSHOT, Progress
from nodedb_node.raft.state import State

# ---- the leader ----


def offer_snapshot(
    state: State, now_us: Micros, to: NodeNumber, index: LogIndex, term: Term, transfer: int
) -> Refusal | None:
    """The owner has a cut at index: offer it to the member that was asked for (SnapshotWanted)."""
    if state.role is not LEADER or state.halted:
        return state.not_leader()
    peer = state.peers.get(to)
    if peer is None or peer.flow is not SNAPSHOT:
        return BadChange("this member needs no snapshot any more")
    if state.log.term(index) != term or index > state.commit:
        return BadChange("the cut does not reach to where this leader's log begins: make a newer one")
    config_index, configuration = membership.at(state, index)
    peer.request += 1
    peer.offer = InstallSnapshot(
        state.group,
        state.node,
        state.replica,
        peer.node,
        peer.replica,
        state.term,
        peer.request,
        index,
        term,
        config_index,
        configurations.encode(configuration),
        transfer,
    )
    peer.moved_us = now_us
    state.retry_us = min(state.retry_us, now_us + state.config.election_max_us)
    state.send_free(peer.offer)
    return None


def snapshot_failed(state: State, now_us: Micros, to: NodeNumber) -> None:
    """No cut could be made, or its bytes did not get there: ask again after a while."""
    peer = state.peers.get(to)
    if peer is not None and peer.flow is SNAPSHOT:
        _pause(state, now_us, peer)


def _pause(state: State, now_us: Micros, peer: Progress) -> None:
    mark("raft-snapshot-paused")
    peer.offer, peer.paused_us = None, now_us + state.config.election_max_us
    state.retry_us = min(state.retry_us, peer.paused_us)


def on_snapshot_response(state: State, now_us: Micros, message: SnapshotResponse) -> None:
    if message.term > state.term:
        roles.become_follower(state, now_us, message.term, NOBODY)
        return
    peer = state.peers.get(message.sender)
    if message.term < state.term or peer is None or peer.replica != message.sender_replica or peer.offer is None:
        state.drop("raft-drop-snapshot-answer-not-asked")
        return
    offered = peer.offer
    if offered.request != message.request or (message.ok and message.index != offered.snapshot_index):
        state.drop("raft-drop-snapshot-answer-of-unknown-request")
        return
    if message.quarantine != peer.quarantine:
        quarantine.on_member_changed(state, now_us, peer, message.quarantine)
    if not message.ok:
        _pause(state, now_us, peer)
        return
    mark("raft-snapshot-installed")
    peer.match = max(peer.match, message.index)
    peer.acked = max(peer.acked, peer.match)
    state.count_due = True
    peer.become_probe(now_us)
    peer.next = peer.match + 1  # though a change of its quarantine has made it a probe already
    state.sends_due = state.changed = True


# ---- the member ----


def on_install_snapshot(state: State, now_us: Micros, message: InstallSnapshot) -> None:
    if message.term < state.term:
        send_response(state, message, False)
        return
    if not 0 < message.snapshot_term <= message.term or not 0 <= message.config_index <= message.snapshot_index:
        state.drop("raft-drop-malformed-offer")
        return
    if configurations.decode(message.configuration) is None:
        state.halt("a snapshot's configuration cannot be read by this version; update this node")
        return
    if not following.follow(state, now_us, message):
        return
    if message.snapshot_index <= state.commit:
        mark("raft-offer-of-old")
        send_response(state, message, True)
        return
    state.emit(SnapshotOffered(message))


def snapshot_installed(state: State, now_us: Micros, offer: InstallSnapshot) -> None:
    """The state machine durably holds everything up to the offer's index."""
    if state.halted:
        return
    state.now_us = now_us
    index, term = offer.snapshot_index, offer.snapshot_term
    if index > state.delivered:  # commit may have passed it meanwhile: what the state machine holds is not given again
        _install(state, offer)
    assert state.commit >= index and state.term >= term
    send_response(state, offer, True)


def _install(state: State, offer: InstallSnapshot) -> None:
    log, index, term = state.log, offer.snapshot_index, offer.snapshot_term
    configuration = configurations.decode(offer.configuration)
    assert configuration is not None, "checked when it was offered"
    keep = log.term(index) == term
    state.records.append(Reset(index, term, keep, offer.config_index, offer.configuration))
    if keep:
        mark("raft-snapshot-keeps-suffix")
        log.compact(index)
        state.durable = max(state.durable, index)
        for position, (number, last) in enumerate(state.pending):
            state.pending[position] = (number, max(last, index))
    else:
        log.reset(index, term)
        state.durable = index
        state.pending.clear()
    state.unsaved = state.unsaved and keep
    state.commit = max(state.commit, index)
    state.delivered = state.applied = index
    state.changed = True
    membership.install(state, offer.config_index, configuration)
    if state.role is not FOLLOWER and not membership.may_campaign(state):
        # Offered when it followed. The configuration is committed: nothing later would end this leadership.
        roles.become_follower(state, state.now_us, state.term, NOBODY)
    membership.check_removed(state)


def snapshot_refused(state: State, offer: InstallSnapshot) -> None:
    """The owner could not take it: the leader asks for another later."""
    if not state.halted:
        send_response(state, offer, False)


def send_response(state: State, message: InstallSnapshot, ok: bool) -> None:
    state.send_after(
        SnapshotResponse(
            state.group,
            state.node,
            state.replica,
            message.sender,
            message.sender_replica,
            state.term,
            message.request,
            ok,
            message.snapshot_index if ok else 0,
            state.quarantine,
        )
    )
