"""Members that come, go and come again: who may change what, whom a node listens to, and who is told."""

import msgspec
import pytest

from nodedb_node.ids import NodeNumber
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import (
    AppendResponse,
    BadChange,
    ChangePending,
    ConfigChange,
    InstallSnapshot,
    NotCaughtUp,
    NotReady,
    Ready,
    Removed,
    ReplicaId,
    RequestVote,
    Role,
    SnapshotOffered,
)
from tests.raft.group import MS, Group, header
from tests.raft.test_thesis import answer, fresh, vote_request


def test_one_change_at_a_time_and_only_after_an_own_commit() -> None:
    group = Group(3)
    group.elect(1)
    group.cut |= {(1, 2), (1, 3)}
    assert isinstance(group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(4),))), tuple)
    assert group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(5),))) == ChangePending(2)
    other = fresh()
    other[1].campaign(other.now_us)
    while other[1].role != Role.LEADER:
        other.exchange()
    assert isinstance(other[1].propose_config(other.now_us, ConfigChange(add_learners=(NodeNumber(4),))), NotReady)


def test_a_voter_cannot_come_in_directly() -> None:
    group = Group(3)
    group.elect(1)
    assert isinstance(group[1].propose_config(group.now_us, ConfigChange(promote=(NodeNumber(4),))), BadChange)
    group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(4),)))
    group.settle()
    promote = ConfigChange(promote=(NodeNumber(4),))
    assert group[1].propose_config(group.now_us, promote) == NotCaughtUp(NodeNumber(4))


def test_a_learner_hears_of_its_group_when_the_entry_that_adds_it_is_committed() -> None:
    """Found by the simulator (membership, 1544940006): an entry that was overwritten had brought replica 1471 into
    being, and the node took no replica 1470 after it. Ids that are committed only grow."""
    group = Group(3)
    group.elect(1)
    group.cut |= {(1, 2), (1, 3)}
    index, _ = group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(4),)))
    group.add(4, index)
    group.settle()
    assert group[4].log.last_index == group[4].term == 0, "it may be overwritten"
    group.cut.clear()
    group.run(500 * MS)
    assert group[1].commit >= index
    assert group[4].log.last_index == group[1].log.last_index


def a_sole_voter_with_a_learner() -> Group:
    """{1} led by 1, 2 a learner that has caught up."""
    group = Group(1)
    group.elect(1)
    index, _ = group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(2),)))
    group.add(2, index)
    group.run(500 * MS)
    return group


def test_a_sole_voter_leads_its_learners_only_with_its_term_on_the_disk() -> None:
    """Found by the simulator (snapshots, 1630278412): its own vote elected it before it was durable, a learner took
    entries of that term, the power went, and it led the same term again with other entries."""
    group = a_sole_voter_with_a_learner()
    group.crash(1)
    group.restart(1)
    group.replicas[1].disk_stopped = True
    group.run(5000 * MS)
    assert group[1].role == Role.CANDIDATE and group[1].term > group[2].term == 1
    group.replicas[1].disk_stopped = False
    group.persist(1)
    group.run(500 * MS)
    assert group[1].role == Role.LEADER and group[2].term == group[1].term
    assert group[2].log.last_index == group[1].log.last_index


def with_a_fourth(role: str) -> Group:
    """{1, 2, 3} led by 1, 4 a learner or an observer that has everything."""
    group = Group(3)
    group.elect(1)
    index, _ = group[1].propose_config(group.now_us, ConfigChange(**{role: (NodeNumber(4),)}))
    group.add(4, index)
    group.run(500 * MS)
    return group


def with_a_learner() -> tuple[Group, ConfigChange]:
    """{1, 2, 3} led by 1, 4 a learner that has caught up; and the change that makes it a voter."""
    return with_a_fourth("add_learners"), ConfigChange(promote=(NodeNumber(4),))


def test_a_learner_that_was_not_heard_of_for_an_election_is_not_promoted() -> None:
    group, promote = with_a_learner()
    group.crash(4)
    group.run(3000 * MS)
    assert group[1].propose_config(group.now_us, promote) == NotCaughtUp(NodeNumber(4)), "it has caught up, and is gone"
    group.restart(4)
    group.run(500 * MS)
    assert isinstance(group[1].propose_config(group.now_us, promote), tuple)


def test_a_learner_in_quarantine_is_not_promoted() -> None:
    """Found by the simulator (mixed, 2223690845): a sole voter promoted a learner that had just lost its log, and the
    two of them could elect nobody any more."""
    group, promote = with_a_learner()
    group.cut |= {(1, 2), (1, 3)}  # nothing confirms the leader: no release
    group[4].quarantine_now(group.now_us, "a scrub found damage")
    group[1].propose(group.now_us, 1, b"x")  # its answer says so
    group.settle()
    assert group[1].propose_config(group.now_us, promote) == NotCaughtUp(NodeNumber(4))
    group.cut.clear()
    group.run(500 * MS)
    assert not group[4].quarantine
    assert isinstance(group[1].propose_config(group.now_us, promote), tuple)


def test_a_learner_can_be_removed() -> None:
    group = Group(3)
    group.elect(1)
    index, _ = group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(4),)))
    group.add(4, index)
    group.settle()
    group[1].propose_config(group.now_us, ConfigChange(remove=(NodeNumber(4),)))
    group.settle()
    assert any(isinstance(event, Removed) for event in group.replicas[4].events), "it is told"
    assert NodeNumber(4) not in group[1].peers


def test_a_removed_replica_goes_quiet() -> None:
    group = Group(3)
    group.elect(1)
    group[1].propose_config(group.now_us, ConfigChange(remove=(NodeNumber(3),)))
    group.run(500 * MS)
    assert group[3].removed
    group.cut |= {(n, 3) for n in (1, 2)}
    for _ in range(20):
        group.advance(1000 * MS)
    assert group[3].role == Role.FOLLOWER and group[3].term == 1 and group[3].next_deadline_us() is None


def remove(group: Group, node: int) -> None:
    refused = group.leader.propose_config(group.now_us, ConfigChange(remove=(NodeNumber(node),)))
    assert isinstance(refused, tuple), refused


def isolate(group: Group, node: int) -> None:
    others = [other for other in group.replicas if other != node]
    group.cut |= {(other, node) for other in others} | {(node, other) for other in others}


def is_told(group: Group, node: int) -> bool:
    """It is quiet, and its owner knows."""
    told = any(isinstance(event, Removed) for event in group.replicas[node].events)
    return told and group[node].removed and group[node].next_deadline_us() is None


def test_a_replica_is_told_of_its_removal_by_a_snapshot() -> None:
    """It was behind what the leader's log begins with: no commit moves over the entry that takes it away."""
    group = Group(3)
    group.elect(1)
    isolate(group, 3)
    group.propose(1, "a")
    remove(group, 3)
    group.settle()
    last = group[1].commit
    group.replicas[1].disk.compact(last, group[1].configuration_at(last))
    group[1].compacted(last)

    def offer(node: int, ready: Ready) -> None:
        for wanted in ready.snapshots:
            group[node].offer_snapshot(group.now_us, wanted.node, last, group[node].log.term(last))
        for event in ready.events:
            if isinstance(event, SnapshotOffered):
                group[node].snapshot_installed(group.now_us, event.offer)

    group.on_ready = offer
    group.cut.clear()
    group.run(4000 * MS)
    assert group[3].applied == last and is_told(group, 3)
    assert list(group[1].peers) == [2], "its answer came"


@pytest.mark.parametrize("role", ["add_learners", "add_observers"])
def test_a_replica_that_never_campaigns_is_told_however_long_it_was_away(role: str) -> None:
    """The leader told it for the leaving time, and what asks for no vote got no answer to one."""
    group = with_a_fourth(role)
    isolate(group, 4)
    remove(group, 4)
    group.run(9000 * MS)
    assert NodeNumber(4) not in group[1].peers, "the leader has given up"
    group.cut.clear()
    group.run(12_000 * MS)
    assert is_told(group, 4)
    assert group.leader.node == 1 and group[1].term == 1, "and nobody was disturbed"


@pytest.mark.parametrize("role", ["add_learners", "add_observers"])
def test_a_replica_that_never_campaigns_is_told_though_the_leader_that_removed_it_died(role: str) -> None:
    group = with_a_fourth(role)
    isolate(group, 4)
    remove(group, 4)
    group.settle()
    assert group[1].commit == group[1].configs[-1][0]
    group.crash(1)
    group.cut.clear()
    group.run(20_000 * MS)
    assert group.leader.node != 1 and is_told(group, 4)


def test_a_voter_in_quarantine_is_told_that_it_was_removed() -> None:
    group = Group(4)
    group.elect(1)
    group.run(300 * MS)
    group.crash(4)
    remove(group, 4)
    group.run(9000 * MS)
    group.restart(4, quarantined=True)
    group.run(6000 * MS)
    assert is_told(group, 4)


@pytest.mark.parametrize("quarantined", [False, True])
def test_a_replica_that_restarts_before_its_tombstone_is_told_again(quarantined: bool) -> None:
    """What it had applied holds the configuration without it: nothing will be committed to tell it once more."""
    group = Group(3)
    group.elect(1)
    remove(group, 3)
    group.run(500 * MS)
    assert group[3].removed
    group.replicas[3].disk.applied = group[3].applied
    group.crash(3)
    group.restart(3, quarantined=quarantined)
    group.flush()
    assert is_told(group, 3)


def test_a_founder_and_a_replica_that_is_being_added_are_not_removed_at_their_start() -> None:
    founders = configurations.founding([NodeNumber(node) for node in (1, 2, 3)])
    group = Group(3)
    group.add(4, 7)
    group.add(5, 7, founders)
    assert not any(raft.removed for raft in (group[1], group[4], group[5]))


@pytest.mark.parametrize("kind", ["add_learners", "add_observers", "quarantine"])
def test_a_member_that_may_not_campaign_asks_seldom_and_counts_no_votes(kind: str) -> None:
    """It only lost its leader: one small message to each voter now and then, whatever they answer."""
    if kind == "quarantine":
        group = Group(4)
        group.elect(1)
        group[4].quarantine_now(group.now_us, "a scrub found damage")
        group.flush()
    else:
        group = with_a_fourth(kind)
    for node in (1, 2, 3):
        group.crash(node)
    began_us = group.now_us
    group.advance(60_000 * MS)
    asked = [m for ready in group.replicas[4].log for m in ready.free if isinstance(m, RequestVote)]
    assert {message.receiver for message in asked} == {1, 2, 3}
    assert len(asked) <= 3 * ((group.now_us - began_us) // (4 * group[4].config.election_max_us) + 1)
    for message in asked[-3:]:
        voter = group[message.receiver]
        voter.campaign(group.now_us)  # its leader is gone for it too
        before = (voter.role, voter.term, voter.vote, voter.next_deadline_us())
        voter.take_ready()
        voter.step(group.now_us, message)
        assert before == (voter.role, voter.term, voter.vote, voter.next_deadline_us())
        ready = voter.take_ready()
        assert ready is not None and not ready.records
        group[4].step(group.now_us, ready.after[0])
    assert group[4].role == Role.FOLLOWER and not group[4].votes and not group[4].removed


@pytest.mark.parametrize("leads", [False, True])
@pytest.mark.parametrize("change", ["remove", "demote"])
def test_a_snapshot_that_takes_the_own_vote_away_ends_a_campaign_and_a_leadership(change: str, leads: bool) -> None:
    """Taken when it was offered, installed when this replica stands for election: led by its votes it would be outside
    of its committed configuration for ever, as none that commits later says so."""
    group = Group(4)
    group.elect(1)
    index, _ = group[1].propose_config(group.now_us, ConfigChange(**{change: (NodeNumber(4),)}))
    final = index + 1
    while any(group[node].log.last_index < final for node in (2, 3, 4)):
        group.exchange()
        group.flush()
    group.cut |= {(1, n) for n in (2, 3, 4)}
    group.settle()
    assert group[1].commit == final > group[4].commit, "nobody else knows"
    entry, configuration = group[1].configuration_at(final)
    row = (1, final, group[1].log.term(final), entry, configurations.encode(configuration))
    offer = InstallSnapshot(*header(1, 4, 1), *row)
    group.deliver(offer)
    group.crash(1)
    for replica in group.replicas.values():
        replica.lanes.promised, replica.lanes.heard = 0, {}
    group.now_us += 3000 * MS
    assert group[4].campaign(group.now_us) is None
    while group[4].role != (Role.LEADER if leads else Role.CANDIDATE):
        group.exchange()
    group[4].snapshot_installed(group.now_us, offer)
    assert group[4].role == Role.FOLLOWER and group[4].removed == (change == "remove")
    group.run(10_000 * MS)
    assert group.leader.node in (2, 3) and group.leader.commit > final


def test_a_replica_that_was_replaced_is_not_heard() -> None:
    """Node 3 is removed and comes again as a new replica: what the old one still says counts for nothing."""
    group = Group(3)
    group.elect(1)
    group[1].propose_config(group.now_us, ConfigChange(remove=(NodeNumber(3),)))
    group.settle()
    index, _ = group[1].propose_config(group.now_us, ConfigChange(add_learners=(NodeNumber(3),)))
    group.settle()
    drops = group[1].drops
    group[1].step(group.now_us, AppendResponse(*header(3, 1, 1), 1, True, 4))
    group[2].step(group.now_us, vote_request(3, 2, 99, (99, 98)))
    assert group[1].drops == drops + 1 and group[2].term == 1
    assert group[1].peers[NodeNumber(3)].replica == index


def test_a_message_to_another_replica_id_is_dropped() -> None:
    group = fresh()
    group[1].step(group.now_us, msgspec.structs.replace(vote_request(2, 1, 5, (0, 0)), receiver_replica=ReplicaId(7)))
    assert group[1].term == 0 and group[1].drops == 1


def test_membership_is_in_the_log_and_survives_a_restart() -> None:
    group = a_sole_voter_with_a_learner()
    group[1].propose_config(group.now_us, ConfigChange(promote=(NodeNumber(2),)))
    group.run(500 * MS)
    group.crash(1)
    group.crash(2)
    group.restart(1)
    group.advance(10_000 * MS)
    assert group[1].role != Role.LEADER, "it knows that it is not the only voter"
    assert [member.node for member in group[1].configs[-1][1].voters] == [1, 2]


def test_an_observer_neither_votes_nor_counts() -> None:
    group = Group(3)
    group.elect(1)
    index, _ = group[1].propose_config(group.now_us, ConfigChange(add_observers=(NodeNumber(4),)))
    group.add(4, index)
    group.run(500 * MS)
    group.cut |= {(1, 2), (1, 3)}
    commit = group[1].commit
    group.propose(1, "a")
    group.settle()
    assert group[4].log.last_index == group[1].log.last_index and group[1].commit == commit
    group.now_us += 5000 * MS
    request = msgspec.structs.replace(vote_request(2, 4, 9, (99, 9)), receiver_replica=ReplicaId(index))
    assert not answer(group, 4, request).granted
    group.advance(5000 * MS)
    assert group[4].role == Role.FOLLOWER
    assert group[1].retained_index() == commit, "its acknowledgements do not hold the log back either"


def test_a_sole_voter_s_quorum_is_watched_from_the_change_that_brings_another() -> None:
    """Found by the simulator (snapshots, 1566860403): the learner's lane had said that it is silent while it did not
    count, and did not say it again when it did; the leader waited for that voter for ever."""
    group = a_sole_voter_with_a_learner()
    group.crash(2)
    group[1].lane_lost(group.now_us, NodeNumber(2))
    group.advance(1000 * MS)
    assert isinstance(group[1].propose_config(group.now_us, ConfigChange(promote=(NodeNumber(2),))), tuple)
    group.flush()
    group.advance(group[1].config.election_max_us)
    assert group[1].role == Role.FOLLOWER
