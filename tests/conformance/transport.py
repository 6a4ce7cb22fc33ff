"""What every Transport must do, as functions over a stage: two or three processes of different nodes that can be
started, stopped and cut, and time that can be waited for. check_transport(make) runs them all."""

from collections.abc import Callable
from typing import Any, Protocol

from nodedb_node.ids import NodeId, Process
from nodedb_node.rpc.frame import FRAME_BYTES_MAX, Kind
from nodedb_node.rpc.status import (
    DeadlineExceeded,
    Internal,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    Status,
)
from nodedb_node.transport.interface import (
    Accepted,
    Address,
    Answer,
    Arrival,
    BulkOffer,
    Full,
    Message,
    PeerDown,
    PeerUp,
    Transport,
)

ALICE, BOB, CAROL = NodeId("a" * 40), NodeId("b" * 40), NodeId("c" * 40)
CONTROL = Process(0)
TYPE = 40


class Player(Protocol):
    """A process on the stage. `handlers` is a tests.sim.transport.Recorder."""

    node_id: NodeId
    address: Address
    transport: Transport
    handlers: Any


class Stage(Protocol):
    def start(self, node_id: NodeId, generation: int = 1) -> Player: ...
    def crash(self, player: Player) -> None:
        """It ends without a word."""

    def drain(self, player: Player) -> None:
        """It ends in order; returns when it is gone."""

    def run(self, until: Callable[[], bool], within_s: float = 10.0) -> None: ...
    def close(self) -> None: ...


def pair(stage: Stage, both: bool = False) -> tuple[Player, Player]:
    alice, bob = stage.start(ALICE), stage.start(BOB)
    alice.transport.meet(BOB, CONTROL, bob.address)
    if both:
        bob.transport.meet(ALICE, CONTROL, alice.address)
    stage.run(lambda: up(alice, BOB) and up(bob, ALICE))
    return alice, bob


def up(player: Player, peer: NodeId) -> bool:
    mine = [event for event in player.handlers.events if event.peer == peer]
    return bool(mine) and isinstance(mine[-1], PeerUp)


def echo(player: Player) -> None:
    player.handlers.on_request = lambda arrival: player.transport.reply(arrival, Answer(arrival.body))


def send(player: Player, peer: NodeId, body: bytes, kind: Kind = Kind.LOG) -> Accepted | Full:
    return player.transport.send(peer, CONTROL, kind, Message(TYPE, body))


def call(
    player: Player,
    peer: NodeId,
    body: bytes,
    ends: list[Any],
    deadline_ms: int = 4000,
    again: bool = False,
    kind: Kind = Kind.QUERY,
) -> Accepted | Full:
    return player.transport.call(peer, CONTROL, kind, Message(TYPE, body), deadline_ms, ends.append, again)


def bodies(player: Player) -> list[bytes]:
    return [arrival.body for arrival in player.handlers.arrivals]


def check_messages_arrive_in_order(stage: Stage) -> None:
    alice, bob = pair(stage)
    for i in range(500):
        assert send(alice, BOB, b"%d" % i) == Accepted()
    stage.run(lambda: len(bodies(bob)) == 500)
    assert bodies(bob) == [b"%d" % i for i in range(500)]
    first = bob.handlers.arrivals[0]
    assert (first.peer, first.lane, first.generation, first.kind, first.type, first.id) == (
        ALICE,
        CONTROL,
        1,
        Kind.LOG,
        TYPE,
        0,
    )
    assert send(bob, ALICE, b"back") == Accepted()
    stage.run(lambda: bodies(alice) == [b"back"])


def check_large_messages_arrive_whole(stage: Stage) -> None:
    alice, bob = pair(stage)
    large = bytes(range(256)) * (FRAME_BYTES_MAX[Kind.LOG] // 256) + b"and more"
    assert send(alice, BOB, large) == Accepted()
    assert send(alice, BOB, b"after") == Accepted()
    assert send(alice, BOB, b"beside", Kind.CONTROL) == Accepted()
    stage.run(lambda: len(bodies(bob)) == 3, 20)
    assert [body for body in bodies(bob) if body != b"beside"] == [large, b"after"]


def check_full_is_told_and_loses_nothing(stage: Stage) -> None:
    alice, bob = pair(stage)
    body, accepted, refused = bytes(1 << 20), 0, None
    for _ in range(64):
        got = send(alice, BOB, body)
        if isinstance(got, Full):
            refused = got
            break
        accepted += 1
    assert refused is not None and refused.retry_after_ms > 0
    stage.run(lambda: len(bodies(bob)) == accepted, 30)
    assert send(alice, BOB, b"again") == Accepted()
    stage.run(lambda: bodies(bob)[-1] == b"again")


def check_no_session_is_full(stage: Stage) -> None:
    alice = stage.start(ALICE)
    assert isinstance(send(alice, BOB, b"x"), Full)
    ends: list[Any] = []
    assert isinstance(call(alice, BOB, b"x", ends), Full)
    assert ends == []


def check_calls_are_answered(stage: Stage) -> None:
    alice, bob = pair(stage)
    echo(bob)
    ends: list[Any] = []
    for i in range(300):
        assert isinstance(call(alice, BOB, b"%d" % i, ends), Accepted)
    stage.run(lambda: len(ends) == 300)
    assert ends == [Answer(b"%d" % i) for i in range(300)]
    assert len({arrival.id for arrival in bob.handlers.arrivals}) == 300


def check_statuses_travel(stage: Stage) -> None:
    alice, bob = pair(stage)
    told: list[Status] = [NotLeader(CAROL, 7), Overloaded(20, "log"), Internal("disk")]
    for status in told:
        bob.handlers.on_request = lambda arrival, status=status: bob.transport.reply(arrival, status)
        ends: list[Any] = []
        call(alice, BOB, b"x", ends)
        stage.run(lambda ends=ends: len(ends) == 1)
        assert ends == [status]
    assert up(alice, BOB)


def check_a_failing_handler_is_an_answer(stage: Stage) -> None:
    alice, bob = pair(stage)

    def fail(_: Arrival) -> None:
        raise ValueError("broken")

    bob.handlers.on_request = fail
    ends: list[Any] = []
    call(alice, BOB, b"x", ends)
    stage.run(lambda: len(ends) == 1)
    assert isinstance(ends[0], Internal)
    echo(bob)
    call(alice, BOB, b"y", ends)
    stage.run(lambda: len(ends) == 2)
    assert ends[1] == Answer(b"y")


def check_a_deadline_ends_the_call_and_tells_the_peer(stage: Stage) -> None:
    alice, bob = pair(stage)
    ends: list[Any] = []
    call(alice, BOB, b"slow", ends, deadline_ms=200)
    stage.run(lambda: len(bodies(bob)) == 1)
    arrival = bob.handlers.arrivals[0]
    assert arrival.deadline_us > 0
    stage.run(lambda: len(ends) == 1)
    assert isinstance(ends[0], OutcomeUnknown)
    bob.transport.reply(arrival, Answer(b"too late"))
    ends_after: list[Any] = []
    echo(bob)
    call(alice, BOB, b"next", ends_after)
    stage.run(lambda: len(ends_after) == 1)
    assert len(ends) == 1


def check_cancel_means_no_word(stage: Stage) -> None:
    alice, bob = pair(stage)
    ends: list[Any] = []
    taken = call(alice, BOB, b"x", ends)
    assert isinstance(taken, Accepted)
    stage.run(lambda: len(bodies(bob)) == 1)
    alice.transport.cancel(taken.number)
    bob.transport.reply(bob.handlers.arrivals[0], Answer(b"late"))
    echo(bob)
    others: list[Any] = []
    call(alice, BOB, b"y", others)
    stage.run(lambda: len(others) == 1)
    assert ends == []


def check_a_lost_session_is_told(stage: Stage) -> None:
    alice, bob = pair(stage)
    unknown: list[Any] = []
    call(alice, BOB, b"once", unknown, deadline_ms=30_000)
    stage.run(lambda: len(bodies(bob)) == 1)
    stage.crash(bob)
    stage.run(lambda: not up(alice, BOB), 5)
    stage.run(lambda: len(unknown) == 1)
    assert isinstance(unknown[0], OutcomeUnknown)
    assert isinstance(send(alice, BOB, b"x"), Full)
    down = alice.handlers.events[-1]
    assert isinstance(down, PeerDown) and down.generation == 1 and down.why


def check_a_restarted_peer_is_another_generation(stage: Stage) -> None:
    alice, bob = pair(stage)
    ends: list[Any] = []
    call(alice, BOB, b"again", ends, deadline_ms=30_000, again=True)
    stage.run(lambda: len(bodies(bob)) == 1)
    stage.crash(bob)
    bob = stage.start(BOB, generation=2)
    echo(bob)
    stage.run(lambda: len(ends) == 1, 15)
    assert ends == [Answer(b"again")]
    ups = [event.generation for event in alice.handlers.events if isinstance(event, PeerUp)]
    assert ups == [1, 2]


def check_both_may_dial_at_once(stage: Stage) -> None:
    alice, bob = pair(stage, both=True)
    echo(bob)
    echo(alice)
    ends: list[Any] = []
    for i in range(50):
        call(alice, BOB, b"a%d" % i, ends, again=True)
        call(bob, ALICE, b"b%d" % i, ends, again=True)
    stage.run(lambda: len(ends) == 100)
    assert all(isinstance(end, Answer) for end in ends)
    assert len(bodies(alice)) == len(bodies(bob)) == 50


def check_a_call_before_the_session_waits(stage: Stage) -> None:
    alice = stage.start(ALICE)
    bob = stage.start(BOB)
    echo(bob)
    alice.transport.meet(BOB, CONTROL, bob.address)
    ends: list[Any] = []
    assert isinstance(call(alice, BOB, b"early", ends), Accepted)
    stage.run(lambda: ends == [Answer(b"early")])


def check_nobody_there(stage: Stage) -> None:
    alice = stage.start(ALICE)
    bob = stage.start(BOB)
    stage.crash(bob)
    alice.transport.meet(BOB, CONTROL, bob.address)
    ends: list[Any] = []
    call(alice, BOB, b"x", ends, deadline_ms=300)
    stage.run(lambda: len(ends) == 1, 5)
    assert isinstance(ends[0], DeadlineExceeded)
    stage.run(lambda: isinstance(call(alice, BOB, b"x", [], deadline_ms=100), Full), 20)


def check_forget_ends_it(stage: Stage) -> None:
    alice, bob = pair(stage)
    ends: list[Any] = []
    call(alice, BOB, b"x", ends)
    stage.run(lambda: len(bodies(bob)) == 1)
    alice.transport.forget(BOB)
    stage.run(lambda: not up(bob, ALICE), 5)
    assert isinstance(ends[0], OutcomeUnknown)
    assert isinstance(send(alice, BOB, b"x"), Full)


def check_draining_answers_what_was_asked(stage: Stage) -> None:
    alice, bob = pair(stage)
    ends: list[Any] = []
    for i in range(20):
        call(alice, BOB, b"%d" % i, ends, again=True)
    stage.run(lambda: len(bodies(bob)) == 20)
    arrivals = list(bob.handlers.arrivals)
    for arrival in arrivals:
        bob.transport.reply(arrival, Answer(arrival.body))
    stage.drain(bob)
    stage.run(lambda: len(ends) == 20)
    assert ends == [Answer(b"%d" % i) for i in range(20)]
    assert not up(alice, BOB)


def check_no_reply_is_lost_or_doubled_in_a_rolling_restart(stage: Stage) -> None:
    alice, bob = pair(stage, both=True)
    echo(bob)
    asked, ends = 0, []
    for generation in (2, 3):
        for _ in range(100):
            got = call(alice, BOB, b"%d" % asked, ends, deadline_ms=30_000, again=True, kind=Kind.LOG)
            assert isinstance(got, Accepted)
            asked += 1
        stage.drain(bob)
        bob = stage.start(BOB, generation)
        echo(bob)
        bob.transport.meet(ALICE, CONTROL, alice.address)
        for _ in range(100):
            call(alice, BOB, b"%d" % asked, ends, deadline_ms=30_000, again=True, kind=Kind.LOG)
            asked += 1
        stage.run(lambda asked=asked: len(ends) == asked, 20)
    assert sorted(int(end.body) for end in ends) == list(range(asked))


class Sink:
    """A transfer's end in memory."""

    def __init__(self, fail_at: int = 1 << 60) -> None:
        self.data = bytearray()
        self.state = "open"
        self._fail_at = fail_at

    def resume_at(self) -> int:
        return len(self.data)

    def write(self, offset: int, data: bytes) -> None:
        assert offset == len(self.data)
        if offset >= self._fail_at:
            raise OSError("no space")
        self.data += data

    def complete(self) -> None:
        self.state = "complete"

    def aborted(self, why: str) -> None:
        self.state = f"aborted: {why}"


class Source:
    def __init__(self, size: int) -> None:
        self.size = size
        self.reads: list[int] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append(offset)
        return pattern(offset, length)


def pattern(offset: int, length: int) -> bytes:
    first = offset // 8
    words = b"".join(i.to_bytes(8, "big") for i in range(first, first + length // 8 + 2))
    return words[offset % 8 : offset % 8 + length]


SIZE = 5 * (1 << 20) + 12345


def check_bulk_arrives_beside_messages(stage: Stage) -> None:
    alice, bob = pair(stage)
    sink, offers = Sink(), []

    def take(offer: BulkOffer) -> Sink:
        offers.append(offer)
        return sink

    bob.handlers.on_offer = take
    ends: list[Any] = []
    got = alice.transport.bulk(BOB, CONTROL, "snapshot", b"g1", Source(SIZE), ends.append)
    assert isinstance(got, Accepted)
    for i in range(50):
        send(alice, BOB, b"%d" % i, Kind.CONTROL)
    stage.run(lambda: len(ends) == 1, 20)
    assert ends == [Answer(b"")]
    assert sink.state == "complete" and bytes(sink.data) == pattern(0, SIZE)
    assert (offers[0].purpose, offers[0].argument, offers[0].size) == ("snapshot", b"g1", SIZE)
    assert len(bodies(bob)) == 50
    empty: list[Any] = []
    sink = Sink()
    alice.transport.bulk(BOB, CONTROL, "nothing", b"", Source(0), empty.append)
    stage.run(lambda: empty == [Answer(b"")])
    assert sink.state == "complete"


def check_bulk_goes_on_after_a_restart(stage: Stage) -> None:
    alice, bob = pair(stage)
    sinks: dict[bytes, Sink] = {}
    keep = lambda offer: sinks.setdefault(offer.transfer, Sink())  # noqa: E731
    bob.handlers.on_offer = keep
    ends: list[Any] = []
    source = Source(4 * SIZE)
    alice.transport.bulk(BOB, CONTROL, "snapshot", b"", source, ends.append)
    stage.run(lambda: any(len(sink.data) > SIZE for sink in sinks.values()))
    stage.crash(bob)
    had = len(next(iter(sinks.values())).data)
    bob = stage.start(BOB, generation=2)
    bob.handlers.on_offer = keep
    stage.run(lambda: len(ends) == 1, 30)
    assert ends == [Answer(b"")]
    (sink,) = sinks.values()
    assert bytes(sink.data) == pattern(0, 4 * SIZE)
    assert source.reads.count(0) == 1 and had > SIZE


def check_bulk_that_fails_is_told(stage: Stage) -> None:
    alice, bob = pair(stage)
    sink = Sink(fail_at=1 << 20)
    bob.handlers.on_offer = lambda offer: sink
    ends: list[Any] = []
    alice.transport.bulk(BOB, CONTROL, "snapshot", b"", Source(SIZE), ends.append)
    stage.run(lambda: len(ends) == 1, 10)
    assert isinstance(ends[0], Internal) and "no space" in ends[0].what
    assert sink.state.startswith("aborted")
    refused: list[Any] = []
    bob.handlers.on_offer = lambda offer: Overloaded(5, "disk")
    alice.transport.bulk(BOB, CONTROL, "snapshot", b"", Source(SIZE), refused.append)
    stage.run(lambda: refused == [Overloaded(5, "disk")])


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


def check_transport(make: Callable[[], Stage]) -> None:
    """Every check, each on a stage of its own."""
    for check in CHECKS:
        stage = make()
        try:
            check(stage)
        finally:
            stage.close()
