"""A real node at its limits: more clients than it takes, everything killed at once, killed while it checkpoints."""

import contextlib
import socket
import sys
from pathlib import Path

import pytest
import redis

from tests.process.node import Node, node, wait_for

pytestmark = pytest.mark.process

MIB = 1 << 20
FILES_MAX = 200
FEW_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""
SMALL_CHECKPOINTS = {"store.dirty_bytes_max": 1 * MIB, "store.memory_bytes_max": 64 * MIB}


def test_clients_beyond_the_limit_are_refused_and_others_do_not_notice(tmp_path: Path) -> None:
    with node(tmp_path, {"clients.connections_max": 64}) as one, contextlib.ExitStack() as held:
        first = held.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=10))
        refused = 0
        for _ in range(80):
            client = held.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=10))
            with contextlib.suppress(OSError):  # a refused one may be closed before it has sent
                client.sendall(b"PING\r\n")
                refused += client.recv(100) != b"+PONG\r\n"
        assert refused >= 80 - 64 + 1
        first.sendall(b"PING\r\n")
        assert first.recv(100) == b"+PONG\r\n"


def test_more_clients_than_descriptors_are_refused_and_nobody_spins(tmp_path: Path) -> None:
    """P12: a listener that cannot accept would be ready without end, and those at the door would hear nothing."""
    argv = ("-c", FEW_FILES, str(FILES_MAX), sys.executable, "-m", "nodedb_node")
    with Node(tmp_path, program=argv) as one, contextlib.ExitStack() as held:
        one.start()
        assert one.find_log("fewer clients: too few open files are allowed")
        first = held.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=10))
        answers = set()
        for _ in range(FILES_MAX + 50):
            client = held.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=10))
            with contextlib.suppress(ConnectionError):  # a refused one may be closed before it has sent
                client.sendall(b"PING\r\n")
                answers.add(client.recv(100))
        assert answers - {b""} == {b"+PONG\r\n", b"-ERR max number of clients reached\r\n"}
        first.sendall(b"SET a 1\r\n")
        assert first.recv(100) == b"+OK\r\n"


def write(client: "redis.Redis", first: int, count: int) -> None:
    """`count` acknowledged writes of 1 KiB, in pipelines."""
    for start in range(first, first + count, 100):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(start + 100, first + count)):
            pipeline.set(f"key:{number}", f"{number}:" + "v" * 1000)
            pipeline.append("order", f"{number},")
        pipeline.execute()


def check(one: Node, count: int) -> None:
    """Every acknowledged write is there, every append exactly once and in order."""
    client = one.client()
    pipeline = client.pipeline(transaction=False)
    for number in range(count):
        pipeline.get(f"key:{number}")
    for number, value in enumerate(pipeline.execute()):
        assert value is not None and value.startswith(b"%d:" % number), number
    assert (client.get("order") or b"") == b"".join(b"%d," % number for number in range(count))


def test_everything_killed_at_once_comes_back_whole(tmp_path: Path) -> None:
    with Node(tmp_path, workers=2) as one:
        for life in range(3):
            one.start()
            check(one, 300 * life)
            write(one.client(), 300 * life, 300)
            one.kill_all()
        one.start()
        check(one, 900)


def test_killed_while_it_checkpoints_applies_everything_once(tmp_path: Path) -> None:
    with Node(tmp_path, SMALL_CHECKPOINTS) as one:
        count = 0
        for _ in range(3):
            one.start()
            check(one, count)
            while not one.find_log("msg=checkpoint "):
                write(one.client(), count, 400)
                count += 400
                assert count < 40_000, "no checkpoint in sight"
            write(one.client(), count, 800)  # so that the next one has begun
            count += 800
            one.kill_all()
        one.start()
        check(one, count)
        assert wait_for(lambda: one.client().dbsize() == count + 1, "all rows to be counted")
