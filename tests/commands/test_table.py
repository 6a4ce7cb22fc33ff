"""The command table against its promises: ids for ever, flags as C has them, documents that follow from the rows."""

from pathlib import Path

from nodedb_node._native import ffi, lib
from tools.docs import commands
from workers.commands import table
from workers.commands.row import Flag
from workers.frontend import acl, auth, connection, keyspace, server

REPO = Path(__file__).resolve().parents[2]


def test_ids_are_never_changed_or_used_again() -> None:
    """A log written by any earlier version is read with today's table: lines may only be added to the file."""
    golden = dict(line.split() for line in (REPO / "tests/golden/command_ids.txt").read_text().splitlines())
    assert {str(row.id): row.name for row in table.ROWS} == golden


def test_flags_are_those_of_c() -> None:
    in_c = {flag.name: getattr(lib, f"ND_CMD_{flag.name}") for flag in Flag}
    assert {flag.name: int(flag) for flag in Flag} == in_c


def test_every_row_is_accepted_by_c() -> None:
    assert table.build_cmdtab() != ffi.NULL


def test_who_runs_a_command() -> None:
    """A C function or a Python handler, not both; containers that only have subcommands have neither."""
    handlers = {**connection.HANDLERS, **server.HANDLERS, **keyspace.HANDLERS}
    handlers |= {**acl.HANDLERS, **acl.ASYNC_HANDLERS, **auth.HANDLERS}
    for row in table.ROWS:
        runs_in_python = row.name in handlers
        only_container = bool(table.subcommands(row)) and row.arity == -2
        assert (bool(row.function), runs_in_python).count(True) == (0 if only_container else 1), row.name
    assert set(handlers) <= set(table.BY_NAME)


def test_writes_name_their_keys() -> None:
    for row in table.ROWS:
        if Flag.WRITE in row.flags:
            assert row.specs or Flag.GROUP_ALL in row.flags, row.name


def test_documentation_is_made_from_the_rows() -> None:
    """Write it again with python -m tools.docs."""
    assert (REPO / "docs/commands.md").read_text() == commands.document()
