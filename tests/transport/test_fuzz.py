"""A running endpoint and peers whose bytes are mutated: their sessions may end, nobody else's turn may.

NODEDB_TEST_SEED chooses the mutations, FUZZ_SECONDS how long; by default a fixed number of peers.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from nodedb_node.ids import VShard
from nodedb_node.rpc import envelope, hello, messages
from nodedb_node.rpc.envelope import Envelope, EpochFence
from nodedb_node.rpc.frame import Flag, Frame, Kind, encode
from nodedb_node.rpc.messages import Type
from nodedb_node.transport.interface import Answer, Message
from nodedb_node.transport.services import Services
from tests.conformance.transport import CONTROL, up
from tests.rpc.test_fuzz import mutated
from tests.seeds import rounds
from tests.transport.kit import NODES, Authority, QuicStage
from tests.transport.rawpeer import RawPeer, greeting, member

ALICE, BOB, CAROL, DAVE = NODES[:4]
PEERS = 60
STREAMS = {Kind.CONTROL: 2, Kind.LOG: 6, Kind.QUERY: 10, Kind.BULK: 14}
NAME = b"t" * messages.TRANSFER_BYTES


def said() -> dict[Kind, list[Frame]]:
    """What a peer may say after its greeting."""
    routed = envelope.encode(Envelope(VShard(4), 3, 7, 1, b"x"))
    opened = messages.encode(messages.BulkOpen(NAME, "discard", 1 << 20))
    return {
        Kind.CONTROL: [
            Frame(Type.GOAWAY, Flag.ONEWAY, Kind.CONTROL, 0, 0, b""),
            Frame(Type.FAREWELL, Flag.ONEWAY, Kind.CONTROL, 0, 0, b""),
        ],
        Kind.QUERY: [
            Frame(Type.ECHO, Flag.REQUEST, Kind.QUERY, 5, 900, b"echo"),
            Frame(Type.ROUTED, Flag.REQUEST, Kind.QUERY, 6, 900, routed),
            Frame(Type.ECHO, Flag.REPLY | Flag.ERROR, Kind.QUERY, 1, 0, b"\x92\x07\xa1x"),
            Frame(Type.ECHO, Flag.CANCEL, Kind.QUERY, 5, 0, b""),
        ],
        Kind.BULK: [
            Frame(Type.BULK_OPEN, Flag.REQUEST, Kind.BULK, 7, 0, opened),
            Frame(Type.BULK_OPEN, Flag.REPLY, Kind.BULK, 7, 0, messages.encode(messages.BulkAnswer(0, 9))),
            Frame(Type.BULK_CHUNK, Flag.ONEWAY, Kind.BULK, 0, 0, messages.chunk(NAME, 0, b"data")),
            Frame(Type.BULK_CREDIT, Flag.ONEWAY, Kind.BULK, 0, 0, messages.credit(NAME, 1, 2)),
            Frame(Type.BULK_ABORT, Flag.ONEWAY, Kind.BULK, 0, 0, messages.encode(messages.BulkAbort(NAME, "no"))),
        ],
    }


@pytest.fixture
def stage() -> Iterator[QuicStage]:
    made = QuicStage(issuer=Authority())
    yield made
    made.close()


def fuzz(random_: random.Random, stage: QuicStage, server: Any, number: int) -> RawPeer:
    """One peer: of a mutated greeting, or of a good one and then of mutated frames or bodies."""
    bulk = random_.random() < 0.4
    strange = random_.random() < 0.3  # may name a generation far ahead, which would refuse all later good ones
    name = DAVE if strange else CAROL
    first = greeting(name, generation=number, nonce=random_.randbytes(16))
    peer = member(stage, server, name)
    if strange:
        peer.greet(mutated(random_, hello.encode(first))[:4000])
        stage.run(lambda: bool(peer.frames) or peer.closed is not None)
        return peer
    peer.greet(msgspec.structs.replace(first, bulk=bulk))
    peer.welcomed()
    kind = Kind.BULK if bulk else random_.choice([Kind.CONTROL, Kind.QUERY])
    for frame in random_.choices(said()[kind], k=6):
        raw = b"".join(encode(frame))
        if random_.random() < 0.5:
            body = mutated(random_, frame.body)
            raw = b"".join(encode(msgspec.structs.replace(frame, body=body)))
        elif random_.random() < 0.4:
            raw = mutated(random_, raw)
        peer.say(STREAMS[kind], raw)
    return peer


def test_mutated_peers_end_no_turn_but_their_own(stage: QuicStage) -> None:
    alice, server = stage.start(ALICE), stage.start(BOB)
    services = Services(lambda vshard: 3 if vshard < 10 else None, EpochFence(7))
    services.transport = server.transport
    server.endpoint.hub._handlers = services
    alice.transport.meet(BOB, CONTROL, server.address)
    stage.run(lambda: up(alice, BOB))
    escaped: list[dict[str, Any]] = []
    stage.loop.set_exception_handler(lambda loop, context: escaped.append(context))
    for number, random_ in enumerate(rounds(PEERS), 1):
        with contextlib.closing(fuzz(random_, stage, server, number)):
            ends: list[Any] = []
            alice.transport.call(BOB, CONTROL, Kind.QUERY, Message(Type.ECHO, b"%d" % number), 5000, ends.append)
            stage.run(lambda ends=ends: len(ends) == 1)
            assert ends == [Answer(b"%d" % number)] and not escaped
    assert server.transport.figures.lost > PEERS // 4 and up(alice, BOB)
