"""Which configuration holds, who counts by it, and how it moves: appended, undone, compacted.

Invariant: a configuration holds from the moment it is in the log and is undone when truncation takes its entry
(thesis, 4.1); state.configs rises by index, the last one is in force. A configuration lives in the log and in
snapshots, nowhere else. What a leader does when one commits is commit.py's.
"""

from nodedb_node.ids import NodeNumber
from nodedb_node.marks import mark
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import (
    LEADER,
    Configuration,
    ConfigurationChanged,
    LogIndex,
    Member,
    Removed,
    ReplicaId,
)
from nodedb_node.raft.progress import Progress
from nodedb_node.raft.quorum import EVERYTHING
from nodedb_node.raft.state import State


def in_force(state: State) -> Configuration:
    return state.configs[-1][1]


def committed(state: State) -> tuple[LogIndex, Configuration]:
    """The newest configuration known to be committed."""
    return at(state, state.commit)


def at(state: State, index: LogIndex) -> tuple[LogIndex, Configuration]:
    """(entry, configuration) in force at a log index that is not compacted away."""
    for entry, configuration in reversed(state.configs):
        if entry <= index:
            return entry, configuration
    return state.configs[0]


def adopt(state: State, index: LogIndex, configuration: Configuration) -> None:
    """Entry `index` has just been appended."""
    assert index > state.configs[-1][0], "configurations rise"
    assert configuration.voters and not configurations.fault(configuration)
    state.configs.append((index, configuration))
    refresh(state)
    announce(state)


def undo(state: State, last: LogIndex) -> None:
    """Entries above last were truncated."""
    assert last >= state.commit, "a committed configuration is never undone"
    if state.configs[-1][0] <= last:
        return
    mark("raft-configuration-undone")
    while state.configs[-1][0] > last:
        state.configs.pop()
    assert state.configs
    refresh(state)
    announce(state)


def install(state: State, index: LogIndex, configuration: Configuration) -> None:
    """A snapshot's configuration takes the place of all before it; later ones stay if the suffix of the log did."""
    log = state.log
    kept = [row for row in state.configs if log.mark_index < row[0] <= log.last_index]
    state.configs[:] = [(index, configuration), *kept]
    refresh(state)
    announce(state)


def compact(state: State, index: LogIndex) -> None:
    """The log begins behind index: of the configurations up to there only the newest matters."""
    while len(state.configs) > 1 and state.configs[1][0] <= index:
        del state.configs[0]


def refresh(state: State) -> None:
    """The configuration in force changed: who counts, whom a leader sends to, and until when it is watched."""
    index, configuration = state.configs[-1]
    state.config_watch = index if index > state.commit else EVERYTHING
    state.members = configurations.members(configuration)
    voters, outgoing = configuration.voters, configuration.outgoing
    state.voter_self, state.outgoing_self = _has(voters, state), _has(outgoing, state)
    if state.role is LEADER:
        _refresh_peers(state, configuration)
        old = (state.voter_peers, state.outgoing_peers)
        state.voter_peers = tuple(state.peers[member.node] for member in voters if member.node != state.node)
        state.outgoing_peers = tuple(state.peers[member.node] for member in outgoing if member.node != state.node)
        if old != (state.voter_peers, state.outgoing_peers):
            _watch_voters(state)


def _watch_voters(state: State) -> None:
    """The lease rests on voters: begin anew. CheckQuorum gives them the time of an election."""
    state.voters_since_us = state.now_us
    if not is_sole_voter(state):
        state.quorum_us = min(state.quorum_us, state.now_us + state.config.election_max_us)


def announce(state: State) -> None:
    """Another configuration is in force, or the one in force can no longer be undone."""
    index, configuration = state.configs[-1]
    state.emit(ConfigurationChanged(index, configuration, index <= state.commit))


def _has(members: tuple[Member, ...], state: State) -> bool:
    return Member(state.node, state.replica) in members


def _refresh_peers(state: State, configuration: Configuration) -> None:
    """New members get a progress, former ones are told the news for a while (thesis, 4.2.2: they would disturb)."""
    wanted = state.members
    learners = {member.node for member in configuration.learners}
    for node, progress in list(state.peers.items()):
        if wanted.get(node) == progress.replica:
            progress.leaving_us = EVERYTHING
        elif node in wanted:
            del state.peers[node]
        elif progress.leaving_us == EVERYTHING:
            progress.leaving_us = state.now_us + 4 * state.config.election_max_us
            state.retry_us = min(state.retry_us, state.now_us + 2 * state.config.heartbeat_us)
    for node, replica in wanted.items():
        if node == state.node:
            continue
        if node not in state.peers:
            progress = Progress(node, replica, state.log.last_index + 1, state.now_us)
            progress.retry_us = 2 * state.config.heartbeat_us
            state.peers[node] = progress
        progress = state.peers[node]
        if progress.learner != (node in learners):
            progress.learner, progress.caught_up = node in learners, False
            progress.rounds, progress.round_end, progress.round_us = 0, state.log.last_index, state.now_us
    state.send_list = tuple(state.peers.values())
    state.sends_due = state.changed = True


def forget(state: State, node: NodeNumber) -> None:
    """A former member has heard the news, or had its time."""
    del state.peers[node]
    state.send_list = tuple(state.peers.values())


def is_sole_voter(state: State) -> bool:
    configuration = in_force(state)
    return state.voter_self and len(configuration.voters) == 1 and configuration.outgoing in ((), configuration.voters)


def may_campaign(state: State) -> bool:
    """A voter of the configuration in force, or of the one before while the newest is not committed: its election may
    be the only way to commit the entry that takes its own vote away (thesis, 4.2.2)."""
    if state.voter_self or state.outgoing_self:
        return True
    if state.configs[-1][0] <= state.commit or len(state.configs) < 2:
        return False
    before = state.configs[-2][1]
    return _has(before.voters, state) or _has(before.outgoing, state)


def is_observer(state: State) -> bool:
    return _has(in_force(state).observers, state)


def was_removed(state: State, node: NodeNumber, replica: ReplicaId) -> bool:
    """This replica was a member once and a committed configuration lacks it: replica ids are never given again."""
    index, configuration = committed(state)
    if replica > index or not configuration.voters or (replica == index == 0):
        return False
    return configurations.members(configuration).get(node) != replica


def is_replaced(state: State, node: NodeNumber, replica: ReplicaId) -> bool:
    """The configuration in force knows a newer replica of that node."""
    return state.members.get(node, replica) > replica


def check_removed(state: State) -> None:
    """Another configuration is known to be committed, by whatever way: it may lack this replica."""
    if was_removed(state, state.node, state.replica):
        become_removed(state, committed(state)[0])


def become_removed(state: State, index: LogIndex) -> None:
    """This replica is no member any more: quiet from now on (it still answers), and its owner drops it."""
    if not state.removed:
        state.removed = True
        state.emit(Removed(index))
