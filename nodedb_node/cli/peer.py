"""nodedb-node peer: other nodes, as this one can talk to them, beginning with what this version speaks.

Invariant: it shows the tables of rpc as they are and computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from nodedb_node.errors import Exit
from nodedb_node.rpc.frame import FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, Kind
from nodedb_node.rpc.hello import ALPN, VERSION_MAX, VERSION_MIN
from nodedb_node.rpc.messages import BODIES, Type
from nodedb_node.rpc.versioned import MARK
from nodedb_node.transport.interface import Address


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
