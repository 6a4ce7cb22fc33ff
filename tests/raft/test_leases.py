"""Time: how long a lease lasts, from when it counts, and what watches a quorum or a leader."""

import pytest

from nodedb_node.ids import NodeNumber
from nodedb_node.raft.messages import ConfigChange, NotReady, Role
from tests.raft.group import MS, Group


def test_a_lease_is_dropped_when_the_voters_change() -> None:
    group = Group(3)
    group.elect(1)
    group.run(500 * MS)
    assert group[1].lease_valid(group.now_us)
    group.now_us += 1
    group.cut |= {(1, 2), (1, 3)}
    group[1].propose_config(group.now_us, ConfigChange(demote=(NodeNumber(3),)))
    assert not group[1].lease_valid(group.now_us)


def test_no_lease_for_the_rest_of_the_term_after_timeout_now() -> None:
    group = Group(3)
    group.elect(1)
    group.run(500 * MS)
    assert group[1].transfer(group.now_us, NodeNumber(2)) is None and not group[1].lease_valid(group.now_us)
    group.take(1)
    group.network.clear()
    group.run(3000 * MS)
    assert group[1].role == Role.LEADER and group[1].term == 1
    assert not group[1].lease_valid(group.now_us)


def test_a_lease_is_counted_from_when_its_contact_was_sent() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, "a")
    sent_us = group.now_us
    group.exchange()
    group.now_us += 700 * MS
    group.flush()
    for message in group.network:
        group.deliver(message)
    lease_us = group[1].config.lease_us
    assert group[1].lease_valid(sent_us + lease_us - 1) and not group[1].lease_valid(sent_us + lease_us)


def test_other_voters_are_given_the_time_of_an_election_to_answer() -> None:
    """Found by the simulator (snapshots, 1117671745): 3 answers, 2 does not for long, and 3 loses its vote."""
    group = Group(3)
    group.elect(1)
    group.run(500 * MS)
    group.crash(2)
    group.run(1500 * MS)
    changed_us = group.now_us
    assert isinstance(group[1].propose_config(changed_us, ConfigChange(demote=(NodeNumber(3),))), tuple)
    while group[1].role == Role.LEADER:
        assert group.now_us < changed_us + 2 * group[1].config.election_max_us
        group.run(50 * MS, 50 * MS)
    assert group.now_us >= changed_us + group[1].config.election_max_us


def test_lanes_lost_start_elections_apart() -> None:
    group = Group(3)
    group.elect(1)
    group.run(2500 * MS)
    assert group[2].next_deadline_us() is None and group[1].next_deadline_us() is None, (
        "an idle group has no timer of its own"
    )
    group[2].lane_lost(group.now_us, NodeNumber(1), 0)
    first_us = group[2].next_deadline_us()
    group[3].lane_lost(group.now_us, NodeNumber(1), 500)
    later_us = group[3].next_deadline_us()
    assert first_us is not None and later_us is not None
    assert later_us >= group.now_us + 500 * group[3].config.rank_us


@pytest.mark.parametrize("fence_us", [2_000_000, 4_000_000])
def test_a_lease_rests_on_promises_that_are_as_long_and_survive_a_restart(fence_us: int) -> None:
    """Settings change node by node: 1 has a lease of 3.6 s already, the others would vote again after 1 s."""
    group = Group(3, fence_us=fence_us)
    group.crash(1)
    group.settings = {"election_min_us": 4_000_000, "election_max_us": 8_000_000, "lease_us": 3_600_000}
    group.settings["fence_us"] = 8_000_000
    group.restart(1)
    group.now_us += 9000 * MS
    group.elect(1)
    assert group[1].lease_valid(group.now_us) == (fence_us == 4_000_000)
    assert group[1].read(group.now_us, "r") is None
    group.now_us += 1100 * MS
    refusal = group[2].campaign(group.now_us)
    assert isinstance(refusal, NotReady)
    group.now_us += 1000 * MS
    assert (group[2].campaign(group.now_us) is None) == (fence_us == 2_000_000)


def test_a_member_without_leases_has_no_fence_and_promises_nothing_to_a_lease() -> None:
    group = Group(3)
    for node in (2, 3):
        group.crash(node)
        group.settings = {"lease_us": 0}
        group.restart(node)
    group.now_us += 5000 * MS
    group.elect(1)
    group.propose(1, "a")
    group.settle()
    assert group[1].commit == 2 and not group[1].lease_valid(group.now_us)
