"""The catalog: one engine, one identity, every confirmed change durable, the marker last."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import msgspec
import pytest

from nodedb_node.metadata.catalog import VALUE_BYTES_MAX, CannotStore, Catalog, CatalogError, Identity

OURS = Identity(cluster_id="c1", node_id="n1", groups=8)

ENGINE = """
import sys
from pathlib import Path
import lmdb
from nodedb_node.metadata.catalog import Catalog
print(lmdb.version()[0], Catalog.open(Path(sys.argv[1])).engine[0])
"""

WRITER = """
import sys
from pathlib import Path
from nodedb_node.metadata.catalog import Catalog
catalog = Catalog.open(Path(sys.argv[1]))
number = 0
while True:
    catalog.set(f"setting.{number}", str(number))
    print(number, flush=True)
    number += 1
"""


def test_users_are_stored_with_their_version_and_come_back(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog") as catalog:
        assert catalog.users() == ({}, 0)
        catalog.put_users([(b"a", b"1"), (b"", b"2")], [], 1)
        catalog.put_users([(b"a", b"3")], [b"", b"nosuch"], 2)
    with Catalog.open(tmp_path / "catalog") as catalog:
        assert catalog.users() == ({b"a": b"3"}, 2)


def test_a_catalog_without_room_refuses_users_and_keeps_what_it_has(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog") as catalog:
        catalog.put_users([(b"a", b"1")], [], 1)
        with pytest.raises(CannotStore):
            catalog.put_users([(b"%d" % number, bytes(VALUE_BYTES_MAX)) for number in range(1100)], [], 2)
        assert catalog.users() == ({b"a": b"1"}, 1)
        catalog.put_users([(b"b", b"2")], [], 2)


def test_new_catalog_is_empty_until_claimed(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog") as catalog:
        assert not catalog.bootstrapped
        assert catalog.identity() is None
        assert catalog.generation() == 0
        catalog.claim(OURS, 1)
        assert catalog.bootstrapped
    with Catalog.open(tmp_path / "catalog") as catalog:
        assert catalog.identity() == OURS
        catalog.claim(OURS, 2)
        assert catalog.generation() == 2


def test_engine_is_the_old_format(tmp_path: Path) -> None:
    """Even where the environment asks for the newer engine, whose files the stores' library could not read."""
    found = subprocess.run(
        [sys.executable, "-c", ENGINE, str(tmp_path / "catalog")],
        env=os.environ | {"LMDB_DEFAULT_LIB_VERSION": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["1", "0"]


def test_file_of_the_new_engine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    lmdb.open(str(tmp_path / "catalog"), max_dbs=2, lib_version=1).close()
    with pytest.raises(CatalogError, match="cannot be opened"):
        Catalog.open(tmp_path / "catalog")


def test_bootstrap_cut_before_the_marker_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    path.mkdir()
    with (
        lmdb.open(str(path), max_dbs=2, lib_version=0) as environment,
        environment.begin(db=environment.open_db(b"node"), write=True) as change,
    ):
        change.put(b"identity", msgspec.msgpack.encode(Identity(cluster_id="half", node_id="done", groups=1)))
    with Catalog.open(path) as catalog:
        assert not catalog.bootstrapped
        catalog.claim(OURS, 1)
        assert catalog.identity() == OURS


@pytest.mark.parametrize(
    ("identity", "generation", "message"),
    [
        (Identity(cluster_id="c1", node_id="other", groups=8), 4, "parts of two directories were mixed"),
        (Identity(cluster_id="c1", node_id="n1", groups=16), 4, "parts of two directories were mixed"),
        (OURS, 2, "rolled back"),
    ],
)
def test_foreign_or_older_directory_is_refused(
    tmp_path: Path, identity: Identity, generation: int, message: str
) -> None:
    with Catalog.open(tmp_path / "catalog") as catalog:
        catalog.claim(OURS, 3)
        with pytest.raises(CatalogError, match=message):
            catalog.claim(identity, generation)
        assert (catalog.identity(), catalog.generation()) == (OURS, 3)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    with Catalog.open(path) as catalog:
        catalog.claim(OURS, 1)
    with (
        lmdb.open(str(path), max_dbs=2, lib_version=0) as environment,
        environment.begin(db=environment.open_db(b"node"), write=True) as change,
    ):
        change.put(b"format", msgspec.msgpack.encode(2))
    with pytest.raises(CatalogError, match="format 2, this version reads 1"):
        Catalog.open(path)


def test_unreadable_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    path.mkdir()
    (path / "data.mdb").write_bytes(b"\x5a" * 8192)
    with pytest.raises(CatalogError, match="cannot be opened"):
        Catalog.open(path)
    assert (path / "data.mdb").read_bytes() == b"\x5a" * 8192


def test_settings_are_set_changed_and_unset(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog") as catalog:
        catalog.set("log.level", "debug")
        catalog.set("log.level", "info")
        catalog.set("é", "")
        assert catalog.settings() == {"log.level": "info", "é": ""}
        assert catalog.unset("é")
        assert not catalog.unset("é")
    with Catalog.open(tmp_path / "catalog") as catalog:
        assert catalog.settings() == {"log.level": "info"}


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("n" * 256, "x"), ("n", "v" * (VALUE_BYTES_MAX + 1))])
def test_setting_beyond_its_bounds_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with Catalog.open(tmp_path / "catalog") as catalog:
        with pytest.raises(ValueError, match="name takes"):
            catalog.set(name, value)
        assert catalog.settings() == {}


def test_confirmed_changes_survive_kill(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        confirmed = [int(writer.stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        confirmed += [int(line) for line in writer.stdout]
    with Catalog.open(path) as catalog:
        settings = catalog.settings()
    assert {f"setting.{number}" for number in confirmed} <= settings.keys()
