"""How the commit index moves, and what follows when it does.

Invariant: commit and the delivered range never go back. A leader counts itself only by what is durable here, and
commits only by counting entries of its own term (thesis, 3.6.2). Nothing is delivered that is not durable here.
"""

from nodedb_node.marks import mark
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft import membership, proposals, quarantine, reads, roles, transfer
from nodedb_node.raft.messages import LEADER, NOBODY, LogIndex, Micros
from nodedb_node.raft.progress import Progress
from nodedb_node.raft.quorum import EVERYTHING, reached
from nodedb_node.raft.state import State


def quorum_index(state: State) -> LogIndex:
    """What a majority of each set of voters holds durably. Replicas in quarantine hold nothing that counts."""
    index = reached(_matches(state.voter_peers, state.voter_self, state.durable))
    if state.outgoing_peers or state.outgoing_self:
        index = min(index, reached(_matches(state.outgoing_peers, state.outgoing_self, state.durable)))
    return index


def _matches(peers: tuple[Progress, ...], own: bool, durable: LogIndex) -> list[LogIndex]:
    values = [0 if peer.quarantine else peer.match for peer in peers]
    if own:
        values.append(durable)
    return values


def maybe_commit(state: State, now_us: Micros) -> None:
    """Leader: something a quorum holds may have risen."""
    assert state.role is LEADER
    state.count_due = False
    index = quorum_index(state)
    if index > state.commit and index >= state.noop_index:
        assert state.log.term(index) == state.term, "commits by counting are of the own term"
        advance(state, now_us, index)


def advance(state: State, now_us: Micros, index: LogIndex) -> None:
    """Everything up to index is committed."""
    assert state.commit < index <= state.log.last_index
    state.commit = index
    state.changed = True
    if state.role is LEADER:
        state.sends_due = True
        if not state.own_committed:
            _begin_service(state, now_us)
        if state.releases:
            quarantine.release(state)
    if index >= state.config_watch:
        _on_config_committed(state, now_us)


def _begin_service(state: State, now_us: Micros) -> None:
    """The first commit of the own term: now the leader knows everything that is committed (thesis, 6.4)."""
    state.own_committed = True
    reads.set_index(state, now_us)
    if state.configs[-1][0] <= state.commit:
        _finish_joint(state, now_us)


def _on_config_committed(state: State, now_us: Micros) -> None:
    index, configuration = state.configs[-1]
    assert index <= state.commit
    state.config_watch = EVERYTHING
    membership.announce(state)
    if state.role is LEADER:
        if configuration.outgoing:
            _finish_joint(state, now_us)
        elif not state.voter_self:
            mark("raft-leader-outside-steps-down")
            transfer.hand_over(state)
            roles.become_follower(state, now_us, state.term, NOBODY)
    membership.check_removed(state)


def _finish_joint(state: State, now_us: Micros) -> None:
    """Whoever leads ends a joint configuration once it is committed, also one begun by another (thesis, 4.3)."""
    configuration = membership.in_force(state)
    if configuration.outgoing and state.own_committed:
        proposals.append_configuration(state, now_us, configurations.final(configuration))
