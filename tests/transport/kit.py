"""Lanes over QUIC for tests: a small authority, credentials that tests can change, endpoints on ports of their own."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvloop
from cryptography import x509

from nodedb_node.ids import ClusterId, NodeId, Process
from nodedb_node.native.udp import ALL, Udp, bound
from nodedb_node.rpc.hello import Local
from nodedb_node.transport.credentials import authority, spiffe, trust, verify
from nodedb_node.transport.credentials.authority import SigningKey
from nodedb_node.transport.credentials.live import Own
from nodedb_node.transport.credentials.reasons import Refusal
from nodedb_node.transport.credentials.trust import Membership
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity
from nodedb_node.transport.interface import Address
from nodedb_node.transport.quic import Endpoint
from tests.sim.transport import Recorder

CLUSTER = ClusterId("c" * 32)
DAY_S = 86_400
NODES = [NodeId(digit * 40) for digit in "abcdef"]


class Authority:
    """A cluster's certificate authority and what it has issued."""

    def __init__(self, cluster: str = CLUSTER, nodes: Sequence[NodeId] = tuple(NODES)) -> None:
        self.cluster = ClusterId(cluster)
        self.signer = authority.make_authority(cluster, SigningKey.make(), int(time.time()))
        self.keys = {node: SigningKey.make() for node in nodes}
        self.revoked: list[int] = []
        self.removed: set[NodeId] = set()
        self.unknown: set[NodeId] = set()

    def certificate(self, node: NodeId, begins_s: int = -3600, ends_s: int = DAY_S, **other: Any) -> x509.Certificate:
        from tests.transport.credentials import kit

        now = int(time.time())
        der = kit.leaf(
            signer=self.signer.key,
            issuer=self.signer.certificate.subject,
            begins_s=now + begins_s,
            ends_s=now + ends_s,
            **{"key": self.keys[node].public, "uris": (str(spiffe.spell(self.cluster, node)),), **other},
        )
        return x509.load_der_x509_certificate(der)

    def trust(self) -> trust.Trust:
        now = int(time.time())
        crl = authority.make_list(self.signer, 1, [(serial, now) for serial in self.revoked], now)
        pins = {node: frozenset({key.spki_sha256}) for node, key in self.keys.items() if node not in self.unknown}
        return trust.trust(self.cluster, 1, [(self.signer.der, crl)], Membership(pins, frozenset(self.removed)))


class TestCredentials:
    """quic.Credentials of a node; `insecure` switches them off, `trust` may be replaced."""

    __test__ = False

    def __init__(self, issuer: Authority, node: NodeId, insecure: bool = False) -> None:
        self.issuer = issuer
        self.node = node
        self.insecure = insecure
        self.certificate = issuer.certificate(node)
        self.key = issuer.keys[node]
        self.trust = issuer.trust()

    def own(self) -> Own:
        return Own(self.certificate, [], self.key._key)

    def judge(self, chain_der: Sequence[bytes], expected: Expected) -> PeerIdentity | Refusal:
        return verify.verify_peer(chain_der, self.trust, int(time.time()), expected)

    def reload(self) -> bool:
        return False

    def reset_key(self) -> bytes:
        return hashlib.sha256(self.key.der()).digest()


class QuicPlayer:
    """An endpoint of a node in this process."""

    def __init__(
        self,
        stage: "QuicStage",
        node_id: NodeId,
        generation: int,
        port: int = 0,
        lane: int = 0,
        host: str = "127.0.0.1",
        credentials: Any = None,
        **local: Any,
    ) -> None:
        self.node_id = node_id
        self.handlers = Recorder()
        self.credentials = credentials or TestCredentials(stage.authority, node_id, stage.insecure)
        fields = {
            "cluster_id": CLUSTER,
            "node_id": node_id,
            "generation": generation,
            "nonce": stage.nonce(),
            "lane": Process(lane),
        }
        udp = Udp(bound(host, port), 4 << 20, stage.features)
        self.endpoint = Endpoint(stage.loop, udp, self.credentials, Local(**{**fields, **local}), self.handlers)
        self.transport = self.endpoint.hub
        self.handlers.transport = self.transport
        self.address = Address(*udp.address)


class QuicStage:
    """Endpoints on one uvloop; a node that starts again keeps its port."""

    def __init__(self, features: int = ALL, insecure: bool = False, issuer: Authority | None = None) -> None:
        self.loop = uvloop.new_event_loop()
        self.features = features
        self.insecure = insecure
        self.authority = issuer or Authority()
        self.players: list[QuicPlayer] = []
        self._ports: dict[NodeId, int] = {}
        self._nonces = 0

    def nonce(self) -> bytes:
        self._nonces += 1
        return self._nonces.to_bytes(16, "big")

    def start(self, node_id: NodeId, generation: int = 1, **other: Any) -> QuicPlayer:
        player = QuicPlayer(self, node_id, generation, self._ports.get(node_id, 0), **other)
        self._ports.setdefault(node_id, player.address.port)
        self.players.append(player)
        return player

    def crash(self, player: QuicPlayer) -> None:
        """As a killed process: the socket is gone, nothing is said."""
        endpoint = player.endpoint
        endpoint._closed = True
        self.loop.remove_reader(endpoint.udp.fileno())
        if endpoint._timer is not None:
            endpoint._timer.cancel()
        endpoint.udp.close()

    def drain(self, player: QuicPlayer) -> None:
        player.transport.drain()
        self.run(lambda: player.transport.drained)
        player.endpoint.close()

    def run(self, until: Callable[[], bool], within_s: float = 10.0) -> None:
        async def wait() -> None:
            end = self.loop.time() + within_s
            while not until():
                assert self.loop.time() < end, f"not within {within_s} s"
                await asyncio.sleep(0.002)

        self.loop.run_until_complete(wait())

    def close(self) -> None:
        for player in self.players:
            player.endpoint.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
