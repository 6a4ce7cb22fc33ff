"""A leader's watch over its quorum does not end between a lane's silence and the end of an election's patience."""

import pytest

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.raft.messages import Role
from tests.multiraft.cluster import Cluster


@pytest.mark.parametrize("age_us", [300_000, 600_000, 800_000, 950_000, 1_200_000])
def test_a_leader_cut_off_at_any_time_before_its_first_look_steps_down(age_us: int) -> None:
    """Found by the simulator (stale, 96618179): lanes had said that they are silent, and the look found that young
    enough to wait for their word."""
    cluster = Cluster(3, 1)
    cluster.until(cluster.led)
    number = cluster.leader(0)
    assert number is not None
    raft = cluster.processes[NodeNumber(number)].multi.raft(GroupId(0))
    looks_us = raft.quorum_us
    assert cluster.now_us < looks_us - age_us
    cluster.until(lambda: cluster.now_us >= looks_us - age_us)
    cluster.isolate(number)
    cluster.until(lambda: raft.role != Role.LEADER, us=2 * raft.config.election_max_us)


def test_a_lane_that_ends_just_before_the_look_is_told_of_again() -> None:
    """Found by the simulator (mixed, 4002088359): the end of a lane was taken for its silence, the look found the last
    answer young, and nobody spoke of it again."""
    cluster = Cluster(3, 1)
    cluster.until(cluster.led)
    number = cluster.leader(0)
    assert number is not None
    multi = cluster.processes[NodeNumber(number)].multi
    raft = multi.raft(GroupId(0))
    looks_us = raft.quorum_us
    cluster.until(lambda: cluster.now_us >= looks_us - 50_000)
    cluster.isolate(number)
    for peer in cluster.processes.keys() - {number}:
        multi.lane_down(cluster.now_us, peer)
    cluster.until(lambda: raft.role != Role.LEADER, us=2 * raft.config.election_max_us)
