"""Every metric of the node, once: name, kind, unit, help and where its value comes from.

Invariant: the exposition, docs/metrics.md and docs/alerts.yml are made from or compared with these tables, so no
metric exists without a help text, a unit and a producer. Names follow Prometheus: prefix nodedb_, base units,
counters end in _total. Label `core` is the worker's number, label `process` is control or worker-N. Nothing is read
or formatted here.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

PREFIX = "nodedb_"


class Kind(Enum):
    """How a value moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(Struct, frozen=True, kw_only=True):
    """One metric. `name` has neither prefix nor _total; `source` is a word of csrc/metrics.h or of the facts."""

    name: str
    kind: Kind
    unit: str
    help: str
    source: str
    labels: tuple[str, ...]
    scale: float = 1.0
    exponents: range = range(0)
    steps: int = 1  # bounds per power of two, of a histogram: 1, or 4 where a p99 must be told within 25 %

    @property
    def family(self) -> str:
        """The name as Prometheus groups it."""
        return PREFIX + self.name

    @property
    def exposed(self) -> str:
        """The name as it is written in a query."""
        return self.family + ("_total" if self.kind is Kind.COUNTER else "")


CORE = ("core",)
PROCESS = ("process",)


def _count(name: str, source: str, unit: str, text: str) -> Metric:
    return Metric(name=name, kind=Kind.COUNTER, unit=unit, help=text, source=source, labels=CORE)


def _level(name: str, source: str, unit: str, text: str) -> Metric:
    return Metric(name=name, kind=Kind.GAUGE, unit=unit, help=text, source=source, labels=CORE)


def _spread(name: str, source: str, unit: str, scale: float, exponents: range, text: str, steps: int = 1) -> Metric:
    return Metric(
        name=name,
        kind=Kind.HISTOGRAM,
        unit=unit,
        help=text,
        source=source,
        labels=CORE,
        scale=scale,
        exponents=exponents,
        steps=steps,
    )


WORKER_METRICS: tuple[Metric, ...] = (
    _count("commands", "commands", "commands", "Commands answered."),
    _count("write_commands", "commands_write", "commands", "Commands that went through the log."),
    _count("read_commands", "commands_read", "commands", "Commands that only read the store."),
    _count(
        "python_commands",
        "commands_python",
        "commands",
        "Commands answered outside the C path (CLIENT, INFO and such).",
    ),
    _count(
        "forwarded_commands", "commands_forwarded", "commands", "Commands sent on to the worker that owns their key."
    ),
    _count("peer_commands", "commands_served_for_peers", "commands", "Commands done for other workers of this node."),
    _count("error_replies", "errors", "replies", "Replies that were an error."),
    _count("overload_refusals", "overload_refusals", "commands", "Commands refused because a queue was full."),
    _count("halted_refusals", "halted_refusals", "commands", "Commands refused because their Raft group is halted."),
    _count("deadline_refusals", "deadline_refusals", "commands", "Commands refused because their deadline had passed."),
    _count("protocol_errors", "protocol_errors", "connections", "Connections closed for malformed RESP."),
    _level("client_connections", "connections", "connections", "Client connections open now."),
    _count("accepted_connections", "connections_accepted", "connections", "Client connections accepted."),
    _count("closed_connections", "connections_closed", "connections", "Client connections closed, by either side."),
    _count(
        "output_limit_closed",
        "output_limit_closed",
        "connections",
        "Connections cut because the client read too slowly.",
    ),
    _count("tls_handshakes", "tls_handshakes", "handshakes", "TLS handshakes of clients finished."),
    _count("tls_handshake_failures", "tls_handshake_failures", "handshakes", "TLS handshakes of clients that failed."),
    _count("tls_refusals", "tls_refusals", "connections", "Connections closed because too many handshakes went on."),
    _level(
        "tls_certificate_end_seconds",
        "tls_not_after",
        "seconds",
        "When the certificate that clients are shown ends, seconds since 1970; 0 = no TLS.",
    ),
    _level(
        "tls_revocation_list_next_update_seconds",
        "tls_lists_end",
        "seconds",
        "When the first list of [clients] tls_crl ends and clients are refused, seconds since 1970; 0 = none.",
    ),
    _count("denied_commands", "commands_denied", "commands", "Commands refused: not authenticated, or not allowed."),
    _count("auth_failures", "auth_failures", "attempts", "Authentications with a wrong name or password."),
    _count("auth_refusals", "auth_refusals", "attempts", "Authentications refused unread after too many failures."),
    _count("auth_timeouts", "auth_timeouts", "connections", "Connections closed because they never authenticated."),
    _count("protected_refusals", "protected_refusals", "connections", "Connections refused by protected mode."),
    _count("received_bytes", "bytes_in", "bytes", "Bytes read from clients."),
    _count("sent_bytes", "bytes_out", "bytes", "Bytes written to clients."),
    _count("loop_turns", "turns", "turns", "Turns of the worker's event loop that did work."),
    _count("batches", "batches", "batches", "Batches proposed to the log."),
    _count("batch_bytes", "batch_bytes", "bytes", "Bytes of the batches proposed to the log."),
    _count("wal_appends", "wal_appends", "appends", "Appends to the write-ahead log; one write and one sync each."),
    _count("wal_appended_bytes", "wal_bytes", "bytes", "Bytes appended to the write-ahead log."),
    _level("wal_backend", "wal_backend", "1", "What writes the log: 2 io_uring, 1 a thread, 0 not open yet."),
    _level("wal_segments", "wal_segments", "files", "Segment files of the write-ahead log."),
    _level("wal_segment_bytes", "wal_segment_bytes", "bytes", "Disk space of the segment files."),
    _level("store_rows", "store_rows", "rows", "Rows in the store, on disk and in memory."),
    _level("store_resident_rows", "store_resident_rows", "rows", "Rows held in memory."),
    _level("store_dirty_rows", "store_dirty_rows", "rows", "Rows changed since they were last checkpointed."),
    _level(
        "store_dirty_bytes",
        "store_dirty_bytes",
        "bytes",
        "Bytes of the rows changed since they were last checkpointed.",
    ),
    _level("store_memory_bytes", "store_memory_bytes", "bytes", "Memory of the store."),
    _count("store_checkpoints", "store_checkpoints", "checkpoints", "Checkpoints finished."),
    _count("store_cold_reads", "store_cold_reads", "reads", "Reads that had to look on disk."),
    _count("store_evictions", "store_evictions", "rows", "Clean rows dropped from memory."),
    _count("store_expired_rows", "store_expired", "rows", "Rows deleted because their time was over."),
    _count("ring_full", "ring_tx_full", "messages", "Messages to another process that found its ring full."),
    _count("core_moves", "core_moves", "moves", "Times a pinned worker left a crowded core or went home."),
    _level("nospace", "nospace", "1", "1 while writes are refused for lack of disk space."),
    _spread(
        "command_seconds",
        "command_us",
        "seconds",
        1e-6,
        range(4, 24),
        "From a command parsed to its reply written; one sample per turn and batch.",
        steps=4,
    ),
    _spread(
        "wal_sync_seconds",
        "wal_sync_us",
        "seconds",
        1e-6,
        range(4, 24),
        "From an append submitted to its bytes durable.",
        steps=4,
    ),
    _spread("batch_commands", "batch_commands", "commands", 1.0, range(13), "Commands in a batch."),
    _spread(
        "loop_stall_seconds",
        "loop_stall_us",
        "seconds",
        1e-6,
        range(6, 24),
        "How late the loop looked at a timer: one of 1 ms while a checkpoint runs, one of 100 or 250 ms always.",
        steps=4,
    ),
    _spread("checkpoint_seconds", "checkpoint_ms", "seconds", 1e-3, range(3, 20), "Duration of a checkpoint."),
    _spread(
        "ring_depth_bytes",
        "ring_depth_bytes",
        "bytes",
        1.0,
        range(6, 23),
        "Bytes found waiting in a ring when drained.",
    ),
)
"""One row for each word of a worker's counter block, but those of PROCESS_WORDS."""

PROCESS_WORDS = frozenset({"started_ms", "heartbeat_us"})
"""Words of the block that reach the exposition through PROCESS_METRICS."""


def _process(name: str, kind: Kind, source: str, unit: str, text: str) -> Metric:
    return Metric(name="process_" + name, kind=kind, unit=unit, help=text, source=source, labels=PROCESS)


PROCESS_METRICS: tuple[Metric, ...] = (
    _process("up", Kind.GAUGE, "up", "1", "1 while the process serves, 0 while it starts, drains or is gone."),
    _process("generation", Kind.GAUGE, "generation", "1", "How often the process was started since the node was."),
    _process("restarts", Kind.COUNTER, "restarts", "restarts", "How often the process was started again."),
    _process(
        "heartbeat_age_seconds", Kind.GAUGE, "heartbeat_age", "seconds", "Time since the process's loop last turned."
    ),
    _process(
        "start_time_seconds", Kind.GAUGE, "start_time", "seconds", "When the process was started, seconds since 1970."
    ),
    _process("cpu_seconds", Kind.COUNTER, "cpu_seconds", "seconds", "User and system time of the running process."),
    _process(
        "resident_bytes", Kind.GAUGE, "resident_bytes", "bytes", "Resident memory; shared pages count in each process."
    ),
    _process(
        "pss_bytes",
        Kind.GAUGE,
        "pss_bytes",
        "bytes",
        "Proportional memory: a shared page counts once over all processes.",
    ),
    _process("threads", Kind.GAUGE, "threads", "threads", "Threads of the process."),
    _process("open_files", Kind.GAUGE, "open_files", "files", "Open descriptors of the process."),
)


def _node(name: str, unit: str, text: str, labels: tuple[str, ...] = ()) -> Metric:
    return Metric(name=name, kind=Kind.GAUGE, unit=unit, help=text, source=name, labels=labels)


INFO = _node(
    "info", "1", "Always 1; its labels say which node and version answers.", ("version", "node_id", "cluster_id")
)
READY = _node("ready", "1", "1 while /readyz answers 200.")
READY_CHECK = _node("ready_check", "1", "1 while the named readiness check passes.", ("check",))
START_TIME = _node("start_time_seconds", "seconds", "When the node was started, seconds since 1970.")
DISK_SIZE = _node("disk_size_bytes", "bytes", "Size of the data directory's file system.")
DISK_FREE = _node("disk_free_bytes", "bytes", "Space a node may still use on the data directory's file system.")
DISK_FLOOR = _node("disk_floor_bytes", "bytes", "Free space below which writes are refused.")
ADMIN_REFUSALS = Metric(
    name="admin_refusals",
    kind=Kind.COUNTER,
    unit="requests",
    help="Admin requests from elsewhere than loopback that were refused for lack of the token (401).",
    source="admin_refusals",
    labels=(),
)
NODE_METRICS: tuple[Metric, ...] = (
    *(INFO, READY, READY_CHECK, START_TIME, DISK_SIZE, DISK_FREE, DISK_FLOOR, ADMIN_REFUSALS),
)

PEERS_INSECURE = _node(
    "peers_insecure", "1", "1 while peers are not checked: anybody can be one, and read what it is told."
)
PEERS_INSECURE_WARNINGS = Metric(
    name="peers_insecure_warnings",
    kind=Kind.COUNTER,
    unit="warnings",
    help="Warnings that peers are not checked: one at the start and one each minute.",
    source="insecure_warnings",
    labels=(),
)
PEER_CERTIFICATE = _node(
    "peer_certificate_not_after_seconds", "seconds", "When this node's certificate ends, seconds since 1970; 0 = none."
)
PEER_AUTHORITY = _node(
    "peer_authority_not_after_seconds",
    "seconds",
    "When the authority that ends last ends, seconds since 1970; 0 = none.",
)
PEER_LIST = _node(
    "peer_revocation_list_next_update_seconds",
    "seconds",
    "When the revocation list that is due first must have been replaced, seconds since 1970; 0 = none.",
)
PEER_AUTHORITIES = _node("peer_authorities", "authorities", "Authorities that are trusted: 1, or 2 during a rotation.")
PEER_TRUST_GENERATION = _node(
    "peer_trust_generation", "1", "Number of the state of certificates, pins and lists that peers are judged by."
)
PEER_METRICS: tuple[Metric, ...] = (
    PEERS_INSECURE,
    PEERS_INSECURE_WARNINGS,
    PEER_CERTIFICATE,
    PEER_AUTHORITY,
    PEER_LIST,
    PEER_AUTHORITIES,
    PEER_TRUST_GENERATION,
)

GROUP = ("core", "group")
GROUPS_SHOWN_MAX = 128  # of a node; with more only the sums per worker are exposed


def _group(name: str, source: str, unit: str, text: str) -> Metric:
    return Metric(
        name="group_" + name,
        kind=Kind.GAUGE,
        unit=unit,
        help=f"{text} Not exposed above {GROUPS_SHOWN_MAX} groups.",
        source=source,
        labels=GROUP,
    )


GROUP_METRICS: tuple[Metric, ...] = (
    _group("role", "role", "1", "Of the replica here: 0 follower, 1 asks for votes in advance, 2 candidate, 3 leader."),
    _group("term", "term", "1", "Raft term."),
    _group("leader", "leader", "1", "Number of the node that leads the group, 0 = not known."),
    _group("commit_index", "commit", "entries", "Entries of the group's log known to be committed."),
    _group("applied_index", "applied", "entries", "Entries of the group's log applied here."),
    _group("last_index", "last", "entries", "Entries of the group's log here."),
)

GROUPS_LED = _level("groups_led", "led", "groups", "Raft groups that this worker leads.")
GROUPS_STUCK = _level("groups_stuck", "stuck", "groups", "Raft groups here that do not move: no leader, or worse.")
GROUPS_HALTED = _level("groups_halted", "halted", "groups", "Raft groups here that serve no more, while others do.")
GROUP_SUMS: tuple[Metric, ...] = (GROUPS_LED, GROUPS_STUCK, GROUPS_HALTED)

LOOP = ("loop",)
LOOP_RUNS = Metric(
    name="loop_runs",
    kind=Kind.COUNTER,
    unit="runs",
    help="Times a control loop did its work.",
    source="runs",
    labels=LOOP,
)
LOOP_SECONDS = Metric(
    name="loop_seconds",
    kind=Kind.COUNTER,
    unit="seconds",
    help="Time a control loop spent working.",
    source="seconds",
    labels=LOOP,
)
LOOP_ERRORS = Metric(
    name="loop_errors",
    kind=Kind.COUNTER,
    unit="errors",
    help="Runs of a control loop that failed, by kind of error.",
    source="errors",
    labels=("loop", "error"),
)


def _lane(name: str, unit: str, text: str, kind: Kind = Kind.COUNTER) -> Metric:
    return Metric(name="lane_" + name, kind=kind, unit=unit, help=text, source="lane_" + name, labels=PROCESS)


LANE_METRICS: tuple[Metric, ...] = (
    _lane("sessions", "sessions", "Sessions with processes of other nodes that stand now.", Kind.GAUGE),
    _lane("sessions_begun", "sessions", "Sessions that began: certificate, greeting and generation were right."),
    _lane("sessions_lost", "sessions", "Sessions that ended, in order or not."),
    _lane("dials", "connections", "Connections that this process began."),
    _lane("refused_peers", "connections", "Connections that this process refused: certificate, greeting, generation."),
    _lane("refused_by_peers", "connections", "Connections of this process that a peer refused or cut off."),
    _lane("frames_in", "frames", "Frames received from peers."),
    _lane("frames_out", "frames", "Frames given to connections with peers."),
    _lane("bytes_in", "bytes", "Bytes of streams received from peers."),
    _lane("bytes_out", "bytes", "Bytes of frames given to connections with peers, bulk apart."),
    _lane("datagrams_in", "datagrams", "UDP datagrams received."),
    _lane("datagrams_out", "datagrams", "UDP datagrams sent."),
    _lane("packets_lost", "packets", "QUIC packets declared lost, of connections that have ended."),
    _lane("calls", "calls", "Requests to peers."),
    _lane("calls_unknown", "calls", "Requests whose outcome is not known: the session ended first."),
    _lane("calls_late", "calls", "Requests not answered within their deadline."),
    _lane("full", "messages", "Messages and requests refused because a queue was full or no session stood."),
    _lane("requests_repeated", "requests", "Requests that a peer asked again and that were not done again."),
    _lane("bulk_bytes_in", "bytes", "Bytes of bulk transfers received."),
    _lane("bulk_bytes_out", "bytes", "Bytes of bulk transfers sent."),
)
"""One row for each word of a process's counter block that is about its lane."""

LOOP_METRICS: tuple[Metric, ...] = (LOOP_RUNS, LOOP_SECONDS, LOOP_ERRORS)

ALL: tuple[Metric, ...] = (
    *(*NODE_METRICS, *PEER_METRICS, *PROCESS_METRICS, *LANE_METRICS, *WORKER_METRICS),
    *(*GROUP_SUMS, *GROUP_METRICS, *LOOP_METRICS),
)
