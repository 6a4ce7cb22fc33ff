"""Who and what a running endpoint refuses, each with a hand-made peer: a typed reason, and nothing read before."""

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from aioquic.quic.packet import QuicProtocolVersion
from cryptography.x509.oid import ExtendedKeyUsageOID

from nodedb_node.ids import ClusterId, NodeId, Process
from nodedb_node.native.udp import Udp, bound
from nodedb_node.rpc.frame import Flag, Frame, Kind
from nodedb_node.rpc.hello import Why
from nodedb_node.rpc.messages import Type
from nodedb_node.transport.interface import Accepted, Answer, Message, PeerDown
from nodedb_node.transport.quic import HANDSHAKES_MAX
from tests.conformance.transport import CONTROL, echo, pair, up
from tests.transport.kit import NODES, Authority, QuicPlayer, QuicStage
from tests.transport.rawpeer import RawPeer, greeting, member

ALICE, BOB, CAROL = NODES[:3]
AUTHORITY = Authority()


@pytest.fixture
def stage() -> Iterator[QuicStage]:
    made = QuicStage(issuer=AUTHORITY)
    yield made
    made.close()


@pytest.fixture
def server(stage: QuicStage) -> QuicPlayer:
    return stage.start(BOB)


def nothing_was_read(server: QuicPlayer) -> None:
    assert server.handlers.arrivals == server.handlers.events == []
    assert server.transport.figures.frames_in == 0


# ---- certificates ----


def certificates() -> dict[str, Any]:
    other, stranger = Authority(), Authority(nodes=[CAROL])
    return {
        "none": (None, None, Why.NO_CERTIFICATE),
        "another authority": (other.certificate(ALICE), other.keys[ALICE], Why.IDENTITY),
        "its own authority of the same name": (stranger.certificate(CAROL), stranger.keys[CAROL], Why.IDENTITY),
        "expired": (AUTHORITY.certificate(ALICE, -7200, -10), AUTHORITY.keys[ALICE], Why.IDENTITY),
        "not yet valid": (AUTHORITY.certificate(ALICE, 3600, 7200), AUTHORITY.keys[ALICE], Why.IDENTITY),
        "of a client alone": (
            AUTHORITY.certificate(ALICE, extended=(ExtendedKeyUsageOID.CLIENT_AUTH,)),
            AUTHORITY.keys[ALICE],
            Why.IDENTITY,
        ),
        "another node's key": (
            AUTHORITY.certificate(ALICE, key=AUTHORITY.keys[CAROL].public),
            AUTHORITY.keys[CAROL],
            Why.IDENTITY,
        ),
        "another cluster's name": (
            AUTHORITY.certificate(ALICE, uris=(f"spiffe://{'d' * 32}/node/{ALICE}",)),
            AUTHORITY.keys[ALICE],
            Why.CLUSTER_MISMATCH,
        ),
    }


@pytest.mark.parametrize("case", list(certificates()))
def test_a_certificate_that_is_not_good(stage: QuicStage, server: QuicPlayer, case: str) -> None:
    certificate, key, why = certificates()[case]
    peer = RawPeer(stage, server, certificate, key._key if key else None)
    stage.run(lambda: peer.handshaken or peer.closed is not None)
    peer.greet(greeting(ALICE))  # already on its way when the refusal comes
    assert peer.refused(why)
    nothing_was_read(server)
    assert server.endpoint.figures.handshakes_refused == 1


def test_a_revoked_certificate_and_one_revoked_later(stage: QuicStage, server: QuicPlayer) -> None:
    certificate = AUTHORITY.certificate(ALICE)
    peer = RawPeer(stage, server, certificate, AUTHORITY.keys[ALICE]._key)
    peer.greet(greeting(ALICE))
    peer.welcomed()
    issuer = Authority(nodes=[])
    issuer.__dict__ = {**AUTHORITY.__dict__, "revoked": [certificate.serial_number]}
    server.credentials.trust = issuer.trust()
    assert server.endpoint.rejudge() == 1
    assert "revoked" in peer.refused(Why.CERTIFICATE_CHANGED)
    stage.run(lambda: isinstance(server.handlers.events[-1], PeerDown))
    again = RawPeer(stage, server, certificate, AUTHORITY.keys[ALICE]._key)
    assert "revoked" in again.refused(Why.IDENTITY)


def test_a_removed_node_and_one_that_is_no_member(stage: QuicStage, server: QuicPlayer) -> None:
    issuer = Authority(nodes=[])
    issuer.__dict__ = {**AUTHORITY.__dict__, "removed": {ALICE}, "unknown": {CAROL}}
    server.credentials.trust = issuer.trust()
    member(stage, server, ALICE).refused(Why.REMOVED)
    member(stage, server, CAROL).refused(Why.NOT_MEMBER)
    nothing_was_read(server)


def test_a_session_ends_with_its_certificate(stage: QuicStage, server: QuicPlayer) -> None:
    peer = member(stage, server, ALICE, ends_s=2)
    peer.greet(greeting(ALICE))
    peer.welcomed()
    peer.refused(Why.CERTIFICATE_CHANGED)


def test_the_dialler_judges_too(stage: QuicStage) -> None:
    """A right certificate of another node at a reused address, and one of another authority."""
    alice, bob = stage.start(ALICE), stage.start(BOB)
    alice.transport.meet(CAROL, CONTROL, bob.address)
    stage.run(lambda: any("other-node" in lane.last_failure for lane in alice.transport.lanes()))
    foreign = QuicStage(issuer=Authority())
    foreign.loop.close()
    foreign.loop = stage.loop
    mallory = foreign.start(CAROL)
    alice.transport.meet(CAROL, CONTROL, mallory.address)
    stage.run(lambda: any("other-authority" in lane.last_failure for lane in alice.transport.lanes()))
    assert alice.handlers.events == bob.handlers.events == mallory.handlers.events == []
    mallory.endpoint.close()


# ---- greetings ----


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cluster_id": ClusterId("d" * 32)}, Why.CLUSTER_MISMATCH),
        ({"node_id": CAROL}, Why.IDENTITY),
        ({"version_min": 7, "version_max": 9}, Why.VERSION),
        ({"magic": b"something"}, Why.GARBLED),
        ({"nonce": b""}, Why.GARBLED),
        ({"to_lane": Process(5)}, Why.IDENTITY),
    ],
    ids=lambda value: str(value),
)
def test_a_greeting_that_does_not_fit(stage: QuicStage, server: QuicPlayer, change: Any, why: Why) -> None:
    peer = member(stage, server, ALICE)
    peer.greet(msgspec.structs.replace(greeting(ALICE), **change))
    peer.refused(why)
    nothing_was_read(server)


def test_a_downgraded_version_is_the_highest_common_one(stage: QuicStage, server: QuicPlayer) -> None:
    """The range travels inside the encrypted greeting: whoever is between cannot change it; what is left is a peer that
    says less than it can, and it gets just that, or nothing."""
    peer = member(stage, server, ALICE)
    peer.greet(msgspec.structs.replace(greeting(ALICE), version_min=1, version_max=9))
    assert peer.welcomed().version_max == 1
    low = member(stage, server, CAROL)
    low.greet(msgspec.structs.replace(greeting(CAROL), version_min=0, version_max=0))
    low.refused(Why.GARBLED)
    quic2 = RawPeer(
        stage,
        server,
        AUTHORITY.certificate(CAROL),
        AUTHORITY.keys[CAROL]._key,
        supported_versions=[QuicProtocolVersion.VERSION_2],
    )
    assert quic2.wait()[0] != 0 and not quic2.handshaken


def test_an_older_generation_and_a_newer_one(stage: QuicStage, server: QuicPlayer) -> None:
    first = member(stage, server, ALICE)
    first.greet(greeting(ALICE, generation=5))
    first.welcomed()
    older = member(stage, server, ALICE)
    older.greet(greeting(ALICE, generation=4, nonce=b"y" * 16))
    older.refused(Why.STALE_GENERATION)
    assert first.closed is None
    newer = member(stage, server, ALICE)
    newer.greet(greeting(ALICE, generation=6, nonce=b"z" * 16))
    newer.welcomed()
    first.refused(Why.REPLACED)
    assert [event.generation for event in server.handlers.events] == [5, 5, 6]


def test_a_clone_refuses_both(stage: QuicStage, server: QuicPlayer) -> None:
    first = member(stage, server, ALICE)
    first.greet(greeting(ALICE, generation=5))
    first.welcomed()
    clone = member(stage, server, ALICE)
    clone.greet(greeting(ALICE, generation=5, nonce=b"y" * 16))
    clone.refused(Why.CLONE)
    first.refused(Why.CLONE)
    again = member(stage, server, ALICE)
    again.greet(greeting(ALICE, generation=5))
    again.refused(Why.CLONE)
    newer = member(stage, server, ALICE)
    newer.greet(greeting(ALICE, generation=6, nonce=b"z" * 16))
    newer.welcomed()


@pytest.mark.parametrize("body", [b"", b"\xff" * 100, bytes(range(64)), bytes(4000)], ids=len)
def test_a_garbled_greeting(stage: QuicStage, server: QuicPlayer, body: bytes) -> None:
    peer = member(stage, server, ALICE)
    peer.greet(body)
    peer.refused(Why.GARBLED)


def test_a_greeting_that_is_too_long(stage: QuicStage, server: QuicPlayer) -> None:
    peer = member(stage, server, ALICE)
    peer.say(2, struct.pack("<IHBBQI", 4097, Type.HELLO, Flag.REQUEST, 0, 1, 0))
    peer.refused(Why.GARBLED)


def test_a_stalled_greeting_delays_nobody(stage: QuicStage) -> None:
    alice, bob = pair(stage)
    echo(bob)
    stalled = [member(stage, bob, CAROL) for _ in range(3)]
    for peer in stalled:
        peer.say(2, b"\x10\x00")
    ends: list[Any] = []
    for _ in range(20):
        alice.transport.call(BOB, CONTROL, Kind.QUERY, Message(40, b"x"), 1000, ends.append)
    stage.run(lambda: len(ends) == 20, 2)
    assert all(isinstance(end, Answer) for end in ends)
    for peer in stalled:
        peer.refused(Why.GARBLED, 6)
    assert up(alice, BOB)


def test_bad_greetings_of_every_kind_delay_nobody(stage: QuicStage) -> None:
    alice, bob = pair(stage)
    echo(bob)
    too_long = struct.pack("<IHBBQI", 4097, Type.HELLO, Flag.REQUEST, 0, 1, 0)
    bad: list[RawPeer] = []
    ends: list[Any] = []
    for number in range(24):
        peer = RawPeer(stage, bob) if number % 4 == 3 else member(stage, bob, CAROL)
        match number % 4:
            case 0:
                peer.greet(b"\xff" * 100)
            case 1:
                peer.say(2, too_long + bytes(4000))
            case _:
                peer.greet(greeting(ALICE))  # of another node's name, or without a certificate
        bad.append(peer)
        alice.transport.call(BOB, CONTROL, Kind.QUERY, Message(40, b"x"), 1000, ends.append)
    stage.run(lambda: len(ends) == len(bad), 2)
    assert ends == [Answer(b"x")] * len(bad)
    stage.run(lambda: all(peer.closed is not None for peer in bad))
    assert {peer.closed[0] for peer in bad if peer.closed} == {Why.GARBLED, Why.IDENTITY, Why.NO_CERTIFICATE}
    assert up(alice, BOB) and up(bob, ALICE)


def test_something_else_than_a_greeting_first(stage: QuicStage, server: QuicPlayer) -> None:
    peer = member(stage, server, ALICE)
    peer.frame(Frame(40, Flag.REQUEST, Kind.CONTROL, 1, 0, b"x"))
    peer.refused(Why.GARBLED)
    nothing_was_read(server)


def test_too_many_greetings_at_once(stage: QuicStage, server: QuicPlayer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodedb_node.transport.hub.GREETINGS_MAX", 2)
    peers = [member(stage, server, ALICE) for _ in range(3)]
    stage.run(lambda: any(peer.closed is not None for peer in peers))
    refused = [peer for peer in peers if peer.closed is not None]
    assert len(refused) == 1
    refused[0].refused(Why.BUSY)


# ---- after the greeting ----


def greeted(stage: QuicStage, server: QuicPlayer) -> RawPeer:
    peer = member(stage, server, ALICE)
    peer.greet(greeting(ALICE))
    peer.welcomed()
    return peer


def test_an_oversized_frame(stage: QuicStage, server: QuicPlayer) -> None:
    peer = greeted(stage, server)
    peer.say(6, struct.pack("<IHBBQI", (4 << 20) + 1, 40, Flag.ONEWAY, Kind.LOG, 0, 0))
    peer.refused(Why.GARBLED)


def test_an_unknown_type_is_unsupported_or_dropped(stage: QuicStage, server: QuicPlayer) -> None:
    from nodedb_node.rpc.envelope import EpochFence
    from nodedb_node.transport.services import Services

    services = Services(lambda vshard: 3 if vshard < 10 else None, EpochFence(7))
    services.transport = server.transport
    server.handlers.on_frame = services.on_frame  # type: ignore[method-assign]
    peer = greeted(stage, server)
    peer.frame(Frame(60_000, Flag.ONEWAY, Kind.CONTROL, 0, 0, b"x"))
    peer.frame(Frame(60_001, Flag.REQUEST, Kind.CONTROL, 5, 0, b"x"))
    stage.run(lambda: len(peer.frames) == 2)
    assert (peer.frames[1].id, peer.frames[1].flags) == (5, Flag.REPLY | Flag.ERROR)
    assert services.dropped == 1 and peer.closed is None


def test_a_stale_epoch_is_refused_and_a_claim_moves_nothing(stage: QuicStage, server: QuicPlayer) -> None:
    from nodedb_node.ids import VShard
    from nodedb_node.rpc import envelope, status
    from nodedb_node.rpc.envelope import Envelope, EpochFence
    from nodedb_node.transport.services import Services

    services = Services(lambda vshard: 3 if vshard < 10 else None, EpochFence(7))
    services.transport = server.transport
    server.handlers.on_frame = services.on_frame  # type: ignore[method-assign]
    alice = stage.start(ALICE)
    alice.transport.meet(BOB, CONTROL, server.address)
    stage.run(lambda: up(alice, BOB))
    asked = [
        (Envelope(VShard(4), 3, 6, 1, b""), status.StaleEpoch(7)),
        (Envelope(VShard(4), 3, 2**60, 1, b""), status.Unsupported(1)),
        (Envelope(VShard(4), 2, 7, 1, b""), status.WrongOwner(3)),
        (Envelope(VShard(400), 3, 7, 1, b""), status.WrongOwner(0)),
    ]
    for request, expected in asked:
        ends: list[Any] = []
        message = Message(Type.ROUTED, envelope.encode(request))
        assert isinstance(alice.transport.call(BOB, CONTROL, Kind.QUERY, message, 1000, ends.append), Accepted)
        stage.run(lambda ends=ends: len(ends) == 1)
        assert ends == [expected]
    assert services.fence.current == 7


@pytest.mark.parametrize("flags", [0, Flag.REQUEST | Flag.REPLY, 64 | Flag.ONEWAY, Flag.ERROR])
def test_frames_that_no_version_sends(stage: QuicStage, server: QuicPlayer, flags: int) -> None:
    peer = greeted(stage, server)
    peer.say(2, struct.pack("<IHBBQI", 0, 40, flags, Kind.CONTROL, 1, 0))
    peer.refused(Why.GARBLED)


def test_a_class_on_another_class_s_stream(stage: QuicStage, server: QuicPlayer) -> None:
    peer = greeted(stage, server)
    peer.say(6, struct.pack("<IHBBQI", 0, 40, Flag.ONEWAY, Kind.QUERY, 0, 0))
    peer.refused(Why.GARBLED)


def test_a_farewell_without_a_goodbye(stage: QuicStage, server: QuicPlayer) -> None:
    peer = greeted(stage, server)
    peer.frame(Frame(Type.FAREWELL, Flag.ONEWAY, Kind.CONTROL, 0, 0, b""))
    peer.refused(Why.GARBLED)


def test_a_second_greeting(stage: QuicStage, server: QuicPlayer) -> None:
    peer = greeted(stage, server)
    peer.greet(greeting(ALICE, generation=2))
    peer.refused(Why.GARBLED)


def test_a_flood_of_streams(stage: QuicStage, server: QuicPlayer) -> None:
    peer = greeted(stage, server)
    peer.quic._remote_max_streams_uni = 1000
    for number in range(20):
        peer.say(2 + 4 * number, b"x")
    code, application, _ = peer.wait()
    assert (application and code == Why.GARBLED.value) or (not application and code == 4)  # STREAM_LIMIT_ERROR
    two_way = greeted(stage, stage.start(CAROL))
    two_way.quic._remote_max_streams_bidi = 1000
    two_way.say(0, b"x")
    assert two_way.wait()[:2] == (4, False)


def test_a_stream_that_ends_or_is_reset(stage: QuicStage, server: QuicPlayer) -> None:
    peer = greeted(stage, server)
    peer.say(6, b"", end=True)
    peer.refused(Why.FLOOD)
    other = member(stage, server, CAROL)
    other.greet(greeting(CAROL))
    other.welcomed()
    other.say(6, b"\0")
    other.quic.reset_stream(6, 1)
    other._transmit()
    other.refused(Why.FLOOD)


def test_origin_is_the_session_s_whatever_a_message_says(stage: QuicStage, server: QuicPlayer) -> None:
    peer = greeted(stage, server)
    peer.frame(Frame(40, Flag.ONEWAY, Kind.CONTROL, 0, 0, b"leader=" + BOB.encode()))
    stage.run(lambda: len(server.handlers.arrivals) == 1)
    arrival = server.handlers.arrivals[0]
    assert (arrival.peer, arrival.lane, arrival.generation) == (ALICE, CONTROL, 1)


def test_no_session_ticket_is_given_or_taken(stage: QuicStage, server: QuicPlayer) -> None:
    peer = greeted(stage, server)
    assert peer.tickets == []
    ticket = forged_ticket(peer)
    resumed = RawPeer(stage, server, AUTHORITY.certificate(ALICE), AUTHORITY.keys[ALICE]._key, session_ticket=ticket)
    stage.run(lambda: resumed.handshaken)
    assert not resumed.quic.tls.session_resumed and not resumed.quic.tls.early_data_accepted
    without = RawPeer(stage, server, session_ticket=ticket)
    without.greet(greeting(ALICE))  # as 0-RTT: with the keys of the ticket, before anything was judged
    without.refused(Why.NO_CERTIFICATE)
    assert not without.quic.tls.early_data_accepted
    assert server.handlers.arrivals == []


def forged_ticket(peer: RawPeer) -> Any:
    import datetime

    from aioquic.tls import CipherSuite, SessionTicket

    now = datetime.datetime.now(datetime.UTC)
    return SessionTicket(
        age_add=1,
        cipher_suite=CipherSuite.AES_256_GCM_SHA384,
        not_valid_after=now + datetime.timedelta(days=1),
        not_valid_before=now,
        resumption_secret=b"s" * 48,
        server_name="",
        ticket=b"t" * 64,
        max_early_data_size=0xFFFFFFFF,
    )


def test_datagrams_of_strangers(stage: QuicStage, server: QuicPlayer) -> None:
    """Noise, cut handshakes and unknown connections: bounded, answered with less than was sent, sessions go on."""
    alice = stage.start(ALICE)
    alice.transport.meet(BOB, CONTROL, server.address)
    stage.run(lambda: up(alice, BOB))
    noise = Udp(bound("127.0.0.1", 0), 1 << 20)
    to = (server.address.host, server.address.port)
    sent = 0
    for size in (1, 8, 21, 42, 43, 100, 1200, 1472):
        for first in (0x40, 0xC0, 0xE0, 0x00):
            data = bytes([first]) + os.urandom(size)
            noise.send(to, data, len(data))
            sent += len(data)
    for _ in range(2 * HANDSHAKES_MAX):
        data = initial()
        noise.send(to, data, len(data))
        sent += len(data)
    echo(server)
    ends: list[Any] = []
    alice.transport.call(BOB, CONTROL, Kind.QUERY, Message(40, b"x"), 3000, ends.append)
    stage.run(lambda: len(ends) == 1)
    assert ends == [Answer(b"x")]
    assert 0 < server.endpoint._handshaking <= HANDSHAKES_MAX
    answered = sum(len(data) for data, _ in noise.receive())
    assert answered < sent
    stage.run(lambda: server.endpoint._handshaking == 0, 10)
    noise.close()


def initial() -> bytes:
    """A first packet that begins a handshake and never goes on."""
    return b"\xc3\x00\x00\x00\x01\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + b"\x00\x44\x00" + os.urandom(1200)


def test_a_forgotten_connection_is_reset(stage: QuicStage) -> None:
    """A peer that started anew at the same address says so at once; nobody waits for the keepalive."""
    alice, bob = pair(stage)
    bob.handlers.on_request = None
    stage.crash(bob)
    began = time.monotonic()
    bob = stage.start(BOB, generation=2)
    alice.transport.send(BOB, CONTROL, Kind.LOG, Message(40, b"to the old one"))
    stage.run(
        lambda: (
            [getattr(event, "why", None) for event in alice.handlers.events][-1] is None
            and alice.handlers.events[-1].generation == 2
        )
    )
    assert alice.endpoint.figures.resets_in == 1
    assert time.monotonic() - began < 1.0


def test_insecure_mode_still_knows_clusters_and_generations() -> None:
    stage = QuicStage(insecure=True, issuer=AUTHORITY)
    with contextlib.closing(stage):
        server = stage.start(BOB)
        peer = RawPeer(stage, server)
        peer.greet(greeting(NodeId("9" * 40), generation=5))
        peer.welcomed()
        other = RawPeer(stage, server)
        other.greet(greeting(ALICE, cluster_id=ClusterId("d" * 32)))
        other.refused(Why.CLUSTER_MISMATCH)
        stale = RawPeer(stage, server)
        stale.greet(greeting(NodeId("9" * 40), generation=4, nonce=b"y" * 16))
        stale.refused(Why.STALE_GENERATION)
