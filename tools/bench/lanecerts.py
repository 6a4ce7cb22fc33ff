"""Certificates of the lanes bench: one authority, nodes a and b, as files that every kind of carrier can read."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.transport.credentials import authority, spiffe, trust, verify
from nodedb_node.transport.credentials.authority import SigningKey
from nodedb_node.transport.credentials.live import Own
from nodedb_node.transport.credentials.reasons import Refusal
from nodedb_node.transport.credentials.trust import Membership, Trust
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity

CLUSTER = ClusterId("c" * 32)


def make(directory: Path, nodes: Sequence[NodeId]) -> None:
    """ca.crt, ca.crl, and for each node its first letter .crt and .key."""
    now = int(time.time())
    signer = authority.make_authority(CLUSTER, SigningKey.make(), now)
    (directory / "ca.crt").write_bytes(signer.certificate.public_bytes(Encoding.PEM))
    (directory / "ca.crl").write_bytes(authority.make_list(signer, 1, [], now))
    for node in nodes:
        key = SigningKey.make()
        leaf = authority.issue(signer, key.public, spiffe.spell(CLUSTER, node), now, 86_400)
        pem = x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM)
        (directory / f"{node[0]}.crt").write_bytes(pem)
        secret = key._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (directory / f"{node[0]}.key").write_bytes(secret)


class FileCredentials:
    """quic.Credentials from such a directory; every node in it is a member."""

    insecure = False

    def __init__(self, directory: Path, node: NodeId) -> None:
        self._certificate = x509.load_pem_x509_certificate((directory / f"{node[0]}.crt").read_bytes())
        self._key = load_pem_private_key((directory / f"{node[0]}.key").read_bytes(), None)
        ca = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes()).public_bytes(Encoding.DER)
        pins = {}
        for path in directory.glob("?.crt"):
            key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
            pins[NodeId(path.stem * 40)] = frozenset({authority.spki_sha256(key)})  # type: ignore[arg-type]
        crl = (directory / "ca.crl").read_bytes()
        self._trust: Trust = trust.trust(CLUSTER, 1, [(ca, crl)], Membership(pins))

    def own(self) -> Own:
        return Own(self._certificate, [], self._key)

    def judge(self, chain_der: Sequence[bytes], expected: Expected) -> PeerIdentity | Refusal:
        return verify.verify_peer(chain_der, self._trust, int(time.time()), expected)

    def reload(self) -> bool:
        return False

    def reset_key(self) -> bytes:
        raw = self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return hashlib.sha256(raw).digest()
