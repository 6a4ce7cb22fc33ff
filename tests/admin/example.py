"""A node's facts to start from; tests change what they are about."""

from collections.abc import Mapping
from typing import Any

import msgspec

from nodedb_node.admin.facts import Disk, Limits, NodeFacts, ProcessFacts, State, Usage
from nodedb_node.multiraft.messages import Reason
from nodedb_node.native.metrics import HISTOGRAMS, WORDS, Block, GroupRow, Histogram, bucket_of
from nodedb_node.raft.messages import Role

MIB = 1 << 20
LEADS = GroupRow(Role.LEADER, 4, 1, 90, 89, 91, Reason.MOVES)
STUCK = GroupRow(Role.FOLLOWER, 5, 0, 7, 7, 9, Reason.NO_LEADER)
HALTED = GroupRow(Role.FOLLOWER, 5, 0, 7, 7, 9, Reason.HALTED, "an entry of a newer version")
EMPTY = Histogram(0, 0, (0,) * 128)


def histogram(*values: int) -> Histogram:
    """What nd_hist_add makes of the values."""
    buckets = [0] * 128
    for value in values:
        buckets[min(bucket_of(value), 127)] += 1
    return Histogram(len(values), sum(values), tuple(buckets))


def block(values: Mapping[str, int] | None = None, **histograms: Histogram) -> Block:
    healthy = {"wal_backend": 2, "started_ms": 1_700_000_000_000} | dict(values or {})
    assert healthy.keys() <= WORDS.keys()
    groups = {0: LEADS, 3: STUCK}
    return Block(dict.fromkeys(WORDS, 0) | healthy, dict.fromkeys(HISTOGRAMS, EMPTY) | histograms, groups)


def process(number: int, **changes: Any) -> ProcessFacts:
    facts = ProcessFacts(
        name="control" if number == 0 else f"worker-{number - 1}",
        worker=number - 1 if number else None,
        state=State.READY,
        pid=100 + number,
        generation=1,
        heartbeat_age_ms=5,
        counters=block(),
        usage=Usage(cpu_seconds=1.5, resident_bytes=40 * MIB, pss_bytes=20 * MIB, threads=2, open_files=12),
        cores=(number,),
        port=6999 + number if number else None,
        groups=4 if number else 0,
        vshards=512 if number else 0,
    )
    return msgspec.structs.replace(facts, **changes)


def node(**changes: Any) -> NodeFacts:
    facts = NodeFacts(
        version="1.2.3",
        node_id="n" * 40,
        cluster_id="c" * 32,
        generation=3,
        now_us=100_000_000,
        started_us=40_000_000,
        wall_ms=1_700_000_000_000,
        data_dir="/data",
        groups=8,
        clients_host="127.0.0.1",
        clients_port=6379,
        http_host="127.0.0.1",
        http_port=6480,
        draining=False,
        disk=Disk(size_bytes=1 << 40, free_bytes=1 << 39),
        control=process(0),
        workers=(process(1), process(2)),
        limits=Limits(floor_bytes=128 * MIB, dirty_bytes_max=64 * MIB, stall_ms=10_000),
    )
    return msgspec.structs.replace(facts, **changes)


def with_worker(number: int, facts: NodeFacts | None = None, **changes: Any) -> NodeFacts:
    """The node with one worker changed."""
    facts = facts or node()
    workers = list(facts.workers)
    workers[number] = msgspec.structs.replace(workers[number], **changes)
    return msgspec.structs.replace(facts, workers=tuple(workers))
