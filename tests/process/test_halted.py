"""One group's log is such that it cannot go on: it says so and refuses, its neighbours in the same worker serve."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import redis

from nodedb_node.errors import StartError
from nodedb_node.native import wal
from nodedb_node.native.wal import Record
from nodedb_node.routing.places import group_of_vshard
from nodedb_node.storage import recovery
from nodedb_node.storage.directory import LogDirectory
from tests.process.node import Node, wait_for
from tests.process.test_admin import get, values

pytestmark = pytest.mark.process

KEYS = [f"key:{i}" for i in range(64)]


def group_of(client: redis.Redis, key: str) -> int:
    return int(group_of_vshard(client.cluster("KEYSLOT", key) // 16, 8))


def opened(path: str) -> LogDirectory | None:
    try:
        return LogDirectory(path)
    except StartError:
        return None


def damage(directory: Path, group: int, kind: str) -> None:
    """One valid append behind all others, of what this version must not pass over."""
    (path,) = directory.glob("layout-*/worker-0/wal")
    source = wait_for(lambda: opened(str(path)), "the killed worker to be gone")
    with closing(recovery.recover(source)) as recovered:
        book, end = recovered.book.group(group), recovered.end
        header = next(known.header for known in recovered.segments if end and known.header.number == end.segment)
        assert end is not None and book.last > 1
        record = {
            "unknown kind": Record(wal.ENTRY, group, book.last_term, book.last + 1, b"?", kind=9),
            "unknown command": Record(wal.ENTRY, group, book.last_term, book.last + 1, b"\1" * 64, kind=wal.DATA),
            "quarantine": Record(wal.QUARANTINE, group, data=b"\1"),
        }[kind]
        off = end.off + end.bytes
        made, _ = wal.append_encode([record], header.segment_id, end.sequence + 1, end.crc, off)
    with open(path / f"wal-{end.segment:016d}", "r+b") as file:
        file.seek(off)
        file.write(made)
    source.close()


def refusal(client: redis.Redis, *command: object) -> str:
    with pytest.raises(redis.exceptions.RedisError) as caught:
        client.execute_command(*command)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("unknown kind", "of a kind unknown to this version: start the version that wrote it"),
        ("unknown command", "cannot be applied by this version"),
        ("quarantine", "no other replica can refill it: restore it from a backup"),
    ],
)
def test_a_halted_group_refuses_and_its_neighbours_serve(tmp_path: Path, kind: str, why: str) -> None:
    with Node(tmp_path) as one:
        with one.start().client() as client:
            assert all(client.set(key, "old") for key in KEYS)
            groups = {key: group_of(client, key) for key in KEYS}
        one.kill_all()
        broken = groups["key:0"]
        damage(one.data_dir, broken, kind)
        for life in range(3):
            one.start()
            with one.client() as client:
                look(one, client, groups, broken, why, b"old" if life == 0 else b"new")
            if life == 1:
                assert one.stop() == 0
            else:
                one.kill_all()


def look(one: Node, client: redis.Redis, groups: dict[str, int], broken: int, why: str, value: bytes) -> None:
    for key, group in groups.items():
        if group != broken:
            assert client.get(key) == value and client.set(key, "new") and client.get(key) == b"new"
    for command in (("GET", "key:0"), ("SET", "key:0", "lost"), ("DEL", "key:0")):
        said = refusal(client, *command)
        assert f"group {broken} is halted here, others serve" in said and why in said and "operations.md" in said
    pipe = client.pipeline(transaction=False)
    for key in KEYS:
        pipe.set(key, "new")
    answers = pipe.execute(raise_on_error=False)
    assert [answer is True for answer in answers] == [groups[key] != broken for key in KEYS]
    code, text = get(one, "/readyz")
    assert code == 503 and f"worker-0: group {broken} is halted: " in text and why in text
    assert get(one, "/readyz?exclude=groups")[0] == 200
    rows = {row["group"]: row for row in json.loads(get(one, "/status")[1])["replicas"]}
    assert rows[broken]["reason"].startswith("halted: ") and why in rows[broken]["reason"]
    assert all(row["role"] == "leader" and not row["reason"] for group, row in rows.items() if group != broken)
    refused = sum(group == broken for group in groups.values()) + 3
    wait_for(lambda: values(one)[("nodedb_halted_refusals_total", "0")] >= refused, "refusals to be counted")
    assert "group halted" in one.log()


def test_to_empty_everything_says_what_was_not_emptied(tmp_path: Path) -> None:
    with Node(tmp_path) as one:
        with one.start().client() as client:
            assert all(client.set(key, "old") for key in KEYS)
            groups = {key: group_of(client, key) for key in KEYS}
        one.kill_all()
        damage(one.data_dir, groups["key:0"], "quarantine")
        with one.start().client() as client:
            assert f"group {groups['key:0']} is halted" in refusal(client, "FLUSHALL")
            assert all(client.get(key) is None for key in KEYS if groups[key] != groups["key:0"])
