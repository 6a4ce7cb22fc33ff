"""The cluster as Redis Cluster clients see it: every worker of every node is a cluster node of its own.

Invariant: SLOTS, SHARDS, NODES and INFO are made from one list of members, so they cannot disagree, and two workers
of a cluster differ only in which member is `myself`. Values are plain (dict, list, str, int); encoding them is the
frontend's part, and so is knowing which member accepted the connection.
"""

import hashlib
from collections.abc import Sequence

from msgspec import Struct

from nodedb_node.routing.table import SLOTS, THIS_NODE, Route, slot_ranges

MAPPED = "::ffff:"

Value = str | int | list["Value"] | dict[str, "Value"]


class Member(Struct, frozen=True):
    """One worker, as a cluster node."""

    id: str  # 40 hex digits, the same for as long as the data directory lives
    host: str
    port: int
    bus_port: int  # 0 = none
    slots: tuple[tuple[int, int], ...]  # inclusive ranges
    epoch: int
    up: bool = True  # its process serves now
    tls: bool = False  # the port speaks TLS


def member_id(node_id: str, worker: int) -> str:
    """A worker's name among cluster nodes: follows from the node's id, and differs from it."""
    return hashlib.sha1(f"{node_id}/worker/{worker}".encode(), usedforsecurity=False).hexdigest()


def host_for(announce: str, local_address: str) -> str:
    """The host to name to a client: the configured one, else the address the client itself connected to."""
    if announce:
        return announce
    if local_address.startswith(MAPPED):
        return local_address[len(MAPPED) :]
    return local_address.partition("%")[0]


def members_of_node(
    node_id: str, host: str, ports: Sequence[int], routes: Sequence[Route], up: Sequence[bool], tls: bool = False
) -> list[Member]:
    """This node's workers; ports and up by worker."""
    members = []
    for worker, (port, serves) in enumerate(zip(ports, up, strict=True)):
        slots = tuple(slot_ranges(routes, THIS_NODE, worker))
        epochs = [route.epoch for route in routes if (route.node, route.worker) == (THIS_NODE, worker)]
        members.append(Member(member_id(node_id, worker), host, port, 0, slots, max(epochs, default=0), serves, tls))
    return members


def slots(members: Sequence[Member]) -> Value:
    """CLUSTER SLOTS: a row per range: first, last, [host, port, id, metadata]."""
    rows: list[tuple[int, int, Member]] = [(first, last, m) for m in members for first, last in m.slots]
    rows.sort(key=lambda row: row[0])
    return [[first, last, [m.host, m.port, m.id, []]] for first, last, m in rows]


def shards(members: Sequence[Member]) -> Value:
    """CLUSTER SHARDS: a map per member: its slots as a flat list of bounds, and its one node."""
    return [{"slots": [bound for pair in m.slots for bound in pair], "nodes": [_shard_node(m)]} for m in members]


def _shard_node(member: Member) -> Value:
    return {
        "id": member.id,
        "tls-port" if member.tls else "port": member.port,
        "ip": member.host,
        "endpoint": member.host,
        "role": "master",
        "replication-offset": 0,
        "health": "online" if member.up else "failed",
    }


def nodes(members: Sequence[Member], myself: str) -> str:
    """CLUSTER NODES: a line per member."""
    return "".join(_node_line(member, member.id == myself) for member in members)


def _node_line(member: Member, myself: bool) -> str:
    address = f"{member.host}:{member.port}@{member.bus_port}"
    flags = "myself,master" if myself else "master"
    link = "connected" if member.up or myself else "disconnected"
    ranges = [str(first) if first == last else f"{first}-{last}" for first, last in member.slots]
    return " ".join([member.id, address, flags, "-", "0", "0", str(member.epoch), link, *ranges]) + "\n"


def info(members: Sequence[Member], myself: str) -> str:
    """CLUSTER INFO: one name:value per line."""
    counts = [(m, sum(last - first + 1 for first, last in m.slots)) for m in members]
    assigned = sum(count for _, count in counts)
    served = sum(count for member, count in counts if member.up)
    rows = {
        "cluster_enabled": 1,
        "cluster_state": "ok" if assigned == SLOTS else "fail",
        "cluster_slots_assigned": assigned,
        "cluster_slots_ok": served,
        "cluster_slots_pfail": assigned - served,
        "cluster_slots_fail": 0,
        "cluster_known_nodes": len(members),
        "cluster_size": sum(1 for _, count in counts if count),
        "cluster_current_epoch": max((m.epoch for m in members), default=0),
        "cluster_my_epoch": next((m.epoch for m in members if m.id == myself), 0),
        "cluster_stats_messages_sent": 0,
        "cluster_stats_messages_received": 0,
        "total_cluster_links_buffer_limit_exceeded": 0,
    }
    return "".join(f"{name}:{value}\r\n" for name, value in rows.items())
