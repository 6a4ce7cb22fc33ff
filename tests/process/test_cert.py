"""Certificates in the running node: made at its first start, changed beside it, taken over without a restart."""

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from nodedb_node.transport.credentials.files import CredentialFiles
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
        assert one.find_log("certificate was renewed.*revoked")


def test_an_authority_is_rotated_under_a_running_node(tmp_path: Path) -> None:
    with node(tmp_path) as one:
        before = shown(one)
        cert(one, "rotate-ca", "begin")
        wait_for(lambda: metric(one, "peer_authorities") == 2, "both to be trusted", 10)
        wait_for(lambda: shown(one) != before, "a certificate of the new authority", 30)
        trusted = CredentialFiles(str(one.data_dir)).trust()
        assert trusted is not None
        assert "accept" in verdict(one)
        wait_for(lambda: one.find_log("another authority issues now"), "the log to say why", 10)


@pytest.mark.parametrize("name", ["sealing.key", "node.pem"])
def test_a_node_does_not_start_with_keys_that_others_can_read(tmp_path: Path, name: str) -> None:
    with node(tmp_path) as one:
        assert one.stop() == 0
        (one.data_dir / "tls" / name).chmod(0o644)
        one.start(wait=False)
        assert one.wait(20) == 65
        assert one.find_log("can be read by others")
