"""nodedb-node cert on a data directory, as an operator uses it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nodedb_node.cli.cert import command, now_s
from nodedb_node.errors import Exit, StartError
from nodedb_node.metadata.catalog import Catalog, Identity
from nodedb_node.metadata.security import PIN_OVERLAP_S, Acknowledge
from nodedb_node.transport.credentials.authority import DAY_S, SigningKey, make_authority
from tests.transport.credentials.kit import CLUSTER, NODE, OTHER_NODE, leaf, uri


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Of a node that was started once, in insecure mode: without certificates."""
    directory = tmp_path / "data"
    directory.mkdir()
    with Catalog.open(directory / "catalog") as catalog:
        catalog.claim(Identity(cluster_id=CLUSTER, node_id=NODE, groups=8), 1)
    return directory


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NODEDB_")]:
        monkeypatch.delenv(name)


def run(data: Path, *args: object) -> Result:
    words = [str(arg) for arg in args]
    return CliRunner().invoke(command, [*words, "--data-dir", str(data)], standalone_mode=False)


def good(data: Path, *args: object) -> str:
    done = run(data, *args)
    assert (done.exception, done.return_value) == (None, 0), done.output
    return done.stdout


def refused(data: Path, *args: object) -> StartError:
    done = run(data, *args)
    assert isinstance(done.exception, StartError), (done.exception, done.output)
    assert "\n" not in str(done.exception)
    return done.exception


def request(path: Path, key: SigningKey | None = None) -> Path:
    der = (key or SigningKey.make()).request("x")
    path.write_bytes(x509.load_der_x509_csr(der).public_bytes(Encoding.PEM))
    return path


def own(data: Path) -> Path:
    return data / "tls" / "node.pem"


@pytest.fixture
def made(data: Path) -> Iterator[Path]:
    assert "was made" in good(data, "init")
    return data


def test_init_makes_once_what_show_shows(data: Path) -> None:
    assert "cert init" in str(refused(data, "show"))
    assert re.fullmatch(r"authority [0-9a-f]{16} was made\n", good(data, "init"))
    assert "was there already" in good(data, "init")
    shown = good(data, "show")
    assert f"cluster {CLUSTER}" in shown
    assert f"this node {NODE[:16]}: its peers accept it" in shown
    assert re.search(rf"^[0-9a-f]{{16}} +issues +\S+ +1 +\S+ +{NODE[:16]}$", shown, re.M)
    assert re.search(rf"^{NODE[:16]} +member +[0-9a-f]+ ", shown, re.M)


def test_a_place_without_a_node_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere", "show")
    assert (error.code, "start the node once" in str(error)) == (Exit.NO_INPUT, True)
    (tmp_path / "new").mkdir()
    Catalog.open(tmp_path / "new" / "catalog").close()
    assert "never in use" in str(refused(tmp_path / "new", "show"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_show_pem_is_read_by_other_programs(made: Path, tmp_path: Path) -> None:
    (tmp_path / "trust.pem").write_text(good(made, "show", "--pem"))
    for what in (["x509", "-text"], ["crl", "-text"]):
        found = subprocess.run(
            ["openssl", *what, "-noout", "-in", str(tmp_path / "trust.pem")], capture_output=True, text=True, check=True
        )
        assert "ecdsa-with-SHA256" in found.stdout
    checked = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", str(tmp_path / "trust.pem"), str(own(made))],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr


def test_issue_from_a_request(made: Path, tmp_path: Path) -> None:
    csr = request(tmp_path / "csr.pem")
    pem = good(made, "issue", "--csr", csr, "--node", OTHER_NODE)
    (tmp_path / "other.pem").write_text(pem)
    assert good(made, "verify", tmp_path / "other.pem", "--node", OTHER_NODE).startswith(f"passes, {uri(OTHER_NODE)}")
    assert good(made, "issue", "--csr", csr, "--node", OTHER_NODE) == pem, "the same key gets the same certificate"
    assert "another node's" in str(refused(made, "issue", "--csr", csr, "--node", NODE))
    assert "40 lower-case hex" in str(refused(made, "issue", "--csr", csr, "--node", "2"))
    assert "no signing request" in str(refused(made, "issue", "--csr", own(made), "--node", OTHER_NODE))
    assert "cannot be read" in str(refused(made, "issue", "--csr", tmp_path / "none", "--node", OTHER_NODE))


def test_verify_says_why_not(made: Path, tmp_path: Path) -> None:
    assert re.fullmatch(f"passes, {uri()}, for (29|30) days\n", good(made, "verify", own(made)))

    def reason(der: bytes, *more: str) -> str:
        (tmp_path / "peer.pem").write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
        done = run(made, "verify", tmp_path / "peer.pem", *more)
        assert (done.exception, done.return_value) == (None, 1), done.output
        return done.output

    assert reason(leaf()).startswith("refused, other-authority: ")
    assert reason(leaf(uris=[])).startswith("refused, no-name: ")
    assert reason(make_authority(CLUSTER, SigningKey.make(), now_s()).der).startswith("refused, wrong-usage: ")
    done = run(made, "verify", own(made), "--node", OTHER_NODE)
    assert (done.return_value, done.output[:20]) == (1, "refused, other-node:")
    (tmp_path / "text").write_text("hello")
    assert "holds no certificate" in str(refused(made, "verify", tmp_path / "text"))


def test_renew_changes_key_and_certificate(made: Path) -> None:
    before = own(made).read_bytes()
    assert re.match(r"serial [0-9a-f]+, ends ", good(made, "renew"))
    assert own(made).read_bytes() != before
    assert good(made, "verify", own(made)).startswith("passes")
    assert len(good(made, "pins", "--node", NODE).splitlines()) == 3, "both keys, for a while"


def test_revoke_and_pins(made: Path, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(
        good(made, "issue", "--csr", request(tmp_path / "csr.pem"), "--node", OTHER_NODE)
    )
    other = x509.load_pem_x509_certificate((tmp_path / "other.pem").read_bytes())
    rows = [line.split() for line in good(made, "pins", "--node", OTHER_NODE).splitlines()[1:]]
    assert [(row[0], row[2]) for row in rows] == [(OTHER_NODE, f"{other.serial_number:x}")]
    assert "no such pin" in str(refused(made, "pins", "--node", OTHER_NODE, "--drop", "00"))
    assert "expected hex" in str(refused(made, "pins", "--node", OTHER_NODE, "--drop", "xy"))
    assert "needs --node" in str(refused(made, "pins", "--drop", rows[0][1]))
    good(made, "pins", "--node", OTHER_NODE, "--drop", rows[0][1])
    assert "pin-mismatch" in run(made, "verify", tmp_path / "other.pem").output
    assert "no certificate with serial" in str(refused(made, "revoke", "abc"))
    good(made, "revoke", f"{other.serial_number:X}")
    assert "revoked: " in run(made, "verify", tmp_path / "other.pem").output
    assert "revoked already" in str(refused(made, "revoke", f"{other.serial_number:x}"))


def test_remove(made: Path, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(
        good(made, "issue", "--csr", request(tmp_path / "csr.pem"), "--node", OTHER_NODE)
    )
    assert "add --yes" in str(refused(made, "remove", OTHER_NODE))
    good(made, "remove", OTHER_NODE, "--yes")
    assert "removed-node" in run(made, "verify", tmp_path / "other.pem", "--unknown").output
    assert f"{OTHER_NODE[:16]}  removed" in good(made, "show")
    assert "does not remove itself" in str(refused(made, "remove", NODE, "--yes"))


def test_rotation(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no rotation has begun" in str(refused(made, "rotate-ca", "finish"))
    assert "rotate-ca finish" in good(made, "rotate-ca", "begin")
    assert "has begun already" in str(refused(made, "rotate-ca", "begin"))
    assert f"issues once these nodes trust it: {NODE[:16]}" in good(made, "show")
    assert "still issues" in str(refused(made, "rotate-ca", "finish"))
    with Catalog.open(made / "catalog") as catalog:  # as the running node does once its processes use it
        store = catalog.security()
        store.change(store.generation(), [Acknowledge(NODE, store.generation())])
    good(made, "renew")
    csr = request(tmp_path / "csr.pem")
    pem = good(made, "issue", "--csr", csr, "--node", OTHER_NODE)
    assert good(made, "issue", "--csr", csr, "--node", OTHER_NODE) == pem, "a node that joins does not turn it back"
    assert "in use" in str(refused(made, "rotate-ca", "finish"))
    later_s = now_s() + PIN_OVERLAP_S + 1
    monkeypatch.setattr("nodedb_node.cli.cert.now_s", lambda: later_s)
    assert "retired" in good(made, "rotate-ca", "finish")
    assert good(made, "verify", own(made)).startswith("passes")
    assert len(re.findall(r" issues ", good(made, "show"))) == 1


def test_a_lost_sealing_key_is_told_and_a_rotation_mends_it(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (made / "tls" / "sealing.key").unlink()
    assert "restore that file" in str(refused(made, "renew"))
    good(made, "init")  # tells the new sealing key, as a start does
    good(made, "rotate-ca", "begin")
    with Catalog.open(made / "catalog") as catalog:
        store = catalog.security()
        store.change(store.generation(), [Acknowledge(NODE, store.generation())])
    good(made, "renew")
    later_s = now_s() + PIN_OVERLAP_S + 1
    monkeypatch.setattr("nodedb_node.cli.cert.now_s", lambda: later_s)
    good(made, "rotate-ca", "finish")
    assert good(made, "verify", own(made)).startswith("passes")


def test_keepers(made: Path) -> None:
    assert "sealed for 1 nodes" in good(made, "keepers", NODE)
    assert "no sealing key" in str(refused(made, "keepers", OTHER_NODE))
    assert "40 lower-case" in str(refused(made, "keepers", "x"))


def test_the_directory_of_another_user_is_left_alone(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: uid + 1)
    assert f"belongs to user {uid}" in str(refused(made, "renew"))


def test_no_private_key_is_ever_printed(made: Path, tmp_path: Path) -> None:
    secrets = [line for line in own(made).read_text().split("-----")[6].splitlines() if line]
    sealing = (made / "tls" / "sealing.key").read_text().strip()
    texts = [good(made, *args) for args in (["show"], ["show", "--pem"], ["pins"], ["verify", own(made)])]
    assert secrets
    assert not [secret for secret in (*secrets, sealing) for text in texts if secret in text]
    assert "PRIVATE" not in "".join(texts)


def test_through_the_program(made: Path) -> None:
    """Exit codes and where the lines go, as a shell sees them."""

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "nodedb_node", "cert", *args, "--data-dir", str(made)]
        return subprocess.run(argv, capture_output=True, text=True)

    assert call("verify", str(own(made))).returncode == 0
    assert call("verify", str(own(made)), "--node", OTHER_NODE).returncode == 1
    done = call("revoke", "12")
    assert (done.returncode, done.stdout) == (Exit.UNAVAILABLE.value, "")
    assert done.stderr == "nodedb-node: no certificate with serial 12 is known; nodedb-node cert pins shows all\n"


def test_days_of_a_certificate_are_a_setting(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODEDB_PEERS_CERTIFICATE_DAYS", "3")
    good(data, "init")
    found = x509.load_pem_x509_certificate(own(data).read_bytes())
    assert 2 * DAY_S < found.not_valid_after_utc.timestamp() - now_s() <= 3 * DAY_S
