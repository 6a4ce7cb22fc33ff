"""Snapshot files against real stores: what arrives is what was cut, or nothing is switched."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nodedb_node.multiraft.snapshot.messages import Manifest
from nodedb_node.multiraft.snapshot.work import SnapshotDamaged
from nodedb_node.native.move import Cut
from nodedb_node.native.store import GroupCut, GroupHeader, Store
from nodedb_node.storage.snapshots import MANIFEST_BYTES, SLOT, Incoming, Spool
from tests.storage.rows import checkpoint_now, contents, fill, keys_of_group, open_store, vshards_of

GROUP = 3
CHUNK = 10_000
STATE = b"the receiver's own"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Store]:
    rng = random.Random(5)
    with open_store(tmp_path / "source", [GROUP]) as store:
        pairs = [(key, rng.randbytes(rng.choice((0, 10, 5000)))) for key in keys_of_group(GROUP, 300)]
        pairs.append((keys_of_group(GROUP, 301)[-1], rng.randbytes(700_000)))  # larger than a step
        fill(store, GROUP, pairs, 41)
        yield store


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Store]:
    """Already holds other rows of the group, some only in memory."""
    with open_store(tmp_path / "target", [GROUP, GROUP + 1]) as store:
        keys = keys_of_group(GROUP, 200)
        fill(store, GROUP, [(key, b"old") for key in keys[:100]], 5)
        fill(store, GROUP, [(key, b"older") for key in keys[100:]], 6, checkpoint=False)
        yield store


@pytest.fixture
def spool(tmp_path: Path, source: Store) -> Iterator[Spool]:
    made = Spool(str(tmp_path / "group-3.snap"))
    for _ in made.build(source, GROUP, vshards_of(GROUP), CHUNK):
        pass
    yield made
    made.close()


def manifest(spool: Spool) -> Manifest:
    assert spool.manifest is not None
    return spool.manifest


def receive(spool: Spool, path: Path, numbers: list[int]) -> Incoming:
    incoming = Incoming.create(str(path), manifest(spool))
    for number in numbers:
        incoming.write(number, spool.read(number))
    return incoming


def shuffled(spool: Spool) -> list[int]:
    numbers = list(range(manifest(spool).chunks))
    random.Random(1).shuffle(numbers)
    return numbers


def install(incoming: Incoming, store: Store) -> None:
    for _ in incoming.install(store, STATE):
        pass


def test_what_arrives_is_what_was_cut(tmp_path: Path, spool: Spool, source: Store, target: Store) -> None:
    assert manifest(spool).index == 41 and manifest(spool).chunks > 100
    other = contents(target, GROUP + 1)
    incoming = receive(spool, tmp_path / "in", shuffled(spool))
    install(incoming, target)
    assert contents(target, GROUP) == contents(source, GROUP)
    assert target.group(GROUP) == GroupHeader(41, 2, STATE)
    assert contents(target, GROUP + 1) == other
    incoming.close(remove=True)
    assert not (tmp_path / "in").exists()


def test_an_installed_snapshot_survives_a_checkpoint_and_a_restart(
    tmp_path: Path, spool: Spool, source: Store, target: Store
) -> None:
    install(receive(spool, tmp_path / "in", shuffled(spool)), target)
    checkpoint_now(target, GROUP, 41)
    target.close()
    with open_store(tmp_path / "target", [GROUP]) as again:
        assert contents(again, GROUP) == contents(source, GROUP)


def test_a_restart_finds_the_checked_prefix(tmp_path: Path, spool: Spool, source: Store, target: Store) -> None:
    path = tmp_path / "in"
    incoming = receive(spool, path, [0, 1, 2, 3, 4, 6])
    incoming.close(remove=False)
    with open(path, "r+b") as file:  # chunk 3 rots
        file.seek(MANIFEST_BYTES + 3 * (SLOT.size + CHUNK) + 100)
        file.write(b"?")
    found = Incoming.restore(str(path))
    assert found is not None
    again, chunks = found
    assert chunks == 3 and again.manifest == manifest(spool)
    for number in range(3, manifest(spool).chunks):
        again.write(number, spool.read(number))
    install(again, target)
    assert contents(target, GROUP) == contents(source, GROUP)


@pytest.mark.parametrize("size", [0, 3, 100, MANIFEST_BYTES - 1])
def test_a_file_cut_in_its_manifest_is_removed(tmp_path: Path, spool: Spool, size: int) -> None:
    path = tmp_path / "in"
    receive(spool, path, [0]).close(remove=False)
    os.truncate(path, size)
    found = Incoming.restore(str(path))
    assert (found is None) == (size < 100)
    assert path.exists() == (size >= 100)


def test_bytes_that_differ_from_the_digest_switch_nothing(tmp_path: Path, spool: Spool, target: Store) -> None:
    before = contents(target, GROUP), target.group(GROUP)
    incoming = receive(spool, tmp_path / "in", shuffled(spool))
    data = bytearray(spool.read(5))
    data[7] ^= 1
    incoming.write(5, bytes(data))  # with a checksum of its own
    with pytest.raises(SnapshotDamaged, match="digest"):
        install(incoming, target)
    assert (contents(target, GROUP), target.group(GROUP)) == before


def test_a_snapshot_of_another_group_is_not_installed(tmp_path: Path, spool: Spool, target: Store) -> None:
    before = contents(target, GROUP)
    other = msgspec.structs.replace(manifest(spool), group=GROUP + 1)
    incoming = Incoming.create(str(tmp_path / "in"), other)
    for number in range(other.chunks):
        incoming.write(number, spool.read(number))
    with pytest.raises(SnapshotDamaged, match="another"):
        install(incoming, target)
    assert contents(target, GROUP) == before


def test_an_install_given_up_half_way_can_be_done_again(
    tmp_path: Path, spool: Spool, source: Store, target: Store
) -> None:
    incoming = receive(spool, tmp_path / "in", shuffled(spool))
    steps = incoming.install(target, STATE)
    for _ in range(manifest(spool).chunks + 5):
        next(steps)
    steps.close()
    assert target.group(GROUP).applied_index == 5, "the group's header comes last"
    install(incoming, target)
    assert contents(target, GROUP) == contents(source, GROUP)


def test_a_spool_given_up_half_way_leaves_nothing(tmp_path: Path, source: Store) -> None:
    steps = Spool(str(tmp_path / "x.snap")).build(source, GROUP, vshards_of(GROUP), CHUNK)
    next(steps)
    steps.close()
    assert not list(tmp_path.glob("x.snap*"))


def test_neither_side_takes_the_space_that_belongs_to_the_log(
    tmp_path: Path, spool: Spool, source: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrived took all the disk had, and the node refused its clients' writes below the floor."""
    needed, floor = manifest(spool).size_bytes, 1 << 20
    real = os.statvfs(tmp_path)

    def left(free_bytes: int) -> None:
        fields = [*real]
        fields[1], fields[4] = 1, free_bytes  # f_frsize, f_bavail
        monkeypatch.setattr(os, "fstatvfs", lambda fd: os.statvfs_result(fields))

    left(floor + needed)
    with pytest.raises(OSError, match="floor") as refused:
        Incoming.create(str(tmp_path / "in"), manifest(spool), floor)
    assert refused.value.errno == errno.ENOSPC
    left(floor + needed + 2 * MANIFEST_BYTES)
    Incoming.create(str(tmp_path / "in"), manifest(spool), floor).close(remove=True)
    left(floor)
    with pytest.raises(OSError, match="floor"):
        list(Spool(str(tmp_path / "x.snap"), floor).build(source, GROUP, vshards_of(GROUP), CHUNK))
    assert not [*tmp_path.glob("x.snap*"), *tmp_path.glob("in")]


def test_rows_that_change_while_spooling_are_not_mixed_in_a_vshard(tmp_path: Path, source: Store) -> None:
    """Each vShard is of one moment, never older than the manifest's index."""
    made = Spool(str(tmp_path / "x.snap"))
    steps = made.build(source, GROUP, vshards_of(GROUP), CHUNK)
    next(steps)
    next(steps)
    fill(source, GROUP, [(key, b"new") for key in keys_of_group(GROUP, 300)], 42)
    for _ in steps:
        pass
    assert made.manifest is not None and made.manifest.index == 41
    with open_store(tmp_path / "fresh", [GROUP]) as fresh:
        install(receive(made, tmp_path / "in", list(range(made.manifest.chunks))), fresh)
        assert fresh.group(GROUP).applied_index == 41
        # What the log brings next: vShards that were cut late skip it, the first one takes it.
        fill(fresh, GROUP, [(key, b"new") for key in keys_of_group(GROUP, 300)], 42)
        assert contents(fresh, GROUP) == contents(source, GROUP)


def test_a_vshard_that_a_checkpoint_is_merging_is_waited_for(tmp_path: Path) -> None:
    rng = random.Random(6)
    pairs = [(key, rng.randbytes(1000)) for key in keys_of_group(GROUP, 400)]
    with open_store(tmp_path / "slow", [GROUP], txn_bytes_max=65536, pause_us=20_000) as store:
        fill(store, GROUP, pairs, 41, checkpoint=False)
        store.checkpoint_begin([GroupCut(GROUP, 41, 2, b"state")])
        waited, made = False, Spool(str(tmp_path / "x.snap"))
        while store.checkpoint_end() is False:
            try:
                Cut(store, vshards_of(GROUP)[0]).__exit__()
            except OSError as error:
                assert error.errno == errno.EAGAIN
                waited = True
                break
        assert waited, "the checkpoint ended before it was seen merging"
        for _ in made.build(store, GROUP, vshards_of(GROUP), CHUNK):
            pass
        made.close()
