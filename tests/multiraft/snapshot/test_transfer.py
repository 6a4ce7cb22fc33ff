"""Snapshot transfers end to end between the two machines, and each refusal by itself."""

import random

import pytest

from nodedb_node.multiraft.snapshot import receiver, sender
from nodedb_node.multiraft.snapshot.limits import SECOND_US, Throttle
from nodedb_node.multiraft.snapshot.messages import (
    Accept,
    Chunk,
    ChunkAck,
    Done,
    Manifest,
    Offer,
    Reason,
    Refusal,
    chunk_of,
)
from tests.multiraft.snapshot.link import LIMITS, Link, manifest_of

DATA = random.Random(1).randbytes(12_345)


def test_a_snapshot_arrives_whole_and_once() -> None:
    link = Link(DATA)
    link.start()
    link.run()
    assert link.finished == [sender.Finished(1000, 2, link.manifest, None, 0, 0)]
    assert link.installed == [link.manifest]
    assert link.sent_chunks == list(range(13)), "each chunk travels once"
    assert link.disk is None, "nothing is left behind"


def test_an_empty_snapshot_is_confirmed_too() -> None:
    link = Link(b"")
    link.start()
    link.run()
    assert link.installed and link.finished[0].reason is None


@pytest.mark.parametrize("seed", range(40))
def test_it_arrives_through_loss_damage_reordering_repetition_and_crashes(seed: int) -> None:
    chances = {"lose": 0.1, "damage": 0.1, "reorder": 0.5, "repeat": 0.2, "crash": 0.01}
    link = Link(DATA, seed, LIMITS._replace(corrupt_max=1000), **chances)
    link.start()
    link.run()
    assert [row.reason for row in link.finished] == [None]
    assert set(link.installed) == {link.manifest}


def test_the_window_bounds_what_is_in_flight() -> None:
    link = Link(DATA)
    link.start()
    link.drain()
    link.deliver()  # the offer
    link.drain()
    link.deliver()  # the acceptance
    link.drain()
    assert link.sent_chunks == [0, 1, 2, 3]


def test_a_lost_connection_resumes_where_the_receiver_was() -> None:
    link = Link(DATA)
    link.start()
    for _ in range(16):
        link.step()
    link.drain()
    had = set(link.disk or {})
    assert 0 < len(had) < 13
    link.network.clear()
    link.sent_chunks.clear()
    link.sender.peer_up(link.now_us, 2)
    link.run()
    assert link.finished[0].reason is None
    assert not had & set(link.sent_chunks)


def test_a_receiver_restart_resumes_from_what_its_disk_holds() -> None:
    link = Link(DATA)
    link.start()
    while len(link.disk or {}) < 7:
        link.step()
    link.network.clear()
    link.crash_receiver()
    link.sent_chunks.clear()
    link.run()
    assert link.finished[0].reason is None
    assert min(link.sent_chunks) >= 6


def accepted(limits=LIMITS) -> tuple[receiver.SnapshotReceiver, Manifest]:  # type: ignore[no-untyped-def]
    machine, manifest = receiver.SnapshotReceiver(limits), manifest_of(DATA)
    machine.on_message(0, 1, Offer(1, 5, 77, manifest, 0), 5, 0)
    begin, send = machine.take_outputs()
    assert begin == receiver.Begin(manifest) and send == receiver.Send(1, Accept(1, 5, 77, 0))
    return machine, manifest


def chunk(number: int, term: int = 5, transfer: int = 77) -> Chunk:
    return chunk_of(1, term, transfer, number, DATA[number * 1000 : number * 1000 + 1000])


def test_a_deposed_leaders_messages_change_nothing() -> None:
    machine, manifest = accepted()
    machine.on_message(1, 1, chunk(0), 6, 0)
    machine.on_message(1, 1, Offer(1, 5, 78, manifest_of(b"other"), 0), 6, 0)
    refusals = [output.message for output in machine.take_outputs() if isinstance(output, receiver.Send)]
    assert refusals == [Refusal(1, 6, 77, Reason.STALE_TERM), Refusal(1, 6, 78, Reason.STALE_TERM)]
    machine.on_message(2, 3, Offer(1, 6, 9, manifest, 0), 6, 0)
    assert machine.take_outputs() == [receiver.Send(3, Accept(1, 6, 9, 0))], "the new leader goes on with the same"


def test_chunks_of_another_transfer_are_not_mixed_in() -> None:
    machine, manifest = accepted()
    for stranger in (chunk(0, transfer=76), chunk_of(1, 5, 77, 0, b"x" * 1000)):
        peer = 1 if stranger.transfer == 76 else 4
        machine.on_message(1, peer, stranger, 5, 0)
        assert machine.take_outputs() == [
            receiver.Send(peer, Refusal(1, 5, stranger.transfer, Reason.UNKNOWN_TRANSFER))
        ]
    machine.on_message(1, 1, chunk(0), 5, 0)
    assert machine.take_outputs()[0] == receiver.Write(manifest, 0, DATA[:1000])


def test_a_damaged_chunk_is_asked_again_and_many_end_the_transfer() -> None:
    machine, manifest = accepted(LIMITS._replace(corrupt_max=2))
    bad = Chunk(1, 5, 77, 0, 1, DATA[:1000])
    for _ in range(2):
        machine.on_message(1, 1, bad, 5, 0)
        assert machine.take_outputs() == [receiver.Send(1, ChunkAck(1, 5, 77, 0, (0,)))]
    machine.on_message(1, 1, bad, 5, 0)
    refusal = Refusal(1, 5, 77, Reason.CORRUPT, LIMITS.retry_us)
    assert machine.take_outputs() == [receiver.Send(1, refusal), receiver.Discard(manifest)]


def fail_install(machine: receiver.SnapshotReceiver, now_us: int, peer: int, transfer: int) -> None:
    manifest = manifest_of(b"")
    machine.on_message(now_us, peer, Offer(1, 5, transfer, manifest, 0), 5, 0)
    machine.on_message(now_us, peer, chunk_of(1, 5, transfer, 0, b""), 5, 0)
    machine.written(now_us, manifest, 0)
    assert machine.take_outputs()[-2] == receiver.Install(manifest)
    machine.install_failed(now_us, manifest, Reason.CORRUPT)
    machine.take_outputs()


def test_two_failures_quarantine_this_peer_and_transfer_only_and_not_for_ever() -> None:
    machine, manifest = receiver.SnapshotReceiver(LIMITS), manifest_of(b"")
    fail_install(machine, 0, 1, 10)
    fail_install(machine, 1000, 1, 11)
    machine.on_message(2000, 1, Offer(1, 5, 12, manifest, 0), 5, 0)
    (send,) = machine.take_outputs()
    assert send == receiver.Send(1, Refusal(1, 5, 12, Reason.QUARANTINED, LIMITS.quarantine_us - 1000))
    machine.on_message(2000, 1, Offer(1, 5, 13, manifest_of(DATA), 0), 5, 0)
    assert receiver.Begin(manifest_of(DATA)) in machine.take_outputs(), "another snapshot of the same peer"
    machine.drop_group(1)
    machine.on_message(2000, 3, Offer(1, 5, 14, manifest, 0), 5, 0)
    assert receiver.Begin(manifest) in machine.take_outputs(), "the same of another peer"
    machine.drop_group(1)
    machine.on_message(1000 + LIMITS.quarantine_us, 1, Offer(1, 5, 15, manifest, 0), 5, 0)
    assert receiver.Begin(manifest) in machine.take_outputs()


BAD_MANIFESTS = {
    "another group": (Manifest(2, 100, 3, b"", 10, 1000, bytes(32)), Reason.MALFORMED),
    "negative size": (Manifest(1, 100, 3, b"", -1, 1000, bytes(32)), Reason.MALFORMED),
    "no index": (Manifest(1, 0, 3, b"", 10, 1000, bytes(32)), Reason.MALFORMED),
    "short digest": (Manifest(1, 100, 3, b"", 10, 1000, bytes(31)), Reason.MALFORMED),
    "no chunk size": (Manifest(1, 100, 3, b"", 10, 0, bytes(32)), Reason.MALFORMED),
    "chunks too large": (Manifest(1, 100, 3, b"", 10, 4001, bytes(32)), Reason.TOO_LARGE),
    "too large": (Manifest(1, 100, 3, b"", (1 << 40) + 1, 1000, bytes(32)), Reason.TOO_LARGE),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_bad_offers_are_refused(name: str) -> None:
    manifest, reason = BAD_MANIFESTS[name]
    machine = receiver.SnapshotReceiver(LIMITS)
    machine.on_message(0, 1, Offer(1, 5, 7, manifest, 0), 5, 50)
    assert machine.take_outputs() == [receiver.Send(1, Refusal(1, 5, 7, reason))]


def test_an_offer_that_the_state_covers_is_done() -> None:
    machine = receiver.SnapshotReceiver(LIMITS)
    machine.on_message(0, 1, Offer(1, 5, 7, manifest_of(DATA, index=50), 0), 5, 50)
    assert machine.take_outputs() == [receiver.Send(1, Done(1, 5, 7))]


def test_a_chunk_of_the_wrong_length_ends_the_transfer() -> None:
    machine, manifest = accepted()
    machine.on_message(1, 1, chunk_of(1, 5, 77, 0, b"short"), 5, 0)
    refusal = Refusal(1, 5, 77, Reason.MALFORMED, LIMITS.retry_us)
    assert machine.take_outputs() == [receiver.Send(1, refusal), receiver.Discard(manifest)]


def test_a_chunk_far_ahead_is_not_kept() -> None:
    machine, _ = accepted()
    machine.on_message(1, 1, chunk(8), 5, 0)
    machine.on_message(1, 1, chunk_of(1, 5, 77, 10**9, b""), 5, 0)
    assert machine.take_outputs() == [receiver.Send(1, ChunkAck(1, 5, 77, 0))]


def test_places_are_limited_on_both_sides() -> None:
    machine = receiver.SnapshotReceiver(LIMITS._replace(incoming_max=1))
    for group in (1, 2):
        machine.on_message(0, 1, Offer(group, 5, group, manifest_of(DATA, group), 0), 5, 0)
    assert machine.take_outputs()[-1] == receiver.Send(1, Refusal(2, 5, 2, Reason.BUSY, LIMITS.retry_us))
    sending = sender.SnapshotSender(LIMITS._replace(outgoing_max=1, waiting_max=1), 1, 0)
    assert sending.start(0, 2, 0, 5, manifest_of(DATA, 1))
    assert sending.start(0, 2, 0, 5, manifest_of(DATA, 2))
    assert not sending.start(0, 2, 0, 5, manifest_of(DATA, 3))
    offers = [output.message for output in sending.take_outputs() if isinstance(output, sender.Send)]
    assert [offer.group for offer in offers] == [1]
    sending.stop(1, 1)
    ended, offer = sending.take_outputs()
    assert isinstance(ended, sender.Finished) and ended.reason is Reason.STOPPED
    assert isinstance(offer, sender.Send) and offer.message.group == 2


def test_a_partial_whose_sender_has_given_up_yields_its_place_when_another_is_needed() -> None:
    """It kept it until it was idle for long, while new offers were refused."""
    machine = receiver.SnapshotReceiver(LIMITS._replace(incoming_max=2))
    for group, now_us in ((1, 0), (2, 1000)):
        machine.on_message(now_us, 1, Offer(group, 5, group, manifest_of(DATA, group), 0), 5, 0)
    machine.take_outputs()
    offer, late_us = Offer(3, 5, 3, manifest_of(DATA, 3), 0), LIMITS.patience_us + 1
    machine.on_message(late_us - 1, 1, offer, 5, 0)
    assert machine.take_outputs() == [receiver.Send(1, Refusal(3, 5, 3, Reason.BUSY, LIMITS.retry_us))]
    machine.on_message(late_us, 1, offer, 5, 0)
    discard, begin, _ = machine.take_outputs()
    assert (discard, begin) == (receiver.Discard(manifest_of(DATA, 1)), receiver.Begin(manifest_of(DATA, 3)))
    machine.on_message(late_us, 1, Offer(4, 5, 4, manifest_of(DATA, 4), 0), 5, 0)
    assert isinstance(machine.take_outputs()[0], receiver.Send), "the others were touched later"


def test_a_peer_that_is_gone_holds_no_place() -> None:
    """Each of its groups took a place until its patience ended; a living peer waited for all of them."""
    sending, live = sender.SnapshotSender(LIMITS, 1, 0), 7
    for group in range(200):
        for dead in (8, 9):
            sending.start(0, dead, 0, 5, manifest_of(DATA, group))
    sending.start(0, live, 0, 5, manifest_of(DATA, 500))
    sending.take_outputs()
    sending.peer_down(0, 8)
    outputs = sending.take_outputs()
    assert [row.peer for row in outputs if isinstance(row, sender.Send)] == [live]
    ended = [row for row in outputs if isinstance(row, sender.Finished)]
    assert {(row.peer, row.reason) for row in ended} == {(8, Reason.STOPPED)} and len(ended) == 200
    assert sending.find(9, 0) and not sending.find(8, 199)


def test_a_newer_snapshot_replaces_an_older_one_and_not_the_reverse() -> None:
    machine, manifest = accepted()
    newer = manifest_of(b"newer", index=200)
    machine.on_message(1, 1, Offer(1, 5, 78, newer, 0), 5, 0)
    assert machine.take_outputs()[:2] == [receiver.Discard(manifest), receiver.Begin(newer)]
    machine.on_message(2, 1, Offer(1, 5, 79, manifest, 0), 5, 0)
    assert machine.take_outputs() == [receiver.Send(1, Refusal(1, 5, 79, Reason.NOT_NEWER))]


def test_an_install_under_way_is_not_disturbed_and_its_sender_waits() -> None:
    link = Link(b"x")
    link.start()
    link.install = lambda manifest, data: None  # type: ignore[method-assign]
    for _ in range(400):  # far more offers than without progress
        link.step()
    link.drain()
    assert not link.finished
    link.receiver.on_message(link.now_us, 1, Offer(1, 5, 9, manifest_of(b"y", index=300), 0), 5, 0)
    sends = [output.message for output in link.receiver.take_outputs() if isinstance(output, receiver.Send)]
    assert sends[0] == Refusal(1, 5, 9, Reason.BUSY, LIMITS.retry_us)
    link.receiver.installed(link.manifest)
    assert receiver.Send(1, Done(1, 5, 1000)) in link.receiver.take_outputs()


def test_no_space_is_told_and_frees_what_was_written() -> None:
    machine, manifest = accepted()
    machine.on_message(1, 1, chunk(0), 5, 0)
    machine.take_outputs()
    machine.write_failed(1, manifest, Reason.NO_SPACE)
    refusal = Refusal(1, 5, 77, Reason.NO_SPACE, LIMITS.retry_us)
    assert machine.take_outputs() == [receiver.Send(1, refusal), receiver.Discard(manifest)]


def test_a_partial_nobody_continues_is_discarded() -> None:
    machine, manifest = accepted()
    assert machine.next_deadline_us() == LIMITS.idle_us
    machine.tick(LIMITS.idle_us - 1)
    assert machine.take_outputs() == []
    machine.tick(LIMITS.idle_us)
    assert machine.take_outputs() == [receiver.Discard(manifest)]


def test_a_silent_peer_ends_the_transfer() -> None:
    link = Link(DATA, lose=1.0, limits=LIMITS._replace(offers_max=3))
    link.start()
    link.run()
    assert [row.reason for row in link.finished] == [Reason.TIMED_OUT]


def test_a_higher_term_of_the_receiver_reaches_the_caller() -> None:
    sending = sender.SnapshotSender(LIMITS, 1, 0)
    sending.start(0, 2, 0, 5, manifest_of(DATA))
    sending.take_outputs()
    sending.on_message(1, 2, Refusal(1, 9, 1, Reason.STALE_TERM))
    assert sending.take_outputs() == [sender.Finished(1, 2, manifest_of(DATA), Reason.STALE_TERM, 9, 0)]


def test_strangers_cannot_steer_a_sender() -> None:
    sending = sender.SnapshotSender(LIMITS, 1, 0)
    sending.start(0, 2, 0, 5, manifest_of(DATA))
    sending.take_outputs()
    for peer, message in (
        (3, Done(1, 5, 1)),
        (2, Done(2, 5, 1)),
        (2, Done(1, 4, 1)),
        (2, Done(1, 5, 2)),
        (2, Accept(1, 5, 1, 14)),
        (2, ChunkAck(1, 5, 1, 3)),
        (2, Refusal(1, 5, 1, Reason.UNKNOWN_TRANSFER)),
    ):
        sending.on_message(1, peer, message)
        assert sending.take_outputs() == []


def test_the_throttle_holds_its_rate() -> None:
    throttle, now_us, taken = Throttle(1_000_000, 0), 0, 0
    while now_us < 10 * SECOND_US:
        if throttle.take(now_us, 7_000):
            taken += 7_000
        else:
            assert throttle.ready_us(7_000) > now_us
            now_us = throttle.ready_us(7_000)
    assert 10_900_000 <= taken <= 11_010_000, "the rate, and one second's burst"


def test_a_throttled_sender_waits_and_goes_on() -> None:
    link = Link(random.Random(2).randbytes(100_000), limits=LIMITS._replace(rate_bytes_per_s=20_000, stall_us=400_000))
    link.start()
    link.run()
    assert link.finished[0].reason is None
    assert 3_900_000 <= link.now_us <= 4_600_000, "100 kB less a second's burst, at 20 kB/s"
