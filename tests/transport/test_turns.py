"""What an endpoint does in a turn: control before large bodies, in slices, one turn in the loop's queue at a time."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodedb_node.rpc.frame import Kind
from nodedb_node.transport import quic
from nodedb_node.transport.interface import Accepted, Answer, Message
from nodedb_node.transport.lanequic import DATAGRAM_MAX, TURN_DATAGRAMS
from tests.conformance.transport import CONTROL, Sink, Source, up
from tests.transport.kit import NODES, Authority, QuicPlayer, QuicStage

ALICE, BOB = NODES[:2]
AUTHORITY = Authority()
MIB = 1 << 20


@pytest.fixture
def stage() -> Iterator[QuicStage]:
    made = QuicStage(issuer=AUTHORITY)
    yield made
    made.close()


class CountingLoop:
    """The loop, as an endpoint sees it; `waiting`: turns that were asked for and have not begun, `most` at any time."""

    def __init__(self, loop: Any, turn: Callable[[], None]) -> None:
        self._loop, self._turn = loop, turn
        self.waiting = self.most = self.turns = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_soon(self, callback: Callable[..., None], *args: Any) -> Any:
        assert callback == self._turn
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self.waiting -= 1
        self.turns += 1
        self._turn()


def sending(stage: QuicStage, size: int) -> tuple[QuicPlayer, QuicPlayer, Sink, list[Any]]:
    """Alice sends a large body to bob, in large datagrams; the first of it has arrived."""
    alice, bob = stage.start(ALICE), stage.start(BOB)
    alice.transport.meet(BOB, CONTROL, bob.address)
    stage.run(lambda: up(alice, BOB) and up(bob, ALICE))
    sink, done = Sink(), []
    bob.handlers.on_offer = lambda offer: sink
    assert isinstance(alice.transport.bulk(BOB, CONTROL, "x", b"", Source(size), done.append), Accepted)
    stage.run(lambda: [conn.quic.datagram_size for conn in alice.endpoint.connections()] == [DATAGRAM_MAX] * 2)
    stage.run(lambda: len(sink.data) > 0)
    return alice, bob, sink, done


def bulk_in_flight(player: QuicPlayer) -> int:
    return sum(conn.quic._cc.bytes_in_flight for conn in player.endpoint.connections() if conn.bulk)


def test_a_heartbeat_is_handled_before_the_large_body_that_came_before_it(stage: QuicStage) -> None:
    alice, bob, sink, done = sending(stage, 64 * MIB)
    stage.loop.remove_reader(bob.endpoint.udp.fileno())
    stage.run(lambda: bulk_in_flight(alice) > 2 * TURN_DATAGRAMS * DATAGRAM_MAX)
    sent = alice.endpoint.udp.stats().datagrams_out
    taken = alice.transport.call(BOB, CONTROL, Kind.CONTROL, Message(40, b"beat"), 5000, lambda end: None)
    assert isinstance(taken, Accepted)
    stage.run(lambda: alice.endpoint.udp.stats().datagrams_out > sent)
    waiting: list[int] = []
    bob.handlers.on_request = lambda arrival: waiting.append(len(bob.endpoint._waiting_bulk))
    stage.loop.call_soon(bob.endpoint._readable)
    stage.run(lambda: len(waiting) == 1)
    assert waiting[0] > TURN_DATAGRAMS, "what came before it was not put off"
    stage.loop.add_reader(bob.endpoint.udp.fileno(), bob.endpoint._readable)
    stage.run(lambda: done == [Answer(b"")], 30)
    assert len(sink.data) == 64 * MIB and bob.endpoint.figures.bulk_dropped == 0


def test_a_turn_takes_one_slice_and_only_one_turn_waits(stage: QuicStage) -> None:
    alice, bob, _, done = sending(stage, 16 * MIB)
    loops = []
    for player in (alice, bob):
        endpoint = player.endpoint
        endpoint._loop = CountingLoop(stage.loop, endpoint._turn)  # type: ignore[assignment]
        loops.append(endpoint._loop)
    stage.run(lambda: done == [Answer(b"")], 30)
    alice_loop, bob_loop = loops
    assert alice_loop.most == 1 and bob_loop.most <= 1  # who reads slowly finds it all at once and needs none
    assert alice_loop.turns > 8 * MIB // (TURN_DATAGRAMS * DATAGRAM_MAX), "more than a slice per turn"


def test_what_waits_is_bounded(stage: QuicStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datagrams above the bound are lost like any, and sent again."""
    monkeypatch.setattr(quic, "BULK_WAITING_MAX", TURN_DATAGRAMS)
    _, bob, sink, done = sending(stage, 8 * MIB)
    stage.run(lambda: done == [Answer(b"")], 30)
    assert len(sink.data) == 8 * MIB
    assert bob.endpoint.figures.bulk_dropped > 0


def test_the_next_question_goes_in_the_transmission_that_follows_its_answer(stage: QuicStage) -> None:
    alice, bob = stage.start(ALICE), stage.start(BOB)
    alice.transport.meet(BOB, CONTROL, bob.address)
    stage.run(lambda: up(alice, BOB) and up(bob, ALICE))
    (conn,) = alice.endpoint.connections()
    stage.run(lambda: conn.quic.datagram_size == DATAGRAM_MAX)
    bob.handlers.on_request = lambda arrival: bob.transport.reply(arrival, Answer(arrival.body))
    passes: list[int] = []
    transmit = conn.quic.datagrams_to_send

    def counted(now: float) -> list[tuple[bytes, Any]]:
        made = transmit(now)
        passes.append(len(made))
        return made

    conn.quic.datagrams_to_send = counted  # type: ignore[method-assign]
    ends: list[Any] = []

    def ask() -> None:
        taken = alice.transport.call(BOB, CONTROL, Kind.QUERY, Message(40, b"x"), 5000, answered)
        assert isinstance(taken, Accepted)

    def answered(end: Any) -> None:
        ends.append(end)
        if len(ends) < 100:
            stage.loop.call_soon(ask)  # as who waits for the answer in a task

    ask()
    stage.run(lambda: len(ends) == 100)
    assert all(isinstance(end, Answer) for end in ends)
    assert passes.count(0) < 50, "an empty transmission between an answer and the next question"


def test_an_earlier_time_of_the_hub_is_armed_after_a_reading_that_serves_nobody(
    stage: QuicStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer's reset makes it wait for the next dial; the timer that stood before was up to a keepalive later."""
    alice, bob = stage.start(ALICE), stage.start(BOB)
    alice.transport.meet(BOB, CONTROL, bob.address)
    stage.run(lambda: up(alice, BOB) and up(bob, ALICE))
    endpoint = alice.endpoint
    stage.run(lambda: not (endpoint._touched or endpoint._turning or endpoint.hub.dirty))
    if endpoint._timer is not None:
        endpoint._timer.cancel()
    endpoint._timer, endpoint._timer_at = None, float("inf")
    due_us = quic.now_us() + 20_000
    monkeypatch.setattr(endpoint.hub, "next_deadline_us", lambda: due_us)
    endpoint._readable()
    assert endpoint._timer_at <= time.monotonic() + 0.02
