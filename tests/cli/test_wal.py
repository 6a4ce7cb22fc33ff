"""wal verify, dump and cut on real directories."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nodedb_node.cli.wal import command
from nodedb_node.errors import StartError
from nodedb_node.multiraft.start import LogConfig, open_log
from nodedb_node.native import wal
from nodedb_node.storage.directory import LogDirectory
from tests.conformance.test_wal import Entries, collect, held, propose

CONFIG = LogConfig("thread", True, 64 * 1024, 64 * 1024, floor_bytes=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a worker's log with twenty entries in three segments or more."""
    where = tmp_path / "data" / "layout-1" / "worker-0" / "wal"
    where.mkdir(parents=True)
    log = open_log(LogDirectory(str(where)), CONFIG, held([0]), lambda records, n: None, lambda: 1)
    for i in range(20):
        propose(log, [(0, b"entry %d" % i + bytes(9000))])
    log.close(mark=True)
    return where


def run(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)


def entries(path: Path) -> int:
    """Commands that a start finds."""
    got: Entries = {0: []}
    open_log(LogDirectory(str(path)), CONFIG, held([0]), collect(got), lambda: 1).close(mark=True)
    return len(got[0])


def damage(path: Path) -> None:
    """Flip a bit of the second append in the second segment."""
    file = path / "wal-0000000000000002"
    data = bytearray(file.read_bytes())
    header = wal.segment_read(data)
    assert not isinstance(header, int)
    first = wal.append_check(data, wal.HEADER_BYTES, header.segment_id)
    assert first is not None
    data[first.off + first.bytes + 50] ^= 1
    file.write_bytes(data)


def test_verify_of_a_good_log(path: Path) -> None:
    done = run("verify", path.parent.parent.parent)
    assert done.return_value == 0
    assert (
        "group 0: replica 0, entries 1 to 21, checkpoint covers 0, term 1, vote 1, configuration of entry 0"
        in done.output
    )
    assert "ends with append 23 (clean)" in done.output
    assert done.output.endswith("ok\n")


def test_dump_shows_each_record(path: Path) -> None:
    done = run("dump", "--payload", path)
    assert done.return_value == 0
    assert "hard-state group=0 term=1 index=0 bytes=16" in done.output
    assert "entry:data group=0 term=1 index=21 bytes=9008 b'entry 19\\x00" in done.output
    assert "  mark group=0" in done.output


def test_verify_names_the_damage_and_cut_gives_up_what_is_behind_it(path: Path) -> None:
    damage(path)
    done = run("verify", path)
    assert done.return_value == 65
    assert "DAMAGED" in done.output
    assert "wal-0000000000000002: offset " in done.output
    refused = run("cut", path)
    assert isinstance(refused.exception, StartError)
    assert "add --yes" in str(refused.exception)
    assert run("verify", path).return_value == 65
    assert run("cut", "--yes", path).return_value == 0
    assert run("verify", path).return_value == 0
    left = entries(path)
    assert 0 < left < 20
    assert len(list(path.glob("cut-*"))) >= 2
    assert run("cut", "--yes", path).output.endswith("nothing to cut\n")


def test_a_gap_is_cut_at_the_missing_file(path: Path) -> None:
    (path / "wal-0000000000000002").unlink()
    assert run("verify", path).return_value == 65
    assert run("cut", "--yes", path).return_value == 0
    assert 0 < entries(path) < 20


def test_a_log_in_use_and_a_place_without_one_are_refused(path: Path) -> None:
    directory = LogDirectory(str(path))
    assert "in use" in str(run("verify", path).exception)
    directory.close()
    (path / "empty").mkdir()
    assert "no log below" in str(run("verify", path / "empty").exception)
    assert "is not a directory" in str(run("dump", path / "nowhere").exception)
