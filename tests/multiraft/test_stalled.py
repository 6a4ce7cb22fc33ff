"""A process whose disk stalls: heartbeats stop, and nothing spins while they do."""

import random

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.core import MultiConfig, MultiRaft
from nodedb_node.multiraft.messages import LaneHeartbeat
from nodedb_node.raft.configuration import founding
from nodedb_node.raft.messages import GroupConfig, ReplicaId, Restored, Role, VoteResponse

GROUP, ME, OTHER = GroupId(1), NodeNumber(1), NodeNumber(2)
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
