"""Spoofed origins, by hand-made peers who are members: a message is its session's peer's, whatever it says."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.messages import LaneHeartbeat, LaneMessage
from nodedb_node.raft.messages import FOUNDER, RequestVote
from nodedb_node.rpc.frame import Flag, Frame, Kind
from nodedb_node.rpc.hello import Why
from nodedb_node.rpc.messages import Type
from nodedb_node.transport.interface import Accepted, Answer, Arrival, Message
from tests.conformance.transport import CONTROL, up
from tests.transport.kit import NODES, Authority, QuicPlayer, QuicStage
from tests.transport.rawpeer import RawPeer, greeting, member

ALICE, BOB, CAROL = NODES[:3]
NUMBERS = {NodeNumber(number): node for number, node in enumerate((ALICE, BOB, CAROL), 1)}
AUTHORITY = Authority()


@pytest.fixture
def stage() -> Iterator[QuicStage]:
    made = QuicStage(issuer=AUTHORITY)
    yield made
    made.close()


class RaftOfBob:
    """A part that hears Raft's messages: whom it believes, in order. Unknown numbers are nobody's."""

    def __init__(self, bob: QuicPlayer) -> None:
        self.heard: list[LaneMessage] = []
        self._decoder = msgspec.msgpack.Decoder(LaneMessage)
        bob.handlers.on_frame = self._on_frame  # type: ignore[method-assign]

    def _on_frame(self, arrival: Arrival) -> None:
        message = self._decoder.decode(arrival.body)
        arrival.insist(NUMBERS.get(message.sender, NODES[5]))
        self.heard.append(message)


def alice(stage: QuicStage, bob: QuicPlayer) -> RawPeer:
    peer = member(stage, bob, ALICE)
    peer.greet(greeting(ALICE))
    peer.welcomed()
    return peer


def heartbeat(sender: int) -> LaneHeartbeat:
    return LaneHeartbeat(NodeNumber(sender), 1, 1, 1, 0, 1000)


def vote(sender: int) -> RequestVote:
    return RequestVote(
        group=GroupId(0), sender=NodeNumber(sender), sender_replica=FOUNDER, receiver=NodeNumber(2),
        receiver_replica=FOUNDER, term=7, request=1, last_index=1, last_term=1, pre=False, transfer=False,
    )  # fmt: skip


def frame(message: LaneMessage, id: int = 0) -> Frame:
    body = msgspec.msgpack.encode(message)
    return Frame(Type.RAFT_FIRST, Flag.REQUEST if id else Flag.ONEWAY, Kind.CONTROL, id, 5000 if id else 0, body)


@pytest.mark.parametrize("id", [0, 9], ids=["one-way", "request"])
@pytest.mark.parametrize("claim", [heartbeat(3), vote(3), vote(2), heartbeat(99)], ids=repr)
def test_a_message_of_another_node_ends_the_session(stage: QuicStage, claim: LaneMessage, id: int) -> None:
    bob = stage.start(BOB)
    raft = RaftOfBob(bob)
    peer = alice(stage, bob)
    peer.frame(frame(vote(1)))
    stage.run(lambda: len(raft.heard) == 1)
    peer.frame(frame(claim, id))
    peer.frame(frame(vote(1)))
    assert "claims to come from" in peer.refused(Why.SPOOFED)
    assert raft.heard == [vote(1)], "what was false changed nothing, and nothing after it was read"
    assert bob.transport.figures.refusals["in.spoofed"] == 1 and not up(bob, ALICE)


def test_another_peer_s_session_does_not_suffer(stage: QuicStage) -> None:
    bob, carol = stage.start(BOB), stage.start(CAROL)
    raft = RaftOfBob(bob)
    carol.transport.meet(BOB, CONTROL, bob.address)
    stage.run(lambda: up(carol, BOB) and up(bob, CAROL))
    peer = alice(stage, bob)
    peer.frame(frame(heartbeat(3)))
    peer.refused(Why.SPOOFED)
    taken = carol.transport.send(BOB, CONTROL, Kind.CONTROL, Message(32, msgspec.msgpack.encode(heartbeat(3))))
    assert isinstance(taken, Accepted)
    stage.run(lambda: raft.heard == [heartbeat(3)])


def test_an_answer_counts_from_the_peer_that_was_asked(stage: QuicStage) -> None:
    """Numbers of calls are guessed easily: a member answers what another one was asked."""
    bob, carol = stage.start(BOB), stage.start(CAROL)
    asked: list[Arrival] = []
    carol.handlers.on_request = asked.append
    bob.transport.meet(CAROL, CONTROL, carol.address)
    stage.run(lambda: up(bob, CAROL))
    peer = alice(stage, bob)
    ends: list[Any] = []
    taken = bob.transport.call(CAROL, CONTROL, Kind.QUERY, Message(40, b"?"), 10_000, ends.append)
    assert isinstance(taken, Accepted)
    stage.run(lambda: len(asked) == 1)
    peer.frame(Frame(40, Flag.REPLY, Kind.CONTROL, taken.number, 0, b"false"))
    assert "another peer's" in peer.refused(Why.SPOOFED)
    assert ends == []
    carol.transport.reply(asked[0], Answer(b"true"))
    stage.run(lambda: ends == [Answer(b"true")])
