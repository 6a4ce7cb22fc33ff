"""A process whose disk stalls: heartbeats stop, nothing spins while they do, and it does not go on leading."""

import functools
import random
from typing import Any

import pytest

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.core import MultiConfig, MultiRaft
from nodedb_node.multiraft.messages import LaneAck, LaneHeartbeat
from nodedb_node.raft.configuration import founding
from nodedb_node.raft.messages import GroupConfig, ReplicaId, Restored, Role, VoteResponse
from tests.multiraft.cluster import Cluster, Process

GROUP, ME, OTHER = GroupId(1), NodeNumber(1), NodeNumber(2)
GROUP_0 = GroupId(0)
START_US = 10_000_000


def leading() -> tuple[MultiRaft, int]:
    """A leader of one group with two voters, and now."""
    config = MultiConfig(GroupConfig(group=GROUP, node=ME), generation=1)
    restored = {GROUP: (ReplicaId(0), Restored(configuration=founding([ME, OTHER])))}
    multi = MultiRaft(config, restored, random.Random(1), START_US)
    multi.lane_up(START_US, OTHER, 1)
    now_us = START_US
    for _ in range(10):
        now_us += 2_100_000
        multi.tick(now_us)
        while (turn := multi.take_turn(now_us)) is not None:
            multi.persisted(now_us, turn.number)
            for request in [m for m in turn.free.get(OTHER, []) + turn.after.get(OTHER, []) if hasattr(m, "pre")]:
                row = (GROUP, OTHER, ReplicaId(0), ME, ReplicaId(0), request.term, request.request, request.pre, True)
                multi.step(now_us, OTHER, [VoteResponse(*row)])
        if multi.raft(GROUP).role == Role.LEADER:
            return multi, now_us
    raise AssertionError("no leader")


def test_a_stalled_disk_stops_heartbeats_and_asks_for_no_tick_at_once() -> None:
    multi, now_us = leading()
    now_us += 100_000
    multi.disk_age(now_us, 600_000)
    multi.tick(now_us)
    assert multi.take_turn(now_us) is None, "silence"
    due_us = multi.next_deadline_us()
    assert due_us is None or due_us > now_us, "a deadline in the past makes the loop spin"
    multi.disk_age(now_us, 0)
    multi.tick(now_us)
    turn = multi.take_turn(now_us)
    assert turn is not None
    assert [type(m) for m in turn.free[OTHER]] == [LaneHeartbeat]


def test_a_stalled_leader_that_nobody_answers_steps_down() -> None:
    """It sends no heartbeats that could go unanswered, and a partition keeps the new term from it."""
    multi, now_us = leading()
    answer = None
    for _ in range(30):
        if answer is not None:
            multi.step(now_us, OTHER, [answer])
        now_us += multi.config.group.heartbeat_us
        multi.tick(now_us)
        turn = multi.take_turn(now_us)
        assert turn is not None
        (beat,) = (message for message in turn.free[OTHER] if isinstance(message, LaneHeartbeat))
        answer = LaneAck(OTHER, 1, 1, beat.number, beat.epoch, False, 0, (), beat.promise_us)
    began_us = now_us
    now_us += 600_000
    while multi.raft(GROUP).role is Role.LEADER:
        multi.disk_age(now_us, now_us - began_us)
        multi.tick(now_us)
        while multi.take_turn(now_us) is not None:
            pass
        due_us = multi.next_deadline_us()
        assert due_us is not None, "nothing would end this leadership"
        now_us = max(now_us, due_us)
        assert now_us <= began_us + 2 * multi.config.group.election_max_us
    multi.disk_age(now_us, now_us - began_us)
    multi.tick(now_us)
    while multi.take_turn(now_us) is not None:
        pass
    assert (multi.next_deadline_us() or now_us + 1) > now_us, "it resigns once"


def a_led_group(voters: int) -> tuple[Cluster, int]:
    cluster = Cluster(voters, 1)
    cluster.until(cluster.led)
    leader = cluster.leader(0)
    assert leader is not None
    return cluster, leader


def test_a_leader_with_a_stalled_disk_is_replaced_though_its_clients_go_on() -> None:
    """Found by the simulator (disks, 3287000899): its appends kept the followers loyal."""
    cluster, number = a_led_group(3)
    process = cluster.processes[NodeNumber(number)]
    process.disk_waits = True
    began_us = cluster.now_us
    taken = 0

    def replaced() -> bool:
        nonlocal taken
        process.multi.disk_age(cluster.now_us, cluster.now_us - began_us)
        (answer,) = process.multi.propose(cluster.now_us, [(GroupId(0), 1, b"x")])
        taken += isinstance(answer, tuple)
        return cluster.leader(0) not in (None, number)

    cluster.until(replaced, us=4_000_000)
    assert taken, "a short wait for the disk refuses nothing"


@pytest.mark.parametrize("quiet_us", [300_000, 600_000, 900_000, 1_100_000])
def test_an_append_does_not_stand_for_a_lane_that_has_gone_silent(quiet_us: int) -> None:
    """Found by the simulator (disks, 3287000899): the lane had said that it was lost, the append found its last
    heartbeat young enough to leave the watch to it, and nobody watched the leader."""
    cluster, number = a_led_group(3)
    send = cluster.send

    def without_heartbeats(process: Process, messages: dict[NodeNumber, list[Any]]) -> None:
        send(process, {p: [m for m in frame if not isinstance(m, LaneHeartbeat)] for p, frame in messages.items()})

    cluster.send = without_heartbeats  # type: ignore[method-assign]
    cluster.run(quiet_us)
    cluster.propose(0, b"x")
    cluster.run(20_000)
    cluster.isolate(number)
    cluster.until(lambda: cluster.leader(0) not in (None, number), us=5_000_000)


def test_a_stalled_leader_is_replaced_though_a_member_catches_up_by_what_it_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Appends of what is old go on, keep that member from voting, and its answers are contact."""
    slow = functools.partial(GroupConfig, batch_bytes_max=1, inflight_messages_max=1)
    monkeypatch.setattr("tests.multiraft.cluster.GroupConfig", slow)
    cluster, number = a_led_group(3)
    leader = cluster.processes[NodeNumber(number)]
    behind = cluster.processes[next(node for node in cluster.processes if node != number)]
    cluster.isolate(behind.node)
    for _ in range(30):
        for _ in range(100):
            cluster.propose(0, b"x")
        cluster.step()
    cluster.heal()
    leader.disk_waits = True
    began_us, end = cluster.now_us, leader.multi.raft(GROUP_0).log.last_index

    def replaced() -> bool:
        leader.multi.disk_age(cluster.now_us, cluster.now_us - began_us)
        return cluster.leader(0) not in (None, number)

    cluster.until(replaced, us=6_000_000)
    assert behind.multi.raft(GROUP_0).log.last_index < end, "it was still catching up"
