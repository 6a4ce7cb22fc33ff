"""A node's credentials over its life: made, renewed, rotated, revoked; cut anywhere and taken up again."""

import contextlib
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from nodedb_node.errors import StartError
from nodedb_node.metadata.security import PIN_OVERLAP_S, ChangeRefused, RegisterSealingKey
from nodedb_node.supervisor.datadir import replace_file
from nodedb_node.transport.credentials import files
from nodedb_node.transport.credentials.authority import DAY_S, LIST_S, RequestError, SigningKey, requested_key
from nodedb_node.transport.credentials.custodian import Custodian, trust_of
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.keeper import LOOK_S, RELOAD_S, Keeper
from nodedb_node.transport.credentials.reasons import Reason, Refusal
from nodedb_node.transport.credentials.schedule import list_due_s, renewal_due_s
from nodedb_node.transport.credentials.sealing import SealError, SealingKey, seal
from nodedb_node.transport.credentials.verify import Expected, PeerIdentity, verify_peer
from tests.transport.credentials.kit import CLUSTER, NODE, NOW_S, OTHER_NODE, leaf
from tests.transport.credentials.stage import LEAF_S, Cut, MemoryStore, Steps, judged, keeper, on_disk, shown


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def passes(directory: Path, chain: list[bytes], now_s: int = NOW_S) -> bool:
    return isinstance(judged(directory, chain, now_s), PeerIdentity)


def next_update(directory: Path) -> int:
    trusted = CredentialFiles(str(directory)).trust()
    assert trusted is not None
    return trusted.authorities[0].revocations.next_update_s


def run(one: Keeper, begin_s: int, seconds: int) -> list[str]:
    """Tick once a second; the reasons of renewals."""
    return [reason for at in range(seconds) if (reason := one.tick(begin_s + at))]


def test_a_first_start_makes_everything(store: MemoryStore, tmp_path: Path) -> None:
    one = keeper(store, tmp_path)
    assert one.open(NOW_S)
    assert passes(tmp_path, [shown(tmp_path)])
    ((row,), (authority,)) = store.state.leaves.values(), store.state.authorities.values()
    assert row.not_after_s == NOW_S + LEAF_S
    assert set(authority.wrapped) == {NODE}


def test_a_second_start_makes_nothing(store: MemoryStore, tmp_path: Path) -> None:
    keeper(store, tmp_path).open(NOW_S)
    before, state = shown(tmp_path), store.state
    again = keeper(store, tmp_path)
    assert not again.open(NOW_S + 10)
    assert (shown(tmp_path), store.state) == (before, state)
    assert not run(again, NOW_S + 10, 100)


def test_keys_are_readable_by_their_owner_alone(store: MemoryStore, tmp_path: Path) -> None:
    keeper(store, tmp_path).open(NOW_S)
    directory = tmp_path / "tls"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {path.name for path in directory.iterdir()} == {"sealing.key", "node.pem", "trust"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["", "sealing.key", "node.pem"])
def test_a_key_that_others_could_read_is_refused(store: MemoryStore, tmp_path: Path, name: str) -> None:
    keeper(store, tmp_path).open(NOW_S)
    (tmp_path / "tls" / name).chmod(0o740)
    with pytest.raises(StartError, match=r"can be read by others .*mode 740"):
        keeper(store, tmp_path).open(NOW_S)


@pytest.mark.parametrize("name", ["sealing.key", "node.pem"])
def test_a_damaged_file_is_told(store: MemoryStore, tmp_path: Path, name: str) -> None:
    keeper(store, tmp_path).open(NOW_S)
    (tmp_path / "tls" / name).write_bytes(b"\xff nonsense")
    with pytest.raises(StartError, match=f"tls/{name} is damaged"):
        keeper(store, tmp_path).open(NOW_S)


@pytest.mark.parametrize("content", [b"\xff nonsense", b"{}", b""])
def test_a_damaged_trust_is_told_to_who_reads_it_and_written_again(
    store: MemoryStore, tmp_path: Path, content: bytes
) -> None:
    keeper(store, tmp_path).open(NOW_S)
    (tmp_path / "tls" / "trust").write_bytes(content)
    with pytest.raises(StartError, match="tls/trust is damaged"):
        CredentialFiles(str(tmp_path)).trust()
    keeper(store, tmp_path).open(NOW_S)
    assert passes(tmp_path, [shown(tmp_path)])


def test_the_authoritys_key_is_nowhere_in_the_clear(tmp_path: Path) -> None:
    with on_disk(tmp_path) as catalog:
        one = keeper(catalog.security(), tmp_path)
        one.open(NOW_S)
        state = catalog.security().read()
        (row,) = state.authorities.values()
        secret = one.custodian._signer(row).key
        scalar = secret.private.private_numbers().private_value.to_bytes(32, "big")
        assert set(row.wrapped) == {NODE}
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        assert scalar not in content
        assert secret.pem().splitlines()[1] not in content


def test_secrets_do_not_show_themselves() -> None:
    key, sealing = SigningKey.make(), SealingKey.make()
    assert repr(key) == "SigningKey(<secret>)"
    assert repr(sealing) == "SealingKey(<secret>)"
    for secret in (key, sealing):
        with pytest.raises(TypeError, match="not pickled"):
            secret.__reduce__()


def test_sealed_for_one_key_and_one_purpose() -> None:
    one, other = SealingKey.make(), SealingKey.make()
    sealed = seal(b"secret", one.public, b"purpose")
    assert SealingKey.load(one.raw()).open(sealed, b"purpose") == b"secret"
    for key, content, purpose in (
        (other, sealed, b"purpose"),
        (one, sealed, b"another"),
        (one, sealed[:-1], b"purpose"),
        (one, b"", b"purpose"),
        (one, bytes([sealed[0] ^ 1]) + sealed[1:], b"purpose"),
    ):
        with pytest.raises(SealError):
            key.open(content, purpose)


def test_without_its_sealing_key_a_node_says_what_is_lost(store: MemoryStore, tmp_path: Path) -> None:
    keeper(store, tmp_path).open(NOW_S)
    (tmp_path / "tls" / "sealing.key").unlink()
    with pytest.raises(ChangeRefused, match=r"restore that file from a backup"):
        keeper(store, tmp_path).renew(NOW_S + 5)


def test_the_schedule_is_spread_and_the_same_every_time() -> None:
    dues = [renewal_due_s(NOW_S, NOW_S + LEAF_S, f"{serial:x}") for serial in range(1, 10**9, 10**7 + 1)]
    assert dues == [renewal_due_s(NOW_S, NOW_S + LEAF_S, f"{serial:x}") for serial in range(1, 10**9, 10**7 + 1)]
    assert NOW_S + LEAF_S * 7 // 12 <= min(dues) < max(dues) < NOW_S + LEAF_S * 8 // 12
    assert max(dues) - min(dues) > LEAF_S // 24
    assert renewal_due_s(NOW_S, NOW_S, "1") == NOW_S
    assert renewal_due_s(NOW_S, NOW_S - 5, "ff") == NOW_S
    assert list_due_s(NOW_S + LIST_S) == NOW_S + DAY_S


def test_a_certificate_is_renewed_in_time_and_the_old_one_passes_a_little_longer(
    store: MemoryStore, tmp_path: Path
) -> None:
    one = keeper(store, tmp_path)
    one.open(NOW_S)
    old = shown(tmp_path)
    (row,) = store.state.leaves.values()
    due_s = renewal_due_s(row.issued_s, row.not_after_s, row.serial)
    assert not one.tick(due_s - 1)
    assert one.tick(due_s - 1 + LOOK_S) == "it is due"
    new = shown(tmp_path)
    now_s = due_s + LOOK_S
    assert new != old
    assert passes(tmp_path, [new], now_s)
    assert passes(tmp_path, [old], now_s)
    one.tick(now_s + PIN_OVERLAP_S + LOOK_S)
    found = judged(tmp_path, [old], now_s + PIN_OVERLAP_S + LOOK_S)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.PIN_MISMATCH
    assert passes(tmp_path, [new], now_s + PIN_OVERLAP_S + LOOK_S)


def test_a_node_that_slept_past_its_certificates_end_renews_at_once(store: MemoryStore, tmp_path: Path) -> None:
    keeper(store, tmp_path).open(NOW_S)
    later_s = NOW_S + 3 * LEAF_S
    one = keeper(store, tmp_path)
    one.open(later_s)
    assert passes(tmp_path, [shown(tmp_path)], later_s)
    assert next_update(tmp_path) == later_s + LIST_S
    assert len(store.state.leaves) == 1, "the expired one is forgotten"


def test_lists_are_made_anew_every_day_with_a_higher_number(store: MemoryStore, tmp_path: Path) -> None:
    one = keeper(store, tmp_path)
    one.open(NOW_S)
    for day in range(1, 4):
        one.tick(NOW_S + day * DAY_S)
        (row,) = store.state.authorities.values()
        assert row.crl_number == 1 + day
        assert next_update(tmp_path) == NOW_S + day * DAY_S + LIST_S


def test_a_certificate_from_another_life_is_replaced(store: MemoryStore, tmp_path: Path) -> None:
    stranger = SigningKey.make()
    keeper(store, tmp_path).open(NOW_S)
    CredentialFiles(str(tmp_path)).install(leaf(key=stranger.public), stranger)
    assert "refuse" in keeper(store, tmp_path).renewal(NOW_S)
    keeper(store, tmp_path).open(NOW_S + 1)
    assert passes(tmp_path, [shown(tmp_path)], NOW_S + 1)


def test_a_clock_that_nobody_set_makes_no_authority(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(ChangeRefused, match="the clock says 1970-01-02: set it"):
        keeper(store, tmp_path).open(DAY_S)
    assert store.generation() == 0


@pytest.mark.parametrize("years", [-2, 11])
def test_an_authority_that_is_over_issues_nothing_until_it_is_rotated(
    store: MemoryStore, tmp_path: Path, years: int
) -> None:
    keeper(store, tmp_path).open(NOW_S)
    then_s = NOW_S + years * 365 * DAY_S
    one = keeper(store, tmp_path)
    with pytest.raises(ChangeRefused, match=r"good from 2027-.* to 2037-.* only: set the clock, or .* rotate-ca"):
        one.open(then_s)
    one.custodian.begin_rotation(then_s)
    one.publish(then_s)
    for second in range(LOOK_S * 2):
        with contextlib.suppress(ChangeRefused):
            one.tick(then_s + RELOAD_S + second)
    assert passes(tmp_path, [shown(tmp_path)], then_s + RELOAD_S + LOOK_S * 2)


# ---- requests ----


def test_only_the_key_of_a_request_is_taken(store: MemoryStore, tmp_path: Path) -> None:
    one = keeper(store, tmp_path)
    one.open(NOW_S)
    key = SigningKey.make()
    row = one.custodian.issue(key.request("i am node zero, and an authority"), OTHER_NODE, NOW_S)
    assert row.node_id == OTHER_NODE
    assert row.spki_sha256 == key.spki_sha256
    one.tick(NOW_S)
    found = judged(tmp_path, [row.certificate], node=OTHER_NODE)
    assert isinstance(found, PeerIdentity)
    assert (found.node_id, found.name.cluster_id) == (OTHER_NODE, CLUSTER)
    assert one.custodian.issue(key.request("again"), OTHER_NODE, NOW_S + 5) == row, "the same key resumes"


def test_a_request_without_proof_or_form_is_refused() -> None:
    good = SigningKey.make().request("x")
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    for request, words in (
        (flipped, "no proof"),
        (b"", "not a certificate signing request"),
        (good[:-5], "not a certificate signing request"),
        (leaf(), "not a certificate signing request"),
        (bytes(5000), "at most 4096"),
    ):
        with pytest.raises(RequestError, match=words):
            requested_key(request)


@pytest.mark.parametrize("kind", ["p-384", "rsa"])
def test_a_request_for_another_kind_of_key_is_refused(kind: str) -> None:
    key = ec.generate_private_key(ec.SECP384R1()) if kind == "p-384" else rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(RequestError, match="not of P-256"):
        requested_key(request.public_bytes(Encoding.DER))


def test_the_key_of_another_node_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    one = keeper(store, tmp_path)
    one.open(NOW_S)
    key = SigningKey.make()
    one.custodian.issue(key.request("a"), OTHER_NODE, NOW_S)
    with pytest.raises(ChangeRefused, match="another node's"):
        one.custodian.issue(key.request("b"), NODE, NOW_S)


# ---- revoking and removing ----


def test_a_revoked_certificate_is_refused_and_its_node_makes_another(store: MemoryStore, tmp_path: Path) -> None:
    one = keeper(store, tmp_path)
    one.open(NOW_S)
    old = shown(tmp_path)
    (row,) = store.state.leaves.values()
    one.custodian.revoke(row.serial, NOW_S + 5)
    assert "revoked" in one.tick(NOW_S + 5)
    found = judged(tmp_path, [old], NOW_S + 5)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.REVOKED
    assert passes(tmp_path, [shown(tmp_path)], NOW_S + 5)
    with pytest.raises(ChangeRefused, match="revoked already"):
        one.custodian.revoke(row.serial, NOW_S + 6)


def test_a_revoked_key_that_waits_for_its_certificate_is_thrown_away(store: MemoryStore, tmp_path: Path) -> None:
    one = keeper(store, tmp_path)
    one.open(NOW_S)
    waiting = CredentialFiles(str(tmp_path)).next_key()
    row = one.custodian.issue(waiting.request("x"), NODE, NOW_S)
    one.custodian.revoke(row.serial, NOW_S)
    assert one.renew(NOW_S + 1).spki_sha256 != waiting.spki_sha256


def test_a_removed_node_is_refused_and_gets_no_certificate(store: MemoryStore, tmp_path: Path) -> None:
    one = keeper(store, tmp_path)
    one.open(NOW_S)
    key = SigningKey.make()
    row = one.custodian.issue(key.request("x"), OTHER_NODE, NOW_S)
    one.custodian.remove(OTHER_NODE, NOW_S)
    one.tick(NOW_S + 1)
    found = judged(tmp_path, [row.certificate], NOW_S + 1, OTHER_NODE)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.REMOVED_NODE
    with pytest.raises(ChangeRefused, match="was removed"):
        one.custodian.issue(SigningKey.make().request("x"), OTHER_NODE, NOW_S)
    with pytest.raises(ChangeRefused, match="does not remove itself"):
        one.custodian.remove(NODE, NOW_S)


# ---- rotation of the authority ----


class Two:
    """Two nodes; the first holds the authority's key, and issues for the second."""

    def __init__(self, store: MemoryStore, path: Path) -> None:
        self.store, self.paths = store, (path / "one", path / "two")
        self.one = keeper(store, self.paths[0])
        self.one.open(NOW_S)
        self.key = SigningKey.make()
        self.leaf = self.issue(NOW_S)

    def issue(self, now_s: int) -> bytes:
        return self.one.custodian.issue(self.key.request("two"), OTHER_NODE, now_s).certificate

    def acknowledge(self) -> None:
        """The second node tells that it uses what there is now."""
        Custodian(self.store, CLUSTER, OTHER_NODE, SealingKey.make(), LEAF_S).acknowledge(self.store.generation())

    def both_pass(self, now_s: int) -> bool:
        trusted = trust_of(CLUSTER, self.store.state)
        chains = {NODE: [shown(self.paths[0])], OTHER_NODE: [self.leaf]}
        found = [verify_peer(chain, trusted, now_s, Expected(node)) for node, chain in chains.items()]
        return all(isinstance(one, PeerIdentity) for one in found)


def test_a_rotation_keeps_every_peer_and_ends_when_nobody_uses_the_old_authority(
    store: MemoryStore, tmp_path: Path
) -> None:
    two = Two(store, tmp_path)
    custodian, now_s = two.one.custodian, NOW_S + 100
    (old,) = store.state.authorities
    assert not run(two.one, now_s, 3)
    new = custodian.begin_rotation(now_s).fingerprint
    with pytest.raises(ChangeRefused, match="has begun already"):
        custodian.begin_rotation(now_s)
    assert not run(two.one, now_s, RELOAD_S + 3), "one node trusts the new authority, the other has not told"
    assert two.both_pass(now_s)
    with pytest.raises(ChangeRefused, match="still issues"):
        custodian.finish_rotation(now_s)
    two.acknowledge()
    assert run(two.one, now_s + 20, 3) == ["another authority issues now"]
    assert two.both_pass(now_s + 20)
    with pytest.raises(ChangeRefused, match="are in use"):
        custodian.finish_rotation(now_s + 20)
    two.leaf = two.issue(now_s + 30)
    assert two.both_pass(now_s + 30)
    later_s = now_s + 30 + PIN_OVERLAP_S + 1
    assert custodian.finish_rotation(later_s) == 1
    assert set(store.state.authorities) == {new}
    assert old != new
    assert two.both_pass(later_s)
    with pytest.raises(ChangeRefused, match="no rotation has begun"):
        custodian.finish_rotation(later_s)
    assert not run(two.one, later_s, 10)
    assert two.both_pass(later_s + 10)


def test_both_authorities_keep_lists_during_a_rotation(store: MemoryStore, tmp_path: Path) -> None:
    two = Two(store, tmp_path)
    two.one.custodian.begin_rotation(NOW_S)
    before = {key: row.crl_number for key, row in store.state.authorities.items()}
    two.one.tick(NOW_S + DAY_S)
    assert {key: row.crl_number - before[key] for key, row in store.state.authorities.items()} == dict.fromkeys(
        before, 1
    )


def test_a_key_is_sealed_for_the_keepers_alone(store: MemoryStore, tmp_path: Path) -> None:
    two = Two(store, tmp_path)
    sealing = SealingKey.make()
    second = Custodian(store, CLUSTER, OTHER_NODE, sealing, LEAF_S)
    request = SigningKey.make().request("x")
    with pytest.raises(ChangeRefused, match="does not hold the authority's key"):
        second.issue(request, OTHER_NODE, NOW_S)
    with pytest.raises(ChangeRefused, match="no sealing key"):
        two.one.custodian.rewrap([NODE, OTHER_NODE])
    store.change(store.generation(), [RegisterSealingKey(OTHER_NODE, sealing.public)])
    two.one.custodian.rewrap([NODE, OTHER_NODE])
    assert second.issue(request, OTHER_NODE, NOW_S).node_id == OTHER_NODE
    second.rewrap([OTHER_NODE])
    with pytest.raises(ChangeRefused, match="does not hold"):
        two.one.custodian.issue(SigningKey.make().request("y"), NODE, NOW_S)


# ---- crashes ----


def life(store: MemoryStore, path: Path, begin_s: int = NOW_S) -> int:
    """A start, a renewal that is due, and a whole rotation, which is skipped when it is done already; when it ended."""
    one = keeper(store, path)
    one.open(begin_s)
    one.tick(begin_s + LEAF_S * 3 // 4)
    now_s = begin_s + LEAF_S
    one.open(now_s)
    if store.state.generation and len(store.state.authorities) == 1 and max_added(store) < 3:
        one.custodian.begin_rotation(now_s)
    one.tick(now_s + LOOK_S)
    one.tick(now_s + LOOK_S + RELOAD_S)
    one.tick(now_s + 2 * LOOK_S)
    one.tick(now_s + 2 * LOOK_S + 1)
    if len(store.state.authorities) > 1:
        one.custodian.finish_rotation(now_s + 3 * LOOK_S + PIN_OVERLAP_S)
    one.tick(now_s + 4 * LOOK_S + PIN_OVERLAP_S)
    one.tick(now_s + 5 * LOOK_S + 2 * PIN_OVERLAP_S)
    return now_s + 5 * LOOK_S + 2 * PIN_OVERLAP_S


def max_added(store: MemoryStore) -> int:
    return max(row.added for row in store.state.authorities.values())


def cutting(steps: Steps) -> Callable[[str, str, bytes], None]:
    def replace(path: str, name: str, content: bytes) -> None:
        steps.step()
        replace_file(path, name, content)
        steps.step()

    return replace


def test_a_life_that_is_cut_at_any_step_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MemoryStore()
    monkeypatch.setattr(files, "replace_file", cutting(whole.steps))
    life(whole, tmp_path / "whole")
    count = whole.steps.done
    assert count > 30
    for cut_at in range(1, count + 1):
        store, path = MemoryStore(), tmp_path / str(cut_at)
        store.steps.cut_at = cut_at
        monkeypatch.setattr(files, "replace_file", cutting(store.steps))
        with pytest.raises(Cut):
            life(store, path)
        end_s = life(store, path, NOW_S + 2 * LEAF_S)
        assert passes(path, [shown(path)], end_s), f"cut at step {cut_at}"
        assert len(store.state.authorities) == 1
        assert len(store.state.nodes[NODE].pins) == 1
        assert not (path / "tls" / "next.key").exists()
        (row,) = store.state.authorities.values()
        assert row.added > 2, "the authority was rotated"


def test_two_that_change_keys_at_once_are_told(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_WAIT_S", 0.05)
    one = keeper(store, tmp_path)
    one.open(NOW_S)
    with CredentialFiles(str(tmp_path)).locked(), pytest.raises(StartError, match="being changed by another process"):
        one.renew(NOW_S)
    assert one.renew(NOW_S)


def test_a_process_reads_the_trust_only_when_it_changed(store: MemoryStore, tmp_path: Path) -> None:
    one = keeper(store, tmp_path)
    reader = CredentialFiles(str(tmp_path))
    assert reader.changed_trust() is None
    one.open(NOW_S)
    first = reader.changed_trust()
    assert first is not None
    assert reader.changed_trust() is None
    one.renew(NOW_S + 1)
    one.tick(NOW_S + 1)
    second = reader.changed_trust()
    assert second is not None
    assert second.generation > first.generation
    assert second.membership.pins[NODE] > first.membership.pins[NODE]
