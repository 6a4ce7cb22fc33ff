"""What a node believes at one moment: the authorities, what they revoked, who is a member with which keys.

Invariant: a Trust that exists is whole: one cluster, at least one authority, each an authority of the form that
authority.py makes, each with a revocation list that it signed itself. It never changes; another one takes its place,
with a higher generation (live.py). A revocation list that is past its nextUpdate still counts, for everything it
says: refusing every peer then would keep the nodes from ever agreeing on a new one; it is warned of instead, and what
it may lack, a pin or a membership that was taken away, is judged from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.metadata.security import AUTHORITIES_MAX
from nodedb_node.transport.credentials.certificate import fingerprint


class TrustError(ValueError):
    """The set of authorities cannot be used; the text says which part of it and why."""


class Revocations(Struct, frozen=True):
    """One authority's list."""

    number: int
    this_update_s: int
    next_update_s: int
    serials: frozenset[int]


class Authority(Struct, frozen=True, kw_only=True):
    """A certificate authority of the cluster; `subject` is its name as DER."""

    certificate: x509.Certificate
    der: bytes
    crl: bytes  # DER
    fingerprint: bytes
    subject: bytes
    not_before_s: int
    not_after_s: int
    revocations: Revocations


class Membership(Struct, frozen=True):
    """Who belongs to the cluster: the keys each member may show, and who was removed for good."""

    pins: Mapping[NodeId, frozenset[bytes]]
    removed: frozenset[NodeId] = frozenset()


class Trust(Struct, frozen=True, kw_only=True):
    """Everything that a peer is judged by, but the time."""

    cluster_id: ClusterId
    generation: int
    authorities: tuple[Authority, ...]
    membership: Membership

    def stale(self, now_s: int) -> tuple[Authority, ...]:
        """Authorities whose revocation list should have been replaced by now."""
        return tuple(found for found in self.authorities if now_s > found.revocations.next_update_s)


def trust(
    cluster_id: ClusterId, generation: int, authorities: Iterable[tuple[bytes, bytes]], membership: Membership
) -> Trust:
    """From pairs (certificate, revocation list), both DER; TrustError when a part does not hold."""
    read = tuple(authority(der, crl) for der, crl in authorities)
    if not 1 <= len(read) <= AUTHORITIES_MAX:
        raise TrustError(f"{len(read)} authorities; 1 to {AUTHORITIES_MAX} can be trusted")
    if len({found.fingerprint for found in read}) != len(read):
        raise TrustError("an authority is named twice")
    return Trust(cluster_id=cluster_id, generation=generation, authorities=read, membership=membership)


def authority(der: bytes, crl: bytes) -> Authority:
    """One authority with its list, both checked; they come from our own catalog, so a defect is an error."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(certificate)
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise TrustError(f"not an authority's certificate: {error or type(error).__name__}") from error
    if not basic.ca or basic.path_length != 0 or not usage.key_cert_sign or not usage.crl_sign:
        raise TrustError("an authority must be CA:TRUE with path length 0 and sign certificates and lists")
    return Authority(
        certificate=certificate,
        der=der,
        crl=crl,
        fingerprint=fingerprint(der),
        subject=certificate.subject.public_bytes(),
        not_before_s=int(certificate.not_valid_before_utc.timestamp()),
        not_after_s=int(certificate.not_valid_after_utc.timestamp()),
        revocations=revocations(certificate, crl),
    )


def revocations(issuer: x509.Certificate, der: bytes) -> Revocations:
    """A list as the authority signed it."""
    key = issuer.public_key()
    try:
        found = x509.load_der_x509_crl(der)
        signed = isinstance(key, ec.EllipticCurvePublicKey) and found.is_signature_valid(key)
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        after = found.next_update_utc
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise TrustError(f"not a revocation list: {error or type(error).__name__}") from error
    if not signed or found.issuer != issuer.subject:
        raise TrustError("a revocation list that its authority did not sign")
    if after is None:
        raise TrustError("a revocation list without nextUpdate")
    return Revocations(
        number=number,
        this_update_s=int(found.last_update_utc.timestamp()),
        next_update_s=int(after.timestamp()),
        serials=frozenset(row.serial_number for row in found),
    )
