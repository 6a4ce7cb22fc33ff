"""The short way of reading a packet against aioquic's: the same bytes, events and limits, or nothing done at all."""

import copy
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aioquic.quic.connection import QuicConnectionError, QuicReceiveContext
from aioquic.tls import Epoch

from nodedb_node.transport.lanequic import OFFSET_MARK, STREAM_HEAD, LaneQuic
from tests.conformance.transport import CONTROL, up
from tests.seeds import run_seed
from tests.transport.kit import NODES, Authority, QuicStage

ALICE, BOB = NODES[:2]
AUTHORITY = Authority()
FIELDS = ("_buffer", "_buffer_start", "_final_size", "_ranges", "highest_offset", "is_finished", "stop_pending")


@pytest.fixture
def stage() -> Iterator[QuicStage]:
    made = QuicStage(issuer=AUTHORITY)
    yield made
    made.close()


def state(quic: LaneQuic, stream: Any) -> Any:
    """All that a piece of a stream may change."""
    return copy.deepcopy(([getattr(stream.receiver, name) for name in FIELDS], quic._local_max_data.used))


def put_back(quic: LaneQuic, stream: Any, before: Any) -> None:
    values, quic._local_max_data.used = copy.deepcopy(before)
    for name, value in zip(FIELDS, values, strict=True):
        setattr(stream.receiver, name, value)
    quic._events.clear()


def piece(rng: random.Random, stream: Any, quic: LaneQuic) -> bytes:
    """Mostly the next piece; at times an older, later or empty one, one of another length, or above a limit."""
    offset = stream.receiver._buffer_start
    if rng.random() < 0.3:
        offset = max(1, offset + rng.choice((-40, -1, 1, 40, 1 << 20)))
    data = rng.randbytes(rng.choice((0, 1, 20, 300)))
    length = len(data) + (rng.choice((-1, 1)) if rng.random() < 0.1 else 0)
    kind = 0x0F if rng.random() < 0.03 else 0x0E
    return STREAM_HEAD.pack(kind, stream.stream_id, offset | OFFSET_MARK, max(0, length) | 0x4000) + data


def read_by_aioquic(quic: LaneQuic, payload: bytes) -> bool:
    context = QuicReceiveContext(Epoch.ONE_RTT, quic.host_cid, quic._network_paths[0], None, time.monotonic(), None)
    try:
        quic._payload_received(context, payload)
    except QuicConnectionError:
        return False
    return True


def test_what_is_read_directly_is_what_aioquic_reads(stage: QuicStage) -> None:
    alice, bob = stage.start(ALICE), stage.start(BOB)
    alice.transport.meet(BOB, CONTROL, bob.address)
    stage.run(lambda: up(alice, BOB) and up(bob, ALICE))
    (conn,) = alice.endpoint.connections()
    quic, rng, direct = conn.quic, random.Random(run_seed()), 0
    stream = next(row for number, row in quic._streams.items() if number % 4 == quic._peers_first)
    quic._events.clear()
    stream.max_stream_data_local = stream.receiver.highest_offset + 20_000
    for _ in range(600):
        payload, before = piece(rng, stream, quic), state(quic, stream)
        taken = quic._plain_frame(payload)
        after, events = state(quic, stream), list(quic._events)
        if not taken:
            assert (after, events) == (before, [])
            after_both = read_by_aioquic(quic, payload)
            quic._events.clear()
            if not after_both or stream.receiver._final_size is not None:
                put_back(quic, stream, before)
            continue
        direct += 1
        put_back(quic, stream, before)
        assert read_by_aioquic(quic, payload)
        assert (state(quic, stream), list(quic._events)) == (after, events)
        quic._events.clear()
    assert direct > 20
