"""One suite for every SecurityStore: the catalog's, and the plainest possible one that it is compared with.

Another implementation (the metadata group's) joins by a row in STORES: a context manager that opens it on a directory,
twice on the same one to give the same state.
"""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodedb_node.errors import StartError
from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.metadata.catalog import Catalog
from nodedb_node.metadata.security import (
    AUTHORITIES_MAX,
    EMPTY,
    LEAVES_KEPT_S,
    PIN_OVERLAP_S,
    PINS_MAX,
    Acknowledge,
    AddAuthority,
    AuthorityRow,
    Change,
    ChangeRefused,
    Conflict,
    DropPin,
    KeyRevoked,
    LeafRow,
    RecordLeaf,
    RegisterSealingKey,
    RemoveNode,
    ReplaceList,
    RetireAuthority,
    Revoke,
    Rewrap,
    SecurityState,
    SecurityStore,
    Tidy,
    apply_all,
)
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.keeper import Keeper

NOW_S = 1_800_000_000
A, B = b"a" * 32, b"b" * 32
N1, N2 = "1" * 40, "2" * 40


class PlainStore:
    """The state in a variable."""

    def __init__(self) -> None:
        self.state = EMPTY

    def read(self) -> SecurityState:
        return self.state

    def generation(self) -> int:
        return self.state.generation

    def change(self, expected: int, changes: Sequence[Change]) -> SecurityState:
        self.state = apply_all(self.state, expected, changes)
        return self.state


PLAIN: dict[Path, PlainStore] = {}


@contextmanager
def plain(path: Path) -> Iterator[SecurityStore]:
    yield PLAIN.setdefault(path, PlainStore())


@contextmanager
def catalog(path: Path) -> Iterator[SecurityStore]:
    with Catalog.open(path / "catalog") as opened:
        yield opened.security()


Opener = Callable[[Path], AbstractContextManager[SecurityStore]]
STORES: dict[str, Opener] = {"plain": plain, "catalog": catalog}


@pytest.fixture(params=STORES.values(), ids=STORES)
def opener(request: pytest.FixtureRequest) -> Opener:
    found: Opener = request.param
    return found


@pytest.fixture
def store(opener: Opener, tmp_path: Path) -> Iterator[SecurityStore]:
    with opener(tmp_path) as opened:
        yield opened


def authority(mark: bytes = A, keepers: Sequence[str] = (N1,)) -> AuthorityRow:
    keys = {node: b"sealed for " + node.encode() for node in keepers}
    return AuthorityRow(fingerprint=mark, certificate=b"certificate", crl=b"list 1", crl_number=1, wrapped=keys)


def leaf(serial: str, node: str = N1, issuer: bytes = A, pin: bytes | None = None, issued_s: int = NOW_S) -> LeafRow:
    return LeafRow(
        serial=serial,
        issuer=issuer,
        node_id=node,
        not_after_s=NOW_S + 1000,
        issued_s=issued_s,
        spki_sha256=pin or serial.encode().ljust(32, b"\0"),
        certificate=b"leaf " + serial.encode(),
    )


def do(store: SecurityStore, *changes: Change) -> SecurityState:
    return store.change(store.generation(), changes)


def refused(store: SecurityStore, change: Change, words: str, kind: type[ChangeRefused] = ChangeRefused) -> None:
    before = store.read()
    with pytest.raises(kind, match=words):
        do(store, change)
    assert store.read() == before


def founded(store: SecurityStore) -> SecurityState:
    return do(store, RegisterSealingKey(N1, b"k" * 32), AddAuthority(authority()), RecordLeaf(leaf("1")))


def test_a_new_store_is_empty(store: SecurityStore) -> None:
    assert store.read() == EMPTY
    assert store.generation() == 0
    assert store.read().issuing() is None


def test_changes_are_there_after_opening_again(opener: Opener, tmp_path: Path) -> None:
    with opener(tmp_path) as store:
        state = founded(store)
    with opener(tmp_path) as store:
        assert store.read() == state
        assert store.generation() == 3
        assert state.authorities[A].added == 2
        assert state.nodes[N1].pins == (b"1".ljust(32, b"\0"),)


def test_two_openings_see_each_others_changes(opener: Opener, tmp_path: Path) -> None:
    with opener(tmp_path) as store:
        founded(store)
        if isinstance(store, PlainStore):
            do(store, RecordLeaf(leaf("2")))
        else:
            _in_another_process(tmp_path)
        assert store.generation() == 4
        assert set(store.read().leaves) == {"1", "2"}


def _in_another_process(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.conformance.test_security_store import *\n"
        "with catalog(Path(sys.argv[1])) as store: do(store, RecordLeaf(leaf('2')))"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, cwd=root)


def test_a_change_against_an_older_state_is_a_conflict(store: SecurityStore) -> None:
    founded(store)
    with pytest.raises(Conflict, match="generation 3, not 2"):
        store.change(2, [RecordLeaf(leaf("2"))])
    assert set(store.read().leaves) == {"1"}


def test_several_changes_are_all_done_or_none(store: SecurityStore) -> None:
    before = founded(store)
    with pytest.raises(ChangeRefused, match="issued already"):
        do(store, RecordLeaf(leaf("2")), RecordLeaf(leaf("1")))
    assert store.read() == before
    assert do(store, RecordLeaf(leaf("2")), RecordLeaf(leaf("3"))).generation == before.generation + 2


def test_authorities(store: SecurityStore) -> None:
    founded(store)
    refused(store, AddAuthority(authority()), "trusted already")
    refused(store, RetireAuthority(A, NOW_S), "only authority")
    refused(store, RetireAuthority(B, NOW_S), "no authority")
    for number in range(AUTHORITIES_MAX - 1):
        do(store, AddAuthority(authority(bytes([number]) * 32)))
    refused(store, AddAuthority(authority(B)), "finish a rotation")


def test_a_new_authority_issues_once_every_node_trusts_it(store: SecurityStore) -> None:
    founded(store)
    do(store, RecordLeaf(leaf("2", N2)))
    added = do(store, AddAuthority(authority(B))).generation
    assert store.read().issuing() == store.read().authorities[A]
    assert store.read().unaware(store.read().authorities[B]) == [N1, N2]
    refused(store, RetireAuthority(A, NOW_S), "still issues")
    do(store, Acknowledge(N1, added))
    assert store.read().issuing() == store.read().authorities[A]
    do(store, Acknowledge(N2, added))
    assert store.read().issuing() == store.read().authorities[B]
    refused(store, RetireAuthority(A, NOW_S), "2 certificates of this authority are in use")
    do(store, RecordLeaf(leaf("3", N1, B)), DropPin(N1, leaf("1").spki_sha256), RemoveNode(N2, NOW_S))
    state = do(store, RetireAuthority(A, NOW_S))
    assert set(state.authorities) == {B}
    assert set(state.leaves) == {"3"}


def test_a_node_that_joins_during_a_rotation_does_not_turn_it_back(store: SecurityStore) -> None:
    """It is handed the trust of now with its first certificate."""
    founded(store)
    added = do(store, AddAuthority(authority(B))).generation
    do(store, RecordLeaf(leaf("2", N2)))
    assert store.read().unaware(store.read().authorities[B]) == [N1]
    do(store, Acknowledge(N1, added))
    state = do(store, RecordLeaf(leaf("3", "3" * 40, B)))
    assert state.issuing() == state.authorities[B] and not state.unaware(state.authorities[B])


def test_a_removed_node_does_not_hold_up_a_rotation(store: SecurityStore) -> None:
    founded(store)
    do(store, RecordLeaf(leaf("2", N2)))
    added = do(store, AddAuthority(authority(B))).generation
    do(store, Acknowledge(N1, added), RemoveNode(N2, NOW_S))
    assert store.read().issuing() == store.read().authorities[B]


def test_an_acknowledgement_is_of_a_generation_that_was(store: SecurityStore) -> None:
    generation = founded(store).generation
    refused(store, Acknowledge(N1, generation + 1), "can have reached")
    refused(store, Acknowledge(N2, 1), "no node")
    do(store, Acknowledge(N1, generation))
    refused(store, Acknowledge(N1, generation - 1), "can have reached")


def test_leaves_and_pins(store: SecurityStore) -> None:
    founded(store)
    refused(store, RecordLeaf(leaf("1")), "issued already")
    refused(store, RecordLeaf(leaf("2", issuer=B)), "no authority")
    refused(store, RecordLeaf(leaf("2", N2, pin=leaf("1").spki_sha256)), "another node's")
    again = do(store, RecordLeaf(leaf("2", pin=leaf("1").spki_sha256)))
    assert len(again.nodes[N1].pins) == 1
    for number in range(3, PINS_MAX + 2):
        do(store, RecordLeaf(leaf(str(number))))
    refused(store, RecordLeaf(leaf("9")), "drop one first")
    refused(store, DropPin(N1, b"x" * 32), "no such pin")
    state = do(store, DropPin(N1, leaf("3").spki_sha256))
    assert leaf("3").spki_sha256 not in state.nodes[N1].pins
    assert not state.in_use(state.leaves["3"], NOW_S)
    assert state.in_use(state.leaves["4"], NOW_S)
    assert not state.in_use(state.leaves["4"], NOW_S + 1001)


def test_revoking(store: SecurityStore) -> None:
    founded(store)
    refused(store, Revoke("5", b"list 2", 2, NOW_S), "no certificate")
    refused(store, Revoke("1", b"list 1", 1, NOW_S), "not newer")
    state = do(store, Revoke("1", b"list 2", 2, NOW_S))
    assert (state.authorities[A].crl, state.authorities[A].crl_number) == (b"list 2", 2)
    assert state.leaves["1"].revoked_s == NOW_S
    assert state.nodes[N1].pins == ()
    refused(store, Revoke("1", b"list 3", 3, NOW_S), "revoked already")
    refused(store, RecordLeaf(leaf("2", pin=leaf("1").spki_sha256)), "another key", KeyRevoked)


def test_a_pin_stays_while_another_certificate_of_its_key_is_good(store: SecurityStore) -> None:
    founded(store)
    do(store, RecordLeaf(leaf("2", pin=leaf("1").spki_sha256)))
    state = do(store, Revoke("1", b"list 2", 2, NOW_S))
    assert state.in_use(state.leaves["2"], NOW_S)


def test_lists_only_get_newer(store: SecurityStore) -> None:
    founded(store)
    refused(store, ReplaceList(A, b"list 1", 1), "not newer")
    refused(store, ReplaceList(B, b"list 2", 2), "no authority")
    assert do(store, ReplaceList(A, b"list 7", 7)).authorities[A].crl == b"list 7"


def test_a_removed_node_never_returns(store: SecurityStore) -> None:
    founded(store)
    refused(store, RemoveNode(N1, NOW_S), "alone holds")
    refused(store, RemoveNode(N2, NOW_S), "no node")
    do(store, RegisterSealingKey(N2, b"2" * 32), Rewrap(A, {N1: b"x", N2: b"y"}))
    state = do(store, RemoveNode(N1, NOW_S))
    assert state.nodes[N1].removed_s == NOW_S
    assert state.nodes[N1].pins == ()
    assert state.authorities[A].wrapped == {N2: b"y"}
    refused(store, RecordLeaf(leaf("2")), "was removed")
    refused(store, RegisterSealingKey(N1, b"1" * 32), "was removed")
    refused(store, Rewrap(A, {N1: b"x"}), "no sealing key")


def test_keys_are_wrapped_for_nodes_that_can_open_them(store: SecurityStore) -> None:
    founded(store)
    refused(store, Rewrap(A, {}), "lost")
    refused(store, Rewrap(A, {N2: b"x"}), "no node")
    refused(store, RegisterSealingKey(N1, b"short"), "32 bytes")
    do(store, RecordLeaf(leaf("2", N2)))
    refused(store, Rewrap(A, {N2: b"x"}), "no sealing key")


def test_tidying(store: SecurityStore) -> None:
    founded(store)
    do(store, RecordLeaf(leaf("2", issued_s=NOW_S + 100)))
    both = {leaf("1").spki_sha256, leaf("2").spki_sha256}
    assert set(do(store, Tidy(NOW_S + 100 + PIN_OVERLAP_S)).nodes[N1].pins) == both
    state = do(store, Tidy(NOW_S + 101 + PIN_OVERLAP_S))
    assert state.nodes[N1].pins == (leaf("2").spki_sha256,)
    assert set(state.leaves) == {"1", "2"}
    assert not do(store, Tidy(NOW_S + 1001 + LEAVES_KEPT_S)).leaves


def test_a_write_that_fails_is_told_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with catalog(tmp_path) as store:
        before = founded(store)
        monkeypatch.setattr("nodedb_node.metadata.securitycatalog.rows", _too_many)
        with pytest.raises(StartError, match=r"cannot be written: .*MAP_FULL.*is the disk full"):
            do(store, RecordLeaf(leaf("2")))
        monkeypatch.undo()
        assert store.read() == before
        assert do(store, RecordLeaf(leaf("2"))).leaves["2"].recorded == before.generation + 1


def test_a_commit_that_fails_leaves_no_generation_that_never_was(tmp_path: Path) -> None:
    """The file that says whether to look is written before the commit: a disk that is full must not leave it ahead,
    or readers would look every second, and who compares it would miss the change that gets this number next."""
    with catalog(tmp_path) as store:
        before = founded(store)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "catalog" / "data.mdb").stat().st_size, hard))
        try:
            with pytest.raises(StartError, match="cannot be written"):
                do(store, RecordLeaf(msgspec.structs.replace(leaf("2"), certificate=bytes(1 << 19))))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert store.generation() == store.read().generation == before.generation
        assert do(store, RecordLeaf(leaf("2"))).generation == store.generation() == before.generation + 1


def _too_many(state: SecurityState) -> dict[bytes, bytes]:
    """More than the catalog holds, for any state but the first."""
    return {b"x%d" % number: bytes(1 << 20) for number in range(100 if len(state.leaves) > 1 else 1)}


WRITER = """
import sys
from pathlib import Path
from nodedb_node.ids import ClusterId, NodeId
from nodedb_node.metadata.catalog import Catalog
from nodedb_node.transport.credentials.authority import SigningKey
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.keeper import Keeper
path, first = sys.argv[1], int(sys.argv[2])
with Catalog.open(Path(path) / "catalog") as catalog:
    keeper = Keeper(catalog.security(), CredentialFiles(path), ClusterId("c" * 32), NodeId("1" * 40), 86400)
    for number in range(first, first + 25):
        keeper.custodian.issue(SigningKey.make().request("x"), NodeId(f"{number:040x}"), 1_800_000_000)
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    files = CredentialFiles(str(tmp_path))
    with catalog(tmp_path) as store:
        Keeper(store, files, ClusterId("c" * 32), NodeId(N1), 86400).open(NOW_S)
        argv = [sys.executable, "-c", WRITER, str(tmp_path)]
        writers = [subprocess.Popen([*argv, str(first)]) for first in (100, 200, 300)]
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
        state = store.read()
    assert len(state.leaves) == 76
    assert len({leaf.recorded for leaf in state.leaves.values()}) == 76
    assert all(len(node.pins) == 1 for node in state.nodes.values())


def test_rows_with_keys_do_not_show_them() -> None:
    assert "sealed for" not in repr(authority())


def test_a_damaged_row_is_told_and_not_used(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog") as opened:
        founded(opened.security())
        environment = opened._environment
        with environment.begin(db=environment.open_db(b"security"), write=True) as change:
            change.put(b"node/" + N1.encode(), b"\xc1")
        with pytest.raises(StartError, match="damaged"):
            opened.security().read()


CHANGES = st.one_of(
    st.builds(AddAuthority, st.builds(authority, st.sampled_from([A, B]))),
    st.builds(RetireAuthority, st.sampled_from([A, B]), st.just(NOW_S)),
    st.builds(
        RecordLeaf, st.builds(leaf, st.sampled_from("123456"), st.sampled_from([N1, N2]), st.sampled_from([A, B]))
    ),
    st.builds(Revoke, st.sampled_from("123456"), st.just(b"list"), st.integers(1, 9), st.just(NOW_S)),
    st.builds(ReplaceList, st.sampled_from([A, B]), st.just(b"list"), st.integers(1, 9)),
    st.builds(DropPin, st.sampled_from([N1, N2]), st.sampled_from("123456").map(lambda s: leaf(s).spki_sha256)),
    st.builds(RemoveNode, st.sampled_from([N1, N2]), st.just(NOW_S)),
    st.builds(Acknowledge, st.sampled_from([N1, N2]), st.integers(0, 40)),
    st.builds(RegisterSealingKey, st.sampled_from([N1, N2]), st.just(b"k" * 32)),
    st.builds(Rewrap, st.sampled_from([A, B]), st.dictionaries(st.sampled_from([N1, N2]), st.just(b"w"))),
    st.builds(Tidy, st.integers(NOW_S, NOW_S + 3000)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGES, max_size=30))
def test_every_store_goes_the_way_of_the_plain_one(
    tmp_path_factory: pytest.TempPathFactory, changes: list[Change]
) -> None:
    reference = PlainStore()
    path = tmp_path_factory.mktemp("store")
    with catalog(path) as store:
        for change in changes:
            assert _outcome(reference, change) == _outcome(store, change)
            assert reference.read() == store.read()
            _invariants(reference.read())
    with catalog(path) as store:
        assert store.read() == reference.read()


def _outcome(store: SecurityStore, change: Change) -> str:
    try:
        do(store, change)
        return "done"
    except ChangeRefused as error:
        return f"{type(error).__name__}: {error}"


def _invariants(state: SecurityState) -> None:
    for row in state.leaves.values():
        assert row.issuer in state.authorities
        assert row.node_id in state.nodes
        assert not (row.revoked_s and state.in_use(row, NOW_S))
    for node in state.nodes.values():
        assert not (node.removed_s and node.pins)
        assert len(node.pins) <= PINS_MAX
    for found in state.authorities.values():
        assert found.wrapped
        assert not any(state.nodes[node].removed_s for node in found.wrapped)
    assert state.issuing() is not None or not state.authorities
