"""csrc/engine.h: the data path of one worker. World file: it reads and writes client sockets.

Invariant: one C call per turn and verb; nothing here runs once per command, but for the commands that Python answers.
A negative return is fatal for the worker and becomes an OSError.
"""

from typing import Any, NamedTuple

from nodedb_node._native import ffi, lib
from nodedb_node.errors import Kind
from nodedb_node.native.store import Store, check

PROPOSE: int = lib.ND_TURN_PROPOSE
PYTHON: int = lib.ND_TURN_PYTHON
CALLS: int = lib.ND_TURN_CALLS
PAUSED: int = lib.ND_TURN_PAUSED
MORE: int = lib.ND_TURN_MORE
EVENTS: int = lib.ND_TURN_EVENTS

TEXT_NOSPACE: int = lib.ND_TEXT_NOSPACE
TEXT_OVERLOAD: int = lib.ND_TEXT_OVERLOAD
TEXT_CLUSTERDOWN: int = lib.ND_TEXT_CLUSTERDOWN
TEXT_HALTED: int = lib.ND_TEXT_HALTED

PORT_SHARED: int = lib.ND_PORT_SHARED
PORT_WORKER: int = lib.ND_PORT_WORKER


def texts(deadline_ms: int) -> dict[int, str]:
    """Error replies that C gives, from the one table of errors."""
    return {
        lib.ND_TEXT_OVERLOAD: Kind.OVERLOAD.value.format(retry_ms=50, what="the worker's queue is full"),
        lib.ND_TEXT_NOSPACE: Kind.NOSPACE.value,
        lib.ND_TEXT_UNKNOWN: Kind.UNKNOWN.value,
        lib.ND_TEXT_DEADLINE: Kind.DEADLINE.value.format(deadline_ms=deadline_ms),
        lib.ND_TEXT_TRYAGAIN: Kind.TRYAGAIN.value.format(what="the key's worker restarts"),
        lib.ND_TEXT_CROSSSLOT: Kind.CROSSSLOT.value,
        lib.ND_TEXT_MAXCLIENTS: Kind.MAXCLIENTS.value,
        lib.ND_TEXT_KEY_TOO_LONG: Kind.KEY_TOO_LONG.value.format(bytes_max=lib.ND_KEY_BYTES_MAX),
        lib.ND_TEXT_CLUSTERDOWN: Kind.CLUSTERDOWN.value,
        lib.ND_TEXT_HALTED: Kind.HALTED.value.format(group="of the key", why="see the node's log"),
    }


EVENT_MESSAGES: dict[int, str] = {
    lib.ND_EVENT_OUTPUT_LIMIT: "client closed: it does not read its replies",
    lib.ND_EVENT_QUERY_LIMIT: "client closed: its unread input is too long",
    lib.ND_EVENT_TLS: "client closed: no TLS with it",
    lib.ND_EVENT_PROTOCOL: "client closed: protocol error",
    lib.ND_EVENT_RING_CORRUPT: "a peer's ring holds nonsense",
    lib.ND_EVENT_PEER_RESTARTED: "peer worker restarted",
}


def histogram(metrics: Any, name: str) -> Any:
    """A pointer to one of the nd_metrics' histograms."""
    return ffi.addressof(metrics, name)


def observe(metrics: Any, name: str, value: int) -> None:
    """Count a value in one of the nd_metrics' histograms."""
    lib.nd_hist_add(ffi.addressof(metrics, name), value)


class EngineConfig(NamedTuple):
    worker: int
    workers: int
    groups: int
    generation: int
    connections_max: int
    deadline_ms: int
    output_bytes_max: int
    query_bytes_max: int
    forward_bytes_max: int
    gather_bytes_max: int
    moved: bool


class PythonCommand(NamedTuple):
    """A command that Python answers; the connection waits for it."""

    conn: int
    gen: int
    name: str
    argv: list[bytes]


class ConnectionInfo(NamedTuple):
    port_kind: int
    resp: int
    fd: int
    readonly: bool
    opened_us: int
    last_us: int


class Event(NamedTuple):
    """Something to log; kind is one of lib.ND_EVENT_*."""

    kind: int
    conn: int
    value: int
    text: str
    address: str  # of the client, or empty


def _args(argv: list[bytes]) -> tuple[Any, list[Any]]:
    """An nd_arg array and what keeps its bytes alive."""
    keep = [ffi.from_buffer(arg) for arg in argv]
    array = ffi.new("nd_arg[]", len(argv))
    for row, view in zip(array, keep, strict=True):
        row.ptr, row.len = ffi.cast("const uint8_t *", view), len(view)
    return array, keep


class Engine:
    """Owner of an nd_engine. The store, command table, metrics and rings are borrowed and must outlive it."""

    def __init__(self, config: EngineConfig, store: Store, table: Any, metrics: Any) -> None:
        cfg = ffi.new("nd_engine_cfg *")
        cfg.self, cfg.workers, cfg.groups = config.worker, config.workers, config.groups
        cfg.generation = config.generation
        cfg.connections_max, cfg.deadline_ms = config.connections_max, config.deadline_ms
        cfg.output_bytes_max, cfg.gather_bytes_max = config.output_bytes_max, config.gather_bytes_max
        cfg.query_bytes_max, cfg.moved = config.query_bytes_max, config.moved
        cfg.forward_bytes_max = config.forward_bytes_max
        out = ffi.new("nd_engine **")
        check(lib.nd_engine_new(cfg, store.handle, table, metrics, out), "engine")
        self.handle: Any = out[0]
        self.config = config
        self._borrowed: list[Any] = [store, table, metrics]
        self._command = ffi.new("nd_python_cmd *")
        self._info = ffi.new("nd_conn_info *")
        self._event = ffi.new("nd_event *")
        self._token, self._bytes, self._len = ffi.new("uint32_t *"), ffi.new("const uint8_t **"), ffi.new("uint64_t *")

    def close(self) -> None:
        if self.handle is not None:
            lib.nd_engine_free(self.handle)
            self.handle = None

    # ---- set-up ----

    def text(self, kind: int, text: str) -> None:
        lib.nd_engine_text(self.handle, kind, text.encode())

    def advertise(self, worker: int, host: str, port: int) -> None:
        lib.nd_engine_advertise(self.handle, worker, host.encode(), port)

    def rings(self, ringset: Any, page: Any) -> None:
        lib.nd_engine_rings(self.handle, ringset, page)
        self._borrowed += [ringset, page]

    def epoll_fd(self) -> int:
        return int(lib.nd_engine_epoll_fd(self.handle))

    def listen(self, fd: int, port_kind: int) -> None:
        """Takes over a listening, non-blocking socket's descriptor."""
        check(lib.nd_engine_listen(self.handle, fd, port_kind), "listen")

    def unlisten(self) -> None:
        lib.nd_engine_unlisten(self.handle)

    # ---- the turn ----

    def poll(self, now_us: int, stamp: int, rung: int) -> int:
        """Bits of what is to be done (PROPOSE, PYTHON, PAUSED)."""
        return check(lib.nd_engine_poll(self.handle, now_us, stamp, rung), "turn")

    def seal(self, stamp: int, seed: int, now_us: int) -> int:
        return int(lib.nd_engine_seal(self.handle, stamp, seed, now_us))

    @property
    def records(self) -> Any:
        """nd_wal_rec array that seal filled."""
        return lib.nd_engine_recs(self.handle)

    def sealed_needs_space(self) -> bool:
        return bool(lib.nd_engine_sealed_needs_space(self.handle))

    def proposed(self, n: int) -> int:
        """How many of the n records the log refused, each with its text; the others are under way."""
        return int(lib.nd_engine_proposed(self.handle, n))

    def halt(self, group: int, error: bytes) -> None:
        """From now on every command for the group's keys gets this error; not while an append is in flight."""
        lib.nd_engine_halt(self.handle, group, error)

    def refuse_sealed(self, text_kind: int) -> None:
        lib.nd_engine_refuse_sealed(self.handle, text_kind)

    def commit(self, commits: Any, n: int, now_us: int) -> int:
        return check(lib.nd_engine_commit(self.handle, commits, n, now_us), "apply")

    def flush(self, now_us: int) -> int:
        return int(lib.nd_engine_flush(self.handle, now_us))

    def expire(self, now_us: int) -> int:
        return int(lib.nd_engine_expire(self.handle, now_us))

    def refuse_writes(self, text_kind: int) -> None:
        """-1 = take them again."""
        lib.nd_engine_refuse_writes(self.handle, text_kind)

    def sweep(self, stamp: int, now_us: int, rows_max: int) -> int:
        return check(lib.nd_engine_sweep(self.handle, stamp, now_us, rows_max), "expiry")

    # ---- start ----

    def replay(self, records: Any, n: int) -> dict[int, int]:
        """Apply entries; {group: index} of those that hold one which this version cannot apply, and stop there."""
        check(lib.nd_engine_replay(self.handle, records, n), "replay")
        found = {records[i].group for i in range(n)} if n else set()
        return {group: at for group in found if (at := lib.nd_engine_stopped_at(self.handle, group))}

    def stamp(self) -> int:
        return int(lib.nd_engine_stamp(self.handle))

    def applied(self, group: int) -> tuple[int, int]:
        """(index, term) of the last entry applied."""
        return (
            int(lib.nd_engine_applied(self.handle, group)),
            int(lib.nd_engine_applied_term(self.handle, group)),
        )

    def set_applied(self, group: int, index: int, term: int) -> None:
        lib.nd_engine_applied_set(self.handle, group, index, term)

    def pending(self) -> int:
        return int(lib.nd_engine_pending(self.handle))

    def close_connections(self) -> int:
        return int(lib.nd_engine_close_all(self.handle))

    # ---- commands that Python answers ----

    def next_command(self) -> PythonCommand | None:
        c = self._command
        if not lib.nd_engine_python_next(self.handle, c):
            return None
        argv = [bytes(ffi.buffer(c.argv[i].ptr, c.argv[i].len)) for i in range(c.argc)]
        return PythonCommand(c.conn, c.gen, ffi.string(c.name).decode(), argv)

    def reply(self, conn: int, gen: int, reply: bytes, close_after: bool) -> None:
        lib.nd_engine_python_reply(self.handle, conn, gen, ffi.from_buffer(reply), len(reply), close_after)

    def connection(self, conn: int, gen: int) -> ConnectionInfo | None:
        i = self._info
        if not lib.nd_engine_conn(self.handle, conn, gen, i):
            return None
        return ConnectionInfo(i.port_kind, i.resp, i.fd, bool(i.readonly), i.opened_us, i.last_us)

    def set_connection(self, conn: int, gen: int, resp: int, readonly: bool) -> None:
        lib.nd_engine_conn_set(self.handle, conn, gen, resp, readonly)

    def call(self, token: int, worker: int, vshard: int, argv: list[bytes], resp: int, now_us: int) -> None:
        """Run an internal command in a worker; its reply comes from next_answer."""
        array, keep = _args(argv)
        code = lib.nd_engine_call(self.handle, token, worker, vshard, array, len(argv), resp, now_us)
        del keep
        check(code, f"call {argv[0].decode()}")

    def next_answer(self) -> tuple[int, bytes] | None:
        if not lib.nd_engine_call_next(self.handle, self._token, self._bytes, self._len):
            return None
        return int(self._token[0]), bytes(ffi.buffer(self._bytes[0], self._len[0]))

    def dropped_events(self) -> dict[int, int]:
        """How many events of each kind found no room since the last call; after the last of next_event."""
        counts = {kind: int(lib.nd_engine_events_dropped(self.handle, kind)) for kind in EVENT_MESSAGES}
        return {kind: count for kind, count in counts.items() if count}

    def next_event(self) -> Event | None:
        v = self._event
        if not lib.nd_engine_event_next(self.handle, v):
            return None
        text, address = (ffi.string(field).decode(errors="backslashreplace") for field in (v.text, v.address))
        return Event(v.kind, v.conn, v.value, text, address)
