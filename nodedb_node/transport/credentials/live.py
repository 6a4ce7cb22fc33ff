"""What one process of a node shows to peers and judges them by, replaced while it runs.

Invariant: `judge` always uses one whole Trust; a newer one takes its place, never an older one, and no revocation list
goes back to a smaller number. `reload` is one stat while nothing changed; when it says True the endpoint judges every
peer again by `judge` and closes those that no longer pass. The node's certificate is read before the Trust that knows
it, so what is shown is never newer than what is trusted. It owns no connection; the clock is an argument.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.transport.credentials import authority, spiffe
from nodedb_node.transport.credentials.authority import DAY_S, SigningKey
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.reasons import Refusal
from nodedb_node.transport.credentials.trust import Trust, TrustError
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity, verify_peer

INSECURE_S = 3_650 * DAY_S


class Own(NamedTuple):
    """What is shown: certificate, what is sent beside it, private key, as the cryptography library has them."""

    certificate: x509.Certificate
    chain: Sequence[x509.Certificate]
    key: ec.EllipticCurvePrivateKey


class LiveCredentials:
    """Of one process, from the files that control keeps up."""

    insecure = False

    def __init__(self, files: CredentialFiles, wall_s: Callable[[], int]) -> None:
        self._files = files
        self._wall_s = wall_s
        self._own: Own | None = None
        self._trust: Trust | None = None
        self._reset_key = b""

    @property
    def trust(self) -> Trust:
        assert self._trust is not None, "reload() said True before"
        return self._trust

    def own(self) -> Own:
        """For the next handshake."""
        assert self._own is not None, "reload() said True before"
        return self._own

    def judge(self, chain_der: Sequence[bytes], expected: Expected) -> PeerIdentity | Refusal:
        """Before any byte of a stream is interpreted, and again after each reload."""
        return verify_peer(chain_der, self.trust, self._wall_s(), expected)

    def reload(self) -> bool:
        """Take over what control wrote; True when something changed. TrustError when it contradicts what is in use,
        StartError when a file cannot be used: the old one stays in use."""
        found = self._files.changed_trust()
        if found is None or (self._trust is not None and not succeeds(self._trust, found)):
            return False
        held = self._files.certificate()
        if held is None:
            return False
        self._own = Own(x509.load_der_x509_certificate(held.der), (), held.key.private)
        self._trust = found
        return True

    def reset_key(self) -> bytes:
        """32 bytes that the next start of this node has too, and nobody else: for stateless resets."""
        if not self._reset_key:
            secret = self._files.sealing_key().raw()
            self._reset_key = hmac.digest(secret, b"nodedb-node stateless reset 1", hashlib.sha256)
        return self._reset_key


class InsecureCredentials:
    """For `[peers] security = "insecure"`: a certificate of nobody's, because a handshake needs one."""

    insecure = True

    def __init__(self, cluster_id: ClusterId, node_id: NodeId, now_s: int) -> None:
        key = SigningKey.make()
        signer = authority.make_authority(cluster_id, key, now_s)
        der = authority.issue(signer, key.public, spiffe.spell(cluster_id, node_id), now_s, INSECURE_S)
        self._own = Own(x509.load_der_x509_certificate(der), (), key.private)
        self._reset_key = hashlib.sha256(f"insecure {cluster_id} {node_id}".encode()).digest()

    def own(self) -> Own:
        return self._own

    def judge(self, chain_der: Sequence[bytes], expected: Expected) -> PeerIdentity | Refusal:
        raise AssertionError("nobody is judged in insecure mode: ask `insecure` first")

    def reload(self) -> bool:
        return False

    def reset_key(self) -> bytes:
        return self._reset_key


def succeeds(old: Trust, new: Trust) -> bool:
    """Whether `new` may take the place of `old`; TrustError when it contradicts it."""
    if new.cluster_id != old.cluster_id:
        raise TrustError(f"the trust of cluster {new.cluster_id}, ours is {old.cluster_id}")
    if new.generation <= old.generation:
        return False
    numbers = {known.fingerprint: known.revocations.number for known in old.authorities}
    for found in new.authorities:
        if found.revocations.number < numbers.get(found.fingerprint, 0):
            raise TrustError("a revocation list with a smaller number than the one in use")
    return True
