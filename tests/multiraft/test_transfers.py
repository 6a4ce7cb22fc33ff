"""Transfers by itself: numbers, waits and what is held, without files and stores."""

import msgspec

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.snapshot.limits import SnapshotLimits
from nodedb_node.multiraft.snapshot.messages import Manifest, Offer, Reason
from nodedb_node.multiraft.snapshot.sender import Finished, Send
from nodedb_node.multiraft.transfers import Installing, Transfers
from nodedb_node.raft.messages import FOUNDER, InstallSnapshot
from nodedb_node.supervisor.boot import LIVES_BITS, STARTS_BITS

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
