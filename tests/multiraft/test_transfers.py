"""Transfers by itself: numbers, waits and what is held, without files and stores."""

import msgspec

from nodedb_node.multiraft.snapshot.limits import SnapshotLimits
from nodedb_node.multiraft.snapshot.messages import Manifest, Offer
from nodedb_node.multiraft.snapshot.sender import Send
from nodedb_node.multiraft.transfers import Transfers
from nodedb_node.supervisor.boot import LIVES_BITS, STARTS_BITS

MANIFEST = Manifest(1, 100, 3, b"", 1000, 100, bytes(32))


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
