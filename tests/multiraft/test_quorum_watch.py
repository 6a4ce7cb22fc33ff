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
