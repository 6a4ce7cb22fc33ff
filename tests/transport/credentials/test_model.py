"""Certificates with any combination of faults: refused exactly when there is one, and for one of them."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nodedb_node.transport.credentials.authority import DAY_S, SigningKey
from nodedb_node.transport.credentials.reasons import Reason, Refusal
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity, verify_peer
from tests.transport.credentials.kit import (
    ABSENT,
    AUTHORITY,
    BOTH,
    KEY,
    NODE,
    NOW_S,
    OTHER_AUTHORITY,
    OTHER_CLUSTER,
    OTHER_NODE,
    leaf,
    trusting,
    uri,
    usage,
)

OTHER_KEY = SigningKey.make()

# What is wrong with a leaf: its reason and the parts it changes; two that change one part exclude each other.
LEAF_FAULTS: tuple[tuple[Reason, dict[str, Any]], ...] = (
    (Reason.OTHER_AUTHORITY, {"signer": OTHER_AUTHORITY.key}),
    (Reason.OTHER_AUTHORITY, {"issuer": OTHER_AUTHORITY.certificate.subject}),
    (Reason.EXPIRED, {"ends_s": NOW_S - 1}),
    (Reason.NOT_YET_VALID, {"begins_s": NOW_S + 1}),
    (Reason.WRONG_USAGE, {"extended": BOTH[:1]}),
    (Reason.WRONG_USAGE, {"basic": ABSENT}),
    (Reason.WRONG_USAGE, {"key_usage": usage(key_cert_sign=True)}),
    (Reason.NO_NAME, {"uris": ()}),
    (Reason.SEVERAL_NAMES, {"uris": (uri(), uri())}),
    (Reason.MALFORMED_NAME, {"uris": ("spiffe://a/b",)}),
    (Reason.OTHER_CLUSTER, {"uris": (uri(cluster=OTHER_CLUSTER),)}),
    (Reason.OTHER_NODE, {"uris": (uri(OTHER_NODE),)}),
    (Reason.PIN_MISMATCH, {"key": OTHER_KEY.public}),
)
TRUST_FAULTS: tuple[tuple[Reason, dict[str, Any]], ...] = (
    (Reason.REVOKED, {"revoked": (7,)}),
    (Reason.REMOVED_NODE, {"removed": (NODE,)}),
    (Reason.UNKNOWN_NODE, {"pins": {}}),
)
CHAIN_FAULTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "alone": lambda der: [der],
    "with authority": lambda der: [der, AUTHORITY.der],
    "with another": lambda der: [der, OTHER_AUTHORITY.der],
}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(LEAF_FAULTS), max_size=3),
    st.lists(st.sampled_from(TRUST_FAULTS), max_size=2),
    st.sampled_from(sorted(CHAIN_FAULTS)),
)
def test_refused_exactly_when_something_is_wrong(
    leaf_faults: list[tuple[Reason, dict[str, Any]]], trust_faults: list[tuple[Reason, dict[str, Any]]], chain: str
) -> None:
    parts: dict[str, Any] = {}
    reasons: set[Reason] = set()
    for reason, changes in leaf_faults:
        if changes.keys() & parts.keys() or {"begins_s", "ends_s"} <= (changes.keys() | parts.keys()):
            continue
        parts |= changes
        reasons.add(reason)
    if {"signer", "issuer"} <= parts.keys():
        reasons.add(Reason.OTHER_AUTHORITY)
    believed: dict[str, Any] = {}
    for reason, changes in trust_faults:
        believed |= changes
        reasons.add(reason)
    if parts.get("ends_s"):
        parts["begins_s"] = NOW_S - DAY_S
    if parts.get("begins_s") == NOW_S + 1:
        parts["ends_s"] = NOW_S + DAY_S
    reasons |= {Reason.WRONG_CHAIN} if chain == "with another" else set()
    found = verify_peer(CHAIN_FAULTS[chain](leaf(serial=7, **parts)), trusting(**believed), NOW_S, Expected(NODE))
    if not reasons:
        assert isinstance(found, PeerIdentity)
        assert found.spki_sha256 == KEY.spki_sha256
    else:
        assert isinstance(found, Refusal), reasons
        assert found.reason in reasons
