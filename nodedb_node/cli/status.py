"""nodedb-node status: asks a running node for its status document and shows it. World file: one HTTP request.

Invariant: it needs nothing but the HTTP port, so it works on a node that serves no client; what answers wrongly or not
at all is one line and exit code 69. It computes nothing that is not in the document: --json prints that as received.
"""

from __future__ import annotations

import datetime
import http.client
import os
import ssl
from collections.abc import Iterable, Iterator, Sequence

import click
import msgspec

from nodedb_node.admin.facts import PeerFacts
from nodedb_node.admin.status import Document, Lane, Process, Worker
from nodedb_node.admin.token import NAME, read
from nodedb_node.cli.load import load_config
from nodedb_node.config import Config
from nodedb_node.errors import UNREADABLE, Exit, StartError
from nodedb_node.transport.lane import LaneStatus

ANSWER_SECONDS = 5
ANSWER_BYTES_MAX = 8 << 20
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@click.command("status")
@click.option("--config", "config_file", metavar="FILE", help="the node's TOML file; also $NODEDB_CONFIG")
@click.option("--http", "address", metavar="HOST:PORT", help="where the node serves HTTP (default 127.0.0.1:6480)")
@click.option("--token-file", metavar="FILE", help="the admin token, for a node elsewhere (default: the node's own)")
@click.option("--ca", metavar="FILE", help="ask by HTTPS and trust this authority, or this certificate itself")
@click.option("--groups", is_flag=True, help="each Raft group")
@click.option("--json", "as_json", is_flag=True, help="the whole status document")
def command(
    config_file: str | None, address: str | None, token_file: str | None, ca: str | None, groups: bool, as_json: bool
) -> int:
    """What a running node is doing. Exit code 69 when none answers."""
    config = load_config(config_file, {})
    host, port = parse(address) if address else configured(config)
    trusted = ca or (config.http.tls_cert if not address else "")
    raw = ask(host, port, token_of(config, token_file), trusted)
    if as_json:
        click.echo(raw.decode())
        return Exit.OK.value
    try:
        document = msgspec.json.decode(raw, type=Document)
    except UNREADABLE as error:
        line = f"{host}:{port} answers, but not with a status this version knows ({error}); try --json"
        raise StartError(Exit.UNAVAILABLE, line) from error
    for line in (*lines(document), *(group_lines(document) if groups else ())):
        click.echo(line)
    return Exit.OK.value


def parse(address: str) -> tuple[str, int]:
    """HOST:PORT, [V6]:PORT, :PORT or PORT."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise StartError(Exit.USAGE, f"--http {address}: expected HOST:PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def configured(config: Config) -> tuple[str, int]:
    """Where the configuration says that the node serves HTTP."""
    if config.http.port == 0:
        raise StartError(Exit.USAGE, "[http] port = 0 means any free one: give the port of the node's log with --http")
    return ANY_ADDRESS.get(config.http_bind, config.http_bind), config.http.port


def token_of(config: Config, token_file: str | None) -> bytes:
    """The token to show: of the file that was named, else of the node of this configuration if we may read it."""
    if token_file:
        return read(token_file)
    own = config.http.token_file or os.path.join(config.node.data_dir, NAME)
    return read(own) if os.access(own, os.R_OK) else b""


def connect(host: str, port: int, ca: str) -> http.client.HTTPConnection:
    """By HTTPS when there is somebody to trust."""
    if not ca:
        return http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise StartError(Exit.USAGE, f"{ca} holds no certificate that could be trusted: {error}") from error
    return http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=context)


def ask(host: str, port: int, token: bytes = b"", ca: str = "") -> bytes:
    """The document's bytes; StartError in one line when there are none."""
    connection = connect(host, port, ca)
    try:
        connection.request("GET", "/status", headers={"Authorization": f"Bearer {token.decode()}"} if token else {})
        answer = connection.getresponse()
        raw = answer.read(ANSWER_BYTES_MAX)
        if answer.status == 401:
            raise StartError(Exit.UNAVAILABLE, f"{host}:{port} asks for its admin token: give it with --token-file")
        if answer.status != 200:
            raise StartError(Exit.UNAVAILABLE, f"{host}:{port} answers {answer.status} {answer.reason}: not a node?")
        return raw
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        line = f"no node answers on {host}:{port} ({reason}); {_hint(error, ca)}"
        raise StartError(Exit.UNAVAILABLE, line) from error
    finally:
        connection.close()


def _hint(error: Exception, ca: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name it as its certificate does (--http), and the authority of that certificate (--ca)"
    if isinstance(error, ssl.SSLError):
        return "does it speak HTTPS? without --ca it is asked by plain HTTP"
    if isinstance(error, http.client.RemoteDisconnected) and not ca:
        return "where [http] tls_cert is set it speaks HTTPS alone: give --ca FILE"
    return "is it started, and is this its HTTP port (--http)?"


def lines(document: Document) -> Iterator[str]:
    """The document for people."""
    state = "ready" if document.ready else "NOT READY"
    uptime = duration(document.uptime_seconds)
    yield f"nodedb-node {document.version}  {state}, up {uptime}, start {document.generation}, node {document.node_id}"
    yield (
        f"clients {document.clients_host}:{document.clients_port}  http {document.http_host}:{document.http_port}  "
        f"{document.groups} groups, {document.vshards} vShards"
    )
    free, size = bytes_text(document.disk_free_bytes), bytes_text(document.disk_size_bytes)
    yield f"data {document.data_dir}  {free} free of {size}, writes stop at {bytes_text(document.disk_floor_bytes)}"
    yield security(document.peers)
    yield from (f"not ready: {reason}" for reason in document.reasons)
    yield f"limited by: {document.limited_by.name}" + (
        f" ({document.limited_by.detail})" if document.limited_by.name != "none" else ""
    )
    yield ""
    yield from table(PROCESS_COLUMNS, (process_row(process) for process in document.processes))
    yield ""
    yield from table(WORKER_COLUMNS, (worker_row(worker) for worker in document.workers))
    if document.lanes:
        yield ""
        yield from table(LANE_COLUMNS, (lane_row(lane) for lane in document.lanes))
        peers = [(lane.process, peer) for lane in document.lanes for peer in lane.peers]
        if peers:
            yield from table(PEER_COLUMNS, (peer_row(process, peer) for process, peer in peers))

    led = sum(group.role == "leader" for group in document.replicas)
    term = max((group.term for group in document.replicas), default=0)
    yield ""
    yield f"{len(document.replicas)} groups here, {led} led, newest term {term}"
    yield from (f"group {group.group}: {group.reason}" for group in document.replicas if group.reason)
    if document.interval_seconds is not None:
        yield f"rates over the last {document.interval_seconds:.0f} s; quantiles since the process started"


def security(facts: PeerFacts) -> str:
    """How nodes know each other."""
    if facts.insecure:
        return "peers INSECURE: nobody is checked, anybody can be a peer and read what it is told"
    if not facts.certificate_not_after_s:
        return "peers mtls, no certificate yet"
    ends = datetime.datetime.fromtimestamp(facts.certificate_not_after_s, datetime.UTC)
    return f"peers mtls, certificate ends {ends:%Y-%m-%d}, trust generation {facts.trust_generation}"


def group_lines(document: Document) -> Iterator[str]:
    """Each group."""
    yield ""
    yield from table(
        ("group", "worker", "role", "term", "leader", "commit", "applied", "last", ""),
        (tuple(str(value) for value in msgspec.structs.astuple(group)) for group in document.replicas),
    )


PROCESS_COLUMNS = ("process", "state", "pid", "restarts", "cores", "cpu s", "rss", "pss", "last turn")
WORKER_COLUMNS = (
    *("worker", "port", "groups", "clients", "cmd/s", "per batch", "rows", "in memory", "memory", "dirty"),
    *("wal", "segments", "sync p50", "p99", "stall p99", "checkpoints", "ring full"),
)


LANE_COLUMNS = ("lane", "address", "peers checked", "sessions", "datagrams up to", "in", "out", "refused")
PEER_COLUMNS = ("peer of", "node", "its lane", "address", "state", "generation", "version", "queued", "why")


def lane_row(lane: Lane) -> tuple[str, ...]:
    return (
        lane.process,
        f"{lane.host}:{lane.port}",
        "NO" if lane.insecure else "yes",
        str(lane.sessions),
        bytes_text(lane.datagram_bytes or None),
        bytes_text(lane.bytes_in),
        bytes_text(lane.bytes_out),
        str(lane.refused_peers),
    )


def peer_row(process: str, peer: LaneStatus) -> tuple[str, ...]:
    return (
        process,
        peer.peer[:12],
        str(peer.lane),
        peer.address or "-",
        "up" if peer.up else "down",
        str(peer.generation),
        str(peer.version),
        bytes_text(peer.queued_bytes),
        "-" if peer.up else peer.last_failure or "-",
    )


def process_row(process: Process) -> tuple[str, ...]:
    return (
        process.name,
        process.state,
        str(process.pid or "-"),
        str(process.restarts),
        ",".join(str(core) for core in process.cores) or "any",
        "-" if process.cpu_seconds is None else f"{process.cpu_seconds:.1f}",
        bytes_text(process.resident_bytes),
        bytes_text(process.pss_bytes),
        "-" if process.heartbeat_age_ms is None else f"{process.heartbeat_age_ms} ms ago",
    )


def worker_row(worker: Worker) -> tuple[str, ...]:
    return (
        str(worker.worker),
        str(worker.port or "-"),
        str(worker.groups),
        str(worker.connections),
        "-" if worker.commands_per_second is None else f"{worker.commands_per_second:.0f}",
        "-" if worker.batch_commands_mean is None else f"{worker.batch_commands_mean:.1f}",
        str(worker.rows),
        str(worker.resident_rows),
        bytes_text(worker.memory_bytes),
        bytes_text(worker.dirty_bytes),
        worker.wal_backend,
        f"{worker.wal_segments} ({bytes_text(worker.wal_bytes)})",
        microseconds(worker.wal_sync_us_p50),
        microseconds(worker.wal_sync_us_p99),
        microseconds(worker.loop_stall_us_p99),
        str(worker.checkpoints),
        str(worker.ring_full),
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they must be, numbers to the right; the same whether it goes to a terminal or a file."""
    cells = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    for row in cells:
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join([row[0].ljust(len(first)), *rest]).rstrip()


def bytes_text(count: int | None) -> str:
    """A size in the largest unit that leaves at least one whole of it."""
    if count is None:
        return "-"
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.1f} {unit}"
    return f"{count} B"


def microseconds(bound: int) -> str:
    """The upper bound of a bucket."""
    if bound == 0:
        return "-"
    return f"<{(bound + 1) / 1000:.1f} ms" if bound >= 1000 else f"<{bound + 1} us"


def duration(seconds: float) -> str:
    """The two largest units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
