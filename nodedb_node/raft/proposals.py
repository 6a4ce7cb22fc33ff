"""Entries a leader appends: proposals, configurations, and the first of its term.

Invariant: only a leader appends its own entries, at the end, in its term. Everything refused is refused before it is
appended; what is appended is answered by its fate only.
"""

from typing import Any

from nodedb_node.ids import NodeNumber
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft import membership
from nodedb_node.raft.messages import (
    CONFIG,
    DATA,
    LEADER,
    NOBODY,
    NOOP,
    Append,
    BadChange,
    Busy,
    ChangePending,
    ConfigChange,
    Configuration,
    Entry,
    LogIndex,
    Micros,
    NotCaughtUp,
    NotReady,
    Position,
    Refusal,
    Transferring,
)
from nodedb_node.raft.progress import Progress
from nodedb_node.raft.state import State


def propose(state: State, now_us: Micros, size_bytes: int, data: Any) -> Position | Refusal:
    """One DATA entry of the caller's."""
    assert size_bytes >= 0
    if state.role is not LEADER or state.halted:
        return refusal(state)
    if state.transfer_to != NOBODY:
        return Transferring(state.transfer_to)
    log = state.log
    waiting_bytes = log.size_bytes(state.commit, log.last_index)
    if waiting_bytes and waiting_bytes + size_bytes > state.config.uncommitted_bytes_max:
        return Busy("uncommitted bytes")
    return append_own(state, DATA, size_bytes, data), state.term


def refusal(state: State) -> Refusal:
    """Why this replica does not do what only a leader does."""
    if state.halted:
        return NotReady("the group is halted on this node; see its log")
    assert state.role is not LEADER
    return state.not_leader()


def append_own(state: State, kind: int, size_bytes: int, data: Any) -> LogIndex:
    """At the leader's end. It travels with the turn's other entries, and is counted here once durable."""
    assert state.role is LEADER
    records, log = state.records, state.log
    entry = Entry(state.term, kind, size_bytes, data)
    if records and type(records[-1]) is Append:
        records[-1].entries.append(entry)  # type: ignore[attr-defined]
    else:
        records.append(Append(log.last_index + 1, [entry]))
    state.unsaved = state.changed = state.sends_due = True
    return log.append(state.term, size_bytes)


def append_noop(state: State) -> None:
    """The first entry of a leader's term, so that what came before can commit (thesis, 3.6.2 and 6.4)."""
    index = append_own(state, NOOP, 0, b"")
    assert index == state.noop_index


def append_configuration(state: State, now_us: Micros, configuration: Configuration) -> LogIndex:
    """It holds from here on."""
    data = configurations.encode(configuration)
    index = append_own(state, CONFIG, len(data), data)
    state.now_us = now_us
    membership.adopt(state, index, configuration)
    return index


def propose_config(state: State, now_us: Micros, change: ConfigChange) -> Position | Refusal:
    """Begin a change of membership: one at a time, and not before an entry of the own term is committed (the bug in
    single-server changes, and the same guard for joint ones)."""
    if state.role is not LEADER or state.halted:
        return refusal(state)
    if state.transfer_to != NOBODY:
        return Transferring(state.transfer_to)
    if not state.own_committed:
        return NotReady("no entry of this leader's term is committed yet")
    index, configuration = state.configs[-1]
    if index > state.commit or configuration.outgoing:
        return ChangePending(index)
    for node in change.promote:
        peer = state.peers.get(node)
        if peer is not None and peer.learner and not _is_near(state, now_us, peer):
            return NotCaughtUp(node)
    changed = configurations.changed(configuration, change, state.log.last_index + 1)
    if isinstance(changed, str):
        return BadChange(changed)
    missing = _missing_voter(state, now_us, changed)
    if missing != NOBODY:
        return NotCaughtUp(missing)
    return append_configuration(state, now_us, changed), state.term


def _is_near(state: State, now_us: Micros, peer: Progress) -> bool:
    """What a learner was some time ago makes no voter."""
    return peer.caught_up and _is_whole(state, now_us, peer)


def _is_whole(state: State, now_us: Micros, peer: Progress) -> bool:
    """Heard of within an election, and this process of it has answered that it is in no quarantine."""
    contact_us = max(peer.contact_us, state.contacts.acked_us(peer.node))
    answered = peer.contact_us > 0 and not peer.quarantine
    return answered and now_us < contact_us + state.config.election_max_us


def _missing_voter(state: State, now_us: Micros, changed: Configuration) -> NodeNumber:
    """One without which the new voters are no majority, NOBODY if they are one: a change that they cannot commit holds
    all the same, and keeps the old voters from committing anything either."""
    if not changed.outgoing:
        return NOBODY
    others = [member.node for member in changed.voters if member.node != state.node]
    missing = [node for node in others if not _is_whole(state, now_us, state.peers[node])]
    return NOBODY if 2 * len(missing) < len(changed.voters) else missing[0]
