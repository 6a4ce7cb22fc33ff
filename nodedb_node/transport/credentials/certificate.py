"""A certificate taken apart: DER in, plain values out, or the refusal that says what is wrong with its form.

Invariant: bytes of a peer never raise here: what the library cannot read is a Refusal, and everything that judging
needs is read now, so that no lazily parsed field can fail later. A leaf has one form only, that of authority.py:
version 3, P-256 key, ECDSA with SHA-256, CA:FALSE, digitalSignature, both usages, one URI and no other name. Who
signed it, whether it is valid now and whose it is, is judged in verify.py.
"""

from __future__ import annotations

import hashlib
import warnings
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID
from msgspec import Struct

from nodedb_node.transport.credentials.reasons import Reason, Refusal

CERTIFICATE_BYTES_MAX = 4096  # a leaf of ours has about 600
NAMES_SHOWN = 3

_USAGES = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)


T = TypeVar("T", bound=x509.ExtensionType)


class Leaf(Struct, frozen=True, kw_only=True):
    """What a node's certificate says. `uri` is as written; times are seconds since 1970."""

    certificate: x509.Certificate
    issuer: bytes  # the name, DER
    serial: int
    not_before_s: int
    not_after_s: int
    spki_sha256: bytes
    uri: str


def fingerprint(der: bytes) -> bytes:
    """SHA-256 of a certificate: how an authority is named everywhere."""
    return hashlib.sha256(der).digest()


def spki_sha256(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of a public key as SubjectPublicKeyInfo: what is pinned."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def parse_leaf(der: bytes) -> Leaf | Refusal:
    """Never raises, whatever the bytes."""
    if not der:
        return Refusal(Reason.NO_CERTIFICATE, "the certificate is empty")
    if len(der) > CERTIFICATE_BYTES_MAX:
        return Refusal(Reason.MALFORMED, f"{len(der)} bytes, at most {CERTIFICATE_BYTES_MAX} are read")
    try:
        with warnings.catch_warnings(action="ignore"):  # a peer's bytes write no lines to standard error
            return _parsed(x509.load_der_x509_certificate(der))
    except Exception as error:  # noqa: BLE001 - hostile bytes: any failure of the library to read them is a refusal
        return Refusal(Reason.MALFORMED, f"not a certificate: {type(error).__name__}")


def _parsed(certificate: x509.Certificate) -> Leaf | Refusal:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return Refusal(Reason.WRONG_ALGORITHM, "the key is not of P-256")
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        name = certificate.signature_algorithm_oid.dotted_string
        return Refusal(Reason.WRONG_ALGORITHM, f"signed by algorithm {name}, not ECDSA with SHA-256")
    if certificate.version is not x509.Version.v3 or certificate.serial_number <= 0:
        return Refusal(Reason.MALFORMED, "not of version 3 with a positive serial number")
    refusal = _usage(certificate.extensions)
    if refusal is not None:
        return refusal
    uri = _uri(certificate.extensions)
    if isinstance(uri, Refusal):
        return uri
    return Leaf(
        certificate=certificate,
        issuer=certificate.issuer.public_bytes(),
        serial=certificate.serial_number,
        not_before_s=int(certificate.not_valid_before_utc.timestamp()),
        not_after_s=int(certificate.not_valid_after_utc.timestamp()),
        spki_sha256=spki_sha256(key),
        uri=uri,
    )


def _usage(extensions: x509.Extensions) -> Refusal | None:
    """What the certificate may be used for: to be a node at either end of a connection, and nothing else."""
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            return Refusal(Reason.WRONG_USAGE, f"critical extension {extension.oid.dotted_string} is not understood")
    basic = _found(extensions, x509.BasicConstraints)
    if basic is None or basic.ca:
        return Refusal(Reason.WRONG_USAGE, "an authority's certificate" if basic else "does not say CA:FALSE")
    usage = _found(extensions, x509.KeyUsage)
    if usage is None or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        return Refusal(Reason.WRONG_USAGE, "the key usage is not digitalSignature alone")
    extended = _found(extensions, x509.ExtendedKeyUsage)
    if extended is None or frozenset(extended) != _USAGES:
        named = "none" if extended is None else ",".join(sorted(oid.dotted_string for oid in extended)[:NAMES_SHOWN])
        return Refusal(Reason.WRONG_USAGE, f"extended key usage {named}, not serverAuth and clientAuth")
    return None


def _uri(extensions: x509.Extensions) -> str | Refusal:
    """The one name of the certificate; the subject's common name is not a name."""
    names = _found(extensions, x509.SubjectAlternativeName)
    uris = [] if names is None else [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    if names is None or not uris:
        return Refusal(Reason.NO_NAME, "no URI among its alternative names")
    if len(uris) > 1:
        return Refusal(Reason.SEVERAL_NAMES, f"{len(uris)} URIs among its alternative names")
    if len(list(names)) > 1:
        return Refusal(Reason.MALFORMED_NAME, "alternative names beside the URI")
    return uris[0]


def _found(extensions: x509.Extensions, kind: type[T]) -> T | None:
    """The value of an extension; None when it is not there."""
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
