"""What one turn holds: several frames, groups of several crowds, a group that has stopped."""

import msgspec

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.messages import Doubt, LaneAck, LaneHeartbeat
from nodedb_node.raft.messages import FOUNDER, RequestVote, Role
from tests.multiraft.cluster import Cluster, Process

GROUP = GroupId(0)


def led(groups: int = 1, **options: int) -> tuple[Cluster, Process, Process, Process]:
    """A cluster, the process that leads group 0, and the other two."""
    cluster = Cluster(3, groups, **options)
    cluster.until(cluster.led)
    cluster.run(3_000_000)
    number = cluster.leader(0)
    assert number is not None
    second, third = (process for node, process in cluster.processes.items() if node != number)
    return cluster, cluster.processes[NodeNumber(number)], second, third


def asks(process: Process, of: Process, group: int = 0) -> RequestVote:
    """For the next term, by a member that has everything."""
    raft = of.multi.raft(GroupId(group))
    row = (GroupId(group), process.node, FOUNDER, of.node, FOUNDER, raft.term + 1, 77)
    return RequestVote(*row, raft.log.last_index, raft.log.last_term, False, False)


def heartbeat(cluster: Cluster, process: Process, to: Process) -> LaneHeartbeat:
    process.multi._beat_now = True
    turn = process.multi.take_turn(cluster.now_us)
    assert turn is not None
    return next(message for message in turn.free[to.node] if isinstance(message, LaneHeartbeat))


def answers(cluster: Cluster, process: Process, to: Process) -> list[LaneAck]:
    found: list[LaneAck] = []
    while (turn := process.multi.take_turn(cluster.now_us)) is not None:
        found += [message for message in turn.free.get(to.node, []) if isinstance(message, LaneAck)]
    return found


def test_who_voted_in_this_turn_promises_nothing_to_the_leader_of_before() -> None:
    """The leader would rest its lease on that promise, while the other is elected with the vote."""
    cluster, leader, voter, candidate = led()
    term = leader.multi.raft(GROUP).term
    cluster.now_us += 3_000_000  # what was promised is over
    beat = heartbeat(cluster, leader, voter)
    voter.multi.step(cluster.now_us, candidate.node, [asks(candidate, voter)])
    assert voter.multi.raft(GROUP).vote == candidate.node
    voter.multi.step(cluster.now_us, leader.node, [beat])
    (ack,) = answers(cluster, voter, leader)
    assert ack.doubts == ((GROUP, Doubt.TERM, term + 1),)
    leader.multi.step(cluster.now_us, voter.node, [ack])
    assert leader.multi.raft(GROUP).role is Role.FOLLOWER
    assert not leader.multi.raft(GROUP).lease_valid(cluster.now_us)


def test_a_crowd_with_nothing_to_say_does_not_hide_the_groups_behind_it() -> None:
    cluster, leader, voter, candidate = led(40, groups_per_turn=8)
    voter.multi.lane_down(cluster.now_us, leader.node)  # all groups are busy, and silent
    cluster.now_us += 3_000_000
    voter.multi.step(cluster.now_us, candidate.node, [asks(candidate, voter, 39)])
    turn = voter.multi.take_turn(cluster.now_us)
    assert turn is not None
    assert [message.group for message in turn.after[candidate.node]] == [39]
    while voter.multi.take_turn(cluster.now_us) is not None:
        pass
    waiting = [group for group in range(40) if voter.multi.raft(GroupId(group)).next_deadline_us() is not None]
    assert waiting and {GroupId(group) for group in waiting} <= voter.multi._due.keys()


def test_a_leader_whose_group_halts_leads_no_more_and_its_reads_end() -> None:
    cluster, leader, *_ = led()
    raft = leader.multi.raft(GROUP)
    cluster.isolate(leader.node)
    cluster.now_us += 950_000  # no lease
    assert leader.multi.read(cluster.now_us, GROUP, "a read") is None
    leader.multi.step(cluster.now_us, leader.node, [])
    raft.halt("what it is told contradicts what is committed")
    leader.multi._touch(GROUP)
    cluster.pump(leader)
    failures = [failure.context for turn in leader.turns for _, failure in turn.read_failures]
    assert failures == ["a read"]
    cluster.heal()
    cluster.until(lambda: cluster.leader(0) not in (None, leader.node), us=6_000_000)


def test_a_member_that_restarts_needs_no_snapshot_though_the_log_is_compacted() -> None:
    """Its lane is up again, and the append that asks where it stands goes out a second time: from where it did."""
    cluster, leader, member, _ = led()
    for _ in range(20):
        cluster.propose(0, b"x")
    cluster.run(500_000)
    raft = leader.multi.raft(GROUP)
    leader.multi.compacted({GROUP: (15, raft.term)})
    cluster.restart(member.node)
    cluster.run(300_000)
    assert raft.peers[member.node].match == raft.log.last_index
    assert not any(turn.bulk or turn.work for turn in leader.turns)


def test_a_new_leader_wants_no_snapshot_for_a_member_it_has_not_heard_of() -> None:
    cluster, leader, second, third = led()
    for _ in range(20):
        cluster.propose(0, b"x")
    cluster.run(500_000)
    for process in (second, third):
        process.multi.compacted({GROUP: (15, leader.multi.raft(GROUP).term)})
    cluster.isolate(leader.node)
    cluster.until(lambda: cluster.leader(0) not in (None, leader.node), us=6_000_000)
    cluster.run(3_000_000)
    assert not any(turn.bulk or turn.work for process in (second, third) for turn in process.turns)


def test_a_promise_is_as_long_as_was_asked_for_and_no_longer_than_the_own_fence() -> None:
    """Members whose times differ while they are changed."""
    cluster, leader, member, _ = led()
    fence_us = member.multi.config.group.fence_us
    for asked_us, promised_us in ((fence_us // 2, fence_us // 2), (3 * fence_us, fence_us)):
        beat = msgspec.structs.replace(heartbeat(cluster, leader, member), promise_us=asked_us)
        member.multi.step(cluster.now_us, leader.node, [beat])
        (ack,) = answers(cluster, member, leader)
        assert ack.promise_us == promised_us
        assert member.multi.raft(GROUP).contacts.promised_us() >= cluster.now_us + promised_us
