"""CLUSTER SLOTS, SHARDS, NODES and INFO: read by redis-py's own parsers, they tell the same story."""

from typing import Any

import pytest
from redis._parsers.helpers import pairs_to_dict, parse_cluster_info, parse_cluster_nodes, str_if_bytes
from redis.cluster import ClusterNode

from nodedb_node.routing import view
from nodedb_node.routing.places import default_groups
from nodedb_node.routing.table import SLOTS, one_node

NODE_ID = "0123456789abcdef0123456789abcdef01234567"


def members(workers: int, host: str = "10.0.0.7", down: int = -1) -> list[view.Member]:
    routes = one_node(default_groups(workers), workers)
    up = [worker != down for worker in range(workers)]
    return view.members_of_node(NODE_ID, host, [7000 + worker for worker in range(workers)], routes, up)


def by_slots(workers: int) -> dict[str, Any]:
    """As redis-py's NodesManager reads the reply: port -> slots."""
    story: dict[str, Any] = {}
    for first, last, primary, *replicas in view.slots(members(workers)):  # type: ignore[union-attr, misc]
        assert replicas == []
        node = ClusterNode(str_if_bytes(primary[0]), int(primary[1]), "primary")
        story.setdefault(node.name, set()).update(range(first, last + 1))
        assert len(primary[2]) == 40
    return story


def by_nodes(workers: int, myself: int) -> dict[str, Any]:
    parsed = parse_cluster_nodes(view.nodes(members(workers), members(workers)[myself].id))
    assert [name for name, row in parsed.items() if "myself" in row["flags"]] == [f"10.0.0.7:{7000 + myself}"]
    assert all(row["master_id"] == "-" and row["connected"] for row in parsed.values())
    return {
        name: {slot for pair in row["slots"] for slot in range(int(pair[0]), int(pair[-1]) + 1)}
        for name, row in parsed.items()
    }


def as_resp2(value: Any) -> Any:
    """What a RESP2 client receives: maps as flat lists, text as bytes."""
    if isinstance(value, dict):
        return [as_resp2(part) for pair in value.items() for part in pair]
    if isinstance(value, list):
        return [as_resp2(part) for part in value]
    return value.encode() if isinstance(value, str) else value


def by_shards(workers: int) -> dict[str, Any]:
    story = {}
    for flat in as_resp2(view.shards(members(workers))):
        shard = pairs_to_dict(flat, decode_keys=True)
        (node,) = shard["nodes"]
        fields = pairs_to_dict(node, decode_keys=True, decode_string_values=True)
        assert (fields["role"], fields["health"]) == ("master", "online")
        slots = shard["slots"]
        pairs = zip(slots[::2], slots[1::2], strict=True)
        story[f"{fields['ip']}:{fields['port']}"] = {s for first, last in pairs for s in range(first, last + 1)}
    return story


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_slots_shards_and_nodes_agree(workers: int) -> None:
    story = by_slots(workers)
    assert len(story) == workers
    assert sum(len(slots) for slots in story.values()) == SLOTS
    assert by_shards(workers) == story
    for myself in range(workers):
        assert by_nodes(workers, myself) == story


def test_info_counts() -> None:
    info = parse_cluster_info(view.info(members(3), members(3)[0].id).encode())
    assert info["cluster_enabled"] == "1"
    assert info["cluster_state"] == "ok"
    assert info["cluster_slots_assigned"] == info["cluster_slots_ok"] == str(SLOTS)
    assert info["cluster_known_nodes"] == info["cluster_size"] == "3"


def test_a_worker_that_is_down_is_listed_and_told_so() -> None:
    rows = members(3, down=1)
    parsed = parse_cluster_nodes(view.nodes(rows, rows[0].id))
    assert [row["connected"] for row in parsed.values()] == [True, False, True]
    info = parse_cluster_info(view.info(rows, rows[0].id).encode())
    assert int(info["cluster_slots_ok"]) + int(info["cluster_slots_pfail"]) == SLOTS
    assert len({tuple(m.slots) for m in rows}) == 3


def test_ids_are_stable_and_distinct() -> None:
    ids = [view.member_id(NODE_ID, worker) for worker in range(256)]
    assert ids == [view.member_id(NODE_ID, worker) for worker in range(256)]
    assert len({*ids, NODE_ID}) == 257
    assert all(len(id_) == 40 and set(id_) <= set("0123456789abcdef") for id_ in ids)


def test_a_worker_without_slots_is_in_nodes_and_shards_only() -> None:
    rows = view.members_of_node(NODE_ID, "h", list(range(1, 17)), one_node(8, 16), [True] * 16)
    idle = [m for m in rows if not m.slots]
    assert len(idle) == 8
    assert len(parse_cluster_nodes(view.nodes(rows, idle[0].id))) == 16
    assert len(view.slots(rows)) == 8  # type: ignore[arg-type]
    assert len(view.shards(rows)) == 16  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("announce", "local", "host"),
    [
        ("db.example", "127.0.0.1", "db.example"),
        ("", "127.0.0.1", "127.0.0.1"),
        ("", "::ffff:192.0.2.1", "192.0.2.1"),
        ("", "fe80::1%eth0", "fe80::1"),
        ("", "::1", "::1"),
    ],
)
def test_the_host_a_client_is_told(announce: str, local: str, host: str) -> None:
    assert view.host_for(announce, local) == host
