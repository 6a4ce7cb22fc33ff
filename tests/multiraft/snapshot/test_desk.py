"""What a Desk makes of a disk that is slow or fails."""

import errno
from typing import Any

import pytest

from nodedb_node.multiraft.snapshot.desk import Desk
from nodedb_node.multiraft.snapshot.receiver import Discard
from nodedb_node.multiraft.snapshot.work import Release
from tests.multiraft.snapshot.link import manifest_of

MANIFEST = manifest_of(bytes(5000))


class Disk:
    """Notes what it is asked, and does it or fails."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails = False

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> bytes:
            self.done.append(name)
            if self.fails:
                raise OSError(errno.EIO, "the disk failed")
            return bytes(1000)

        return call


def test_a_file_that_cannot_be_removed_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    disk.fails = True
    desk = Desk(disk, None)  # type: ignore[arg-type]
    desk.take([Discard(MANIFEST), Release(MANIFEST)])
    assert desk.step(0) and desk.step(0) and not desk.step(0)
    assert disk.done == ["discard", "release"]
    assert caplog.text.count("cannot be removed") == 2
