"""Lanes through a bad network: what was promised holds, and nothing hangs. Figures of loss are per datagram and way."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.metadata.security import PIN_OVERLAP_S
from nodedb_node.rpc.frame import Kind
from nodedb_node.transport.credentials.authority import SigningKey
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.live import LiveCredentials
from nodedb_node.transport.interface import Accepted, Address, Answer, Full, Message, PeerDown, PeerUp
from nodedb_node.transport.lanequic import DATAGRAM_MAX, DATAGRAM_MIN
from tests.conformance.transport import CONTROL, Sink, Source, bodies, echo, pair, pattern, up
from tests.transport.credentials.kit import CLUSTER as CREDENTIALS_CLUSTER
from tests.transport.credentials.kit import NODE, OTHER_NODE
from tests.transport.credentials.stage import MemoryStore, keeper
from tests.transport.kit import NODES, Authority, QuicPlayer, QuicStage
from tests.transport.relay import Relay

ALICE, BOB = NODES[:2]
AUTHORITY = Authority()
SEED = int(os.environ.get("NODEDB_TEST_SEED", "7"))


class Way:
    """Two endpoints with a relay between them."""

    def __init__(self, stage: QuicStage, **trouble: Any) -> None:
        self.stage = stage
        self.bob = stage.start(BOB)
        self.relay = Relay(stage.loop, self.bob.address, SEED)
        for name, value in trouble.items():
            setattr(self.relay, name, value)
        self.alice = stage.start(ALICE)
        self.alice.transport.meet(BOB, CONTROL, self.relay.address)
        stage.run(lambda: up(self.alice, BOB) and up(self.bob, ALICE), 20)

    def calls(self, count: int, within_s: float = 30.0, size: int = 200) -> list[Any]:
        """Requests that may be asked again, all answered, each once and by its own answer."""
        echo(self.bob)
        ends: dict[int, Any] = {}
        for i in range(count):
            body = b"%d " % i + bytes(size)
            while isinstance(self._call(i, body, ends), Full):
                self.stage.run(lambda: up(self.alice, BOB), 10)
        self.stage.run(lambda: len(ends) == count, within_s)
        assert all(ends[i].body == b"%d " % i + bytes(size) for i in range(count))
        return list(ends.values())

    def _call(self, i: int, body: bytes, ends: dict[int, Any]) -> Accepted | Full:
        def done(end: Any) -> None:
            assert i not in ends, "answered twice"
            ends[i] = end

        return self.alice.transport.call(BOB, CONTROL, Kind.LOG, Message(40, body), 30_000, done, True)


@pytest.fixture
def stage() -> Iterator[QuicStage]:
    made = QuicStage(issuer=AUTHORITY)
    yield made
    made.close()


@pytest.mark.parametrize(
    "trouble",
    [
        {"loss": 0.01},
        {"loss": 0.1},
        {"loss": 0.3},
        {"duplicate": 0.5, "reorder": 0.3},
        {"delay_s": 0.02, "reorder": 0.5, "loss": 0.02},
    ],
    ids=str,
)
def test_calls_and_bulk_through_a_bad_network(stage: QuicStage, trouble: dict[str, float]) -> None:
    way = Way(stage, **trouble)
    sink = Sink()
    way.bob.handlers.on_offer = lambda offer: sink
    done: list[Any] = []
    size = 1 << 20
    assert isinstance(way.alice.transport.bulk(BOB, CONTROL, "x", b"", Source(size), done.append), Accepted)
    way.calls(100)
    stage.run(lambda: len(done) == 1, 40)
    assert done == [Answer(b"")] and bytes(sink.data) == pattern(0, size)
    received = [arrival.id for arrival in way.bob.handlers.arrivals]
    assert len(received) == len(set(received)), "a request was done twice"


def test_datagrams_grow_to_what_the_path_carries(stage: QuicStage) -> None:
    way = Way(stage, mtu=1472)
    stage.run(lambda: sizes(way) == [1452, 1452], 15)
    way.calls(20)


def test_a_path_that_becomes_narrow_is_noticed(stage: QuicStage) -> None:
    """A black hole: large datagrams vanish without a word, small ones pass."""
    way = Way(stage)
    stage.run(lambda: sizes(way) == [DATAGRAM_MAX, DATAGRAM_MAX], 5)
    way.relay.mtu = 1250
    way.calls(30, size=30_000)
    assert DATAGRAM_MIN in sizes(way)
    generations = [event for event in way.alice.handlers.events if isinstance(event, PeerUp)]
    assert len(generations) == 1, "the session stayed up"


def sizes(way: Way) -> list[int]:
    return [conn.quic.datagram_size for one in (way.alice, way.bob) for conn in one.endpoint.connections()]


def test_a_dead_network_is_noticed_and_comes_back(stage: QuicStage) -> None:
    way = Way(stage)
    echo(way.bob)
    ends: list[Any] = []
    way.relay.blocked = True
    way.alice.transport.call(BOB, CONTROL, Kind.LOG, Message(40, b"x"), 20_000, ends.append, True)
    began = stage.loop.time()
    stage.run(lambda: not up(way.alice, BOB) and not up(way.bob, ALICE), 3)
    assert stage.loop.time() - began < 2.0
    way.relay.blocked = False
    stage.run(lambda: up(way.alice, BOB) and len(ends) == 1, 5)
    assert ends == [Answer(b"x")]
    assert len(bodies(way.bob)) == 1


def test_an_unreachable_port_does_not_make_the_endpoint_deaf(stage: QuicStage) -> None:
    """ICMP errors are reported on the socket; a loop that stops watching it then would never hear anything again."""
    alice, bob = pair(stage)
    stage.crash(bob)
    stage.run(lambda: not up(alice, BOB) and alice.endpoint.udp.stats().refused > 3, 10)
    bob = stage.start(BOB, generation=2)
    echo(bob)
    began = stage.loop.time()
    ends: list[Any] = []
    alice.transport.call(BOB, CONTROL, Kind.LOG, Message(40, b"x"), 10_000, ends.append, True)
    stage.run(lambda: len(ends) == 1, 10)
    assert ends == [Answer(b"x")]
    assert stage.loop.time() - began < 5.0


def test_an_address_that_changes_keeps_its_session(stage: QuicStage) -> None:
    """A NAT gives another port: the connection is known by its ids and the identity is the certificate's."""
    way = Way(stage)
    way.calls(5)
    old = way.relay
    old._backs = {addr: back for addr, back in old._backs.items() if stage.loop.remove_reader(back.fileno()) is None}
    moved = dict(old._backs)
    old._backs = {}
    way.calls(20)
    assert len([event for event in way.bob.handlers.events if isinstance(event, PeerUp)]) == 1
    for back in moved.values():
        back.close()


def test_certificates_are_replaced_under_load(stage: QuicStage) -> None:
    alice, bob = pair(stage)
    echo(bob)
    ends: list[Any] = []
    for i in range(200):
        alice.transport.call(BOB, CONTROL, Kind.LOG, Message(40, b"%d" % i), 10_000, ends.append, True)
        if i == 100:
            for player in (alice, bob):
                player.credentials.certificate = AUTHORITY.certificate(player.node_id)
                player.credentials.trust = AUTHORITY.trust()
                assert player.endpoint.rejudge() == 0
    stage.run(lambda: len(ends) == 200)
    assert ends == [Answer(b"%d" % i) for i in range(200)]


def certificate_shown(player: QuicPlayer) -> list[int]:
    """Serial numbers that its sessions know their peers by."""
    return [conn.identity.serial for conn in player.endpoint.connections() if conn.identity is not None]


def test_sessions_change_to_a_renewed_certificate_without_losing_an_answer(stage: QuicStage) -> None:
    """What was opened with the old one would be cut off when peers stop accepting it."""
    alice, bob = pair(stage)
    echo(bob)
    ends: list[Any] = []
    for renewed in (alice, bob):
        renewed.credentials.certificate = AUTHORITY.certificate(renewed.node_id)
        asked = len(ends)
        for number in range(asked, asked + 300):
            message = Message(40, b"%d" % number + bytes(500))
            alice.transport.call(BOB, CONTROL, Kind.QUERY, message, 10_000, ends.append)  # not to be asked again
            if number == asked + 100:
                stage.run(lambda asked=asked: len(ends) > asked)
                assert renewed.endpoint.succeed() == 1
        stage.run(lambda asked=asked: len(ends) == asked + 300)
        stage.run(lambda: up(alice, BOB) and up(bob, ALICE))
        stage.run(lambda: all(len(one.endpoint.connections()) == 1 for one in (alice, bob)))
        assert renewed.endpoint.succeed() == 0
    assert ends == [Answer(b"%d" % number + bytes(500)) for number in range(600)]
    assert certificate_shown(bob) == [alice.credentials.certificate.serial_number]
    assert certificate_shown(alice) == [bob.credentials.certificate.serial_number]


class Real:
    """Two nodes that keep up their own certificates on one store, as control processes do, with a clock of the test."""

    def __init__(self, stage: QuicStage, path: Path) -> None:
        self.now_s = int(time.time())
        self.store = MemoryStore()
        self.keepers = [keeper(self.store, path / name, node) for name, node in (("a", NODE), ("b", OTHER_NODE))]
        self.keepers[0].open(self.now_s)
        key, custodian = SigningKey.make(), self.keepers[0].custodian
        row = custodian.issue(key.request("b"), OTHER_NODE, self.now_s)
        files = CredentialFiles(str(path / "b"))
        files.install(row.certificate, key)
        self.keepers[1].custodian.register()
        custodian.rewrap([NODE, OTHER_NODE])
        live = [LiveCredentials(CredentialFiles(str(path / name)), lambda: self.now_s) for name in "ab"]
        self.players: list[QuicPlayer] = []
        self.credentials = live
        self.turn(0)
        for node, credentials in zip((NODE, OTHER_NODE), live, strict=True):
            player = stage.start(NodeId(node), credentials=credentials, cluster_id=ClusterId(CREDENTIALS_CLUSTER))
            self.players.append(player)

    def turn(self, seconds: int) -> None:
        """Later: keepers work, processes read; nobody is cut off."""
        self.now_s += seconds
        for one in self.keepers:
            one.tick(self.now_s)
        for credentials in self.credentials:
            credentials.reload()
        assert [player.endpoint.rejudge() for player in self.players] == [0] * len(self.players)


def test_an_authority_is_rotated_under_load(stage: QuicStage, tmp_path: Path) -> None:
    real = Real(stage, tmp_path)
    alice, bob = real.players
    echo(bob)
    alice.transport.meet(bob.node_id, CONTROL, bob.address)
    stage.run(lambda: up(alice, bob.node_id))
    ends: list[Any] = []
    asked = 0

    def load() -> None:
        nonlocal asked
        for _ in range(50):
            message = Message(40, b"%d" % asked)
            asked += isinstance(
                alice.transport.call(bob.node_id, CONTROL, Kind.QUERY, message, 10_000, ends.append), Accepted
            )
        stage.run(lambda: len(ends) > asked - 40)

    (old,) = real.store.state.authorities
    real.keepers[0].custodian.begin_rotation(real.now_s)
    for _ in range(8):
        load()
        real.turn(15)
    before = certificate_shown(bob)
    assert {row.issuer for row in real.store.state.leaves.values()} != {old}, "both nodes renewed"
    assert [player.endpoint.succeed() for player in real.players] == [1, 1]
    load()
    stage.run(lambda: all(len(player.endpoint.connections()) == 1 for player in real.players))
    real.turn(PIN_OVERLAP_S + 1)
    real.keepers[0].custodian.finish_rotation(real.now_s)
    for _ in range(3):
        load()
        real.turn(60)
    stage.run(lambda: len(ends) == asked)
    assert ends == [Answer(b"%d" % number) for number in range(asked)] and asked == 600
    assert old not in real.store.state.authorities and certificate_shown(bob) != before


def test_rolling_restart_of_three_under_load(stage: QuicStage) -> None:
    """Each node in turn drains and starts anew while all ask all: no reply is lost, none is doubled."""
    nodes = NODES[:3]
    players: dict[str, QuicPlayer] = {node: stage.start(node) for node in nodes}
    ends: dict[tuple[str, str, int], list[Any]] = {}

    def introduce() -> None:
        for one in players.values():
            echo(one)
            for other in players.values():
                if other is not one:
                    one.transport.meet(other.node_id, CONTROL, other.address)

    def ask(round_: int, of: list[str]) -> None:
        for one in of:
            for other in nodes:
                if other != one:
                    got = ends.setdefault((one, other, round_), [])
                    body = f"{one[0]}{other[0]}{round_}".encode()
                    taken = players[one].transport.call(
                        other, CONTROL, Kind.LOG, Message(40, body), 30_000, got.append, True
                    )
                    assert isinstance(taken, Accepted)

    introduce()
    stage.run(lambda: all(up(one, other) for one in players.values() for other in nodes if other != one.node_id))
    rounds = 0
    for generation, victim in ((2, nodes[0]), (2, nodes[1]), (2, nodes[2])):
        others = [node for node in nodes if node != victim]
        for _ in range(20):
            ask(rounds, nodes)
            rounds += 1
        mine = [key for key in ends if key[0] == victim]
        stage.run(lambda mine=mine: all(len(ends[key]) == 1 for key in mine), 10)
        for _ in range(20):
            ask(rounds, others)
            rounds += 1
        stage.drain(players[victim])
        players[victim] = stage.start(victim, generation)
        introduce()
        for _ in range(20):
            ask(rounds, nodes)
            rounds += 1
    stage.run(lambda: all(len(got) == 1 for got in ends.values()), 20)
    for (one, other, round_), got in ends.items():
        assert got == [Answer(f"{one[0]}{other[0]}{round_}".encode())]


def test_a_peer_that_stands_still_for_ten_seconds(stage: QuicStage) -> None:
    """SIGSTOP: noticed in less than two seconds, calls have their fate, after SIGCONT there is a session again."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            child = QuicStage(issuer=AUTHORITY)
            bob = child.start(BOB)
            echo(bob)
            os.write(writer, b"%d\n" % bob.address.port)
            child.loop.run_forever()
        finally:
            os._exit(status)
    os.close(writer)
    try:
        port = int(os.read(reader, 16))
        alice = stage.start(ALICE)
        alice.transport.meet(BOB, CONTROL, Address("127.0.0.1", port))
        stage.run(lambda: up(alice, BOB))
        os.kill(pid, signal.SIGSTOP)
        began = stage.loop.time()
        ends: list[Any] = []
        alice.transport.call(BOB, CONTROL, Kind.LOG, Message(40, b"once"), 1000, ends.append)
        stage.run(lambda: not up(alice, BOB), 3)
        assert stage.loop.time() - began < 2.0
        assert len(ends) == 1
        stage.run(lambda: stage.loop.time() - began > 10.0, 12)
        assert isinstance(alice.handlers.events[-1], PeerDown)
        os.kill(pid, signal.SIGCONT)
        stage.run(lambda: up(alice, BOB), 5)
        again: list[Any] = []
        alice.transport.call(BOB, CONTROL, Kind.LOG, Message(40, b"after"), 2000, again.append)
        stage.run(lambda: again == [Answer(b"after")])
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)


def test_a_drain_waits_for_a_question_that_its_goodbye_has_overtaken(stage: QuicStage) -> None:
    """Control goes first: the answer to a goodbye arrives before the rest of a request that was sent before it."""
    alice, bob = stage.start(ALICE), stage.start(BOB)
    echo(bob)
    alice.transport.meet(BOB, CONTROL, bob.address)
    stage.run(lambda: up(alice, BOB) and up(bob, ALICE))
    ends: list[Any] = []
    body = pattern(0, 6 << 20)
    taken = alice.transport.call(BOB, CONTROL, Kind.QUERY, Message(40, body), 20_000, ends.append)
    assert isinstance(taken, Accepted)
    stage.run(lambda: bob.transport.figures.bytes_in > 100_000)
    assert not bob.handlers.arrivals, "the question is on its way"
    stage.drain(bob)
    stage.run(lambda: ends == [Answer(body)])
