"""Who serves which key, as clients that follow it are told: MOVED, and the three listings of CLUSTER."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from nodedb_node.errors import Kind
from tests.process.node import Node, node
from tests.process.scene import owned_key
from tests.process.wire import Connection, ErrorReply, slot, slot_ports

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("redirects"), workers=2) as started:
        yield started


def moved(key: bytes, port: int) -> str:
    return Kind.MOVED.value.format(slot=slot(key), host="127.0.0.1", port=port)


def test_a_worker_port_serves_its_own_keys_and_says_where_others_are(two: Node) -> None:
    keys = [owned_key(two, worker) for worker in (0, 1)]
    for worker, port in enumerate(two.worker_ports):
        own, foreign = keys[worker], keys[1 - worker]
        with Connection(port) as link:
            replies = link.pipeline([("SET", own, "1"), ("SET", foreign, "1"), ("GET", own), ("GET", foreign)])
            assert [replies[0], replies[2]] == [b"OK", b"1"]
            for reply in (replies[1], replies[3]):
                assert isinstance(reply, ErrorReply) and str(reply) == moved(foreign, two.worker_ports[1 - worker])
    with two.client() as link:
        assert link.get(keys[0]) == link.get(keys[1]) == b"1"


def test_the_shared_port_forwards_or_says_moved(two: Node, tmp_path: Path) -> None:
    """Over many connections, as the kernel gives each to a worker of its choice."""
    keys = [owned_key(two, worker) for worker in (0, 1)]
    assert answers(two, keys) == {b"OK"}
    with node(tmp_path, {"clients.mode": "moved"}, workers=2) as other:
        expected = {moved(key, other.worker_ports[worker]) for worker, key in enumerate(keys)}
        assert answers(other, keys) == {b"OK", *expected}


def answers(one: Node, keys: list[bytes]) -> set[bytes | str]:
    found: set[bytes | str] = set()
    for _ in range(30):
        with Connection(one.port) as link:
            for reply in link.pipeline([("SET", key, "1") for key in keys]):
                assert isinstance(reply, bytes | ErrorReply)
                found.add(str(reply) if isinstance(reply, ErrorReply) else reply)
    return found


def test_the_listings_agree_and_myself_is_who_accepted(two: Node) -> None:
    owners = slot_ports(two.port)
    assert len(owners) == 16384 and set(owners.values()) == set(two.worker_ports)
    for port in (two.port, *two.worker_ports):
        assert slot_ports(port) == owners
        with redis.Redis(port=port, decode_responses=True) as link:
            listed = link.cluster("NODES")
            ranges = {int(address.rpartition(":")[2]): row["slots"] for address, row in listed.items()}
            spread = {n: owner for owner, spans in ranges.items() for a, b in spans for n in range(int(a), int(b) + 1)}
            assert spread == owners
            shards = link.cluster("SHARDS")
            assert {n: shard["nodes"][0]["port"] for shard in shards for n in span(shard["slots"])} == owners
            ids = {int(address.rpartition(":")[2]): row["node_id"] for address, row in listed.items()}
            assert {shard["nodes"][0]["port"]: shard["nodes"][0]["id"] for shard in shards} == ids
            (mine,) = [address for address, row in listed.items() if "myself" in row["flags"]]
            assert link.cluster("MYID") == listed[mine]["node_id"]
            assert port == two.port or mine.endswith(f":{port}")
            assert link.info("cluster")["cluster_enabled"] == 1


def span(slots: list[int]) -> range:
    return range(int(slots[0]), int(slots[1]) + 1)


def test_keys_that_are_too_long_and_of_two_vshards_are_refused(two: Node) -> None:
    with Connection(two.port) as link:
        too_long, crossing = link.pipeline([("SET", b"k" * 65_536, "1"), ("MSET", "a", "1", "b", "2")])
        assert str(too_long) == Kind.KEY_TOO_LONG.value.format(bytes_max=65_535)
        assert str(crossing) == Kind.CROSSSLOT.value
        assert link.call("SET", b"k" * 65_535, "1") == b"OK" and link.call("GET", b"k" * 65_535) == b"1"
