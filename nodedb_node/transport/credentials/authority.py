"""Making certificates: the cluster's authority, its leaves and its revocation lists.

Invariant: a leaf says what the caller decided, never what a request asked for: of a signing request only the public
key is taken, after its signature proved that the asker holds the private one. Everything made here passes the forms
that certificate.py and trust.py demand, and nothing else does. Times are arguments; key material and random serials
come from the cryptography library. Keys are never shown: `SigningKey` has no repr of its contents.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from nodedb_node.transport.credentials.certificate import spki_sha256
from nodedb_node.transport.credentials.spiffe import SpiffeId

DAY_S = 86_400
SKEW_S = 3_600  # certificates and lists begin this long ago: clocks of nodes differ
AUTHORITY_S = 3_650 * DAY_S  # ten years: replaced by rotate-ca, not by expiry
LIST_S = 7 * DAY_S  # a revocation list; made anew every day (schedule.py)
REQUEST_BYTES_MAX = 4096


class RequestError(ValueError):
    """A signing request that is refused; the text says why."""


class SigningKey:
    """A private key of P-256, of an authority or of a node."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def make(cls) -> SigningKey:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, der: bytes) -> SigningKey:
        """From PKCS 8, DER; ValueError when it is not a private key of P-256."""
        return cls.of(load_der_private_key(der, password=None))

    @classmethod
    def of(cls, key: PrivateKeyTypes) -> SigningKey:
        """A key of the library's; ValueError when it is not one of P-256."""
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("not a private key of P-256")
        return cls(key)

    def der(self) -> bytes:
        """PKCS 8, not encrypted: the caller wraps it or writes it where only the node can read."""
        return self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def pem(self) -> bytes:
        """PKCS 8 as text, not encrypted: for a file that only the node can read."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def private(self) -> ec.EllipticCurvePrivateKey:
        """The library's key, for a TLS configuration."""
        return self._key

    def request(self, name: str) -> bytes:
        """A signing request (PKCS 10, DER): proves that we hold the key; its name is for people alone."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(_name(name))
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)

    @property
    def spki_sha256(self) -> bytes:
        return spki_sha256(self._key.public_key())

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self._key, hashes.SHA256())

    def sign_list(self, builder: x509.CertificateRevocationListBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)

    def __repr__(self) -> str:
        return "SigningKey(<secret>)"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")


class Signer(Struct, frozen=True):
    """An authority that can sign: its certificate and its key."""

    certificate: x509.Certificate
    key: SigningKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def make_authority(cluster_id: str, key: SigningKey, now_s: int) -> Signer:
    """A new authority of the cluster, signed by itself; its name holds its key's hash, so two never share one."""
    name = _name(f"nodedb-node {cluster_id[:8]} {key.spki_sha256.hex()[:16]}")
    builder = _builder(name, name, key.public, now_s - SKEW_S, now_s + AUTHORITY_S)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public), critical=False)
    return Signer(key.sign(builder), key)


def requested_key(request_der: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request, its possession proven; nothing else of the request is looked at."""
    if len(request_der) > REQUEST_BYTES_MAX:
        raise RequestError(f"the request has {len(request_der)} bytes, at most {REQUEST_BYTES_MAX} are read")
    try:
        with warnings.catch_warnings(action="ignore"):
            request = x509.load_der_x509_csr(request_der)
            key = request.public_key()
            proven = request.is_signature_valid
    except Exception as error:  # hostile bytes: any failure of the library to read them is a refusal
        raise RequestError("not a certificate signing request (PKCS 10)") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestError("the key of the request is not of P-256")
    if not proven:
        raise RequestError("the request is not signed by its own key: no proof that the asker holds it")
    return key


def issue(signer: Signer, key: ec.EllipticCurvePublicKey, name: SpiffeId, now_s: int, valid_s: int) -> bytes:
    """A node's leaf for this key, DER; it ends with its authority at the latest."""
    ends_s = min(now_s + valid_s, int(signer.certificate.not_valid_after_utc.timestamp()))
    subject = _name(f"node {name.node_id[:16]}")
    builder = _builder(subject, signer.certificate.subject, key, now_s - SKEW_S, ends_s)
    identifier = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(signs=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(name))]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return signer.key.sign(builder).public_bytes(Encoding.DER)


def make_list(signer: Signer, number: int, revoked: Iterable[tuple[int, int]], now_s: int) -> bytes:
    """The authority's revocation list, DER: `revoked` are pairs (serial, since when); numbers only rise."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(signer.certificate.subject)
    builder = builder.last_update(time_of(now_s - SKEW_S)).next_update(time_of(now_s + LIST_S))
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for serial, since_s in revoked:
        row = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(time_of(since_s))
        builder = builder.add_revoked_certificate(row.build())
    return signer.key.sign_list(builder)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins_s: int, ends_s: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(time_of(begins_s))
        .not_valid_after(time_of(ends_s))
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    """An authority signs certificates and lists; a leaf signs handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def time_of(seconds: int) -> datetime.datetime:
    """As the library wants it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
