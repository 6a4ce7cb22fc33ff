"""The leader's side of replication: what is sent to each member, and what the answers say.

Invariant: an answer moves a member's match only if it is of this term, of this replica, and answers a request sent to
the process of it that lives now. Batches are bounded by bytes, what is under way by bytes and number. Messages are made
once per turn (send_appends), so that all proposals of a turn share one append per member and carry the newest commit.
"""

from nodedb_node.marks import mark
from nodedb_node.raft import membership, quarantine, reads, roles, transfer
from nodedb_node.raft.messages import (
    LEADER,
    NOBODY,
    AppendEntries,
    AppendResponse,
    CaughtUp,
    LogIndex,
    Micros,
    SnapshotWanted,
)
from nodedb_node.raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from nodedb_node.raft.quorum import EVERYTHING
from nodedb_node.raft.state import NEVER, NO_BATCH, Batch, State

# ---- out ----


def send_appends(state: State) -> None:
    """To every member what it lacks and its window allows; an empty append where only the commit is news.

    A new member hears of the group when the entry that adds it, by whose index its replica is named, is committed: were
    it overwritten, the node would hold a replica of a higher id than a later leader may give.
    """
    assert state.role is LEADER
    state.sends_due = False
    state.batch = NO_BATCH
    last, watched = state.log.last_index, state.config_watch
    for peer in state.send_list:
        if not peer.reachable or peer.replica == watched:
            continue
        if peer.flow is REPLICATE:
            _send_ahead(state, peer, last)
        elif peer.flow is PROBE and not peer.inflight:
            send_append(state, peer, last)


def _send_ahead(state: State, peer: Progress, last: LogIndex) -> None:
    config = state.config
    while peer.next <= last:
        full = len(peer.inflight) >= config.inflight_messages_max or peer.inflight_bytes >= config.inflight_bytes_max
        if full and peer.inflight:
            return
        if not send_append(state, peer, last):
            return
    stale = peer.commit_sent < state.commit and peer.commit_sent < peer.next - 1
    if stale and len(peer.inflight) < config.inflight_messages_max:
        send_append(state, peer, last)


def send_append(state: State, peer: Progress, last: LogIndex) -> bool:
    """One append from peer.next on. False: the entry before is compacted away, a snapshot is wanted instead."""
    first = peer.next
    batch = state.batch
    if batch[0] != first or batch[1] != last:
        batch = _cut_batch(state, first, last)
    _, _, prev_term, last, runs, size_bytes = batch
    if prev_term < 0:
        become_snapshot(state, peer)
        return False
    if peer.flow is REPLICATE:
        peer.next = last + 1
    peer.request += 1
    state.free.append(
        AppendEntries(
            state.group,
            state.node,
            state.replica,
            peer.node,
            peer.replica,
            state.term,
            peer.request,
            first - 1,
            prev_term,
            last,
            state.commit,
            peer.acked,
            runs,
            (),
            peer.release_of,
            peer.release_index,
            state.config.election_min_us,
        )
    )
    peer.sent(size_bytes, state.now_us)
    peer.commit_sent = state.commit if state.commit < last else last
    retry_us = state.now_us + peer.retry_us
    if retry_us < state.retry_us:
        state.retry_us = retry_us
    return True


def _cut_batch(state: State, first: LogIndex, last: LogIndex) -> Batch:
    """What one append from `first` on holds; kept for the turn, in which other members mostly want the same."""
    log = state.log
    prev_term = log.term(first - 1)
    batch: Batch = (first, last, prev_term, first - 1, (), 0)
    if prev_term >= 0 and first <= last:
        end = log.last_within(first, state.config.batch_bytes_max)
        batch = (first, last, prev_term, end, log.runs(first, end), log.size_bytes(first - 1, end))
    state.batch = batch
    return batch


def become_snapshot(state: State, peer: Progress) -> None:
    """The owner is asked once; offers and their results are snapshot.py's."""
    mark("raft-snapshot-wanted")
    peer.become_snapshot(state.now_us)
    state.snapshots.append(SnapshotWanted(peer.node, peer.replica))
    state.changed = True


# ---- in ----


def on_append_response(state: State, now_us: Micros, message: AppendResponse) -> None:
    if message.term != state.term:
        if message.term > state.term:
            roles.become_follower(state, now_us, message.term, NOBODY)
        else:
            state.drop("raft-drop-ack-of-old-term")
        return
    peer = state.peers.get(message.sender)
    if state.role is not LEADER or peer is None or peer.replica != message.sender_replica:
        state.drop("raft-drop-ack-not-asked")
        return
    if not peer.request_floor < message.request <= peer.request or message.index > state.log.last_index:
        state.drop("raft-drop-ack-of-unknown-request")
        return
    in_flight = peer.answered(message.request, now_us)
    if in_flight and message.promise_us >= state.config.election_min_us:
        peer.promised_us = peer.contact_us
    peer.retry_us, peer.reachable = 2 * state.config.heartbeat_us, True
    if message.quarantine != peer.quarantine:
        quarantine.on_member_changed(state, now_us, peer, message.quarantine)
    if message.ok:
        _on_accepted(state, now_us, peer, message.index)
    elif in_flight:
        _on_rejected(state, now_us, peer, message)
    else:
        state.drop("raft-drop-old-rejection")
    if state.reads:
        reads.confirm(state, now_us)


def _on_accepted(state: State, now_us: Micros, peer: Progress, index: LogIndex) -> None:
    """Its log agrees up to index, durably."""
    if index > peer.match:
        peer.match = index
        if index > peer.acked:
            peer.acked = index
        if peer.next <= index:
            peer.next = index + 1
    if peer.flow is PROBE or (peer.flow is SNAPSHOT and peer.match >= state.log.mark_index):
        peer.become_replicate()
    if peer.next <= state.log.last_index or peer.commit_sent < state.commit:
        state.sends_due = state.changed = True
    if index > state.commit:
        state.count_due = state.changed = True
    if peer.learner:
        _measure_round(state, now_us, peer)
    if state.transfer_to == peer.node:
        transfer.maybe_send_timeout_now(state, peer)
    if peer.leaving_us != EVERYTHING:
        _maybe_forget(state, peer)


def _on_rejected(state: State, now_us: Micros, peer: Progress, message: AppendResponse) -> None:
    """It has no such entry at message.index: go back by its hint (thesis, 3.5), one whole term at a time."""
    if message.index <= peer.match and peer.flow is PROBE:
        state.drop("raft-drop-rejects-what-it-acknowledged")  # what was asked for was known: asking again is no use
        return
    # An append sent ahead may be refused before what it builds on arrives, and match be there first: it is lost still.
    mark("raft-conflict-hint")
    known = state.log.term_last(message.hint_term) if message.hint_term else 0
    back = known + 1 if known else message.hint_index
    if peer.flow is not SNAPSHOT:
        peer.become_probe(now_us)
        peer.next = max(peer.match + 1, min(back, message.index))
    state.sends_due = state.changed = True


def _measure_round(state: State, now_us: Micros, peer: Progress) -> None:
    """Catch-up in rounds: each takes what the leader had at its start; one no longer than an election is near enough
    (thesis, 4.2.1)."""
    if peer.caught_up or peer.match < peer.round_end:
        return
    last = state.log.last_index
    quick = now_us - peer.round_us <= state.config.election_min_us
    peer.rounds, peer.round_end, peer.round_us = peer.rounds + 1, last, now_us
    if peer.match >= state.noop_index and (quick or peer.match == last):  # nothing left: the next round takes no time
        peer.caught_up = True
        state.emit(CaughtUp(peer.node))


def _maybe_forget(state: State, peer: Progress) -> None:
    """A former member that knows the commit of the configuration without it needs no more news."""
    index = state.configs[-1][0]
    if state.peers.get(peer.node) is not peer:
        return
    if index <= state.commit and peer.match >= index and peer.commit_sent >= index and not peer.inflight:
        membership.forget(state, peer.node)


# ---- time ----


def on_retry_timeout(state: State, now_us: Micros) -> None:
    """Members that should have answered by now: what was sent may be lost. Waits double up to an election."""
    state.retry_us = NEVER
    for peer in state.send_list:
        if peer.leaving_us <= now_us:
            mark("raft-former-member-forgotten")
            membership.forget(state, peer.node)
            continue
        due_us = _due_us(state, peer)
        if due_us <= now_us:
            _retry(state, now_us, peer)
            due_us = now_us + peer.retry_us
        state.retry_us = min(state.retry_us, due_us, peer.leaving_us)


def _due_us(state: State, peer: Progress) -> Micros:
    if peer.flow is SNAPSHOT:
        return peer.paused_us if peer.offer is None else peer.moved_us + state.config.election_max_us
    return peer.moved_us + peer.retry_us if peer.inflight and peer.reachable else NEVER


def _retry(state: State, now_us: Micros, peer: Progress) -> None:
    if peer.flow is SNAPSHOT and peer.offer is not None:
        mark("raft-offer-again")
        peer.moved_us = now_us
        state.send_free(peer.offer)
        return
    mark("raft-append-lost")
    peer.become_probe(now_us)
    peer.retry_us = min(2 * peer.retry_us, state.config.election_max_us)
    state.sends_due = state.changed = True


# ---- what is known of a member from elsewhere ----


def probe(state: State, now_us: Micros, peer: Progress) -> None:
    """It can be reached (again), and what was on the way may be lost."""
    peer.reachable = True
    if peer.flow is not SNAPSHOT:
        peer.become_probe(now_us)
    peer.retry_us = 2 * state.config.heartbeat_us
    state.sends_due = state.changed = True


def pause(state: State, peer: Progress) -> None:
    """Its lane is down: nothing is sent, nothing is waited for."""
    peer.reachable = False
    if peer.flow is not SNAPSHOT:
        peer.become_probe(state.now_us)


def retained_index(state: State) -> LogIndex:
    """What every voter and learner in contact has, and a snapshot on its way is followed by."""
    index = state.commit
    since_us = state.now_us - state.config.election_max_us
    observers = {member.node for member in membership.in_force(state).observers}
    for peer in state.send_list:
        if peer.node in observers or max(peer.contact_us, state.contacts.acked_us(peer.node)) < since_us:
            continue
        index = min(index, peer.match if peer.offer is None else peer.offer.snapshot_index)
    return index
