"""nodedb-node wal dump|verify|cut: look into a stopped worker's write-ahead log. World file: it opens log
directories.

Invariant: dump and verify change nothing; cut does, only when told, only from the first damage on, and keeps what it
takes.
"""

import os
from collections.abc import Iterator

import click

from nodedb_node.errors import Exit, StartError
from nodedb_node.native import wal
from nodedb_node.storage import inspect
from nodedb_node.storage.directory import SEGMENT_NAME, LogDirectory

SHOWN_BYTES = 48


@click.group("wal")
def command() -> None:
    """Look into a stopped node's write-ahead logs. PATH: a log directory, or a data directory with some below it."""


@command.command("verify")
@click.argument("path")
def verify(path: str) -> int:
    """Read and check every byte, as a start would. Exit code 65 when a node would not start with it."""
    worst = Exit.OK
    for directory in _directories(path):
        found = inspect.summary(directory)
        for line in (*found.segments, *found.groups, f"{directory.path}: ends with {found.end}"):
            click.echo(line)
        if found.damage:
            click.echo(f"DAMAGED {found.damage}")
            worst = Exit.DATA
    click.echo("ok" if worst is Exit.OK else "damaged")
    return worst.value


@command.command("dump")
@click.argument("path")
@click.option("--payload", is_flag=True, help=f"show the first {SHOWN_BYTES} bytes of each record")
def dump(path: str, payload: bool) -> int:
    """One line per append and record."""
    for directory in _directories(path):
        for file, _, append, records in inspect.dump(directory):
            again = " again" if append.flags & wal.FLAG_AGAIN else ""
            click.echo(f"{file} offset={append.off} sequence={append.sequence} bytes={append.bytes}{again}")
            for record in records:
                click.echo(_line(record, payload))
    return Exit.OK.value


@command.command("cut")
@click.argument("path")
@click.option("--yes", is_flag=True, help="really do it: acknowledged writes behind the damage are given up")
def cut(path: str, yes: bool) -> int:
    """Give up everything from the first damage of each log on; what is taken away stays beside it as cut-*."""
    for directory in _directories(path):
        damage = inspect.summary(directory).damage
        if damage is None:
            click.echo(f"{directory.path}: nothing to cut")
            continue
        if not yes:
            raise StartError(Exit.USAGE, f"would cut at {damage.file} offset {damage.offset}: {damage.what}; add --yes")
        for line in inspect.cut(directory, damage):
            click.echo(line)
    return Exit.OK.value


def _line(record: wal.Record, payload: bool) -> str:
    kind = wal.TYPE_NAMES.get(record.type, f"type-{record.type}")
    data = record.data
    if record.type == wal.REWRITE and data:
        kind, data = f"rewrite:{wal.TYPE_NAMES.get(data[0], data[0])}", data[1:]
    if record.kind:
        kind += f":{wal.KIND_NAMES.get(record.kind, record.kind)}"
    shown = f" {data[:SHOWN_BYTES]!r}" if payload and data else ""
    return f"  {kind} group={record.group} term={record.term} index={record.index} bytes={len(data)}{shown}"


def _directories(path: str) -> Iterator[LogDirectory]:
    """Each log directory at or below path, locked while it is looked at."""
    if not os.path.isdir(path):
        raise StartError(Exit.NO_INPUT, f"{path} is not a directory")
    found = False
    for base, names, files in sorted(os.walk(path)):
        names.sort()
        if any(map(SEGMENT_NAME.fullmatch, files)):
            found = True
            directory = LogDirectory(base)
            try:
                yield directory
            finally:
                directory.close()
    if not found:
        raise StartError(Exit.NO_INPUT, f"no log below {path}: no file is named wal-NUMBER")
