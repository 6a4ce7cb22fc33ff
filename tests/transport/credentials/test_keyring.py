"""Peers that were let in are judged again: when the trust changes, when their certificate ends."""

import pytest

from nodedb_node.ids import ClusterId
from nodedb_node.transport.credentials import trust
from nodedb_node.transport.credentials.authority import DAY_S, make_list
from nodedb_node.transport.credentials.keyring import Keyring
from nodedb_node.transport.credentials.reasons import Reason, Refusal
from nodedb_node.transport.credentials.trust import Membership, Trust, TrustError
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity
from tests.transport.credentials.kit import (
    AUTHORITY,
    CLUSTER,
    KEY,
    NODE,
    NOW_S,
    OTHER_AUTHORITY,
    STRANGER,
    SigningKey,
    leaf,
    trusting,
    uri,
)


def ring(chain: bytes, expected: Expected = Expected(NODE)) -> Keyring[str]:  # noqa: B008 - frozen
    made: Keyring[str] = Keyring(trusting())
    assert isinstance(made.admit("peer", [chain], NOW_S, expected), PeerIdentity)
    return made


def test_one_that_is_refused_is_not_remembered() -> None:
    made: Keyring[str] = Keyring(trusting())
    assert isinstance(made.admit("peer", [], NOW_S), Refusal)
    assert len(made) == 0
    assert not made.expelled(NOW_S)


def test_nothing_changed_nobody_is_judged_again() -> None:
    made = ring(leaf())
    before = made.identity("peer")
    assert not made.expelled(NOW_S)
    assert made.identity("peer") is before


@pytest.mark.parametrize(
    ("newer", "reason"),
    [
        (trusting(revoked=[99], generation=2), Reason.REVOKED),
        (trusting(removed=[NODE], generation=2), Reason.REMOVED_NODE),
        (trusting(pins={NODE: frozenset()}, generation=2), Reason.PIN_MISMATCH),
        (trusting(pins={}, generation=2), Reason.UNKNOWN_NODE),
        (trusting(authorities=[OTHER_AUTHORITY], generation=2), Reason.OTHER_AUTHORITY),
    ],
)
def test_a_newer_trust_ends_what_it_does_not_allow(newer: Trust, reason: Reason) -> None:
    made = ring(leaf(serial=99))
    assert made.replace(newer)
    (gone,) = made.expelled(NOW_S)
    assert (gone[0], gone[1].reason) == ("peer", reason)
    assert len(made) == 0
    assert not made.expelled(NOW_S)


def test_a_newer_trust_keeps_what_it_allows() -> None:
    made = ring(leaf())
    assert made.replace(trusting(generation=5, authorities=[AUTHORITY, OTHER_AUTHORITY]))
    assert not made.expelled(NOW_S)
    assert made.identity("peer").generation == 5


def test_a_certificate_that_ends_ends_its_connection() -> None:
    made = ring(leaf(ends_s=NOW_S + 10))
    assert not made.expelled(NOW_S + 10)
    ((_, refusal),) = made.expelled(NOW_S + 11)
    assert refusal.reason is Reason.EXPIRED


def test_one_let_in_unknown_becomes_known() -> None:
    key = SigningKey.make()
    made = ring(leaf(uris=[uri(STRANGER)], key=key.public), Expected(unknown=True))
    assert not made.identity("peer").known
    made.replace(trusting(generation=2, pins={STRANGER: frozenset({key.spki_sha256})}))
    assert not made.expelled(NOW_S)
    assert made.identity("peer").known


def test_an_older_trust_is_not_taken() -> None:
    made = ring(leaf())
    made.replace(trusting(generation=3))
    assert not made.replace(trusting(generation=3, removed=[NODE]))
    assert not made.replace(trusting(generation=2, removed=[NODE]))
    assert not made.expelled(NOW_S)


def test_a_trust_that_contradicts_the_one_in_use_is_refused() -> None:
    made = ring(leaf())
    foreign = trust.trust(ClusterId("f" * 32), 9, [(AUTHORITY.der, make_list(AUTHORITY, 1, [], NOW_S))], Membership({}))
    with pytest.raises(TrustError, match="cluster"):
        made.replace(foreign)
    with pytest.raises(TrustError, match="smaller number"):
        made.replace(with_list(0))
    assert made.replace(with_list(2))


def with_list(number: int) -> Trust:
    pairs = [(AUTHORITY.der, make_list(AUTHORITY, number, [], NOW_S))]
    return trust.trust(CLUSTER, 9, pairs, Membership({NODE: frozenset({KEY.spki_sha256})}))


def test_a_released_peer_is_not_judged() -> None:
    made = ring(leaf())
    made.release("peer")
    made.release("peer")
    made.replace(trusting(generation=2, removed=[NODE]))
    assert not made.expelled(NOW_S)


LIST = make_list(AUTHORITY, 1, [], NOW_S)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([], "0 authorities"),
        ([(AUTHORITY.der, LIST)] * 2, "named twice"),
        ([(AUTHORITY.der, LIST)] * 5, "5 authorities"),
        ([(AUTHORITY.der, b"")], "not a revocation list"),
        ([(AUTHORITY.der, make_list(OTHER_AUTHORITY, 1, [], NOW_S))], "did not sign"),
        ([(AUTHORITY.der, LIST[:-1] + bytes([LIST[-1] ^ 1]))], "did not sign"),
        ([(b"", LIST)], "not an authority"),
        ([(leaf(), LIST)], "not an authority"),
        ([(leaf(signer=KEY, issuer=None, ends_s=NOW_S + DAY_S), LIST)], "not an authority"),
    ],
)
def test_a_trust_that_does_not_hold_is_not_made(pairs: list[tuple[bytes, bytes]], words: str) -> None:
    with pytest.raises(TrustError, match=words):
        trust.trust(CLUSTER, 1, pairs, Membership({}))
