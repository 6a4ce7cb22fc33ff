"""Certificates in the running node: made at its first start, changed beside it, taken over without a restart."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nodedb_node.metadata.catalog import Catalog
from nodedb_node.metadata.security import Acknowledge
from nodedb_node.transport.credentials import authority, spiffe
from nodedb_node.transport.credentials.authority import SigningKey
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.sealing import authority_purpose
from tests.process.node import Node, node, wait_for


def cert(one: Node, *args: str) -> str:
    argv = [sys.executable, "-m", "nodedb_node", "cert", *args, "--data-dir", str(one.data_dir)]
    done = subprocess.run(argv, capture_output=True, text=True, env=one.environment())
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def shown(one: Node) -> bytes:
    held = CredentialFiles(str(one.data_dir)).certificate()
    assert held is not None
    return held.der


def metric(one: Node, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{one.http_port}/metrics", timeout=5) as answer:
        found = re.search(rf"^nodedb_{name} (\S+)$", answer.read().decode(), re.M)
    assert found, name
    return float(found[1])


def verdict(one: Node) -> str:
    return cert(one, "show").splitlines()[1]


def test_a_node_makes_its_certificates_and_keeps_them_over_a_restart(tmp_path: Path) -> None:
    with node(tmp_path) as one:
        assert one.find_log("certificate authority was made")
        assert "its peers accept it" in verdict(one)
        assert metric(one, "peers_insecure") == 0
        assert metric(one, "peer_authorities") == 1
        before = shown(one)
        assert one.stop() == 0
        one.start()
        assert not one.find_log("certificate authority was made")
        assert shown(one) == before
        log = one.log_file.read_text()
        assert "PRIVATE" not in log
        assert (one.data_dir / "tls" / "sealing.key").read_text().strip() not in log


def test_insecure_is_asked_for_and_loud(tmp_path: Path) -> None:
    with Node(tmp_path) as one:
        one.start("--peers", "insecure")
        assert one.find_log("level=warning .*peers are NOT checked")
        assert metric(one, "peers_insecure") == 1
        assert metric(one, "peers_insecure_warnings_total") == 1
        assert not (one.data_dir / "tls").exists()
        assert one.stop() == 0
        one.start()
        assert metric(one, "peers_insecure") == 0
        assert "its peers accept it" in verdict(one)


def test_a_revoked_certificate_is_replaced_by_the_running_node(tmp_path: Path) -> None:
    with node(tmp_path) as one:
        before = shown(one)
        serial = cert(one, "pins").splitlines()[1].split()[2]
        said = cert(one, "revoke", serial)
        assert f"the running node (process {one.pid}) takes it over" in said
        wait_for(lambda: shown(one) != before, "another certificate", 10)
        wait_for(lambda: "accept" in verdict(one), "it to be accepted", 10)
        assert one.find_log("has a new certificate.*revoked")


LATER = """
import sys, nodedb_node.cli.cert as cert
from nodedb_node.cli.main import main
today = cert.now_s
cert.now_s = lambda: today() + 660
sys.exit(main())
"""


def run_cert(one: Node, *args: str, later: bool = False) -> tuple[int, str]:
    """The verb; later: eleven minutes from now."""
    how = ("-c", LATER) if later else ("-m", "nodedb_node")
    argv = [sys.executable, *how, "cert", *args, "--data-dir", str(one.data_dir)]
    done = subprocess.run(argv, capture_output=True, text=True, env=one.environment())
    return done.returncode, done.stdout + done.stderr


def test_an_authority_is_rotated_under_a_running_node(tmp_path: Path) -> None:
    """From begin to finish: both are trusted, the node renews, the old one goes, and with it whoever shows it still."""
    with node(tmp_path) as one:
        found, before = lanes(one), shown(one)
        second = Second(one, tmp_path / "second").certified()
        wait_for(lambda: "refused" not in second.ping(found["worker-0"]), "the other node to be let in", 20)
        cert(one, "rotate-ca", "begin")
        wait_for(lambda: metric(one, "peer_authorities") == 2, "both to be trusted", 10)
        code, said = run_cert(one, "rotate-ca", "finish")
        assert code == 69 and "not every node trusts the next one yet" in said
        alone = f"issues once these nodes trust it: {second.node_id[:16]}"
        wait_for(lambda: alone in cert(one, "show"), "the node itself to have told that it trusts it", 10)
        second.acknowledge()
        wait_for(lambda: shown(one) != before, "a certificate of the new authority", 30)
        wait_for(lambda: one.find_log("another authority issues now"), "the log to say why", 10)
        assert "accept" in verdict(one) and "refused" not in second.ping(found["worker-0"])
        code, said = run_cert(one, "rotate-ca", "finish")
        assert code == 69 and "in the last 10 minutes" in said and second.node_id[:12] in said
        again = Second(one, tmp_path / "again", key=SigningKey.make()).certified()
        code, said = run_cert(one, "rotate-ca", "finish", later=True)
        assert code == 0 and "the old authority is retired" in said, said
        wait_for(lambda: metric(one, "peer_authorities") == 1, "the new one alone to be trusted", 10)
        for lane in found.values():
            second.refused(lane, "refused .*other-authority")
            assert "refused" not in again.ping(lane)
        assert "accept" in verdict(one)


def lanes(one: Node) -> dict[str, str]:
    """Addresses by process, once every lane is open."""

    def look() -> dict[str, str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{one.http_port}/status", timeout=5) as answer:
            found = json.load(answer)["lanes"]
        return {lane["process"]: f"{lane['host']}:{lane['port']}" for lane in found}

    return wait_for(lambda: found if len(found := look()) == 1 + one.workers else {}, "the lanes to be open", 20)


class Second:
    """The directory of another node of the same cluster, made by hand as joining will make it."""

    def __init__(self, one: Node, path: Path, node_id: str = "b" * 40, key: SigningKey | None = None) -> None:
        self.one, self.path, self.node_id = one, path, node_id
        self.key = key or SigningKey.make()
        path.mkdir()
        first = json.loads((one.data_dir / "node.json").read_text())
        (path / "node.json").write_text(json.dumps(first | {"node_id": node_id}))
        self.files = CredentialFiles(str(path))
        self.files.make()
        self.files.sealing_key()

    def certified(self) -> "Second":
        csr = self.path / "csr.pem"
        csr.write_bytes(x509.load_der_x509_csr(self.key.request("b")).public_bytes(Encoding.PEM))
        pem = cert(self.one, "issue", "--csr", str(csr), "--node", self.node_id).partition("-----END")[0]
        der = x509.load_pem_x509_certificate(f"{pem}-----END CERTIFICATE-----\n".encode()).public_bytes(Encoding.DER)
        return self.shows(der)

    def acknowledge(self) -> None:
        """That it uses what there is now, as its control process would tell."""
        with Catalog.open(self.one.data_dir / "catalog") as catalog:
            store = catalog.security()
            store.change(store.generation(), [Acknowledge(self.node_id, store.generation())])

    def shows(self, der: bytes) -> "Second":
        self.files.install(der, self.key)
        return self

    def ping(self, lane: str) -> str:
        """What `peer ping` says: the peer's own words when it is refused."""
        shutil.copy(self.one.data_dir / "tls" / "trust", self.path / "tls" / "trust")
        argv = [sys.executable, "-m", "nodedb_node", "peer", "ping", lane, "--data-dir", str(self.path)]
        done = subprocess.run(
            [*argv, "--count", "3", "--mib", "0"], capture_output=True, text=True, env=self.one.environment()
        )
        return done.stdout if done.returncode == 0 else f"refused {done.stderr}"

    def refused(self, lane: str, words: str) -> None:
        """Once the node's processes have read what changed."""
        wait_for(lambda: re.search(words, self.ping(lane)), f"{lane} to say {words}; it says {self.ping(lane)}", 20)


def test_another_node_is_let_in_until_it_is_revoked_unpinned_or_removed(tmp_path: Path) -> None:
    with node(tmp_path) as one:
        found = lanes(one)
        second = Second(one, tmp_path / "second").certified()
        for lane in found.values():
            wait_for(lambda lane=lane: "refused" not in second.ping(lane), f"{lane} to let it in", 20)
        serial = cert(one, "pins", "--node", second.node_id).splitlines()[1].split()[2]
        cert(one, "revoke", serial)
        for lane in found.values():
            second.refused(lane, "refused .*revoked")
        again = Second(one, tmp_path / "again").certified()
        wait_for(lambda: "refused" not in again.ping(found["control"]), "another key to be let in", 20)
        pin = cert(one, "pins", "--node", again.node_id).splitlines()[1].split()[1]
        cert(one, "pins", "--node", again.node_id, "--drop", pin)
        again.refused(found["worker-0"], "refused .*pin-mismatch")
        cert(one, "remove", again.node_id, "--yes")
        again.refused(found["worker-0"], "refused .*removed-node")


def test_a_certificate_that_the_store_did_not_issue_is_refused(tmp_path: Path) -> None:
    """Another authority of the right name, and the right authority's key used behind the store's back."""
    with node(tmp_path) as one:
        found = lanes(one)
        first = json.loads((one.data_dir / "node.json").read_text())
        now_s = int(time.time())
        foreign = authority.make_authority(first["cluster_id"], SigningKey.make(), now_s)
        stranger = Second(one, tmp_path / "stranger")
        name = spiffe.spell(first["cluster_id"], first["node_id"])
        der = authority.issue(foreign, stranger.key.public, name, now_s, 86_400)
        stranger.shows(der).refused(found["control"], "refused .*it refused this node, identity: other-authority")
        with Catalog.open(one.data_dir / "catalog") as catalog:
            (row,) = catalog.security().read().authorities.values()
        purpose = authority_purpose(first["cluster_id"], row.fingerprint, first["node_id"])
        stolen = CredentialFiles(str(one.data_dir)).sealing_key().open(row.wrapped[first["node_id"]], purpose)
        signer = authority.Signer(x509.load_der_x509_certificate(row.certificate), SigningKey.load(stolen))
        clone = authority.issue(signer, stranger.key.public, name, now_s, 86_400)
        stranger.shows(clone).refused(found["control"], "refused .*pin-mismatch")
        other = spiffe.spell(first["cluster_id"], stranger.node_id)
        unknown = authority.issue(signer, stranger.key.public, other, now_s, 86_400)
        stranger.shows(unknown).refused(found["worker-0"], "refused .*unknown-node")


@pytest.mark.parametrize("name", ["sealing.key", "node.pem"])
def test_a_node_does_not_start_with_keys_that_others_can_read(tmp_path: Path, name: str) -> None:
    with node(tmp_path) as one:
        assert one.stop() == 0
        (one.data_dir / "tls" / name).chmod(0o644)
        one.start(wait=False)
        assert one.wait(20) == 65
        assert one.find_log("can be read by others")
