"""A member's side of replication: what an append does to the log, and the answer.

Invariant: the answer says how far the log agrees with the leader's, prev + number of entries, and never more; it leaves
when that is durable. The commit index follows the leader's only that far. Committed entries are never truncated: a
leader that asks for it, like a second leader of one term, stops this group (not the worker).
"""

from collections.abc import Sequence

from nodedb_node.marks import mark
from nodedb_node.raft import commit, membership, quarantine, roles
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import (
    CONFIG,
    ENTRY_BYTES_MAX,
    FOLLOWER,
    KINDS,
    NOBODY,
    AppendEntries,
    AppendResponse,
    Entry,
    InstallSnapshot,
    LogIndex,
    Micros,
    Truncate,
)
from nodedb_node.raft.state import NEVER, State


def on_append_entries(state: State, now_us: Micros, message: AppendEntries) -> None:
    if message.term < state.term:
        _send_response(state, message, False, message.prev_index)  # an old leader learns the term
        return
    if not _is_well_formed(message):
        state.drop("raft-drop-malformed-append")
        return
    if not follow(state, now_us, message, message.promise_us):
        return
    log = state.log
    if message.acked > log.last_index and not state.quarantine:
        quarantine.enter(state, now_us, f"acknowledged up to {message.acked}, the log ends at {log.last_index}")
    prev = message.prev_index
    if prev == log.last_index and message.prev_term == log.last_term:
        entries = message.entries  # the common case
    elif prev >= log.mark_index and log.term(prev) != message.prev_term:
        _send_conflict(state, message)
        return
    else:
        entries = _without_known(state, now_us, message)
        if state.halted:
            return
    if entries and not _append(state, entries):
        return
    _on_agreed(state, now_us, message)


def follow(state: State, now_us: Micros, message: AppendEntries | InstallSnapshot, asked_us: Micros = 0) -> bool:
    """The sender leads this term: follow it. False: someone else does, and the group is stopped."""
    if message.term > state.term:
        roles.become_follower(state, now_us, message.term, message.sender)
    elif state.leader != message.sender or state.role is not FOLLOWER:
        if state.leader != NOBODY:
            state.halt(f"node {message.sender} leads term {message.term}, and so does node {state.leader}")
            return False
        roles.become_follower(state, now_us, message.term, message.sender)
    _promise(state, now_us, asked_us)
    if state.election_us != NEVER:
        rearm(state, now_us)
    return True


def _promise(state: State, now_us: Micros, asked_us: Micros) -> None:
    """The answer is contact, and a leader's lease may rest on it. In quarantine too, as this append may end that. No
    more is promised than the fence keeps after a restart, and what another leader was promised is not shortened."""
    config = state.config
    promise_us = config.election_min_us
    if asked_us > promise_us:
        promise_us = min(asked_us, config.fence_us)
    if now_us + promise_us > state.promise_us:
        state.promise_us = now_us + promise_us


def rearm(state: State, now_us: Micros) -> None:
    """The leader lives. Its lane watches it from here on; until the lane says so, the own deadline does."""
    heard_us = state.contacts.heard_us(state.leader)
    if heard_us and heard_us + state.config.election_min_us > now_us and state.contacts.watched(state.leader):
        state.election_us = NEVER
    else:
        roles.arm_election(state, now_us)


def _is_well_formed(message: AppendEntries) -> bool:
    """Terms rise from 1 to the leader's, indexes and sizes fit; what a peer sends is never trusted to."""
    entries, prev_index, term = message.entries, message.prev_index, message.prev_term
    if (
        prev_index < 0
        or term < 0
        or (prev_index == 0) != (term == 0)
        or prev_index + len(entries) != message.last_index
    ):
        return False
    term = term or 1
    for entry in entries:
        if entry.term < term or not 0 <= entry.size_bytes <= ENTRY_BYTES_MAX:
            return False
        term = entry.term
    return term <= message.term


def _without_known(state: State, now_us: Micros, message: AppendEntries) -> Sequence[Entry]:
    """What of a batch is not in the log yet; a conflicting suffix of the log is truncated first (thesis, 3.5)."""
    log, entries = state.log, message.entries
    index = message.prev_index + 1
    skip = max(0, log.mark_index - message.prev_index)  # compacted, thus committed, thus the same
    if 0 < skip <= len(entries) and entries[skip - 1].term != log.mark_term:
        state.halt(f"node {message.sender} has another entry at {log.mark_index}, which is committed here")
        return ()
    while skip < len(entries):
        term = log.term(index + skip)
        if term < 0:
            break
        if term != entries[skip].term:
            _truncate(state, index + skip - 1, message)
            break
        skip += 1
    return entries[skip:]


def _truncate(state: State, last: LogIndex, message: AppendEntries) -> None:
    if last < state.commit:
        state.halt(f"node {message.sender} has another entry at {last + 1}, which is committed here")
        return
    mark("raft-truncate")
    state.log.truncate(last)
    state.records.append(Truncate(last))
    state.changed = True
    state.durable = min(state.durable, last)
    for position, (number, index) in enumerate(state.pending):
        state.pending[position] = (number, min(index, last))
    membership.undo(state, last)


def _append(state: State, entries: Sequence[Entry]) -> bool:
    """False: an entry no version of ours wrote; the group is stopped before it is taken."""
    first = state.log.last_index + 1
    adopted = []
    for index, entry in enumerate(entries, first):
        if entry.kind not in KINDS:
            state.halt(f"entry {index} has the unknown kind {entry.kind}: a newer version wrote it; update this node")
            return False
        if entry.kind == CONFIG:
            configuration = configurations.decode_entry(entry.data)
            if configuration is None:
                state.halt(f"entry {index} is no configuration this version can read")
                return False
            adopted.append((index, configuration))
    state.save_entries(entries)
    for index, configuration in adopted:
        membership.adopt(state, index, configuration)
    return True


def _on_agreed(state: State, now_us: Micros, message: AppendEntries) -> None:
    agreed = message.last_index
    assert agreed <= state.log.last_index
    if state.quarantine:
        quarantine.on_leader_append(state, message, agreed)
    index = message.commit if message.commit < agreed else agreed
    if index > state.commit:
        commit.advance(state, now_us, index)
    _send_response(state, message, True, agreed)


def _send_conflict(state: State, message: AppendEntries) -> None:
    """Where to go back to: the term here and its first index, or the end of this log."""
    log, prev = state.log, message.prev_index
    if prev > log.last_index:
        _send_response(state, message, False, prev, 0, log.last_index + 1)
    else:
        _send_response(state, message, False, prev, log.term(prev), max(log.run_first(prev), state.commit + 1))


def _send_response(
    state: State, message: AppendEntries, ok: bool, index: LogIndex, hint_term: int = 0, hint_index: LogIndex = 0
) -> None:
    state.after.append(
        AppendResponse(
            state.group,
            state.node,
            state.replica,
            message.sender,
            message.sender_replica,
            state.term,
            message.request,
            ok,
            index,
            hint_term,
            hint_index,
            state.quarantine,
            state.promise_us - state.now_us if state.config.lease_us else 0,
        )
    )
    state.changed = True
