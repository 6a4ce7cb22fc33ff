"""Secrets encrypted for one node: an authority's private key, kept only like this, for the nodes that may sign.

Invariant: what is sealed can be opened by the private sealing key of the node alone and only for the purpose it was
sealed for (cluster, authority and node are bound to it); it is HPKE (RFC 9180) of the cryptography library, X25519 with
HKDF-SHA256 and ChaCha20-Poly1305, never a construction of ours. A sealing key is not the key of the node's certificate:
that one changes with each renewal, and then every secret would have to be sealed anew. Secrets are never shown.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class SealError(Exception):
    """What was sealed cannot be opened: it is for another node or purpose, or damaged."""


class SealingKey:
    """The private half, of one node."""

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def make(cls) -> SealingKey:
        return cls(X25519PrivateKey.generate())

    @classmethod
    def load(cls, raw: bytes) -> SealingKey:
        """From the 32 bytes of `raw()`; ValueError when it is not."""
        return cls(X25519PrivateKey.from_private_bytes(raw))

    def raw(self) -> bytes:
        """The key itself: for a file that only the node can read."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The half that others seal for, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def open(self, sealed: bytes, purpose: bytes) -> bytes:
        """What was sealed for this key and purpose; SealError otherwise."""
        try:
            return _SUITE.decrypt(sealed, self._key, info=purpose)
        except (InvalidTag, ValueError) as error:
            raise SealError("a sealed secret cannot be opened with this node's key") from error

    def __repr__(self) -> str:
        return "SealingKey(<secret>)"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")


def seal(secret: bytes, public: bytes, purpose: bytes) -> bytes:
    """`secret`, for the holder of the private half of `public` alone."""
    return _SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(public), info=purpose)


def authority_purpose(cluster_id: str, fingerprint: bytes, node_id: str) -> bytes:
    """What an authority's private key is sealed for."""
    return b"nodedb-node authority key 1\0" + f"{cluster_id}\0{node_id}\0".encode() + fingerprint
