"""The Trust in use and the peers let in by it: what makes a revocation end a connection that stands.

Invariant: a newer Trust takes the place of an older one whole, never the other way, and no list goes back to a smaller
number. Every peer that was let in is judged again, by the same function on the same chain, when the Trust has changed
since and when its certificate ends; `expelled` names those that no longer pass, and forgets them: the caller closes
them. It owns no connection: `key` is whatever the caller knows one by.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from nodedb_node.transport.credentials.reasons import Refusal
from nodedb_node.transport.credentials.trust import Trust, TrustError
from nodedb_node.transport.credentials.verify import ANYONE, Expected, PeerIdentity, verify_peer

Key = TypeVar("Key", bound=Hashable)


class _Peer(Struct, frozen=True):
    chain: tuple[bytes, ...]
    expected: Expected
    identity: PeerIdentity


class Keyring(Generic[Key]):
    """One per endpoint. Bounded by the endpoint's connections: the caller releases what it closes."""

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        self._peers: dict[Key, _Peer] = {}

    def replace(self, trust: Trust) -> bool:
        """Use a newer Trust; False when it is not newer. TrustError when it contradicts what we know."""
        if trust.cluster_id != self.trust.cluster_id:
            raise TrustError(f"the trust of cluster {trust.cluster_id}, ours is {self.trust.cluster_id}")
        if trust.generation <= self.trust.generation:
            return False
        numbers = {known.fingerprint: known.revocations.number for known in self.trust.authorities}
        for authority in trust.authorities:
            if authority.revocations.number < numbers.get(authority.fingerprint, 0):
                raise TrustError("a revocation list with a smaller number than the one in use")
        self.trust = trust
        return True

    def admit(
        self, key: Key, chain_der: Sequence[bytes], now_s: int, expected: Expected = ANYONE
    ) -> PeerIdentity | Refusal:
        """Judge a peer whose handshake ended; one that passes is remembered under `key`."""
        assert key not in self._peers, "a connection is judged once, and released when it ends"
        found = verify_peer(chain_der, self.trust, now_s, expected)
        if isinstance(found, PeerIdentity):
            self._peers[key] = _Peer(tuple(chain_der), expected, found)
        return found

    def release(self, key: Key) -> None:
        """The connection is gone, or was never let in."""
        self._peers.pop(key, None)

    def identity(self, key: Key) -> PeerIdentity:
        """Who is there, by the last judgement."""
        return self._peers[key].identity

    def __len__(self) -> int:
        return len(self._peers)

    def expelled(self, now_s: int) -> list[tuple[Key, Refusal]]:
        """Peers that would not be let in now. Cheap while nothing changed; call it after `replace` and every second."""
        gone: list[tuple[Key, Refusal]] = []
        for key, peer in list(self._peers.items()):
            if peer.identity.generation == self.trust.generation and now_s <= peer.identity.until_s:
                continue
            found = verify_peer(peer.chain, self.trust, now_s, peer.expected)
            if isinstance(found, Refusal):
                del self._peers[key]
                gone.append((key, found))
            else:
                self._peers[key] = _Peer(peer.chain, peer.expected, found)
        return gone
