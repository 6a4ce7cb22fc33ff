"""TLS on the client ports of a running node: clients nobody here wrote, bad peers, new certificates."""

import contextlib
import random
import secrets
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.cluster import RedisCluster

from tests.process.node import Node, node, wait_for
from tests.process.pem import Authority
from tests.process.wire import Connection, encode
from tests.seeds import run_seed

pytestmark = pytest.mark.process

CLIENT_SECONDS_MAX = 60
MIB = 1 << 20


def settings(authority: Authority, mode: str = "only", **more: object) -> dict[str, object]:
    cert, key = authority.leaf("server")
    found: dict[str, object] = {"clients.tls": mode, "clients.tls_cert": str(cert), "clients.tls_key": str(key)}
    return found | {f"clients.{name}": value for name, value in more.items()}


def context(authority: Authority, leaf: str | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(authority.ca))
    if leaf is not None:
        cert, key = authority.leaf(leaf)
        made.load_cert_chain(cert, key)
    return made


class TlsConnection(Connection):
    """A Connection through TLS."""

    def __init__(self, port: int, how: ssl.SSLContext, timeout_s: float = 10.0) -> None:
        super().__init__(port, timeout_s)
        wrapped = how.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self.socket: ssl.SSLSocket = wrapped  # type: ignore[assignment]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Node]:
    """Two workers, plain and TLS ports, a password."""
    directory = tmp_path_factory.mktemp("both")
    (directory / "password").write_text("root\n")
    more = {"tls_port": 0, "tls_worker_port": 0, "password_file": str(directory / "password")}
    with node(directory, settings(authority, "both", **more), workers=2) as one:
        yield one


def tls_ports(one: Node) -> tuple[int, list[int]]:
    line = one.find_log(r"process=supervisor msg=ready .*") or ""
    fields = dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
    return int(fields["tls"]), [int(port) for port in fields["tls_workers"].split(",")]


def run(*words: object, stdin: str = "") -> str:
    argv = [str(word) for word in words]
    done = subprocess.run(argv, capture_output=True, text=True, input=stdin, timeout=CLIENT_SECONDS_MAX, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


# ---- clients nobody here wrote ----


def test_redis_cli(both: Node, authority: Authority) -> None:
    shared, workers = tls_ports(both)
    words = ("redis-cli", "--tls", "--cacert", authority.ca, "-a", "root", "--no-auth-warning")
    assert run(*words, "-p", shared, "PING") == "PONG\n"
    script = "".join(f"SET follow:{number} {number}\n" for number in range(50))
    lines = run(*words, "-c", "-p", workers[0], stdin=script).splitlines()
    assert [line for line in lines if not line.startswith("->")] == ["OK"] * 50
    report = run(*words, "--cluster", "check", f"127.0.0.1:{workers[0]}")
    assert "[OK] All 16384 slots covered." in report


def test_redis_py(both: Node, authority: Authority) -> None:
    shared, _ = tls_ports(both)
    options = {"password": "root", "ssl": True, "ssl_ca_certs": str(authority.ca)}
    for protocol in (2, 3):
        with redis.Redis(host="127.0.0.1", port=shared, protocol=protocol, **options) as link:
            value = secrets.token_bytes(3 * MIB)
            assert link.set("large", value) and link.get("large") == value
            with link.pipeline(transaction=False) as pipe:
                for number in range(1000):
                    pipe.set(f"p:{number}", "v" * 300).get(f"p:{number}")
                assert pipe.execute() == [word for _ in range(1000) for word in (True, b"v" * 300)]


def test_redis_py_cluster(both: Node, authority: Authority) -> None:
    _, workers = tls_ports(both)
    options = {"password": "root", "ssl": True, "ssl_ca_certs": str(authority.ca)}
    with RedisCluster(host="127.0.0.1", port=workers[1], **options) as link:
        assert {one.port for one in link.get_primaries()} == set(workers)
        for number in range(50):
            link.set(f"cluster:{number}", number)
        assert [link.get(f"cluster:{number}") for number in range(50)] == [b"%d" % number for number in range(50)]
    with RedisCluster(host="127.0.0.1", port=both.worker_ports[0], password="root") as link:
        assert {one.port for one in link.get_primaries()} == set(both.worker_ports)


def test_redis_py_cluster_where_no_port_is_plain(tmp_path: Path, authority: Authority) -> None:
    """The topology names the ports that speak TLS, and redirects lead there."""
    with node(tmp_path, settings(authority), workers=2) as one:
        with RedisCluster(host="127.0.0.1", port=one.port, ssl=True, ssl_ca_certs=str(authority.ca)) as link:
            assert {primary.port for primary in link.get_primaries()} == set(one.worker_ports)
            for number in range(50):
                link.set(f"cluster:{number}", number)
            assert [link.get(f"cluster:{number}") for number in range(50)] == [b"%d" % n for n in range(50)]
        with TlsConnection(one.worker_ports[0], context(authority)) as link:
            moved = {str(link.call("GET", f"cluster:{number}")).rsplit(":", 1)[-1] for number in range(50)}
            assert any(str(one.worker_ports[1]) in answer for answer in moved)


def test_redis_benchmark(both: Node, authority: Authority) -> None:
    shared, _ = tls_ports(both)
    words = ("-a", "root", "-n", 3000, "-r", 1000, "-d", 500, "-P", 16, "-t", "set,get", "--csv")
    output = run("redis-benchmark", "--tls", "--cacert", authority.ca, "-p", shared, *words)
    assert '"SET"' in output and '"GET"' in output


# ---- bytes ----


def test_pieces_of_any_size_arrive_in_order(both: Node, authority: Authority) -> None:
    """Commands cut anywhere, replies far beyond a socket's buffers, a client that reads late."""
    rng = random.Random(run_seed())
    shared, _ = tls_ports(both)
    with TlsConnection(shared, context(authority), 60) as link:
        assert link.call("AUTH", "root") == b"OK"
        values = [rng.randbytes(rng.choice((1, 100, 16_384, 16_385, 70_000, 400_000))) for _ in range(30)]
        sent = b"".join(encode("SET", f"{{b}}{n}", value) for n, value in enumerate(values))
        sent += b"".join(encode("GET", f"{{b}}{n}") for n in range(30))
        while sent:
            size = rng.choice((1, 7, 1000, 30_000, 300_000))
            link.socket.sendall(sent[:size])
            sent = sent[size:]
        assert [link.read() for _ in range(30)] == [b"OK"] * 30
        assert [link.read() for _ in range(30)] == values


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path, authority: Authority) -> None:
    limits = {"output_bytes_max": 17 * MIB, "deadline_ms": 500}
    with node(tmp_path, settings(authority, **limits)) as one:
        with TlsConnection(one.port, context(authority)) as link:
            assert link.call("SET", "large", b"v" * MIB) == b"OK"
            with contextlib.suppress(OSError):
                link.send(*[("GET", "large")] * 200)
            one.wait_log("it does not read its replies", 20)
        with TlsConnection(one.port, context(authority)) as link:
            assert link.call("PING") == b"PONG"


# ---- who is no client ----


def test_plain_text_on_a_tls_port_is_closed_and_told(tmp_path: Path, authority: Authority) -> None:
    with node(tmp_path, settings(authority)) as one, TlsConnection(one.port, context(authority)) as good:
        for said in (b"PING\r\n", encode("GET", "a"), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"x" * 100_000):
            with socket.create_connection(("127.0.0.1", one.port), timeout=10) as plain:
                with contextlib.suppress(OSError):
                    plain.sendall(said)
                assert closed(plain), said[:20]
        one.wait_log('msg="client closed: no TLS with it".*what="plain text on a TLS port".*address=127.0.0.1')
        assert good.call("PING") == b"PONG"


def closed(link: socket.socket) -> bool:
    """Nothing but TLS alerts comes, and then the end."""
    with contextlib.suppress(ConnectionResetError):
        while data := link.recv(4096):
            assert data[:1] == b"\x15", data
    return True


def test_noise_on_a_tls_port_hurts_nobody(tmp_path: Path, authority: Authority) -> None:
    rng = random.Random(run_seed())
    hello = client_hello(authority)
    how = context(authority)
    with node(tmp_path, settings(authority, tls_handshake_ms=1000)) as one, TlsConnection(one.port, how) as good:
        for _ in range(150):
            said = bytearray(hello[: rng.randint(1, len(hello))])
            for _ in range(rng.choice((0, 1, 5))):
                said[rng.randrange(len(said))] = rng.randrange(256)
            with socket.create_connection(("127.0.0.1", one.port), timeout=10) as noise:
                noise.sendall(bytes(said))
            assert good.call("PING") == b"PONG"
        assert good.call("SET", "a", "1") == b"OK"


def client_hello(authority: Authority) -> bytes:
    to_server = ssl.MemoryBIO()
    talk = context(authority).wrap_bio(ssl.MemoryBIO(), to_server, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        talk.do_handshake()
    return to_server.read()


def test_stalled_handshakes_end_and_are_bounded(tmp_path: Path, authority: Authority) -> None:
    limits = {"tls_handshake_ms": 2000, "tls_handshakes_max": 10}
    with node(tmp_path, settings(authority, **limits)) as one, contextlib.ExitStack() as stack:
        good = stack.enter_context(TlsConnection(one.port, context(authority)))
        stalled = [stack.enter_context(socket.create_connection(("127.0.0.1", one.port), 10)) for _ in range(30)]
        assert good.call("PING") == b"PONG"
        assert all(closed(link) for link in stalled)  # 20 at the door, 10 by their deadline
        one.wait_log("the handshake took too long")
        with TlsConnection(one.port, context(authority)) as link:
            assert link.call("PING") == b"PONG"


# ---- certificates ----


def test_clients_must_show_a_certificate(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path / "other", "another authority")
    foreign = context(authority)
    foreign.load_cert_chain(*other.leaf("stranger"))
    expired = context(authority)
    expired.load_cert_chain(*authority.leaf("late", days=-1))
    more = {"tls_auth_clients": "yes", "tls_ca": str(authority.ca)}
    with node(tmp_path, settings(authority, **more)) as one:
        with TlsConnection(one.port, context(authority, "client")) as link:
            assert link.call("PING") == b"PONG"
        for how in (context(authority), foreign, expired):
            with pytest.raises((OSError, ssl.SSLError)), TlsConnection(one.port, how) as link:
                link.call("PING")  # with TLS 1.3 the refusal comes with the first answer
        one.wait_log("peer did not return a certificate")


def test_a_certificate_is_optional_but_must_be_good(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path / "other", "another authority")
    foreign = context(authority)
    foreign.load_cert_chain(*other.leaf("stranger"))
    more = {"tls_auth_clients": "optional", "tls_ca": str(authority.ca)}
    with node(tmp_path, settings(authority, **more)) as one:
        for how in (context(authority), context(authority, "client")):
            with TlsConnection(one.port, how) as link:
                assert link.call("PING") == b"PONG"
        with pytest.raises((OSError, ssl.SSLError)), TlsConnection(one.port, foreign) as link:
            link.call("PING")


def refused(one: Node, how: ssl.SSLContext) -> bool:
    try:
        with TlsConnection(one.port, how) as link:
            return link.call("PING") != b"PONG"
    except OSError:
        return True


def test_a_client_whose_certificate_was_revoked_is_refused_and_cut_off(tmp_path: Path) -> None:
    own = Authority(tmp_path / "pem")
    good, stolen = context(own, "good"), context(own, "stolen")
    more = {"tls_auth_clients": "optional", "tls_ca": str(own.ca), "tls_crl": str(own.revoke())}
    with node(tmp_path, settings(own, **more)) as one, TlsConnection(one.port, good) as open_good:
        with TlsConnection(one.port, stolen) as open_stolen:
            assert open_stolen.call("SET", "a", "1") == b"OK"
            own.revoke(own.directory / "stolen.pem")
            with pytest.raises((OSError, EOFError)):
                open_stolen.read()  # cut off, within a second or two
        assert "revoked=1" in one.wait_log('msg="certificate read again"')
        assert refused(one, stolen)
        one.wait_log('what="certificate revoked"')
        assert not refused(one, good) and not refused(one, context(own)), "who shows none is not asked"
        (own.directory / "crl.pem").write_text("nonsense\n")
        one.wait_log("certificate cannot be used; the one before is shown still")
        assert refused(one, stolen) and not refused(one, good)
        own.revoke(days=-1)  # a list that has ended: what was revoked since may be missing on it
        wait_for(lambda: refused(one, good), "an old list to count as none", 10)
        one.wait_log('what="CRL has expired"')
        own.revoke()
        wait_for(lambda: not refused(one, good), "the new list", 10)
        assert open_good.call("GET", "a") == b"1"


def test_an_authority_without_a_list_ends_the_start(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path / "other", "another authority")
    more = {"tls_auth_clients": "yes", "tls_ca": str(authority.ca), "tls_crl": str(other.revoke())}
    with Node(tmp_path, settings(authority, **more)) as one:
        one.start(wait=False)
        assert one.wait(30) == 78
        assert "crl.pem: an authority of tls_ca has no revocation list here" in one.log()


def serial(port: int, authority: Authority) -> str:
    with TlsConnection(port, context(authority)) as link:
        found = link.socket.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def test_a_new_certificate_is_shown_without_cutting_anybody_off(tmp_path: Path) -> None:
    own = Authority(tmp_path / "pem")
    with node(tmp_path, settings(own), workers=2) as one, TlsConnection(one.port, context(own)) as old:
        before = serial(one.worker_ports[0], own)
        own.leaf("server")
        for port in one.worker_ports:
            wait_for(lambda port=port: serial(port, own) != before, "the new certificate", 10)  # type: ignore[misc]
        assert old.call("PING") == b"PONG"
        now = serial(one.worker_ports[0], own)
        (tmp_path / "pem" / "server.pem").write_text("no certificate\n")
        one.wait_log("certificate cannot be used; the one before is shown still")
        assert serial(one.worker_ports[0], own) == now
        assert old.call("SET", "a", "1") == b"OK"


def test_a_certificate_that_cannot_be_used_ends_the_start(tmp_path: Path, authority: Authority) -> None:
    cert, _ = authority.leaf("server")
    _, key = authority.leaf("another")
    wrong = {"clients.tls": "only", "clients.tls_cert": str(cert), "clients.tls_key": str(key)}
    with Node(tmp_path, wrong) as one:
        one.start(wait=False)
        assert one.wait(30) == 78
        assert "another.key: key values mismatch" in one.log()
