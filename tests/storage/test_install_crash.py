"""A process that dies at any point of a snapshot's install starts again: in the real store, with the real log."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodedb_node.errors import StartError
from nodedb_node.ids import NodeNumber
from nodedb_node.multiraft import books
from nodedb_node.multiraft.log import RaftLog
from nodedb_node.multiraft.start import Held, LogConfig, open_log
from nodedb_node.native import wal
from nodedb_node.native.store import Store
from nodedb_node.raft import configuration as configurations
from nodedb_node.storage.directory import LogDirectory
from nodedb_node.storage.transfers import SnapshotFiles
from tests.storage.rows import contents, fill, keys_of_group, open_store, vshards_of

GROUP, OLD, INDEX = 3, 5, 41
CONFIG = LogConfig("thread", False, 64 * 1024, 64 * 1024, floor_bytes=0)
FOUNDERS = configurations.encode(configurations.founding([NodeNumber(1)]))
STATE = books.carried_bytes(books.Carried(term=1, configuration=FOUNDERS, installed=True))

CHILD = """
import os, sys
from pathlib import Path
from tests.storage.test_install_crash import GROUP, STATE, files, open_store
where, die_at = Path(sys.argv[1]), int(sys.argv[2])
with open_store(where / "store", [GROUP]) as store:
    disk = files(where, store)
    (manifest, chunks), = disk.found()
    assert chunks == manifest.chunks
    for step, _ in enumerate(disk.install(manifest, STATE)):
        if step == die_at:
            os._exit(9)
os._exit(0)
"""


def files(where: Path, store: Store) -> SnapshotFiles:
    return SnapshotFiles(str(where / "snapshots"), store, vshards_of)


def start(where: Path, store: Store) -> tuple[RaftLog, list[int]]:
    """The log as a worker opens it, and the indexes of commands that it replayed."""
    header = store.group(GROUP)
    held = {GROUP: Held(header.applied_index, header.applied_term, header.state)}
    got: list[int] = []

    def apply(records: Any, n: int) -> None:
        rows = [wal.record_of(records[i]) for i in range(n)]
        got.extend(row.index for row in rows if row.kind == wal.DATA)

    return open_log(LogDirectory(str(where / "wal")), CONFIG, held, apply, lambda: 1), got


@pytest.fixture
def arrived(tmp_path: Path) -> Iterator[tuple[Path, list[tuple[int, int]]]]:
    """A node whose store is at OLD, its log too, and that has received a snapshot; and what the snapshot holds."""
    where = tmp_path / "node"
    (where / "wal").mkdir(parents=True)
    pairs = [(key, b"new" * 900) for key in keys_of_group(GROUP, 30)]
    with open_store(tmp_path / "source", [GROUP]) as source, open_store(where / "store", [GROUP]) as store:
        fill(source, GROUP, pairs, INDEX)
        fill(store, GROUP, [(key, b"old") for key, _ in pairs[:9]], OLD, state=b"")
        start(where, store)[0].close(mark=False)
        sending, receiving = files(tmp_path, source), files(where, store)
        for _ in sending.cut(GROUP, 20_000):
            pass
        manifest = sending.made(GROUP)
        receiving.begin(manifest)
        for number in range(manifest.chunks):
            receiving.write(manifest, number, sending.read(manifest, number))
        for disk in (sending, receiving):
            disk.close()
        expected = contents(source, GROUP)
    yield where, expected


def die(where: Path, step: int) -> bool:
    """False: it was done before that step."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(where), str(step)], check=False, capture_output=True)
    assert done.returncode in (0, 9), done.stderr
    return done.returncode == 9


@pytest.mark.parametrize("step", [0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 1000])
def test_the_next_start_has_the_group_before_or_behind_the_snapshot(arrived: Any, step: int) -> None:
    where, expected = arrived
    died = die(where, step)
    with open_store(where / "store", [GROUP]) as store:
        at = store.group(GROUP).applied_index
        assert at == (OLD if died else INDEX)
        log, got = start(where, store)
        assert got == []
        last = log.last(GROUP)[0]
        assert last > INDEX if not died else OLD < last < INDEX
        log.close(mark=False)
        log, _ = start(where, store)  # and the log's own word is enough from here on
        assert log.last(GROUP)[0] == last + 1
        log.close(mark=True)
        if died:  # the transfer goes on from its file
            disk = files(where, store)
            ((manifest, chunks),) = disk.found()
            assert chunks == manifest.chunks
            for _ in disk.install(manifest, STATE):
                pass
            disk.close()
        assert contents(store, GROUP) == expected


def test_a_log_of_another_history_is_given_up(arrived: Any) -> None:
    where, _ = arrived
    with open_store(where / "store", [GROUP]) as store:
        log, _ = start(where, store)
        array, keep = wal.records_array([wal.Record(wal.ENTRY, GROUP, data=b"x", kind=wal.DATA) for _ in range(60)])
        assert log.propose(array, 60, False)
        log._drain()
        del keep
        assert log.last(GROUP)[0] > INDEX
        log.close(mark=False)
    assert not die(where, 1000)
    with open_store(where / "store", [GROUP]) as store:
        log, got = start(where, store)
        assert got == [] and log.last(GROUP)[0] == INDEX + 1
        log.close(mark=True)


def test_a_checkpoint_ahead_of_the_log_that_no_snapshot_made_is_refused(arrived: Any) -> None:
    where, _ = arrived
    with open_store(where / "store", [GROUP]) as store:
        pairs = [(key, b"later") for key in keys_of_group(GROUP, 3)]
        fill(store, GROUP, pairs, INDEX, state=books.carried_bytes(books.Carried(configuration=FOUNDERS)))
        with pytest.raises(StartError, match="files are missing"):
            start(where, store)
