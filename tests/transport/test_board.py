"""What a process shows of its lanes: whole, or nothing."""

import os
from collections.abc import Iterator

import msgspec
import pytest

from nodedb_node.transport import board
from nodedb_node.transport.lanequic import LanePacer

SHOWN = board.LaneBoard(pid=7, generation=3, host="::", port=6500, insecure=False, datagram_bytes=1200, lanes=())


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = os.memfd_create("board")
    yield made
    os.close(made)


def test_the_last_writing_is_what_is_read(descriptor: int) -> None:
    assert board.read(descriptor) is None
    board.write(descriptor, msgspec.structs.replace(SHOWN, host="a much longer name than the next one has"))
    board.write(descriptor, SHOWN)
    assert board.read(descriptor) == SHOWN


@pytest.mark.parametrize("at", [0, 4, 8, 20])
def test_half_a_writing_is_not_shown(descriptor: int, at: int) -> None:
    board.write(descriptor, SHOWN)
    byte = os.pread(descriptor, 1, at)[0]
    os.pwrite(descriptor, bytes((byte ^ 1,)), at)
    assert board.read(descriptor) is None


def test_a_far_peer_is_paced_also_when_a_turn_may_send_nothing() -> None:
    pacer = LanePacer(max_datagram_size=1200)
    pacer.near = False
    pacer.update_rate(congestion_window=0, smoothed_rtt=0.05)
    assert pacer.packet_time
