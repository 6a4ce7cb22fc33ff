"""What a process shows and judges by, while files change under it; and trusts that are not taken."""

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nodedb_node.ids import ClusterId
from nodedb_node.transport.credentials import trust
from nodedb_node.transport.credentials.authority import DAY_S, SigningKey, make_list
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.live import InsecureCredentials, LiveCredentials, succeeds
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
    OTHER_NODE,
    leaf,
    trusting,
)
from tests.transport.credentials.stage import MemoryStore, keeper


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> int:
        return self.now_s


def live(path: Path, clock: Clock) -> LiveCredentials:
    return LiveCredentials(CredentialFiles(str(path)), clock)


def shown(one: LiveCredentials) -> list[bytes]:
    return [one.own().certificate.public_bytes(Encoding.DER)]


def reason(found: PeerIdentity | Refusal) -> Reason | None:
    return found.reason if isinstance(found, Refusal) else None


def test_a_process_has_nothing_before_control_wrote_it(tmp_path: Path) -> None:
    clock, one = Clock(), live(tmp_path, Clock())
    assert not one.reload()
    node = keeper(MemoryStore(), tmp_path)
    node.open(NOW_S)
    assert one.reload()
    assert not one.reload()
    assert clock.now_s == NOW_S
    found = one.judge(shown(one), Expected(NODE))
    assert isinstance(found, PeerIdentity)
    key = one.own().key.public_key()
    assert key == one.own().certificate.public_key(), "the key that is shown is the certificate's"


def test_a_certificate_is_replaced_with_the_trust_that_knows_it(tmp_path: Path) -> None:
    node, one = keeper(MemoryStore(), tmp_path), live(tmp_path, Clock())
    node.open(NOW_S)
    one.reload()
    before = shown(one)
    node.renew(NOW_S + 1)
    assert not one.reload(), "control has not written the trust that pins it"
    assert shown(one) == before
    node.tick(NOW_S + 1)
    assert one.reload()
    assert shown(one) != before
    assert reason(one.judge(shown(one), Expected(NODE))) is None
    assert reason(one.judge(before, Expected(NODE))) is None, "the old one, for a while"


def test_peers_judged_again_fall_to_a_revocation_a_removal_and_their_end(tmp_path: Path) -> None:
    clock = Clock()
    node, one = keeper(MemoryStore(), tmp_path), live(tmp_path, clock)
    node.open(NOW_S)
    keys = SigningKey.make(), SigningKey.make()
    rows = [node.custodian.issue(key.request("x"), OTHER_NODE, NOW_S) for key in keys]
    node.tick(NOW_S)
    one.reload()
    chains = [[row.certificate] for row in rows]
    assert [reason(one.judge(chain, Expected())) for chain in chains] == [None, None]
    node.custodian.revoke(rows[0].serial, NOW_S)
    node.tick(NOW_S)
    assert one.reload()
    assert [reason(one.judge(chain, Expected())) for chain in chains] == [Reason.REVOKED, None]
    clock.now_s = rows[1].not_after_s + 1
    assert reason(one.judge(chains[1], Expected())) is Reason.EXPIRED
    clock.now_s = NOW_S
    node.custodian.remove(OTHER_NODE, NOW_S)
    node.tick(NOW_S)
    assert one.reload()
    assert reason(one.judge(chains[1], Expected())) is Reason.REMOVED_NODE


def test_the_reset_key_outlives_the_process_and_is_not_another_nodes(tmp_path: Path) -> None:
    keeper(MemoryStore(), tmp_path / "one").open(NOW_S)
    keeper(MemoryStore(), tmp_path / "two").open(NOW_S)
    first = live(tmp_path / "one", Clock()).reset_key()
    assert first == live(tmp_path / "one", Clock()).reset_key()
    assert len({first, live(tmp_path / "two", Clock()).reset_key()}) == 2
    assert hashlib.sha256(first).digest_size == len(first)


def test_insecure_credentials_are_of_nobody() -> None:
    one = InsecureCredentials(CLUSTER, NODE, NOW_S)
    own = one.own()
    assert own.key.public_key() == own.certificate.public_key()
    assert one.insecure
    assert not one.reload()
    assert len(one.reset_key()) == 32
    with pytest.raises(AssertionError, match="ask `insecure` first"):
        one.judge([], Expected())
    assert isinstance(own.certificate, x509.Certificate)


def test_an_older_trust_does_not_succeed() -> None:
    assert succeeds(trusting(generation=1), trusting(generation=2, authorities=[OTHER_AUTHORITY]))
    assert not succeeds(trusting(generation=3), trusting(generation=3, removed=[NODE]))
    assert not succeeds(trusting(generation=3), trusting(generation=2, removed=[NODE]))


def test_a_trust_that_contradicts_the_one_in_use_is_refused() -> None:
    foreign = trust.trust(ClusterId("f" * 32), 9, [(AUTHORITY.der, make_list(AUTHORITY, 1, [], NOW_S))], Membership({}))
    with pytest.raises(TrustError, match="cluster"):
        succeeds(trusting(), foreign)
    with pytest.raises(TrustError, match="smaller number"):
        succeeds(trusting(), with_list(0))
    assert succeeds(trusting(), with_list(2))


def with_list(number: int) -> Trust:
    pairs = [(AUTHORITY.der, make_list(AUTHORITY, number, [], NOW_S))]
    return trust.trust(CLUSTER, 9, pairs, Membership({NODE: frozenset({KEY.spki_sha256})}))


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
