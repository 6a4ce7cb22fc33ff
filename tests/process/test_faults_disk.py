"""A full disk: writes are refused with -NOSPACE, reads go on, and writes return when space does. Needs root for a loop
mount."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.loopfs import MIB, LoopFilesystem, unavailable
from tests.process.node import Node
from tests.process.recorder import Recorder, shared_targets
from tests.process.scene import new_node
from tests.process.wire import Connection, ErrorReply

IMAGE_MIB = 512
FLOOR_MIB = 64
LEFT_MIB = 32
REFUSED_SECONDS_MAX = 10.0
VALUE = b"x" * 100_000

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "-")


@pytest.fixture
def disk() -> Iterator[LoopFilesystem]:
    filesystem = LoopFilesystem(IMAGE_MIB)
    try:
        yield filesystem
    finally:
        filesystem.close()


@pytest.fixture
def node(disk: LoopFilesystem) -> Iterator[Node]:
    settings = {
        "wal__floor_bytes": FLOOR_MIB * MIB,
        "wal__segment_bytes": 20 * MIB,
        "store__dirty_bytes_max": 16 * MIB,
    }
    with new_node(disk.path / "node", workers=1, **settings) as found:
        yield found.start()


def fill_disk(disk: LoopFilesystem, leave_mib: int) -> None:
    """Another tenant of the file system takes everything but some MiB."""
    piece, size = 16 * MIB, 0
    with (disk.path / "ballast").open("wb") as ballast:
        while piece >= 4096:
            if disk.free_bytes() - piece < leave_mib * MIB:
                piece //= 2
                continue
            with contextlib.suppress(OSError):  # the node takes space too
                os.posix_fallocate(ballast.fileno(), size, piece)
            size += piece


def write_until_refused(link: Connection) -> str:
    deadline, number = time.monotonic() + REFUSED_SECONDS_MAX, 0
    while time.monotonic() < deadline:
        reply = link.call("SET", f"fill:{number % 100}", VALUE)
        if isinstance(reply, ErrorReply):
            return reply.kind
        assert reply == b"OK"
        number += 1
    return "never refused"


@pytest.mark.parametrize("leave_mib", [LEFT_MIB, 0])
def test_full_disk_refuses_writes_serves_reads_and_recovers(disk: LoopFilesystem, node: Node, leave_mib: int) -> None:
    recorder = Recorder(shared_targets(node.port, 3), seed=1)
    recorder.start()
    recorder.wait_acked(300)
    roles = node.pids()
    with Connection(node.port) as link:
        assert link.call("SET", "kept", "value") == b"OK"
        fill_disk(disk, leave_mib)
        assert write_until_refused(link) == "NOSPACE"
        assert link.call("GET", "kept") == b"value"
        assert link.call("PING") == b"PONG"
        (disk.path / "ballast").unlink()
        deadline = time.monotonic() + REFUSED_SECONDS_MAX
        while link.call("SET", "kept", "again") != b"OK":
            assert time.monotonic() < deadline, "writes stayed refused although space is free"
    recorder.wait_acked(300)
    recorder.stop()
    recorder.verify(node.port)
    assert node.pids() == roles, "a process died of a full disk"
    node.kill_all()
    node.start()
    recorder.verify(node.port)


def test_a_disk_that_fails_ends_the_worker_and_nothing_is_acknowledged(disk: LoopFilesystem, tmp_path: Path) -> None:
    """Real EIO: a file system that was shut down fails each write and sync. What was acknowledged before is there."""
    with new_node(tmp_path / "node", workers=1) as one:
        one.data_dir = disk.path / "data"
        one.start()
        recorder = Recorder(shared_targets(one.port, 3), seed=1)
        recorder.start()
        recorder.wait_acked(300)
        disk.cut()
        one.wait_log("process=worker-0 msg=.worker (stops|cannot start).*Input/output error", REFUSED_SECONDS_MAX)
        one.wait_log("child died.* child=worker-0 code=74")
        one.kill_all()
        recorder.stop()
        disk.unmount()
        disk.mount()
        one.start()
        recorder.verify(one.port)
