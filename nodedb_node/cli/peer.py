"""nodedb-node peer: other nodes, as this one can talk to them. World file: event loop, clock, data directory.

Invariant: what is measured and judged is the lane's own work (transport/ping.py); the node whose directory it is may
run or not, and is not disturbed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator

import click
import uvloop

from nodedb_node.cli.load import load_config
from nodedb_node.cli.start import flags
from nodedb_node.cli.status import duration
from nodedb_node.errors import Exit, StartError
from nodedb_node.ids import ClusterId, NodeId, Process, process_name
from nodedb_node.rpc.frame import FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, Kind
from nodedb_node.rpc.hello import ALPN, VERSION_MAX, VERSION_MIN, Why
from nodedb_node.rpc.messages import BODIES, Type
from nodedb_node.rpc.versioned import MARK
from nodedb_node.supervisor.datadir import identity_of
from nodedb_node.transport.credentials.files import CredentialFiles
from nodedb_node.transport.credentials.live import InsecureCredentials, LiveCredentials
from nodedb_node.transport.credentials.reasons import Reason
from nodedb_node.transport.interface import Address
from nodedb_node.transport.ping import Pinger, Refused, Report
from nodedb_node.transport.quic import Credentials


@click.group("peer")
def command() -> None:
    """Other nodes, as this one can talk to them."""


@command.command("protocol")
def protocol() -> int:
    """Versions, classes with their limits, and types of messages of this program."""
    for line in lines():
        click.echo(line)
    return Exit.OK.value


def lines() -> Iterator[str]:
    yield f"protocol {ALPN}, versions {VERSION_MIN}..{VERSION_MAX}; stored payloads are marked {MARK:#04x}"
    for kind in Kind:
        yield f"class {kind.name.lower()}: frames up to {FRAME_BYTES_MAX[kind]} B, messages {MESSAGE_BYTES_MAX[kind]} B"
    for number in Type:
        body = BODIES.get(number)
        yield f"type {number.value} {number.name.lower()}" + (f": {', '.join(body.__struct_fields__)}" if body else "")


def address_of(text: str) -> Address:
    """HOST:PORT or [V6]:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.UsageError(f"{text}: expected HOST:PORT")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


@command.command("ping")
@click.argument("address", metavar="HOST:PORT")
@click.option("--config", "config_file", metavar="FILE", help="TOML file; also $NODEDB_CONFIG")
@click.option("--data-dir", metavar="DIR", help="whose credentials to use (default ./nodedb-data)")
@click.option("--peers", metavar="HOW", help='mtls (default), or "insecure": nobody is checked')
@click.option("--count", default=200, show_default=True, type=click.IntRange(1, 100_000), help="round trips")
@click.option("--mib", default=64, show_default=True, type=click.IntRange(0, 1024), help="bulk transfer; 0 = none")
@click.option("--timeout", default=5.0, show_default=True, help="seconds for the session to begin")
def ping(
    address: str, config_file: str | None, data_dir: str | None, peers: str | None, count: int, mib: int, timeout: float
) -> int:
    """Dial a lane with this node's credentials: who answers, which version, how fast. Exit code 69 when refused."""
    config = load_config(config_file, flags({"data_dir": data_dir, "peers": peers}))
    path = os.path.abspath(config.node.data_dir)
    ids = identity_of(path)
    cluster_id, node_id = ClusterId(ids.cluster_id), NodeId(ids.node_id)
    credentials = credentials_of(path, config.peers.security == "insecure", cluster_id, node_id)

    async def run() -> Report:
        pinger = Pinger(credentials, cluster_id, node_id, resolved(address_of(address)))
        return await pinger.run(count, mib << 20, timeout)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(run())
    except Refused as error:
        raise StartError(Exit.UNAVAILABLE, f"{address}: no session: {explained(str(error))}") from error
    for line in report_lines(report):
        click.echo(line)
    return Exit.OK.value


def explained(failure: str) -> str:
    """With who refused whom, and where to look."""
    word = failure.partition(":")[0].upper()
    if word in Why.__members__:
        return f"it refused this node, {failure}; compare nodedb-node cert show on both"
    if word.replace("-", "_") in Reason.__members__:
        return f"this node does not accept it, {failure}; is it of this cluster? compare nodedb-node cert show on both"
    return failure


def wall_s() -> int:
    """Seconds since 1970."""
    return int(time.time())


def credentials_of(path: str, insecure: bool, cluster_id: ClusterId, node_id: NodeId) -> Credentials:
    """Those of the directory's node."""
    if insecure:
        return InsecureCredentials(cluster_id, node_id, wall_s())
    live = LiveCredentials(CredentialFiles(path), wall_s)
    if not live.reload():
        line = f"{path} has no certificate yet: nodedb-node cert init, or a start of the node, makes it"
        raise StartError(Exit.NO_INPUT, line)
    return live


def resolved(address: Address) -> Address:
    """With a numeric host, which is what datagrams come from."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise StartError(Exit.UNAVAILABLE, f"{address.host}: {error.strerror}") from error
    return Address(str(found[0][4][0]), address.port)


def report_lines(report: Report) -> Iterator[str]:
    yield f"node {report.peer}, {process_name(Process(report.lane))}, start {report.generation}"
    if report.identity is None:
        yield "certificate NOT checked: insecure mode"
    else:
        ends = duration(max(0, report.identity.until_s - wall_s()))
        yield f"certificate {report.identity.name}, ends in {ends}"
    yield f"protocol version {report.version}, software {report.software or '-'}"
    yield f"connected in {report.connect_us / 1000:.1f} ms, datagrams up to {report.datagram_bytes} B"
    p50, p99 = report.quantile(0.5), report.quantile(0.99)
    yield f"round trip of 100 B: p50 {p50:.0f} µs, p99 {p99:.0f} µs, of {len(report.round_trips_us)}"
    if report.bulk_bytes_per_s is not None:
        yield f"bulk {report.bulk_bytes_per_s / 1e6:.0f} MB/s"
