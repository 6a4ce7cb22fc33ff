"""MultiRaft among others: elections over lanes, idle cost, lost lanes, doubts, restarts, stalled disks, fairness."""

import random

import msgspec
import pytest

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.core import MultiConfig, MultiRaft
from nodedb_node.multiraft.messages import Doubt, LaneAck, LaneHeartbeat, Outcome, Reason
from nodedb_node.raft.configuration import founding
from nodedb_node.raft.messages import (
    FOUNDER,
    NOBODY,
    AppendEntries,
    ConfigChange,
    GroupConfig,
    NotLeader,
    Removed,
    RequestVote,
    Restored,
    Role,
    RoleChanged,
)
from tests.multiraft.cluster import Cluster, lane_messages

SECOND = 1_000_000


def test_every_group_gets_a_leader_and_commits_what_it_is_given() -> None:
    cluster = Cluster(3, 16)
    cluster.until(cluster.led)
    for group in range(16):
        cluster.propose(group, b"%d" % group)
    cluster.until(lambda: all(p.committed[g] == 2 for p in cluster.processes.values() for g in range(16)), SECOND)
    assert {p.entries[g][1].data for p in cluster.processes.values() for g in (5,)} == {b"5"}


def test_an_idle_cluster_sends_heartbeats_and_nothing_else_however_many_groups() -> None:
    cluster = Cluster(3, 200)
    cluster.until(cluster.led)
    cluster.run(SECOND)
    cluster.sent.clear()
    for process in cluster.processes.values():
        process.turns.clear()
    cluster.run(2 * SECOND)
    messages = [message for _, _, frame in cluster.sent for message in frame]
    assert len(messages) == len(lane_messages(cluster.sent)), "no message of any group"
    leaders = {cluster.leader(group) for group in range(200)}
    beats = [message for message in messages if isinstance(message, LaneHeartbeat)]
    assert len(beats) <= 2 * 2 * len(leaders) * 10 + 6, "one per peer and tenth of a second"
    assert max(len(msgspec.msgpack.encode(message)) for message in messages) < 80
    assert not any(turn.records for process in cluster.processes.values() for turn in process.turns)


def test_followers_of_a_living_lane_have_no_deadline_of_their_own() -> None:
    cluster = Cluster(3, 8)
    cluster.until(cluster.led)
    cluster.run(SECOND)
    for process in cluster.processes.values():
        for group in process.multi.groups():
            raft = process.multi.raft(group)
            if raft.role == Role.FOLLOWER:
                assert raft.next_deadline_us() is None


def test_a_dead_lane_moves_its_groups_one_after_the_other() -> None:
    cluster = Cluster(3, 60)
    cluster.until(cluster.led)
    victim = cluster.leader(0)
    assert victim is not None
    lost = [group for group in range(60) if cluster.leader(group) == victim]
    cluster.isolate(victim)
    del cluster.processes[NodeNumber(victim)]
    cluster.until(cluster.led)
    cluster.run(3 * SECOND)
    assert cluster.led(), "and they stay where they are"
    assert len(lost) > 0
    for group in lost:
        assert cluster.leader(group) != victim


def test_a_cut_off_leader_steps_down_and_its_groups_go_on_elsewhere() -> None:
    cluster = Cluster(3, 4)
    cluster.until(cluster.led)
    old = cluster.leader(2)
    assert old is not None
    cluster.isolate(old)
    cluster.until(lambda: cluster.leader(2) not in (None, old))
    cluster.run(3 * SECOND)
    assert cluster.processes[NodeNumber(old)].multi.raft(GroupId(2)).role != Role.LEADER
    answers = cluster.processes[NodeNumber(old)].multi.propose(cluster.now_us, [(GroupId(2), 1, b"x")])
    assert isinstance(answers[0], NotLeader)
    cluster.propose(2, b"while it was away")
    cluster.heal()
    cluster.until(cluster.led)


@pytest.mark.parametrize("noticed", [False, True], ids=["silence", "lane down"])
def test_a_leader_of_idle_groups_that_is_cut_off_steps_down(noticed: bool) -> None:
    """CheckQuorum runs only while a voter is out of contact: silence of those who lead nothing here counts, too."""
    cluster = Cluster(3, 4)
    cluster.until(cluster.led)
    for group in range(4):
        while (leader := cluster.leader(group)) != 1:
            assert leader is not None
            cluster.processes[NodeNumber(leader)].multi.transfer(cluster.now_us, GroupId(group), NodeNumber(1))
            cluster.run(SECOND)
    cluster.run(5 * SECOND)  # no deadline is left from the elections
    process = cluster.processes[NodeNumber(1)]
    cluster.isolate(1)
    if noticed:
        for peer in (2, 3):
            process.multi.lane_down(cluster.now_us, NodeNumber(peer))
    cluster.run(4 * SECOND)
    assert [process.multi.raft(GroupId(group)).role for group in range(4)].count(Role.LEADER) == 0
    cluster.heal()
    for peer in (2, 3):
        process.multi.lane_up(cluster.now_us, NodeNumber(peer), 1)
    cluster.until(cluster.led)


def test_a_restarted_process_is_told_the_whole_set_and_raises_no_term() -> None:
    cluster = Cluster(3, 5)
    cluster.until(cluster.led)
    cluster.run(SECOND)
    follower = next(n for n in (1, 2, 3) if any(cluster.leader(g) != n for g in range(5)) and n != cluster.leader(0))
    leaders = {group: cluster.processes[NodeNumber(cluster.leader(group) or 0)] for group in range(5)}
    terms = {g: p.multi.raft(GroupId(g)).term for g, p in leaders.items() if p.node != follower}
    cluster.sent.clear()
    cluster.restart(follower)
    cluster.run(3 * SECOND)
    cluster.until(cluster.led)
    full = [m for m in lane_messages(cluster.sent) if isinstance(m, LaneHeartbeat) and m.base == 0 and m.present]
    assert full, "the set was said in full again"
    for group, term in terms.items():
        leader = cluster.leader(group)
        assert leader is not None
        assert cluster.processes[NodeNumber(leader)].multi.raft(GroupId(group)).term == term
    cluster.propose(0, b"on")
    cluster.until(cluster.led)


def test_a_stalled_disk_falls_silent_and_loses_its_groups() -> None:
    cluster = Cluster(3, 6)
    cluster.until(cluster.led)
    slow = cluster.leader(0)
    assert slow is not None
    process = cluster.processes[NodeNumber(slow)]
    process.disk_waits = True

    def moved() -> bool:
        process.multi.disk_age(cluster.now_us, 700_000)
        return all(cluster.leader(group) not in (None, slow) for group in range(6))

    cluster.until(moved)
    assert process.multi.status(GroupId(0)).reason in (Reason.DISK, Reason.NO_LEADER)
    cluster.sent.clear()
    process.multi.disk_age(cluster.now_us, 700_000)
    cluster.run(SECOND)
    from_it = [message for message in lane_messages(cluster.sent) if message.sender == slow]
    assert not from_it, "it neither asks for promises nor makes any"


def test_a_lane_that_was_silenced_lets_others_campaign_first() -> None:
    cluster = Cluster(3, 1)
    cluster.until(cluster.led)
    leader = cluster.leader(0)
    others = [node for node in (1, 2, 3) if node != leader]
    late = cluster.processes[NodeNumber(others[0])]
    late.multi.disk_age(cluster.now_us, 700_000)
    late.multi.disk_age(cluster.now_us, 0)
    assert leader is not None
    cluster.isolate(leader)
    cluster.until(lambda: cluster.leader(0) not in (None, leader))
    assert cluster.leader(0) == others[1]


def test_a_group_that_is_not_there_is_doubted_and_counts_for_nothing() -> None:
    cluster = Cluster(3, 2)
    cluster.until(cluster.led)
    leader = cluster.leader(1)
    assert leader is not None
    other = next(node for node in (1, 2, 3) if node != leader)
    cluster.processes[NodeNumber(other)].multi.remove_group(cluster.now_us, GroupId(1))
    cluster.groups_of[NodeNumber(other)].remove(1)
    cluster.sent.clear()
    cluster.run(SECOND)
    doubts = [d for m in lane_messages(cluster.sent) if isinstance(m, LaneAck) and m.sender == other for d in m.doubts]
    assert (1, Doubt.ABSENT, 0) in doubts
    assert cluster.leader(1) == leader, "the other one is a quorum"


def test_a_crowd_of_busy_groups_takes_turns_and_heartbeats_come_first() -> None:
    cluster = Cluster(3, 40, groups_per_turn=8)
    cluster.until(cluster.led)
    leader = cluster.processes[NodeNumber(cluster.leader(0) or 0)]
    led = [group for group in range(40) if cluster.leader(group) == leader.node]
    cluster.run(SECOND)
    leader.turns.clear()
    cluster.now_us += 100_000
    leader.multi.propose(cluster.now_us, [(GroupId(group), 3, b"abc") for group in led])
    leader.multi.tick(cluster.now_us)
    cluster.pump(leader)
    sizes = [len({row.group for row in turn.records}) for turn in leader.turns if turn.records]
    assert sum(sizes) == len(led) and max(sizes) <= 8
    first = leader.turns[0].free
    assert any(isinstance(message, LaneHeartbeat) for frame in first.values() for message in frame)
    served = [row.group for turn in leader.turns for row in turn.records]
    assert served == led, "in the order in which they became busy"


def test_one_frame_per_peer_and_one_append_per_turn() -> None:
    cluster = Cluster(3, 30)
    cluster.until(cluster.led)
    cluster.run(SECOND)
    leader = cluster.processes[NodeNumber(cluster.leader(0) or 0)]
    led = [group for group in range(30) if cluster.leader(group) == leader.node]
    leader.turns.clear()
    leader.multi.propose(cluster.now_us, [(GroupId(group), 3, b"abc") for group in led for _ in range(3)])
    turn = leader.multi.take_turn(cluster.now_us)
    assert turn is not None
    assert {row.group for row in turn.records} == set(led)
    appends = [message for frame in turn.free.values() for message in frame if isinstance(message, AppendEntries)]
    assert len(turn.free) == 2 and len(appends) == 2 * len(led), "three entries of a group are one message"
    leader.held.append(turn)
    cluster.send(leader, turn.free)
    cluster.sync(leader)
    cluster.until(cluster.led)


def test_what_comes_from_elsewhere_or_for_nobody_is_dropped() -> None:
    cluster = Cluster(3, 1)
    cluster.until(cluster.led)
    process = cluster.processes[NodeNumber(1)]
    term = process.multi.raft(GroupId(0)).term
    vote = RequestVote(GroupId(0), NodeNumber(2), 0, NodeNumber(1), 0, term + 9, 1, 99, term, False, True)
    process.multi.step(cluster.now_us, NodeNumber(3), [vote])
    assert process.multi.raft(GroupId(0)).term == term, "node 2's words on node 3's lane"
    process.multi.step(cluster.now_us, NodeNumber(2), [msgspec.structs.replace(vote, group=GroupId(77))])
    assert process.multi.take_turn(cluster.now_us) is None


def test_waits_end_with_the_apply_the_deadline_or_the_group() -> None:
    cluster = Cluster(1, 2)
    cluster.until(cluster.led)
    process = cluster.processes[NodeNumber(1)]
    multi = process.multi
    assert multi.wait(GroupId(0), 1, 0, "now") is Outcome.REACHED
    assert multi.wait(GroupId(7), 1, 0, "nowhere") is Outcome.GONE
    assert multi.wait(GroupId(0), 2, cluster.now_us + SECOND, "soon") is None
    assert multi.wait(GroupId(0), 99, cluster.now_us + SECOND, "never") is None
    assert multi.wait(GroupId(1), 99, cluster.now_us + 9 * SECOND, "gone") is None
    cluster.propose(0, b"x")
    cluster.run(2 * SECOND)
    multi.remove_group(cluster.now_us, GroupId(1))
    cluster.pump(process)
    ends = [end for turn in process.turns for end in turn.waits]
    assert ends == [("soon", Outcome.REACHED), ("never", Outcome.TIMED_OUT), ("gone", Outcome.GONE)]


def test_reads_of_a_replica_that_goes_are_refused() -> None:
    """Those that waited in Raft never came back."""
    cluster = Cluster(3, 1)
    cluster.until(cluster.led)
    leader = cluster.processes[NodeNumber(cluster.leader(0) or 0)]
    assert leader.multi.read(cluster.now_us, GroupId(0), "index found, not told") is None
    cluster.isolate(leader.node)
    cluster.now_us += SECOND  # no lease any more
    assert leader.multi.read(cluster.now_us, GroupId(0), "waits") is None
    leader.multi.remove_group(cluster.now_us, GroupId(0))
    cluster.pump(leader)
    failed = [(group, row.context, row.refusal) for turn in leader.turns for group, row in turn.read_failures]
    assert failed == [(0, "waits", NotLeader(NOBODY)), (0, "index found, not told", NotLeader(NOBODY))]
    assert not any(turn.reads for turn in leader.turns)


def test_a_sole_voter_leads_at_once_and_a_restart_raises_its_term() -> None:
    cluster = Cluster(1, 3)
    cluster.step()
    assert cluster.led()
    process = cluster.restart(1)
    cluster.step()
    assert {process.multi.raft(GroupId(group)).term for group in range(3)} == {2}
    roles = [event for turn in process.turns for _, event in turn.events if isinstance(event, RoleChanged)]
    assert roles[-1].role == Role.LEADER


def test_an_only_member_is_alone_until_something_of_its_own_is_in_flight() -> None:
    cluster = Cluster(1, 1)
    cluster.step()
    multi = cluster.processes[NodeNumber(1)].multi
    assert multi.alone(GroupId(0)) == (1, 1)
    cluster.propose(0, b"x")
    assert multi.alone(GroupId(0)) is None
    cluster.step()
    assert multi.alone(GroupId(0)) == (2, 1)
    multi.settle(GroupId(0), 40)
    multi.raft(GroupId(0)).check_invariants()
    assert multi.alone(GroupId(0)) == (40, 1)
    status = multi.status(GroupId(0))
    assert (status.commit, status.applied, status.last, status.reason) == (40, 40, 40, Reason.MOVES)


def test_a_member_that_is_removed_while_its_lane_is_down_is_told_when_it_is_up() -> None:
    """It is in no lane's set any more, and the leader has still to tell it."""
    cluster = Cluster(4, 1)
    cluster.until(cluster.led)
    leader = cluster.leader(0)
    gone = next(node for node in (1, 2, 3, 4) if node != leader)
    group, multi = GroupId(0), cluster.processes[NodeNumber(leader or 0)].multi
    cluster.isolate(gone)
    multi.lane_down(cluster.now_us, NodeNumber(gone))
    multi.propose_config(cluster.now_us, group, ConfigChange(remove=(NodeNumber(gone),)))
    cluster.run(SECOND)
    assert not multi.raft(group).peers[NodeNumber(gone)].reachable
    cluster.heal()
    cluster.cut |= {(gone, node) for node in (1, 2, 3, 4)}  # whatever it asks by itself
    multi.lane_up(cluster.now_us, NodeNumber(gone), 1)
    cluster.sent.clear()
    cluster.run(SECOND)
    told = [message for _, to, frame in cluster.sent if to == gone for message in frame]
    assert any(isinstance(message, AppendEntries) for message in told)


def test_a_replica_that_was_removed_before_the_start_says_so_at_once() -> None:
    config = MultiConfig(GroupConfig(group=GroupId(0), node=NodeNumber(3)), 2)
    row = Restored(
        term=1,
        mark_index=5,
        mark_term=1,
        config_index=4,
        configuration=founding([NodeNumber(1), NodeNumber(2)]),
        applied=5,
    )
    multi = MultiRaft(config, {GroupId(0): (FOUNDER, row)}, random.Random(1), SECOND)
    turn = multi.take_turn(SECOND)
    assert turn is not None and turn.events == [(GroupId(0), Removed(4))]
    assert multi.next_deadline_us() is None
