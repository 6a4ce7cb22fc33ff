"""Groups of a new directory, and files replaced atomically."""

import os
from pathlib import Path

import pytest

from nodedb_node.config import CpuSection
from nodedb_node.errors import Exit, StartError
from nodedb_node.supervisor.datadir import groups_for, holder, open_data_dir, replace_file
from nodedb_node.supervisor.run import at_most


@pytest.mark.parametrize(("workers", "groups"), [(1, 8), (2, 8), (3, 16), (4, 16), (5, 32), (64, 256), (256, 1024)])
def test_groups(workers: int, groups: int) -> None:
    assert groups_for(workers) == groups


def test_a_directory_keeps_its_layout_whatever_is_asked(tmp_path: Path) -> None:
    first = open_data_dir(str(tmp_path / "d"), 3)
    first.close()
    second = open_data_dir(str(tmp_path / "d"), 1)
    second.close()
    assert second.layout == first.layout and second.layout.workers == 3
    assert second.node.node_id == first.node.node_id and second.node.generation == first.node.generation + 1
    assert sorted(path.name for path in (tmp_path / "d" / "layout-1").iterdir()) == ["worker-0", "worker-1", "worker-2"]


def test_workers_that_are_chosen_for_the_user_are_no_more_than_the_groups(tmp_path: Path) -> None:
    data = open_data_dir(str(tmp_path), 2)
    data.close()
    assert at_most(CpuSection(), 31, data).workers == 8
    with pytest.raises(StartError, match="at most 8 workers, not 31; start with --workers 8") as caught:
        at_most(CpuSection(workers=31), 31, data)
    assert caught.value.code is Exit.CONFIG


@pytest.mark.parametrize("name", ["node.json", "layout"])
@pytest.mark.parametrize("content", ["", "{", '{"format": "x"}', "null"])
def test_damage_is_said_with_the_file(tmp_path: Path, name: str, content: str) -> None:
    open_data_dir(str(tmp_path), 1).close()
    (tmp_path / name).write_text(content)
    with pytest.raises(StartError, match=f"{name} is damaged") as caught:
        open_data_dir(str(tmp_path), 1)
    assert caught.value.code is Exit.DATA


def test_data_without_identity_is_not_taken_over(tmp_path: Path) -> None:
    open_data_dir(str(tmp_path), 1).close()
    (tmp_path / "layout-1" / "worker-0" / "wal" / "1").write_text("data")
    (tmp_path / "node.json").unlink()
    with pytest.raises(StartError, match=r"no node\.json"):
        open_data_dir(str(tmp_path), 1)


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    replace_file(str(tmp_path), "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789\n"


def test_the_holder_of_a_directory(tmp_path: Path) -> None:
    assert holder(str(tmp_path)) is None
    held = open_data_dir(str(tmp_path), 1)
    assert holder(str(tmp_path)) == str(os.getpid())
    held.close()
    assert holder(str(tmp_path)) is None
