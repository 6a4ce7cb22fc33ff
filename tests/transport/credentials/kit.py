"""Hand-made certificates: right in every part but those that a test changes."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.transport.credentials import authority, trust
from nodedb_node.transport.credentials.authority import DAY_S, Signer, SigningKey
from nodedb_node.transport.credentials.certificate import spki_sha256
from nodedb_node.transport.credentials.trust import Membership, Trust

NOW_S = 1_800_000_000
CLUSTER = ClusterId("c1" * 16)
OTHER_CLUSTER = ClusterId("c2" * 16)
NODE, OTHER_NODE, STRANGER = (NodeId(text * 20) for text in ("a1", "a2", "a3"))
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
ABSENT: Any = object()

KEY = SigningKey.make()
"""The key of NODE in every test: making keys is the slow part."""

AUTHORITY = authority.make_authority(CLUSTER, SigningKey.make(), NOW_S - 10 * DAY_S)
OTHER_AUTHORITY = authority.make_authority(CLUSTER, SigningKey.make(), NOW_S - 10 * DAY_S)


def uri(node: str = NODE, cluster: str = CLUSTER) -> str:
    return f"spiffe://{cluster}/node/{node}"


def time_of(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def usage(**changes: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**(dict.fromkeys(names, False) | {"digital_signature": True} | changes))


NO_AUTHORITY = x509.BasicConstraints(ca=False, path_length=None)
HANDSHAKES = usage()


def leaf(
    *,
    signer: Any = AUTHORITY.key,
    key: Any = KEY.public,
    subject: str = "node",
    issuer: x509.Name | None = None,
    begins_s: int = NOW_S - DAY_S,
    ends_s: int = NOW_S + DAY_S,
    names: Sequence[x509.GeneralName] | None = None,
    uris: Iterable[str] = (uri(),),
    basic: Any = NO_AUTHORITY,
    key_usage: Any = HANDSHAKES,
    extended: Any = BOTH,
    extra: Iterable[tuple[x509.ExtensionType, bool]] = (),
    algorithm: Any = None,
    serial: int | None = None,
) -> bytes:
    """A leaf of NODE by AUTHORITY, DER, with the parts changed that are named; ABSENT leaves one out."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name(subject))
        .issuer_name(issuer or AUTHORITY.certificate.subject)
        .public_key(key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(time_of(begins_s))
        .not_valid_after(time_of(ends_s))
    )
    names = [x509.UniformResourceIdentifier(text) for text in uris] if names is None else list(names)
    extensions: list[tuple[Any, bool]] = [(basic, True), (key_usage, True), *extra]
    if extended is not ABSENT:
        extensions.append((x509.ExtendedKeyUsage(extended), False))
    if names:
        extensions.append((x509.SubjectAlternativeName(names), False))
    for extension, critical in extensions:
        if extension is not ABSENT:
            builder = builder.add_extension(extension, critical)
    raw = signer._key if isinstance(signer, SigningKey) else signer
    return builder.sign(raw, algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


def pin_of(key: ec.EllipticCurvePublicKey) -> bytes:
    return spki_sha256(key)


def trusting(
    *,
    authorities: Iterable[Signer] = (AUTHORITY,),
    revoked: Iterable[int] = (),
    pins: dict[NodeId, frozenset[bytes]] | None = None,
    removed: Iterable[NodeId] = (),
    made_s: int = NOW_S,
    generation: int = 1,
) -> Trust:
    """What a node of CLUSTER believes; NODE is a member with KEY unless `pins` says otherwise."""
    rows = [(serial, NOW_S - DAY_S) for serial in revoked]
    pairs = [(signer.der, authority.make_list(signer, 1, rows, made_s)) for signer in authorities]
    known = {NODE: frozenset({KEY.spki_sha256}), OTHER_NODE: frozenset({b"\0" * 32})} if pins is None else pins
    return trust.trust(CLUSTER, generation, pairs, Membership(known, frozenset(removed)))
