"""What every SnapshotDisk must do, on files beside a real store and in the simulator."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodedb_node.multiraft import books
from nodedb_node.multiraft.snapshot.messages import Manifest
from nodedb_node.multiraft.snapshot.work import SnapshotDamaged, SnapshotDisk
from nodedb_node.storage.transfers import SnapshotFiles
from tests.sim.disk import SimDisk
from tests.sim.store import Snapshot
from tests.sim.transfers import TwinDisk
from tests.storage.rows import contents, fill, keys_of_group, open_store, vshards_of

GROUP, INDEX, TERM = 3, 41, 2
STATE = books.carried_bytes(books.Carried(config_index=7, configuration=b"voters", installed=True))


class Side:
    """One node's disk, over several lives."""

    def __init__(self, kind: str, path: Path, filled: bool) -> None:
        self.kind, self.path, self.closing = kind, path, ExitStack()
        self.sim = SimDisk()
        if kind == "twin":
            if filled:
                values: dict[str, Any] = {"list-1": tuple(range(1000))}
                row = Snapshot(INDEX, TERM, 7, b"voters", values, {5: (9, "ok")}, 77)
                self.sim.checkpoints[GROUP, 0] = row
        else:
            path.mkdir()
            self.store = self.closing.enter_context(open_store(path / "store", [GROUP]))
            if filled:
                rng = random.Random(5)
                fill(self.store, GROUP, [(key, rng.randbytes(3000)) for key in keys_of_group(GROUP, 20)], INDEX)
        self.start()

    def start(self) -> None:
        if self.kind == "twin":
            self.disk: SnapshotDisk = TwinDisk(self.sim, lambda group: 0)
        else:
            self.disk = SnapshotFiles(str(self.path / "snapshots"), self.store, vshards_of)

    def restart(self) -> None:
        self.disk.close()
        self.start()

    def holds(self) -> tuple[int, int, bytes, Any]:
        """(index, term, state, contents) of the group."""
        if self.kind == "twin":
            row = self.sim.checkpoints.get((GROUP, 0))
            return (row.applied, row.term, row.carried, row.values) if row else (0, 0, b"", {})
        header = self.store.group(GROUP)
        return header.applied_index, header.applied_term, header.state, contents(self.store, GROUP)


@pytest.fixture(params=["files", "twin"])
def sides(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    both = Side(request.param, tmp_path / "one", True), Side(request.param, tmp_path / "other", False)
    yield both
    for side in both:
        side.disk.close()
        side.closing.close()


def cut(disk: SnapshotDisk) -> Manifest:
    for _ in disk.cut(GROUP, 1000):
        pass
    made = disk.made(GROUP)
    assert (made.group, made.index, made.entry_term, made.config) == (GROUP, INDEX, TERM, b"")
    return msgspec.structs.replace(made, config=b"told by Raft")


def move(source: Side, target: Side, manifest: Manifest, numbers: Any) -> None:
    for number in numbers:
        target.disk.write(manifest, number, source.disk.read(manifest, number))


def install(disk: SnapshotDisk, manifest: Manifest) -> None:
    for _ in disk.install(manifest, STATE):
        pass


def test_what_is_installed_is_what_was_cut_with_the_receiver_s_state(sides: tuple[Side, Side]) -> None:
    source, target = sides
    manifest = cut(source.disk)
    assert manifest.chunks > 3
    target.disk.begin(manifest)
    move(source, target, manifest, reversed(range(manifest.chunks)))
    assert target.holds()[0] == 0
    install(target.disk, manifest)
    assert target.holds() == (INDEX, TERM, STATE, source.holds()[3])
    target.disk.discard(manifest)
    source.disk.release(manifest)
    with pytest.raises(OSError, match="no such"):
        source.disk.read(manifest, 0)


def test_a_restart_finds_what_arrived_and_forgets_what_was_cut(sides: tuple[Side, Side]) -> None:
    source, target = sides
    manifest = cut(source.disk)
    target.disk.begin(manifest)
    move(source, target, manifest, (0, 1, 3))
    target.restart()
    assert target.disk.found() == [(manifest, 2)]
    move(source, target, manifest, range(2, manifest.chunks))
    install(target.disk, manifest)
    assert target.holds()[3] == source.holds()[3]
    source.restart()
    assert source.disk.found() == []
    with pytest.raises(OSError, match="no such"):
        source.disk.read(manifest, 0)


def test_a_whole_that_is_not_the_manifest_s_changes_nothing(sides: tuple[Side, Side]) -> None:
    source, target = sides
    manifest = cut(source.disk)
    target.disk.begin(manifest)
    move(source, target, manifest, range(manifest.chunks))
    wrong = bytearray(source.disk.read(manifest, 1))
    wrong[5] ^= 1
    target.disk.write(manifest, 1, bytes(wrong))
    before = target.holds()
    with pytest.raises(SnapshotDamaged):
        install(target.disk, manifest)
    assert target.holds() == before
    move(source, target, manifest, [1])
    install(target.disk, manifest)
    assert target.holds()[0] == INDEX


def test_a_new_place_takes_the_old_one_s_and_a_discarded_one_takes_nothing(sides: tuple[Side, Side]) -> None:
    source, target = sides
    manifest = cut(source.disk)
    older = msgspec.structs.replace(manifest, index=INDEX - 1)
    target.disk.begin(older)
    target.disk.begin(manifest)
    with pytest.raises(OSError, match="no such"):
        target.disk.write(older, 0, source.disk.read(manifest, 0))
    target.disk.discard(older)
    move(source, target, manifest, [0])
    target.disk.discard(manifest)
    target.disk.discard(manifest)
    with pytest.raises(OSError, match="no such"):
        move(source, target, manifest, [1])
    target.restart()
    assert target.disk.found() == []


def test_a_group_without_a_checkpoint_has_no_cut(sides: tuple[Side, Side]) -> None:
    with pytest.raises(OSError, match="checkpoint"):
        for _ in sides[1].disk.cut(GROUP, 1000):
            pass
