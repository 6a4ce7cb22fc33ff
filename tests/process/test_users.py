"""Users of a running node: durable, the same in every worker, and who may not come in does not."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.cluster import RedisCluster

from tests.process.node import Node, node, wait_for
from tests.process.wire import Connection, ErrorReply

pytestmark = pytest.mark.process

CLIENT_SECONDS_MAX = 60


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path, workers=2) as one:
        yield one


def refusal(reply: object) -> str:
    assert isinstance(reply, ErrorReply), reply
    return reply.kind


def login(port: int, name: str, password: str) -> object:
    with Connection(port) as link:
        return link.call("AUTH", name, password)


def test_a_change_is_in_every_worker_when_it_is_answered(two: Node) -> None:
    with Connection(two.port) as admin:
        for number in range(20):
            assert admin.call("ACL", "SETUSER", f"user{number}", "on", f">{number}", "+ping") == b"OK"
            for port in two.worker_ports:
                assert login(port, f"user{number}", str(number)) == b"OK"
            assert admin.call("ACL", "SETUSER", f"user{number}", "off") == b"OK"
            for port in two.worker_ports:
                assert refusal(login(port, f"user{number}", str(number))) == "WRONGPASS"


def test_a_change_takes_effect_on_open_connections(two: Node) -> None:
    with Connection(two.port) as admin, contextlib.ExitStack() as stack:
        admin.call("ACL", "SETUSER", "app", "on", "nopass", "~app:*", "+set", "+get")
        links = [stack.enter_context(Connection(port)) for port in two.worker_ports for _ in range(4)]
        links.append(stack.enter_context(Connection(two.port)))
        for link in links:
            assert link.call("AUTH", "app", "x") == b"OK"
            assert refusal(link.call("GET", "other")) == "NOPERM"
        admin.call("ACL", "SETUSER", "app", "~other")
        for link in links:
            assert refusal(link.call("GET", "nothing")) == "NOPERM"
            assert not denied(link.call("GET", "other"))
        admin.call("ACL", "SETUSER", "app", "-get")
        for link in links:
            assert refusal(link.call("GET", "app:1")) == "NOPERM"
        assert admin.call("ACL", "DELUSER", "app") == 1
        for link in links:
            with pytest.raises(ConnectionError):
                link.call("PING")
                link.call("PING")


def denied(reply: object) -> bool:
    """Not a value, and not a redirection either."""
    return isinstance(reply, ErrorReply) and reply.kind == "NOPERM"


def test_users_survive_the_death_of_everything(tmp_path: Path) -> None:
    with Node(tmp_path, workers=2) as one:
        one.start()
        with Connection(one.port) as admin:
            admin.call("ACL", "SETUSER", "app", "on", ">secret", "~a*", "+@read", "(+set ~s*)")
            admin.call("ACL", "SETUSER", "default", "resetpass", ">root")
            before = admin.call("ACL", "LIST")
        one.kill_all()
        one.start()
        with Connection(one.port) as link:
            assert refusal(link.call("GET", "a")) == "NOAUTH"
            assert link.call("AUTH", "root") == b"OK"
            assert link.call("ACL", "LIST") == before
        assert login(one.port, "app", "secret") == b"OK"


def test_a_restarted_worker_has_the_users_before_it_serves(two: Node) -> None:
    with Connection(two.port) as admin:
        admin.call("ACL", "SETUSER", "default", "resetpass", ">root")
        admin.call("ACL", "SETUSER", "app", "on", ">secret", "+get", "~a")
    for _ in range(3):
        before = two.pids()["worker-1"]
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: two.pids().get("worker-1", before) != before, "another worker", 10)  # noqa: B023
        seen = wait_for(lambda: first_reply(two.worker_ports[1]), "the worker to serve", 20)
        assert seen.startswith(b"-NOAUTH")
        assert login(two.worker_ports[1], "app", "secret") == b"OK"


def first_reply(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
            link.sendall(b"GET a\r\n")
            return link.recv(100)
    except OSError:
        return b""


def test_control_may_die_at_any_time(two: Node) -> None:
    with Connection(two.port) as admin:
        assert admin.call("ACL", "SETUSER", "app", "on", "nopass", "+get", "~a") == b"OK"
        before = two.pids()["control"]
        os.kill(before, signal.SIGKILL)
        assert login(two.port, "app", "x") == b"OK"  # without control
        answer = admin.call("ACL", "SETUSER", "other", "on", "nopass")
        assert answer == b"OK" or refusal(answer) in ("TRYAGAIN", "UNKNOWN")
        wait_for(lambda: admin.call("ACL", "SETUSER", "third", "on") == b"OK", "control to come back", 20)
        names = admin.call("ACL", "USERS")
        assert isinstance(names, list) and {b"app", b"third"} <= set(names)
        if answer == b"OK":
            assert b"other" in names


def test_changes_at_the_same_time_are_all_kept(two: Node) -> None:
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(Connection(two.port)) for _ in range(6)]
        for link in links:
            link.send(*(("ACL", "SETUSER", "shared", f"~{id(link)}:{number}") for number in range(5)))
        done = 0
        for link in links:
            for _ in range(5):
                answer = link.read()
                assert answer == b"OK" or refusal(answer) == "TRYAGAIN"
                done += answer == b"OK"
        user = links[0].call("ACL", "GETUSER", "shared")
        assert isinstance(user, list) and isinstance(user[7], bytes)
        assert len(user[7].split()) == done >= 15


# ---- who is kept out ----


def test_guessing_is_slowed_down_and_told(tmp_path: Path) -> None:
    with node(tmp_path, {"clients.auth_failures_max": 5}) as one, Connection(one.port) as admin:
        admin.call("ACL", "SETUSER", "app", "on", ">secret")
        with Connection(one.port) as guesser:
            kinds = [refusal(guesser.call("AUTH", "app", f"guess{number}")) for number in range(8)]
            assert kinds == ["WRONGPASS"] * 5 + ["OVERLOAD"] * 3
            assert refusal(guesser.call("AUTH", "app", "secret")) == "OVERLOAD", (
                "a guess must not tell when it is right"
            )
            assert refusal(guesser.call("AUTH", "nosuch", "x")) == "OVERLOAD"
        one.wait_log('msg="authentication failed" user=app address=127.0.0.1')
        entries = admin.call("ACL", "LOG")
        assert isinstance(entries, list) and isinstance(entries[0], list)
        assert entries[0][1:8:2] == [5, b"auth", b"toplevel", b"AUTH"] and entries[0][9] == b"app"


def test_a_client_that_never_authenticates_is_closed(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("root\n")
    settings = {"clients.password_file": str(tmp_path / "password"), "clients.auth_ms": 300}
    with node(tmp_path, settings) as one, Connection(one.port) as silent, Connection(one.port) as good:
        assert good.call("AUTH", "root") == b"OK"
        with pytest.raises(ConnectionResetError):
            silent.read()
        assert good.call("PING") == b"PONG"


def outside() -> str | None:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: a datagram socket only chooses its address
            name = str(probe.getsockname()[0])
        except OSError:
            return None
    return None if name.startswith("127.") else name


def test_protected_mode_keeps_others_out_until_there_is_a_password(tmp_path: Path) -> None:
    address = outside()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with node(tmp_path, {"node.bind": "0.0.0.0"}) as one:
        with socket.create_connection((address, one.port), timeout=10) as stranger:
            assert stranger.recv(4096).startswith(b"-DENIED nodedb-node is running in protected mode")
        with Connection(one.port) as admin:
            assert admin.call("PING") == b"PONG"
            admin.call("ACL", "SETUSER", "default", "resetpass", ">root")
        with socket.create_connection((address, one.port), timeout=10) as stranger:
            stranger.sendall(b"PING\r\nAUTH root\r\nPING\r\n")
            got = b""
            while got.count(b"\r\n") < 3:
                got += stranger.recv(4096)
            assert got == b"-NOAUTH Authentication required.\r\n+OK\r\n+PONG\r\n"


# ---- users of the configuration ----


def test_a_password_file_closes_the_node_at_every_start(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("first\n")
    with Node(tmp_path, workers=2) as one:
        one.start()  # open, and in use
        with Connection(one.port) as link:
            assert link.call("SET", "a", "1") == b"OK"
        one.stop()
        one.settings["clients.password_file"] = str(password)
        for word in ("first", "second"):
            password.write_text(word + "\n")
            one.start()
            for port in (one.port, *one.worker_ports):
                assert refusal(login(port, "default", "nothing")) == "WRONGPASS"
                assert login(port, "default", word) == b"OK"
            one.stop()
        password.unlink()
        one.start(wait=False)
        assert one.wait(30) == 78
        assert "cannot be read" in one.log()


def test_a_users_file_is_for_the_first_start(tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    file.write_text(
        "# users\nuser default off\nuser admin on >root ~* &* +@all\nuser app on >x ~app:* +@read (+set ~s*)\n"
    )
    with Node(tmp_path, {"clients.users_file": str(file)}, workers=2) as one:
        one.start()
        with Connection(one.port) as admin:
            assert refusal(admin.call("PING")) == "NOAUTH"
            assert admin.call("AUTH", "admin", "root") == b"OK"
            assert admin.call("ACL", "USERS") == [b"admin", b"app", b"default"]
            assert admin.call("ACL", "DELUSER", "app") == 1
        one.stop()
        one.start()
        with Connection(one.port) as admin:
            assert admin.call("AUTH", "admin", "root") == b"OK"
            assert admin.call("ACL", "USERS") == [b"admin", b"default"]


def test_a_users_file_with_an_error_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    file.write_text("user admin on >root ~* &* +@all\nuser app on +nosuch\n")
    with Node(tmp_path, {"clients.users_file": str(file)}) as one:
        one.start(wait=False)
        assert one.wait(30) == 78
        assert "line 2: +nosuch: Unknown command or category name in ACL" in one.log()


# ---- clients nobody here wrote ----


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose default user has a password."""
    directory = tmp_path_factory.mktemp("closed")
    (directory / "password").write_text("root\n")
    with node(directory, {"clients.password_file": str(directory / "password")}, workers=2) as one:
        yield one


def run(*words: object) -> str:
    argv = [str(word) for word in words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=CLIENT_SECONDS_MAX, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_redis_cli_with_a_password(closed: Node) -> None:
    assert run("redis-cli", "-p", closed.port, "PING").startswith("NOAUTH")
    assert run("redis-cli", "-p", closed.port, "-a", "root", "--no-auth-warning", "PING") == "PONG\n"
    assert "default" in run("redis-cli", "-3", "-p", closed.port, "--user", "default", "--pass", "root", "ACL", "LIST")


def test_redis_py_with_a_password(closed: Node) -> None:
    for protocol in (2, 3):
        with redis.Redis(port=closed.port, password="root", protocol=protocol) as link:
            assert link.ping() and link.acl_whoami() in ("default", b"default")
            assert link.acl_setuser("py", enabled=True, passwords=["+x"], keys=["p*"], commands=["+get", "+ping"])
            assert link.acl_getuser("py")
        with redis.Redis(port=closed.port, username="py", password="x", protocol=protocol) as link:
            assert link.get("p1") is None
            with pytest.raises(redis.exceptions.NoPermissionError):
                link.get("q1")
    with redis.Redis(port=closed.port) as link, pytest.raises(redis.exceptions.AuthenticationError):
        link.ping()


def test_redis_py_cluster_with_a_password(closed: Node) -> None:
    with RedisCluster(host="127.0.0.1", port=closed.worker_ports[0], password="root") as link:
        for number in range(50):
            link.set(f"cluster:{number}", number)
        assert [link.get(f"cluster:{number}") for number in range(50)] == [b"%d" % number for number in range(50)]


def test_redis_benchmark_with_a_password(closed: Node) -> None:
    words = ("-n", 2000, "-r", 1000, "-P", 8, "-t", "set,get", "--csv")
    output = run("redis-benchmark", "-p", closed.port, "-a", "root", *words)
    assert '"SET"' in output and '"GET"' in output and "NOAUTH" not in output
