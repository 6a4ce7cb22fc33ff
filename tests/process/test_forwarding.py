"""The shared port of a node with two workers: what is forwarded comes back whole and in order, or as an error.

The same paths with both workers in one process and every interleaving forced: tests/c/test_forward.c.
"""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.process.node import Node, node, wait_for

pytestmark = pytest.mark.process

LARGE = 4_000_000


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path, workers=2) as started:
        yield started


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Node]:
    """What waits for room waits as long as a busy machine's disk takes."""
    with node(tmp_path, {"clients.deadline_ms": 60_000}, workers=2) as started:
        yield started


def test_a_pipeline_longer_than_a_connection_may_have_in_flight(two: Node) -> None:
    with two.client() as client:
        pipe = client.pipeline(transaction=False)
        for number in range(12_000):
            pipe.set(f"key-{number}", number)
            pipe.get(f"key-{number}")
        replies = pipe.execute()
    assert replies[::2] == [True] * 12_000
    assert replies[1::2] == [b"%d" % number for number in range(12_000)]
    with two.client() as client:
        assert client.dbsize() == 12_000
        assert len(client.keys("*")) == 12_000


def test_large_replies_cross_between_the_workers(patient: Node) -> None:
    """Clients of both workers ask the other's core for more than rings and queues hold."""
    names = [f"large-{number}" for number in range(8)]
    with patient.client() as client:
        for number, name in enumerate(names):
            client.set(name, bytes([number]) * LARGE)
    wrong: list[str] = []

    def read(rounds: int) -> None:
        with patient.client() as client:
            for _ in range(rounds):
                pipe = client.pipeline(transaction=False)
                for name in names:
                    pipe.get(name)
                for number, reply in enumerate(pipe.execute(raise_on_error=False)):
                    if reply != bytes([number]) * LARGE:
                        wrong.append(f"{names[number]}: {str(reply)[:60]}")

    readers = [threading.Thread(target=read, args=(2,)) for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert not any(reader.is_alive() for reader in readers)
    assert wrong == []


def test_a_pipeline_of_the_largest_values_is_written_whole(patient: Node) -> None:
    """More than rings, queues and gathering hold: the client waits, nothing is refused."""
    names = [f"largest-{number}" for number in range(12)]
    with patient.client() as client:
        pipe = client.pipeline(transaction=False)
        for number, name in enumerate(names):
            pipe.set(name, bytes([number]) * (16 << 20))
        assert pipe.execute() == [True] * len(names)
        for number, name in enumerate(names):
            assert client.get(name) == bytes([number]) * (16 << 20)


def test_a_worker_that_dies_while_large_replies_are_on_their_way(two: Node) -> None:
    with two.client() as client:
        client.set("a", b"a" * LARGE)
        client.set("b", b"b" * LARGE)
        for victim in ("worker-0", "worker-1"):
            pid = two.pids()[victim]
            half_way = threading.Event()
            seen: list[object] = []

            def read(half_way: threading.Event = half_way, seen: list[object] = seen) -> None:
                for number in range(40):
                    try:
                        with two.client(retry=None, socket_timeout=20) as one:
                            seen += [one.get("a"), one.get("b")]
                    except redis.RedisError as error:
                        seen.append(error)
                    if number == 20:
                        half_way.set()

            reader = threading.Thread(target=read)
            reader.start()
            assert half_way.wait(60)
            os.kill(pid, signal.SIGKILL)
            reader.join(60)
            assert not reader.is_alive()
            assert not any(isinstance(item, redis.TimeoutError) for item in seen)
            values = [item for item in seen if isinstance(item, bytes)]
            assert all(value in (b"a" * LARGE, b"b" * LARGE) for value in values)
            wait_for(lambda: _both_serve(two), "both workers to serve again", 20)


def _both_serve(two: Node) -> bool:
    try:
        with two.client() as client:
            return client.get("a") == b"a" * LARGE and client.get("b") == b"b" * LARGE
    except redis.RedisError:
        return False
