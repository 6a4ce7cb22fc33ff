"""The admin endpoints of a running node from elsewhere, and by HTTPS."""

import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.process.node import ROOT, Node, node, wait_for
from tests.process.pem import Authority
from tests.process.test_users import outside

pytestmark = pytest.mark.process


def get(url: str, token: str | None = None, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def status(one: Node, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "nodedb_node", "status", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)


def test_a_stranger_needs_the_token(tmp_path: Path) -> None:
    address = outside()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with node(tmp_path, {"node.bind": "0.0.0.0"}) as one:
        here, there = (f"http://{host}:{one.http_port}" for host in ("127.0.0.1", address))
        token = (one.data_dir / "admin.token").read_text().strip()
        for path in ("/", "/metrics", "/status"):
            assert get(here + path)[0] == 200
            assert get(there + path)[0] == 401
            assert get(there + path, "x" * 64)[0] == 401
            assert get(there + path, token)[0] == 200
        assert get(there + "/livez") == (200, "ok\n")
        assert get(there + "/readyz?verbose") == (200, "ok\n")
        assert "[+]" in get(there + "/readyz?verbose", token)[1]
        counted = re.search(r"^nodedb_admin_refusals_total (\S+)$", get(here + "/metrics")[1], re.M)
        assert counted and float(counted[1]) == 6
        one.wait_log('msg="admin request without the token refused"')
        where = ("--http", f"{address}:{one.http_port}")
        refused = status(one, *where)
        assert refused.returncode == 69 and "--token-file" in refused.stderr
        assert status(one, *where, "--token-file", str(one.data_dir / "admin.token")).returncode == 0


def test_https_and_a_new_certificate(tmp_path: Path) -> None:
    own = Authority(tmp_path / "pem")
    other = Authority(tmp_path / "other", "another authority")
    cert, key = own.leaf("http")
    context = ssl.create_default_context(cafile=str(own.ca))
    with node(tmp_path, {"http.tls_cert": str(cert), "http.tls_key": str(key)}) as one:
        url = f"https://127.0.0.1:{one.http_port}/status"
        assert get(url, context=context)[0] == 200
        with pytest.raises((OSError, urllib.error.URLError)):
            get(url.replace("https", "http"))
        assert status(one, "--http", f"127.0.0.1:{one.http_port}", "--ca", str(own.ca)).returncode == 0
        wrong = {
            ("--http", f"127.0.0.1:{one.http_port}"): "it speaks HTTPS alone: give --ca FILE",
            ("--http", f"127.0.0.1:{one.http_port}", "--ca", str(other.ca)): "name it as its certificate does",
        }
        for words, hint in wrong.items():
            said = status(one, *words)
            assert said.returncode == 69 and hint in said.stderr, said.stderr
        before = ssl.get_server_certificate(("127.0.0.1", one.http_port))
        own.leaf("http")
        wait_for(lambda: ssl.get_server_certificate(("127.0.0.1", one.http_port)) != before, "the new certificate", 10)
        assert get(url, context=context)[0] == 200
        cert.write_text("nonsense\n")
        one.wait_log("certificate cannot be used; the one before is shown still")
        assert get(url, context=context)[0] == 200


def test_https_with_files_that_do_not_fit_ends_the_start(tmp_path: Path) -> None:
    own = Authority(tmp_path / "pem")
    cert, _ = own.leaf("http")
    _, key = own.leaf("another")
    with Node(tmp_path, {"http.tls_cert": str(cert), "http.tls_key": str(key)}) as one:
        one.start(wait=False)
        assert one.wait(30) == 78
        assert "[http] TLS cannot be served" in one.log()
