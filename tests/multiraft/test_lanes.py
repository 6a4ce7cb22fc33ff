"""Heartbeats of one lane: what is said, what counts, and that loss, doubles and restarts never count for too much."""

import random

import msgspec
import pytest

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.lanes import Inbound, Outbound
from nodedb_node.multiraft.messages import Doubt, LaneAck, LaneHeartbeat, Outcome
from nodedb_node.multiraft.watchers import Watchers
from tests.seeds import run_seed

A, B = NodeNumber(1), NodeNumber(2)
PROMISE_US = 1_000


def beat(lane: Outbound, now_us: int, generation: int = 1) -> LaneHeartbeat:
    return lane.beat(now_us, A, generation, PROMISE_US, 0)


def no_doubt(group: GroupId, term: int) -> tuple[Doubt, int] | None:
    return None


def test_only_changes_are_said_once_the_peer_knows_the_set() -> None:
    out, lane = Outbound(B), Inbound(A, PROMISE_US)
    for group in range(100):
        out.put(GroupId(group), 5)
    first = beat(out, 10)
    assert (first.base, len(first.present)) == (0, 100)
    ack, left, fresh = lane.take(11, first, (B, 1, 0), no_doubt)
    assert ack is not None and fresh and not left
    assert out.ack(ack) == []
    idle = beat(out, 20)
    assert (idle.present, idle.absent) == ((), ())
    out.drop(GroupId(7))
    out.put(GroupId(8), 6)
    change = beat(out, 30)
    assert (change.present, change.absent) == (((8, 6),), (7,))
    ack, left, _ = lane.take(31, change, (B, 1, 0), no_doubt)
    assert left == [7]
    assert ack is not None
    out.ack(ack)
    assert out.acked_us(GroupId(8), 6) == 30 and out.acked_us(GroupId(9), 5) == 30
    assert out.acked_us(GroupId(7), 5) == out.acked_us(GroupId(8), 5) == 0


def test_contact_is_anchored_at_the_send_and_needs_the_term() -> None:
    out, lane = Outbound(B), Inbound(A, PROMISE_US)
    out.put(GroupId(1), 3)
    message = beat(out, 100)
    out.put(GroupId(2), 3)  # after the heartbeat left
    ack, _, _ = lane.take(150, message, (B, 1, 0), no_doubt)
    assert ack is not None
    out.ack(ack)
    counts = [out.acked_us(GroupId(group), term) for group, term in ((1, 3), (2, 3), (1, 4))]
    assert counts == [100, 0, 0]
    assert (lane.counted_us(GroupId(1), 3), lane.counted_us(GroupId(1), 4)) == (150, 0)


def test_a_doubt_stops_contact_but_not_what_was_before() -> None:
    out, lane = Outbound(B), Inbound(A, PROMISE_US)
    out.put(GroupId(1), 3)
    ack, _, _ = lane.take(1, beat(out, 1), (B, 1, 0), no_doubt)
    assert ack is not None
    out.ack(ack)
    ack, _, _ = lane.take(2, beat(out, 2), (B, 1, 0), lambda group, term: None)
    lane.judge(GroupId(1), lambda group, term: (Doubt.TERM, 9))
    ack, _, _ = lane.take(3, beat(out, 3), (B, 1, 0), no_doubt)
    assert ack is not None
    assert out.ack(ack) == [(1, Doubt.TERM, 9)]
    assert out.acked_us(GroupId(1), 3) == 1
    assert lane.counted_us(GroupId(1), 3) == 0
    assert lane.promised_us(GroupId(1)) == 2 + PROMISE_US, "what was promised holds"
    lane.judge(GroupId(1), no_doubt)
    ack, _, _ = lane.take(4, beat(out, 4), (B, 1, 0), no_doubt)
    assert ack is not None
    out.ack(ack)
    assert out.acked_us(GroupId(1), 3) == 4


def test_an_unknown_base_is_asked_for_in_full() -> None:
    out = Outbound(B)
    out.put(GroupId(1), 3)
    ack, _, _ = Inbound(A, PROMISE_US).take(1, beat(out, 1), (B, 1, 0), no_doubt)
    assert ack is not None
    out.ack(ack)
    later = Inbound(A, PROMISE_US)  # the peer's next process
    ack, _, _ = later.take(2, beat(out, 2), (B, 2, 0), no_doubt)
    assert ack is not None and ack.full
    assert later.counted_us(GroupId(1), 3) == 0
    assert out.ack(ack) is None and out.peer_generation == 2
    assert out.acked_us(GroupId(1), 3) == 1
    ack, _, _ = later.take(3, beat(out, 3), (B, 2, 0), no_doubt)
    assert ack is not None and not ack.full
    out.ack(ack)
    assert (out.acked_us(GroupId(1), 3), later.counted_us(GroupId(1), 3)) == (3, 3)


def test_a_new_process_of_the_sender_begins_with_an_empty_set_and_promises_stay() -> None:
    old, lane = Outbound(B), Inbound(A, PROMISE_US)
    old.put(GroupId(1), 3)
    lane.take(10, beat(old, 10), (B, 1, 0), no_doubt)
    new = Outbound(B)
    new.put(GroupId(2), 4)
    _, left, fresh = lane.take(20, beat(new, 20, 2), (B, 1, 0), no_doubt)
    assert (left, fresh) == ([1], True)
    assert lane.promised_us(GroupId(1)) == 10 + PROMISE_US
    assert lane.take(21, beat(old, 21, 1), (B, 1, 0), no_doubt) == (None, [], False)


@pytest.mark.parametrize("part", range(8))
def test_whatever_is_lost_doubled_or_late_contact_is_never_more_than_what_arrived(part: int) -> None:
    """Truth: the heartbeats that the receiver took, and what it thought of each group then."""
    rng = random.Random(run_seed() + part)
    out, lane, generation, peer_generation = Outbound(B), Inbound(A, PROMISE_US), 1, 1
    doubts: dict[int, tuple[Doubt, int]] = {}
    said: dict[tuple[int, int], dict[int, int]] = {}  # (generation, number) → the set then
    sent_us: dict[tuple[int, int], int] = {}
    counted: dict[tuple[int, int], int] = {}  # (group, term) → newest send time that counted at the receiver
    road: list[LaneHeartbeat | LaneAck] = []

    def judge(group: int, term: int) -> tuple[Doubt, int] | None:
        return doubts.get(group)

    for now_us in range(1, 3_000):
        group = GroupId(rng.randrange(6))
        match rng.randrange(12):
            case 0:
                out.put(group, max(out.set.get(group, 0), rng.randrange(1, 50)))
            case 1:
                out.drop(group)
            case 2:
                doubts[group] = (rng.choice([*Doubt]), rng.randrange(60))
                lane.judge(group, judge)
            case 3:
                doubts.pop(group, None)
                lane.judge(group, judge)
            case 4 if rng.random() < 0.05:
                out, generation, counted = Outbound(B), generation + 1, {}
            case 5 if rng.random() < 0.05:
                lane, peer_generation = Inbound(A, PROMISE_US), peer_generation + 1
            case 6 | 7:
                message = beat(out, now_us, generation)
                said[generation, message.number] = dict(out.set)
                sent_us[generation, message.number] = now_us
                road += [message] * rng.choice((0, 1, 1, 1, 2))
            case _ if road:
                found = road.pop(rng.randrange(min(3, len(road))))
                if isinstance(found, LaneAck):
                    if found.to_generation == generation:
                        out.ack(found)
                    continue
                ack, _, _ = lane.take(now_us, found, (B, peer_generation, 0), judge)
                if ack is not None:
                    road += [ack] * rng.choice((0, 1, 1, 2))
                if ack is not None and not ack.full:
                    key = (found.generation, found.number)
                    assert lane.set == said[key], "delta by delta the whole set"
                    if found.generation == generation:
                        for g, term in said[key].items():
                            if g not in doubts:
                                counted[g, term] = max(counted.get((g, term), 0), sent_us[key])
        for g, term in out.set.items():
            assert out.acked_us(g, term) <= counted.get((g, term), 0)


def test_a_promise_is_no_longer_than_the_receiver_s_fence_and_contact_ends_with_it() -> None:
    """A start fences the receiver for its own time only: what the sender rests on a longer promise would not hold."""
    out, lane = Outbound(B), Inbound(A, PROMISE_US // 4)
    out.put(GroupId(1), 3)
    ack, _, _ = lane.take(10_005, beat(out, 10_000), (B, 1, 0), no_doubt)
    assert ack is not None and lane.promised_us(GroupId(1)) == 10_005 + PROMISE_US // 4
    out.ack(ack)
    assert out.acked_us(GroupId(1), 3) == 10_000 - 3 * PROMISE_US // 4
    endless = msgspec.structs.replace(beat(out, 10_010), promise_us=1 << 63)
    lane.take(10_015, endless, (B, 1, 0), no_doubt)
    assert lane.promised_us(GroupId(1)) == 10_015 + PROMISE_US // 4


def test_many_heartbeats_on_a_long_way_count() -> None:
    """Reads that wait for contact ask for one per turn."""
    out, lane = Outbound(B), Inbound(A, PROMISE_US)
    out.put(GroupId(1), 3)
    road = [beat(out, now_us) for now_us in range(1_000)]
    for number, message in enumerate(road):
        ack, _, _ = lane.take(2_000, message, (B, 1, 0), no_doubt)
        assert ack is not None
        out.ack(ack)
        assert out.acked_us(GroupId(1), 3) == number
    assert len(out._sent) == 0


def test_unanswered_heartbeats_are_forgotten() -> None:
    out = Outbound(B)
    out.put(GroupId(1), 3)
    for now_us in range(0, 100 * PROMISE_US, 10):
        beat(out, now_us)
    assert len(out._sent) <= 1 + 4 * PROMISE_US // 10


def test_promises_that_are_over_are_forgotten() -> None:
    out, lane = Outbound(B), Inbound(A, PROMISE_US)
    for group in range(300):
        out.put(GroupId(group), 1)
        ack, _, _ = lane.take(group * 100, beat(out, group * 100), (B, 1, 0), no_doubt)
        assert ack is not None
        out.ack(ack)
        out.drop(GroupId(group))
    assert len(lane._promised) <= 1 + PROMISE_US // 100


def test_messages_survive_the_wire() -> None:
    hello = LaneHeartbeat(A, 3, 9, 2, 0, PROMISE_US, 77, ((GroupId(1), 5),), (GroupId(2),))
    answer = LaneAck(B, 1, 3, 9, 2, False, 78, ((GroupId(1), Doubt.QUARANTINED, 5),))
    for message in (hello, answer):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=LaneHeartbeat | LaneAck) == message


def test_many_waits_that_timed_out_leave_nothing_behind() -> None:
    watchers = Watchers()
    watchers.add_group(GroupId(1), 0)
    for i in range(1_000):
        assert watchers.wait(GroupId(1), 10 + i, 5, i) is None
    assert watchers.wait(GroupId(1), 3, 50, "stays") is None
    assert len(watchers.tick(5)) == 1_000
    assert len(watchers) == 1
    assert len(watchers._by_index[GroupId(1)]) < 70
    assert watchers.applied(GroupId(1), 3) == [("stays", 1)]
    assert watchers.next_deadline_us() is None


def test_waits_that_were_reached_do_not_stay_behind_one_that_is_open() -> None:
    watchers = Watchers()
    watchers.add_group(GroupId(1), 0)
    assert watchers.wait(GroupId(1), 1 << 40, 5, "due first, and open") is None
    for index in range(1, 10_000):
        watchers.wait(GroupId(1), index, 1000 + index, index)
        assert watchers.applied(GroupId(1), index) == [(index, Outcome.REACHED)]
        assert len(watchers._by_deadline) < 100
    assert watchers.next_deadline_us() == 5
    assert watchers.tick(5) == [("due first, and open", Outcome.TIMED_OUT)]
    assert watchers.next_deadline_us() is None
