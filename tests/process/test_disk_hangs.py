"""A disk that stops answering: nothing is acknowledged early, reads and health go on, writes return with the disk.

Needs root: an ext4 of its own is frozen, so that its syncs wait.
"""

import fcntl
import os
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

        def written() -> bool:
            try:
                return bool(client.set("after", "1"))
            except redis.ResponseError:
                return False

        wait_for(written, "writes to go on once the disk answers")
        assert one.client().get("new") in (None, b"1")
        assert one.client().get("old") == b"1"
