"""What a Desk makes of a disk that is slow or fails."""

import errno
from collections.abc import Iterator
from typing import Any

import pytest

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.core import MultiConfig
from nodedb_node.multiraft.snapshot.desk import Desk
from nodedb_node.multiraft.snapshot.messages import Manifest
from nodedb_node.multiraft.snapshot.receiver import Discard, Write
from nodedb_node.multiraft.snapshot.sender import Read
from nodedb_node.multiraft.snapshot.work import Cut, Install, Release
from nodedb_node.raft.messages import GroupConfig
from tests.multiraft.snapshot.link import manifest_of

MANIFEST = manifest_of(bytes(5000))


class Multi:
    """Takes every answer."""

    config = MultiConfig(GroupConfig(group=GroupId(0), node=NodeNumber(1)), 1)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Disk:
    """Notes what it is asked, and does it or fails."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails = False

    def cut(self, group: int, chunk_bytes: int) -> Iterator[None]:
        for _ in range(20):
            self.done.append("cut")
            yield

    def install(self, manifest: Manifest, state: bytes) -> Iterator[None]:
        for _ in range(20):
            self.done.append("install")
            yield

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


def test_reads_and_writes_do_not_wait_for_cuts_and_installs() -> None:
    """They stood behind all of them: a transfer began when the last of many groups was cut, and stalled meanwhile."""
    disk = Disk()
    desk = Desk(disk, Multi())  # type: ignore[arg-type]
    desk.take([Cut(7), Cut(8), Install(MANIFEST, b"")])
    desk.step(0)
    desk.take([Read(1, MANIFEST, 0), Write(MANIFEST, 0, b""), Read(1, MANIFEST, 1)])
    for _ in range(6):
        desk.step(0)
    assert disk.done == ["cut", "read", "cut", "write", "cut", "read", "cut"]
    while desk.step(0):
        pass
    assert disk.done.count("cut") == 40 and disk.done[-21:] == ["made", *["install"] * 20]


def test_a_cut_begins_behind_what_was_asked_before() -> None:
    """A cut that is made again may be the very file that is to be removed."""
    disk = Disk()
    desk = Desk(disk, Multi())  # type: ignore[arg-type]
    desk.take([Read(1, MANIFEST, 0), Release(MANIFEST), Cut(1)])
    while desk.step(0):
        pass
    assert disk.done[:3] == ["read", "release", "cut"]


def test_an_install_that_is_taken_back_is_given_up() -> None:
    disk = Disk()
    desk = Desk(disk, Multi())  # type: ignore[arg-type]
    desk.take([Install(MANIFEST, b""), Install(manifest_of(b"", 2), b"")])
    desk.step(0)
    desk.take([Discard(MANIFEST)])
    while desk.step(0):
        pass
    assert disk.done == ["install", "discard", *["install"] * 20]
