"""Clients nobody here wrote, unmodified, against a running node: redis-cli, redis-py plain and cluster,
redis-benchmark."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.cluster import RedisCluster

from tests.process.node import Node
from tests.process.scene import new_node

CLIENT_SECONDS_MAX = 60
WORKERS = 2


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with new_node(tmp_path_factory.mktemp("acceptance"), WORKERS) as found:
        yield found.start()


def client(*words: object, stdin: str = "") -> str:
    done = subprocess.run(
        [str(word) for word in words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_redis_cli_speaks_on_the_shared_port(node: Node) -> None:
    script = "SET greeting hello\nGET greeting\nINCR visits\nEXPIRE greeting 100\nTTL greeting\nNOSUCH\nPING\n"
    lines = client("redis-cli", "-p", node.port, stdin=script).splitlines()
    assert lines[:4] == ["OK", "hello", "1", "1"]
    assert 95 <= int(lines[4]) <= 100
    assert lines[5].startswith("ERR unknown command 'NOSUCH'")
    assert lines[-1] == "PONG"


def test_redis_cli_resp3_and_introspection(node: Node) -> None:
    assert "proto" in client("redis-cli", "-3", "-p", node.port, "HELLO", "3")
    info = client("redis-cli", "-p", node.port, "INFO")
    assert "redis_version:" in info and "cluster_enabled:1" in info
    assert int(client("redis-cli", "-p", node.port, "COMMAND", "COUNT")) > 50
    assert client("redis-cli", "-p", node.port, "CONFIG", "GET", "save").splitlines()[0] == "save"


def test_redis_cli_follows_redirects(node: Node) -> None:
    script = "".join(f"SET follow:{number} {number}\n" for number in range(50))
    script += "".join(f"GET follow:{number}\n" for number in range(50))
    for worker in range(WORKERS):
        lines = client("redis-cli", "-c", "-p", node.worker_ports[worker], stdin=script).splitlines()
        answers = [line for line in lines if not line.startswith("->")]
        assert answers == ["OK"] * 50 + [str(number) for number in range(50)]


def test_redis_cli_checks_the_cluster(node: Node) -> None:
    for port in (node.port, *node.worker_ports):
        report = client("redis-cli", "--cluster", "check", f"127.0.0.1:{port}")
        assert "[OK] All nodes agree about slots configuration." in report
        assert "[OK] All 16384 slots covered." in report


def test_redis_cli_scans_the_node(node: Node) -> None:
    client("redis-cli", "-p", node.port, stdin="".join(f"SET scan:{number} x\n" for number in range(300)))
    found = client("redis-cli", "-p", node.port, "--scan", "--pattern", "scan:*").split()
    assert sorted(found) == sorted(f"scan:{number}" for number in range(300))


def test_redis_py_plain(node: Node) -> None:
    for protocol in (2, 3):
        with redis.Redis(port=node.port, protocol=protocol, decode_responses=True) as link:
            assert link.ping()
            link.set("plain", "value", ex=100)
            assert link.get("plain") == "value" and 90 < link.ttl("plain") <= 100
            with link.pipeline(transaction=False) as pipe:
                for number in range(200):
                    pipe.set(f"plain:{number}", number).incr(f"plain:{number}")
                answers = pipe.execute()
            assert answers == [word for number in range(200) for word in (True, number + 1)]
            assert link.exists("plain:1") == 1 and link.delete("plain:1") == 1 and link.get("plain:1") is None
            assert link.dbsize() > 190
            assert link.client_id() > 0 and link.client_setname("tester") and link.client_getname() == "tester"


def test_redis_py_cluster(node: Node) -> None:
    for first in (*node.worker_ports, node.port):
        with RedisCluster(host="127.0.0.1", port=first, decode_responses=True) as link:
            ports = {one.port for one in link.get_primaries()}
            assert ports == set(node.worker_ports)
            for number in range(100):
                link.set(f"cluster:{number}", number)
            assert [link.get(f"cluster:{number}") for number in range(100)] == [str(number) for number in range(100)]
            assert link.mset_nonatomic({"x": 1, "y": 2}) and link.mget_nonatomic("x", "y") == ["1", "2"]
            assert link.mset({"{t}a": 1, "{t}b": 2}) and link.mget("{t}a", "{t}b") == ["1", "2"]


def test_redis_py_cluster_of_a_single_worker(tmp_path: Path) -> None:
    """What a machine of two cores has by default."""
    with Node(tmp_path) as single:
        single.start()
        for first in (single.port, *single.worker_ports):
            with RedisCluster(host="127.0.0.1", port=first, decode_responses=True) as link:
                assert [one.port for one in link.get_primaries()] == single.worker_ports
                assert link.set("key", first) and link.get("key") == str(first)
                assert link.dbsize() == 1 and list(link.scan_iter()) == ["key"]


@pytest.mark.parametrize("pipeline", [1, 32])
def test_redis_benchmark(node: Node, pipeline: int) -> None:
    words = ("-n", 5000, "-r", 1000, "-d", 64, "-P", pipeline, "-t", "ping,set,get,incr", "--csv")
    rows = list(csv.reader(client("redis-benchmark", "-p", node.port, *words).splitlines()))
    assert {row[0] for row in rows if row[0] != "test"} >= {"SET", "GET", "INCR"}
    assert all(float(row[1]) > 0 for row in rows if row[0] != "test")


def test_redis_benchmark_cluster_reaches_every_worker(node: Node) -> None:
    words = ("--cluster", "-n", 5000, "-r", 1000, "-d", 64, "-P", 4, "-t", "set,get", "--csv")
    output = client("redis-benchmark", "-p", node.worker_ports[0], *words)
    assert '"SET"' in output and '"GET"' in output
    for worker in range(WORKERS):
        with redis.Redis(port=node.worker_ports[worker]) as link:
            assert link.dbsize() > 0
