"""Transfers by itself: numbers, waits and what is held, without files and stores."""

import msgspec

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.snapshot.limits import SnapshotLimits
from nodedb_node.multiraft.snapshot.messages import Manifest, Offer, Reason
from nodedb_node.multiraft.snapshot.sender import Finished, Send
from nodedb_node.multiraft.snapshot.work import Cut
from nodedb_node.multiraft.transfers import Installing, Transfers
from nodedb_node.raft.messages import FOUNDER, InstallSnapshot
from nodedb_node.supervisor.boot import LIVES_BITS, STARTS_BITS
from tests.multiraft.cluster import Cluster

MANIFEST = Manifest(1, 100, 3, b"", 1000, 100, bytes(32))
OFFER = InstallSnapshot(GroupId(1), NodeNumber(2), FOUNDER, NodeNumber(1), FOUNDER, 5, 1, 100, 3, 0, b"", 7)


def transfers(generation: int = 1) -> Transfers:
    return Transfers(SnapshotLimits(), generation, {}, lambda group: None, 0)


def test_a_life_s_transfers_have_numbers_of_their_own_that_can_be_sent() -> None:
    """From the node's 65,536th start on they were longer than an encoded integer may be."""
    numbers = []
    for start in (1, 2, 65_535, 65_536, (1 << STARTS_BITS) - 1):
        for life in (1, 2, (1 << LIVES_BITS) - 1):
            machine = transfers((start << LIVES_BITS) + life)._sender
            number = machine.start(0, 2, 0, 5, MANIFEST)
            (offer,) = machine.take_outputs()
            assert isinstance(offer, Send) and isinstance(offer.message, Offer) and offer.message.transfer == number
            assert msgspec.msgpack.decode(msgspec.msgpack.encode(offer.message), type=Offer) == offer.message
            numbers.append(number)
    assert len(set(numbers)) == len(numbers)


def test_what_is_committed_while_an_install_is_out_is_one_range() -> None:
    """It was a row for each turn, however long the install took."""
    machine, group = transfers(), GroupId(1)
    assert not machine.hold((group, 101, 101))
    machine.installing[group] = Installing(MANIFEST, OFFER)
    for index in range(101, 200):
        assert machine.hold((group, index, index))
    assert machine._held == {group: (group, 101, 199)}


def test_a_member_s_wish_to_be_asked_later_has_a_bound() -> None:
    """Whatever it says: a number that is damaged, or another version's, would keep it from its snapshot for ever."""
    machine, limits = transfers(), SnapshotLimits()
    machine._finished(10, Finished(1, 2, MANIFEST, Reason.BUSY, 5, (1 << 63) - 1))
    assert machine._not_before == {(1, 2): 10 + limits.quarantine_us}


def test_a_cut_is_made_when_its_transfer_can_go_out_and_the_others_wait_in_order() -> None:
    """A member that came back to many groups had the leader write all of their rows to its disk at once."""
    cluster = Cluster(3, 8)
    cluster.until(cluster.led)
    for group in range(8):
        while cluster.leader(group) != 1:
            led = cluster.processes[NodeNumber(cluster.leader(group) or 0)]
            led.multi.transfer(cluster.now_us, GroupId(group), NodeNumber(1))
            cluster.run(300_000)
    leader = cluster.processes[NodeNumber(1)]
    cluster.isolate(3)
    for group in range(8):
        cluster.propose(group, b"x")
    cluster.run(2_000_000)
    for group in range(8):
        raft = leader.multi.raft(GroupId(group))
        leader.multi.compacted({GroupId(group): (raft.applied, raft.term)})
    cluster.heal()
    leader.turns.clear()
    cut: list[int] = []
    while len(cut) < 8:
        cluster.until(lambda: any(turn.work for turn in leader.turns), 5_000_000)
        cluster.run(100_000)
        work = [row for turn in leader.turns for row in turn.work]
        assert [type(row) for row in work] == [Cut], "one transfer to a peer at a time, and none of this one ends"
        cut.append(work[0].group)
        leader.turns.clear()
        leader.multi.snapshot_cut(cluster.now_us, GroupId(cut[-1]), None)
    assert sorted(cut) == list(range(8)), "in the order of their wishes; who failed waits again"
