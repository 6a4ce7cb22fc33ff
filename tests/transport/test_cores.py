"""The pure parts of lanes by themselves: dialling, breaker, registry, queues, calls, memory of answers, the table."""

from hypothesis import given
from hypothesis import strategies as st

from nodedb_node.ids import NodeId, Process
from nodedb_node.rpc.frame import Flag, Frame, Kind
from nodedb_node.rpc.hello import Refusal, Why
from nodedb_node.transport.answers import ANSWER_BYTES_MAX, ANSWERS_MAX, AnswerBook
from nodedb_node.transport.lanequic import LaneCongestion, missing
from nodedb_node.transport.queues import QUEUE_BYTES_MAX, Call, Calls, ClassQueue, Waiting
from nodedb_node.transport.reach import (
    BACKOFF_FIRST_US,
    BACKOFF_MAX_US,
    OPEN_US,
    PROVEN_US,
    QUICK_DIALS,
    Breaker,
    BreakerState,
    Reach,
)
from nodedb_node.transport.registry import Admission, Key, Registry, Start
from nodedb_node.transport.session import TABLE, Event, Session, State

ALICE, BOB = NodeId("a" * 40), NodeId("b" * 40)


def test_what_is_relied_on_in_aioquic_is_there() -> None:
    """Fails when another version is installed, or lacks what lanequic.py uses without a promise."""
    assert missing() == []


def test_the_wait_between_dials_doubles_to_its_bound() -> None:
    reach, now = Reach(lambda: 1.0), 0
    waits = []
    for _ in range(QUICK_DIALS + 10):
        assert reach.due_us() == now
        reach.dialling()
        assert reach.due_us() is None
        reach.failed(now, "no")
        due = reach.due_us()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits[:QUICK_DIALS] == [BACKOFF_FIRST_US] * QUICK_DIALS
    assert waits[QUICK_DIALS : QUICK_DIALS + 4] == [BACKOFF_FIRST_US * 2**n for n in range(4)]
    assert waits[-1] == BACKOFF_MAX_US
    reach.wake(now - 1)
    assert reach.due_us() == now - 1


def test_a_proven_session_is_dialled_again_at_once_a_short_one_is_not() -> None:
    reach = Reach(lambda: 1.0)
    reach.dialling()
    reach.up(0)
    reach.lost(PROVEN_US, "gone")
    assert reach.due_us() == PROVEN_US
    reach.dialling()
    reach.up(PROVEN_US)
    reach.lost(PROVEN_US + 1, "gone")
    assert reach.due_us() == PROVEN_US + 1 + BACKOFF_FIRST_US


def test_the_breaker_lets_one_probe_through() -> None:
    breaker = Breaker()
    for _ in range(3):
        assert breaker.admit(0) == 0
        breaker.unreachable(0)
    assert breaker.state is BreakerState.OPEN
    assert breaker.admit(1) > 0
    assert breaker.admit(OPEN_US) == 0
    assert breaker.admit(OPEN_US) > 0
    breaker.unreachable(OPEN_US)
    assert breaker.admit(OPEN_US + 1) > 0
    assert breaker.admit(2 * OPEN_US) == 0
    breaker.connected()
    assert [breaker.admit(0), breaker.admit(0)] == [0, 0]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.sampled_from([b"x", b"y"])), max_size=12))
def test_both_sides_keep_the_same_connection(dials: list[tuple[bool, int, bytes]]) -> None:
    """Whatever the order in which connections of both directions are greeted, and of whatever starts: the generation
    only grows, a clone never gets in, and what is active is of the newest start."""
    registry = Registry(ALICE)
    key = Key(BOB, Process(0))
    newest, nonces, clones = 0, {}, set()
    for link, (dialled, generation, nonce) in enumerate(dials):
        found = registry.admit(key, Start(generation, nonce), link, dialled)
        clone = generation == newest and nonces.get(generation, nonce) != nonce
        if generation < newest:
            assert isinstance(found, Refusal) and found.why is Why.STALE_GENERATION
        elif clone or (generation == newest and generation in clones):
            assert isinstance(found, Refusal) and found.why is Why.CLONE
            clones.add(generation)
            registry.clone_links(key)
            assert registry.active(key) is None
        else:
            assert isinstance(found, Admission)
            assert all(why is Why.REPLACED for _, why in found.close)
            assert bool(found.active) == (registry.active(key) == link)
            if generation > newest:
                assert found.active
            newest = generation
            nonces.setdefault(generation, nonce)


def test_of_two_dials_at_once_the_smaller_node_s_is_kept() -> None:
    for first in (True, False):
        ours, theirs = Registry(ALICE), Registry(BOB)
        kept = []
        for registry, peer in ((ours, BOB), (theirs, ALICE)):
            key = Key(peer, Process(0))
            mine = registry is ours
            order = [("alice's", mine), ("bob's", not mine)]
            for number, (_, dialled) in enumerate(order if first else order[::-1], 1):
                registry.admit(key, Start(1, b"n"), number, dialled)
            active = registry.active(key)
            assert active is not None
            kept.append((order if first else order[::-1])[active - 1][0])
        assert kept == ["alice's", "alice's"]


def waiting(size: int, number: int = 0) -> Waiting:
    return Waiting(Frame(40, Flag.ONEWAY, Kind.LOG, 0, 0, bytes(size)), number, 0)


def test_a_queue_is_bounded_and_in_order() -> None:
    queue, taken = ClassQueue(Kind.LOG), 0
    while queue.offer(waiting(1 << 20, taken)):
        taken += 1
    assert queue.bytes <= QUEUE_BYTES_MAX[Kind.LOG] and queue.refused == 1
    assert queue.offer(waiting(10), reserve=1 << 20)
    assert [one.number for one in queue.take(3 << 20)] == [0, 1, 2]
    queue.drop_oneway()
    assert all(one.number for one in queue)
    while list(queue.take(1 << 20)):
        pass
    assert (len(queue), queue.bytes) == (0, 0)


def test_a_call_ends_once() -> None:
    calls = Calls()
    frame = Frame(40, Flag.REQUEST, Kind.QUERY, 1, 0, b"")
    for i in range(200):
        number = calls.next_number()
        calls.add(Call(number, BOB, Process(0), frame, 1000 + i, lambda end: None, False))
    assert calls.end(1) is not None and calls.end(1) is None
    assert [call.number for call in calls.expired(1001)] == [2]
    assert calls.next_deadline_us() == 1002
    for number in range(3, 195):
        calls.end(number)
    assert len(calls) == 6 and calls.next_deadline_us() == 1194
    assert len(calls.expired(10_000)) == 6 and calls.next_deadline_us() is None


def test_what_was_answered_is_remembered_within_bounds() -> None:
    book, asker = AnswerBook(), (ALICE, Process(0), 5)
    assert book.begin(asker, 1) is True
    assert book.begin(asker, 1) is False
    book.end(asker, 1, (40, 2, b"answer"))
    assert book.begin(asker, 1) == (40, 2, b"answer")
    assert book.begin((ALICE, Process(0), 6), 1) is True
    book.forget(ALICE, Process(0), before=6)
    assert book.begin(asker, 1) is True
    for number in range(2, ANSWERS_MAX + 10):
        book.begin(asker, number)
    assert book.begin(asker, 1) is True, "the oldest fell out"
    large = AnswerBook()
    for number in range(1, 8):
        large.begin(asker, number)
        large.end(asker, number, (40, 2, bytes(ANSWER_BYTES_MAX // 4)))
    assert large.begin(asker, 7) != True  # noqa: E712 - a reply, not a flag
    assert large.begin(asker, 1) is True


def test_every_state_can_end_and_only_greetings_lead_up() -> None:
    for state in State:
        assert TABLE[(state, Event.LOST)] is State.CLOSED
    assert {pair for pair, state in TABLE.items() if state is State.UP and pair[0] is not State.UP} == {
        (State.GREETING, Event.WELCOME),
        (State.AWAITING, Event.HELLO),
    }
    assert all(state is State.CLOSED for (before, _), state in TABLE.items() if before is State.CLOSED)
    session = Session(1, True, None, 0, False)
    assert not session.move(Event.HELLO, 0) and session.state is State.GREETING


def test_probes_do_not_shrink_the_window_and_a_hole_is_counted_by_flights() -> None:
    from aioquic.quic.packet import QuicPacketType
    from aioquic.quic.packet_builder import QuicSentPacket
    from aioquic.tls import Epoch

    def sent(size: int, at: float) -> QuicSentPacket:
        packet = QuicSentPacket(Epoch.ONE_RTT, True, True, False, 1, QuicPacketType.ONE_RTT, at, size)
        control.on_packet_sent(packet=packet)
        return packet

    control = LaneCongestion(max_datagram_size=1200)
    window = control.window
    control.on_packets_lost(now=1.0, packets=[sent(8900, 0.5)])
    assert (control.window, control.hole_events) == (window, 0)
    control.mtu = 8900
    control.on_packets_lost(now=2.0, packets=[sent(8900, 1.5), sent(8900, 1.5)])
    assert control.window < window and control.hole_events == 1
    control.on_packets_lost(now=3.0, packets=[sent(8900, 2.5)])
    assert control.hole_events == 2
    control.on_packet_acked(now=3.1, packet=sent(8900, 3.0))
    assert control.hole_events == 0 and control.bytes_in_flight == 0
