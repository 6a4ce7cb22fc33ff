"""Control's part in the peers' credentials: with a clock that the test turns."""

import logging
from pathlib import Path

import pytest

from nodedb_node.admin.loops import LoopMetrics
from nodedb_node.config import resolve
from nodedb_node.control.peersecurity import INSECURE, RETRY_S, WARNED_S, PeerSecurity
from nodedb_node.errors import StartError
from nodedb_node.metadata.catalog import Catalog
from nodedb_node.supervisor.boot import Boot, Ports
from nodedb_node.transport.credentials import files
from nodedb_node.transport.credentials.authority import DAY_S, LIST_S
from nodedb_node.transport.credentials.files import CredentialFiles
from tests.transport.credentials.kit import CLUSTER, NODE, NOW_S
from tests.transport.credentials.stage import MemoryStore


def boot(directory: Path, security: str = "mtls") -> Boot:
    return Boot(
        role="control",
        process=0,
        generation=1,
        workers=1,
        supervisor_pid=1,
        started_us=1,
        node_id=NODE,
        cluster_id=CLUSTER,
        node_generation=1,
        groups=8,
        data_dir=str(directory),
        layout_dir=str(directory),
        ports=Ports("", 0, [], "", 0),
        pins=[[]] * 2,
        spares=[[]] * 2,
        memory_nodes=[-1] * 2,
        shm_fd=-1,
        bell_fds=[],
        status_fd=-1,
        config=resolve("", "", {}, {"peers": {"security": security, "certificate_days": 30}}),
    )


def security(directory: Path, store: MemoryStore, how: str = "mtls") -> tuple[PeerSecurity, LoopMetrics]:
    loop = LoopMetrics("credentials")
    return PeerSecurity(store, boot(directory, how), loop), loop


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_a_start_makes_what_peers_ask_for(tmp_path: Path, store: MemoryStore) -> None:
    one, loop = security(tmp_path, store)
    facts = one.open(NOW_S)
    assert not facts.insecure
    assert (facts.authorities, facts.trust_generation) == (1, store.generation())
    assert facts.certificate_not_after_s == NOW_S + 30 * DAY_S
    assert facts.list_next_update_s == NOW_S + LIST_S
    assert one.tick(NOW_S + 1) == facts
    assert (loop.runs, loop.errors) == (2, {})


def test_insecure_is_said_at_once_and_every_minute_and_makes_nothing(
    tmp_path: Path, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = security(tmp_path, store, "insecure")
    with caplog.at_level(logging.WARNING):
        facts = one.open(NOW_S)
        assert (facts.insecure, facts.insecure_warnings) == (True, 1)
        for second in range(1, 2 * WARNED_S + 1):
            facts = one.tick(NOW_S + second)
    assert facts.insecure_warnings == 3
    assert [record.message for record in caplog.records] == [INSECURE] * 3
    assert store.generation() == 0
    assert not list(tmp_path.iterdir())


def test_what_keeps_a_renewal_from_succeeding_is_told_and_tried_again(
    tmp_path: Path, store: MemoryStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_WAIT_S", 0.0)
    one, loop = security(tmp_path, store)
    one.open(NOW_S)
    due_s = NOW_S + 25 * DAY_S
    with CredentialFiles(str(tmp_path)).locked(), caplog.at_level(logging.ERROR):
        for second in range(2 * RETRY_S):
            before = one.tick(due_s + second)
    assert loop.errors["StartError"] >= 1
    assert len(caplog.records) == loop.errors["StartError"] <= 2
    after = one.tick(due_s + 100)
    assert after.certificate_not_after_s > before.certificate_not_after_s


def test_a_list_past_its_time_is_warned_of_every_minute(
    tmp_path: Path, store: MemoryStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = security(tmp_path, store)
    one.open(NOW_S)
    monkeypatch.setattr(one, "_keep_up", lambda now_s: None)
    with caplog.at_level(logging.WARNING):
        for second in range(WARNED_S + 2):
            one.tick(NOW_S + LIST_S + second)
    assert len(caplog.records) == 2
    assert "newer revocations are not known" in caplog.records[0].message


def test_a_start_without_the_sealing_key_goes_on_while_its_certificate_is_good(
    tmp_path: Path, store: MemoryStore
) -> None:
    security(tmp_path, store)[0].open(NOW_S)
    (tmp_path / "tls" / "sealing.key").unlink()
    one, loop = security(tmp_path, store)
    facts = one.open(NOW_S + 2 * DAY_S)
    assert facts.certificate_not_after_s == NOW_S + 30 * DAY_S
    assert loop.errors == {"ChangeRefused": 1}, "the revocation list was due"
    with pytest.raises(StartError, match=r"peers would refuse this node, expired"):
        security(tmp_path, store)[0].open(NOW_S + 31 * DAY_S)


def test_facts_follow_what_others_change(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog") as catalog:
        one = PeerSecurity(catalog.security(), boot(tmp_path), LoopMetrics("credentials"))
        before = one.open(NOW_S)
        with_verb = PeerSecurity(catalog.security(), boot(tmp_path), LoopMetrics("verb"))
        with_verb.open(NOW_S + 1)
        assert with_verb._keeper is not None
        with_verb._keeper.custodian.begin_rotation(NOW_S + 1)
        after = one.tick(NOW_S + 2)
        assert (before.authorities, after.authorities) == (1, 2)
        assert after.trust_generation > before.trust_generation
        assert after.certificate_not_after_s == before.certificate_not_after_s
