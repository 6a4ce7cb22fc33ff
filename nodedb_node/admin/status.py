"""The status document: one JSON picture of the node that feeds the command line, the web page and INFO.

Invariant: a pure function of the facts now and the facts a while ago; every rate names the interval it was taken
over. Whatever keeps the node from being ready, or from being faster, is said in words under a stable name. It holds
no secrets: it may be pasted into a bug report.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from nodedb_node.admin.facts import NodeFacts, PeerFacts, ProcessFacts, State, Usage
from nodedb_node.admin.readiness import Check, readiness
from nodedb_node.multiraft.messages import REASON_TEXT, Reason
from nodedb_node.native.metrics import Histogram
from nodedb_node.raft.messages import Role
from nodedb_node.transport.board import LaneBoard
from nodedb_node.transport.lane import LaneStatus

SCHEMA = 1
BACKENDS = {0: "not open", 1: "thread", 2: "io_uring"}


class Process(Struct, frozen=True, kw_only=True):
    """One process of the node."""

    name: str
    state: str
    pid: int
    generation: int
    restarts: int
    cores: tuple[int, ...]
    cpu_seconds: float | None
    resident_bytes: int | None
    pss_bytes: int | None
    heartbeat_age_ms: int | None


class Worker(Struct, frozen=True, kw_only=True):
    """What one worker owns and does."""

    worker: int
    port: int | None
    groups: int
    vshards: int
    connections: int
    commands: int
    commands_per_second: float | None
    batch_commands_mean: float | None
    wal_backend: str
    wal_segments: int
    wal_bytes: int
    wal_sync_us_p50: int
    wal_sync_us_p99: int
    loop_stall_us_p99: int
    rows: int
    resident_rows: int
    memory_bytes: int
    dirty_bytes: int
    checkpoints: int
    checkpoint_ms_p50: int
    ring_depth_bytes_p99: int
    ring_full: int


class Lane(Struct, frozen=True, kw_only=True):
    """A process's endpoint towards other nodes."""

    process: str
    host: str
    port: int
    insecure: bool
    sessions: int
    datagram_bytes: int
    bytes_in: int
    bytes_out: int
    refused_peers: int
    peers: tuple[LaneStatus, ...]


class Group(Struct, frozen=True, kw_only=True):
    """One Raft group as the worker that holds its replica sees it. `leader` is a node's number, 0 = not known;
    `reason` says why it does not move, empty = it does."""

    group: int
    worker: int
    role: str
    term: int
    leader: int
    commit: int
    applied: int
    last: int
    reason: str


class Limiting(Struct, frozen=True):
    """What bounds the node now; `name` is stable, `detail` is for people."""

    name: str
    detail: str


class Document(Struct, frozen=True, kw_only=True):
    """The whole picture."""

    schema: int
    version: str
    node_id: str
    cluster_id: str
    generation: int
    ready: bool
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    uptime_seconds: float
    interval_seconds: float | None
    limited_by: Limiting
    clients_host: str
    clients_port: int
    http_host: str
    http_port: int
    data_dir: str
    groups: int
    vshards: int
    disk_size_bytes: int | None
    disk_free_bytes: int | None
    disk_floor_bytes: int
    peers: PeerFacts = PeerFacts()
    processes: tuple[Process, ...]
    workers: tuple[Worker, ...]
    lanes: tuple[Lane, ...] = ()
    replicas: tuple[Group, ...]


def document(now: NodeFacts, earlier: NodeFacts | None) -> Document:
    """The picture now, with rates since `earlier` where there is one."""
    checks = readiness(now)
    failed = tuple(f"{check.name}: {check.detail}" for check in checks if not check.ok)
    interval = None if earlier is None or earlier.now_us >= now.now_us else (now.now_us - earlier.now_us) / 1e6
    before = earlier.workers if earlier is not None and interval is not None else (None,) * len(now.workers)
    pairs = list(zip(now.workers, before, strict=True))
    return Document(
        schema=SCHEMA,
        version=now.version,
        node_id=now.node_id,
        cluster_id=now.cluster_id,
        generation=now.generation,
        ready=not failed,
        reasons=failed,
        checks=checks,
        uptime_seconds=now.uptime_seconds,
        interval_seconds=interval,
        limited_by=limiting(now, pairs),
        clients_host=now.clients_host,
        clients_port=now.clients_port,
        http_host=now.http_host,
        http_port=now.http_port,
        data_dir=now.data_dir,
        groups=now.groups,
        vshards=sum(worker.vshards for worker in now.workers),
        disk_size_bytes=now.disk.size_bytes if now.disk else None,
        disk_free_bytes=now.disk.free_bytes if now.disk else None,
        disk_floor_bytes=now.limits.floor_bytes,
        peers=now.peers,
        processes=tuple(_process(process) for process in now.processes),
        workers=tuple(_worker(worker, previous, interval) for worker, previous in pairs),
        lanes=tuple(_lane(name, board, now) for name, board in now.lanes),
        replicas=tuple(group for worker in now.workers for group in _replicas(worker)),
    )


def _lane(name: str, board: LaneBoard, now: NodeFacts) -> Lane:
    values = next(process.counters.values for process in now.processes if process.name == name)
    return Lane(
        process=name,
        host=board.host,
        port=board.port,
        insecure=board.insecure,
        sessions=values["lane_sessions"],
        datagram_bytes=board.datagram_bytes,
        bytes_in=values["lane_bytes_in"],
        bytes_out=values["lane_bytes_out"] + values["lane_bulk_bytes_out"],
        refused_peers=values["lane_refused_peers"],
        peers=board.lanes,
    )


def _replicas(worker: ProcessFacts) -> Iterator[Group]:
    assert worker.worker is not None
    for group, row in worker.counters.groups.items():
        yield Group(
            group=group,
            worker=worker.worker,
            role=Role(row.role).name.lower(),
            term=row.term,
            leader=row.leader,
            commit=row.commit,
            applied=row.applied,
            last=row.last,
            reason=f"halted: {row.why}" if row.why else REASON_TEXT[Reason(row.reason)],
        )


def _process(process: ProcessFacts) -> Process:
    usage: Usage | None = process.usage
    return Process(
        name=process.name,
        state=process.state.value,
        pid=process.pid,
        generation=process.generation,
        restarts=process.restarts,
        cores=process.cores,
        cpu_seconds=usage.cpu_seconds if usage else None,
        resident_bytes=usage.resident_bytes if usage else None,
        pss_bytes=usage.pss_bytes if usage else None,
        heartbeat_age_ms=process.heartbeat_age_ms,
    )


def _worker(worker: ProcessFacts, earlier: ProcessFacts | None, interval: float | None) -> Worker:
    values, histograms = worker.counters.values, worker.counters.histograms
    assert worker.worker is not None
    batches = histograms["batch_commands"]
    return Worker(
        worker=worker.worker,
        port=worker.port,
        groups=worker.groups,
        vshards=worker.vshards,
        connections=values["connections"],
        commands=values["commands"],
        commands_per_second=rate("commands", worker, earlier, interval),
        batch_commands_mean=round(batches.sum / batches.count, 1) if batches.count else None,
        wal_backend=BACKENDS.get(values["wal_backend"], "unknown"),
        wal_segments=values["wal_segments"],
        wal_bytes=values["wal_segment_bytes"],
        wal_sync_us_p50=histograms["wal_sync_us"].quantile(0.5),
        wal_sync_us_p99=histograms["wal_sync_us"].quantile(0.99),
        loop_stall_us_p99=histograms["loop_stall_us"].quantile(0.99),
        rows=values["store_rows"],
        resident_rows=values["store_resident_rows"],
        memory_bytes=values["store_memory_bytes"],
        dirty_bytes=values["store_dirty_bytes"],
        checkpoints=values["store_checkpoints"],
        checkpoint_ms_p50=histograms["checkpoint_ms"].quantile(0.5),
        ring_depth_bytes_p99=histograms["ring_depth_bytes"].quantile(0.99),
        ring_full=values["ring_tx_full"],
    )


def added(name: str, now: ProcessFacts, earlier: ProcessFacts | None) -> int:
    """What a counter gained since `earlier`; all of it, when the process was restarted in between."""
    value = now.counters.values[name]
    if earlier is None or earlier.counters.values[name] > value:
        return value
    return value - earlier.counters.values[name]


def rate(name: str, now: ProcessFacts, earlier: ProcessFacts | None, interval: float | None) -> float | None:
    """A counter's gain per second; None without an interval."""
    return None if earlier is None or not interval else round(added(name, now, earlier) / interval, 1)


def recent(name: str, now: ProcessFacts, earlier: ProcessFacts | None) -> Histogram:
    """A histogram of what came since `earlier`."""
    found = now.counters.histograms[name]
    return found if earlier is None else found.minus(earlier.counters.histograms[name])


Pairs = list[tuple[ProcessFacts, ProcessFacts | None]]
SYNC_US_SLOW = 50_000
STALL_US_SLOW = 50_000
DISK_NEAR = 2


def limiting(now: NodeFacts, pairs: Pairs) -> Limiting:
    """The first thing in order of severity that bounds the node; `none` when nothing known does."""
    return next(_limits(now, pairs), Limiting("none", "nothing known limits this node"))


def _limits(now: NodeFacts, pairs: Pairs) -> Iterator[Limiting]:
    nospace = [worker.name for worker, _ in pairs if worker.counters.values["nospace"]]
    if nospace:
        yield Limiting("disk_space", f"{', '.join(nospace)} refuse writes: free disk space below {now.data_dir}")
    down = [worker.name for worker, _ in pairs if worker.state is State.DOWN]
    if down:
        yield Limiting("process_down", f"{', '.join(down)} not running: its keys are not served")
    for name, words, text in (
        (
            "overload",
            "overload_refusals",
            "commands were refused because a queue was full: more workers, or fewer clients",
        ),
        (
            "ring_full",
            "ring_tx_full",
            "messages between workers found a full ring: use the workers' own ports, or raise [ring] bytes",
        ),
    ):
        count = sum(added(words, worker, earlier) for worker, earlier in pairs if earlier is not None)
        if count:
            yield Limiting(name, f"{count} {text}")
    for name, source, limit, text in (
        ("disk_latency", "wal_sync_us", SYNC_US_SLOW, "log syncs take up to {ms} ms (p99): the disk is slow or shared"),
        (
            "cpu",
            "loop_stall_us",
            STALL_US_SLOW,
            "the loop is up to {ms} ms late (p99): the core is shared or too small",
        ),
    ):
        for worker, earlier in pairs:
            slow = recent(source, worker, earlier).quantile(0.99)
            if slow > limit:
                yield Limiting(name, f"{worker.name}: " + text.format(ms=slow // 1000))
    if now.disk is not None and now.disk.free_bytes < DISK_NEAR * now.limits.floor_bytes:
        yield Limiting(
            "disk_space_near",
            f"{now.disk.free_bytes >> 20} MiB free, writes stop at {now.limits.floor_bytes >> 20} MiB",
        )
