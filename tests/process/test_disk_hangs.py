"""A disk that stops answering: nothing is acknowledged early, reads and health go on, writes return with the disk.

Needs root: an ext4 of its own is frozen, so that its syncs wait.
"""

import fcntl
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.process.loopfs import LoopFilesystem, unavailable
from tests.process.node import Node, wait_for

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
DEADLINE_MS = 500

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "-")]


@contextmanager
def frozen(path: Path) -> Iterator[None]:
    """No write reaches the file system's disk in the block; what waits for one goes on after it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, FIFREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(descriptor, FITHAW, 0)
    finally:
        os.close(descriptor)


@pytest.fixture
def disk() -> Iterator[LoopFilesystem]:
    filesystem = LoopFilesystem(512)
    try:
        yield filesystem
    finally:
        filesystem.close()


def stuck_groups(node: Node) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=10) as answer:
        rows = [line for line in answer.read().decode().splitlines() if line.startswith("nodedb_groups_stuck{")]
    return sum(float(row.rpartition(" ")[2]) for row in rows)


def test_a_disk_that_hangs_delays_writes_and_nothing_else(disk: LoopFilesystem, tmp_path: Path) -> None:
    with Node(tmp_path, {"clients.deadline_ms": DEADLINE_MS}) as one:
        one.data_dir = disk.path / "data"
        one.start()
        client = one.client(retry=None)
        client.set("old", "1")
        with frozen(disk.path):
            with pytest.raises(redis.ResponseError, match=r"UNKNOWN|DEADLINE"):
                client.set("new", "1")
            with pytest.raises(redis.ResponseError, match=r"UNKNOWN|DEADLINE|OVERLOAD"):
                client.set("newer", "1")
            assert one.client().get("old") == b"1"
            with urllib.request.urlopen(f"http://127.0.0.1:{one.http_port}/livez", timeout=10) as answer:
                assert answer.status == 200
            wait_for(lambda: stuck_groups(one) > 0, "the groups to say that their disk does not answer")
        wait_for(lambda: stuck_groups(one) == 0, "the groups to move again")

        def written() -> bool:
            try:
                return bool(client.set("after", "1"))
            except redis.ResponseError:
                return False

        wait_for(written, "writes to go on once the disk answers")
        assert one.client().get("new") in (None, b"1")
        assert one.client().get("old") == b"1"


def test_a_write_that_was_durable_in_time_is_not_unknown_because_the_worker_stood_still(
    disk: LoopFilesystem, tmp_path: Path
) -> None:
    """Its append ends while the process does not run; then the deadline and the news of it wait side by side."""
    with Node(tmp_path, {"clients.deadline_ms": 1500}) as one:
        one.data_dir = disk.path / "data"
        one.start()
        client, worker = one.client(retry=None), one.pids()["worker-0"]
        client.set("old", "1")
        wire = client.connection_pool.get_connection()
        for number in range(3):
            with frozen(disk.path):
                sent = time.monotonic()
                wire.send_command("SET", f"key:{number}", "1")
                assert one.client().get("old") == b"1"  # so the one before it was read, and its append is under way
                os.kill(worker, signal.SIGSTOP)
            wait_for(lambda sent=sent: time.monotonic() > sent + 1.6, "the deadline to pass")
            os.kill(worker, signal.SIGCONT)
            assert wire.read_response() == b"OK"


def test_a_disk_that_is_slow_but_answers_leaves_no_write_unknown(disk: LoopFilesystem, tmp_path: Path) -> None:
    """Appends of a quarter of the deadline, one after the other: each write is answered by what became of it."""
    with Node(tmp_path, {"clients.deadline_ms": 2000}) as one:
        one.data_dir = disk.path / "data"
        one.start()
        done = threading.Event()

        def slow() -> None:
            while not done.is_set():
                with frozen(disk.path):
                    done.wait(0.5)
                done.wait(0.02)

        freezer = threading.Thread(target=slow)
        freezer.start()
        try:
            answers, end = [], time.monotonic() + 4.0
            with one.client(retry=None) as client:
                while time.monotonic() < end:
                    pipe = client.pipeline(transaction=False)
                    for number in range(20):
                        pipe.set(f"key:{number}", len(answers))
                    answers += pipe.execute(raise_on_error=False)
        finally:
            done.set()
            freezer.join()
        assert len(answers) >= 100 and all(answer is True for answer in answers)
