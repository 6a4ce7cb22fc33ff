"""Every way to be refused, with a certificate made by hand for it, and the two ways to be let in."""

import ipaddress
from collections.abc import Callable, Sequence

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from nodedb_node.ids import NodeId
from nodedb_node.transport.credentials import authority, spiffe
from nodedb_node.transport.credentials.authority import DAY_S, LIST_S, Signer, SigningKey
from nodedb_node.transport.credentials.certificate import CERTIFICATE_BYTES_MAX
from nodedb_node.transport.credentials.reasons import Reason, Refusal
from nodedb_node.transport.credentials.trust import Authority, Trust
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity, verify_peer
from tests.transport.credentials.kit import (
    ABSENT,
    AUTHORITY,
    BOTH,
    CLUSTER,
    KEY,
    NODE,
    NOW_S,
    OTHER_AUTHORITY,
    OTHER_CLUSTER,
    OTHER_NODE,
    STRANGER,
    common_name,
    leaf,
    trusting,
    uri,
    usage,
)

OURS = trusting()


def refused(
    chain: Sequence[bytes],
    reason: Reason,
    *,
    trust: Trust = OURS,
    now_s: int = NOW_S,
    expected: Expected = Expected(NODE),  # noqa: B008 - frozen
) -> str:
    """The detail of the refusal, which must have this reason."""
    found = verify_peer(chain, trust, now_s, expected)
    assert isinstance(found, Refusal), found
    assert found.reason is reason, found
    assert "\n" not in found.detail
    return found.detail


def passes(chain: Sequence[bytes], trust: Trust = OURS, expected: Expected | None = None) -> PeerIdentity:
    found = verify_peer(chain, trust, NOW_S, Expected(NODE) if expected is None else expected)
    assert isinstance(found, PeerIdentity), found
    return found


def test_a_member_passes_in_both_directions() -> None:
    ours = leaf(serial=77)
    dialled, accepted = passes([ours]), passes([ours], expected=Expected())
    assert dialled == accepted
    assert (dialled.node_id, dialled.name.cluster_id, dialled.serial) == (NODE, CLUSTER, 77)
    assert (dialled.until_s, dialled.known, dialled.generation) == (NOW_S + DAY_S, True, 1)
    assert dialled.spki_sha256 == KEY.spki_sha256


def test_what_the_authority_issues_passes_alone_and_with_its_authority() -> None:
    issued = authority.issue(AUTHORITY, KEY.public, spiffe.spell(CLUSTER, NODE), NOW_S, 30 * DAY_S)
    assert passes([issued]).until_s == NOW_S + 30 * DAY_S
    assert passes([issued, AUTHORITY.der]).node_id == NODE


def test_no_certificate() -> None:
    refused([], Reason.NO_CERTIFICATE)
    refused([b""], Reason.NO_CERTIFICATE)


@pytest.mark.parametrize("der", [b"\0", b"hello", leaf()[:-1], leaf() + b"\0", b"\x30\x80" + leaf()[2:]])
def test_what_is_not_a_certificate(der: bytes) -> None:
    refused([der], Reason.MALFORMED)


def test_a_certificate_larger_than_any_of_ours_is_not_parsed() -> None:
    comment = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(CERTIFICATE_BYTES_MAX))
    assert "at most" in refused([leaf(extra=[(comment, False)])], Reason.MALFORMED)


def test_another_authority() -> None:
    foreign = leaf(signer=OTHER_AUTHORITY.key, issuer=OTHER_AUTHORITY.certificate.subject)
    assert "not of our" in refused([foreign], Reason.OTHER_AUTHORITY)
    assert "signature" in refused([leaf(signer=OTHER_AUTHORITY.key)], Reason.OTHER_AUTHORITY)
    refused([foreign, OTHER_AUTHORITY.der], Reason.OTHER_AUTHORITY)
    assert passes([foreign], trusting(authorities=[AUTHORITY, OTHER_AUTHORITY])).authority != AUTHORITY.der


def test_a_leaf_that_signs_for_itself() -> None:
    refused([leaf(signer=KEY, issuer=common_name("node"))], Reason.OTHER_AUTHORITY)


def test_a_leaf_signed_by_a_leaf() -> None:
    upper = leaf(subject="upper")
    below = leaf(signer=KEY, issuer=common_name("upper"))
    refused([below, upper], Reason.OTHER_AUTHORITY)
    refused([below, upper, AUTHORITY.der], Reason.OTHER_AUTHORITY)
    upper = leaf(key=SigningKey.make().public, subject=_cn(AUTHORITY))
    refused([leaf(signer=KEY), upper], Reason.OTHER_AUTHORITY)


def _cn(signer: Signer) -> str:
    return str(signer.certificate.subject.rdns[0].rfc4514_string()).removeprefix("CN=")


@pytest.mark.parametrize(
    "more",
    [[OTHER_AUTHORITY.der], [leaf()], [b""], [AUTHORITY.der, AUTHORITY.der], [AUTHORITY.der + b"\0"]],
    ids=["authority", "leaf", "nothing", "twice", "more"],
)
def test_a_chain_with_certificates_that_do_not_belong_to_it(more: list[bytes]) -> None:
    refused([leaf(), *more], Reason.WRONG_CHAIN)


def test_dates_are_judged_to_the_second() -> None:
    ours = [leaf(begins_s=NOW_S, ends_s=NOW_S + 10)]
    refused(ours, Reason.NOT_YET_VALID, now_s=NOW_S - 1)
    assert passes(ours)
    assert isinstance(verify_peer(ours, OURS, NOW_S + 10), PeerIdentity)
    assert "expired 1 s" in refused(ours, Reason.EXPIRED, now_s=NOW_S + 11)


def test_an_authority_that_is_over_or_not_begun_takes_its_leaves_with_it() -> None:
    soon = authority.make_authority(CLUSTER, SigningKey.make(), NOW_S + DAY_S)
    early = leaf(signer=soon.key, issuer=soon.certificate.subject)
    assert "authority" in refused([early], Reason.NOT_YET_VALID, trust=trusting(authorities=[soon]))
    past_s = NOW_S + 20 * 365 * DAY_S
    assert "authority" in refused([leaf(ends_s=past_s)], Reason.EXPIRED, now_s=past_s - 1)


def test_revoked() -> None:
    ours = [leaf(serial=4711)]
    assert "1267" in refused(ours, Reason.REVOKED, trust=trusting(revoked=[1, 4711]))
    assert passes(ours, trusting(revoked=[4712]))


def test_a_serial_revoked_by_one_authority_is_not_revoked_for_the_other() -> None:
    both = trusting(authorities=[AUTHORITY, OTHER_AUTHORITY])
    first, second = both.authorities
    second = _with_serials(second, frozenset({5}))
    mixed = msgspec.structs.replace(both, authorities=(first, second))
    assert passes([leaf(serial=5)], mixed)
    foreign = leaf(serial=5, signer=OTHER_AUTHORITY.key, issuer=OTHER_AUTHORITY.certificate.subject)
    refused([foreign], Reason.REVOKED, trust=mixed)


def _with_serials(found: Authority, serials: frozenset[int]) -> Authority:
    return msgspec.structs.replace(found, revocations=msgspec.structs.replace(found.revocations, serials=serials))


def test_a_list_past_its_time_still_counts_and_is_told() -> None:
    old = trusting(revoked=[9], made_s=NOW_S - 2 * LIST_S)
    assert [found.fingerprint for found in old.stale(NOW_S)] == [old.authorities[0].fingerprint]
    assert not OURS.stale(NOW_S)
    assert passes([leaf(serial=8)], old)
    refused([leaf(serial=9)], Reason.REVOKED, trust=old)


WRONG_USAGES: dict[str, Callable[[], bytes]] = {
    "no extended usage": lambda: leaf(extended=ABSENT),
    "client only": lambda: leaf(extended=BOTH[1:]),
    "server only": lambda: leaf(extended=BOTH[:1]),
    "any usage": lambda: leaf(extended=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
    "one usage more": lambda: leaf(extended=[*BOTH, ExtendedKeyUsageOID.CODE_SIGNING]),
    "no constraints": lambda: leaf(basic=ABSENT),
    "an authority": lambda: leaf(basic=x509.BasicConstraints(ca=True, path_length=None)),
    "no key usage": lambda: leaf(key_usage=ABSENT),
    "no signatures": lambda: leaf(key_usage=usage(digital_signature=False, key_agreement=True)),
    "signs certificates": lambda: leaf(key_usage=usage(key_cert_sign=True)),
    "signs lists": lambda: leaf(key_usage=usage(crl_sign=True)),
    "critical and unknown": lambda: leaf(
        extra=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0"), True)]
    ),
    "critical and not for a leaf": lambda: leaf(extra=[(x509.InhibitAnyPolicy(0), True)]),
    "name constraints": lambda: leaf(extra=[(x509.NameConstraints([x509.DNSName("a")], None), True)]),
}


@pytest.mark.parametrize("make", WRONG_USAGES.values(), ids=WRONG_USAGES)
def test_wrong_usage(make: Callable[[], bytes]) -> None:
    refused([make()], Reason.WRONG_USAGE)


def test_the_authority_itself_is_no_node() -> None:
    refused([AUTHORITY.der], Reason.WRONG_USAGE)


def test_an_unknown_extension_that_is_not_critical_is_skipped() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0")
    assert passes([leaf(extra=[(unknown, False)])])


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)

WRONG_ALGORITHMS: dict[str, Callable[[], bytes]] = {
    "sha-1": lambda: _sha1(),
    "sha-384": lambda: leaf(algorithm=hashes.SHA384()),
    "rsa key": lambda: leaf(key=RSA.public_key()),
    "rsa authority": lambda: leaf(signer=RSA),
    "p-384 key": lambda: leaf(key=ec.generate_private_key(ec.SECP384R1()).public_key()),
    "ed25519 key": lambda: leaf(key=ed25519.Ed25519PrivateKey.generate().public_key()),
}


def _sha1() -> bytes:
    """The library no longer signs with SHA-1, so the algorithm's number is changed in both places."""
    with_sha256, with_sha1 = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06072a8648ce3d0401")
    ours = leaf()
    assert ours.count(with_sha256) == 2
    outer_bytes = int.from_bytes(ours[2:4], "big") - 2
    inner_bytes = int.from_bytes(ours[6:8], "big") - 1
    changed = ours[8:].replace(b"\x30\x0a" + with_sha256, b"\x30\x09" + with_sha1)
    return b"\x30\x82" + outer_bytes.to_bytes(2, "big") + b"\x30\x82" + inner_bytes.to_bytes(2, "big") + changed


@pytest.mark.parametrize("make", WRONG_ALGORITHMS.values(), ids=WRONG_ALGORITHMS)
def test_wrong_algorithm(make: Callable[[], bytes]) -> None:
    refused([make()], Reason.WRONG_ALGORITHM)


@pytest.mark.parametrize("names", [[], [x509.DNSName("nodedb")], [x509.RFC822Name("a@b.c")]])
def test_a_common_name_or_another_kind_of_name_is_no_name(names: list[x509.GeneralName]) -> None:
    refused([leaf(names=names, subject=uri()[:60])], Reason.NO_NAME)


def test_several_uris() -> None:
    refused([leaf(uris=[uri(), uri(OTHER_NODE)])], Reason.SEVERAL_NAMES)
    refused([leaf(uris=[uri(), uri()])], Reason.SEVERAL_NAMES)
    refused([leaf(uris=["https://example.test/", uri()])], Reason.SEVERAL_NAMES)


def test_another_name_beside_the_uri() -> None:
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    for other in (x509.DNSName("nodedb"), address, x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4"))):
        refused([leaf(names=[x509.UniformResourceIdentifier(uri()), other])], Reason.MALFORMED_NAME)


@pytest.mark.parametrize(
    "text",
    [
        "https://example.test/",
        f"SPIFFE://{CLUSTER}/node/{NODE}",
        f"spiffe://{CLUSTER}/node/{NODE}/",
        f"spiffe://{CLUSTER}/node/%61{NODE[1:]}",
        f"spiffe://{CLUSTER}/node/{NODE}\0",
    ],
)
def test_a_name_spelled_otherwise(text: str) -> None:
    refused([leaf(uris=[text])], Reason.MALFORMED_NAME)


def test_another_cluster() -> None:
    detail = refused([leaf(uris=[uri(cluster=OTHER_CLUSTER)])], Reason.OTHER_CLUSTER)
    assert CLUSTER not in detail, "a refusal may be sent back"


def test_another_node_than_dialled() -> None:
    refused([leaf()], Reason.OTHER_NODE, expected=Expected(OTHER_NODE))


def test_a_removed_node_is_refused_whatever_else_is_known_of_it() -> None:
    gone = trusting(removed=[NODE])
    refused([leaf()], Reason.REMOVED_NODE, trust=gone)
    refused([leaf()], Reason.REMOVED_NODE, trust=gone, expected=Expected(None, unknown=True))
    refused([leaf()], Reason.REMOVED_NODE, trust=gone, expected=Expected(OTHER_NODE))


def test_an_unknown_node_is_let_in_only_where_that_is_asked_for() -> None:
    key = SigningKey.make()
    chain = [leaf(uris=[uri(STRANGER)], key=key.public)]
    refused(chain, Reason.UNKNOWN_NODE, expected=Expected())
    refused(chain, Reason.UNKNOWN_NODE, expected=Expected(STRANGER))
    found = passes(chain, expected=Expected(unknown=True))
    assert (found.node_id, found.known) == (STRANGER, False)


def test_a_member_with_another_key_than_it_was_issued() -> None:
    stolen = SigningKey.make()
    refused([leaf(key=stolen.public)], Reason.PIN_MISMATCH)
    refused([leaf(key=stolen.public)], Reason.PIN_MISMATCH, expected=Expected(None, unknown=True))
    both = {NODE: frozenset({KEY.spki_sha256, stolen.spki_sha256})}
    assert passes([leaf(key=stolen.public)], trusting(pins=both))


def test_a_member_without_any_pin_is_not_let_in() -> None:
    nothing: dict[NodeId, frozenset[bytes]] = {NODE: frozenset()}
    refused([leaf()], Reason.PIN_MISMATCH, trust=trusting(pins=nothing))
