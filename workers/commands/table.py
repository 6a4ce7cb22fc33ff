"""The command table: every command of the node, one row each, and the C table made from the rows.

The rows are the only place that knows a command's arity, flags and key positions: C looks names up in the table built
here, COMMAND answers from the rows, and docs/commands.md is written from them. Invariant: a row's id is the number that
the log carries, so an id is never changed and never used again for another command (tests/golden/command_ids.txt guards
it). Not done here: running commands (C functions, or the handlers in workers/frontend).
"""

from collections.abc import Iterator

from nodedb_node._native import ffi, lib
from workers.commands import acl, bitmaps, connection, generic, internal, server, strings
from workers.commands.row import Flag, Row

ROWS: tuple[Row, ...] = (
    *strings.ROWS,
    *bitmaps.ROWS,
    *generic.ROWS,
    *connection.ROWS,
    *server.ROWS,
    *acl.ROWS,
    *internal.ROWS,
)
BY_NAME: dict[str, Row] = {row.name: row for row in ROWS}
BY_ID: dict[int, Row] = {row.id: row for row in ROWS}
assert len(BY_NAME) == len(BY_ID) == len(ROWS), "a command's name or id is taken twice"


def public_rows() -> Iterator[Row]:
    """What COMMAND lists: rows that clients may send, without subcommands."""
    return (row for row in ROWS if Flag.INTERNAL not in row.flags and row.container is None)


def subcommands(row: Row) -> tuple[Row, ...]:
    """The rows of a container's subcommands, in table order."""
    return tuple(other for other in ROWS if other.container == row.name)


def find(argv: list[bytes]) -> Row | None:
    """The row that C would choose for these arguments: a container's subcommand when there is one to name."""
    name = argv[0].decode("latin-1").lower()
    row = BY_NAME.get(name)
    if row is None or Flag.INTERNAL in row.flags or row.container is not None:
        return None
    if len(argv) > 1 and subcommands(row):
        return BY_NAME.get(f"{name}|{argv[1].decode('latin-1').lower()}")
    return row


def build_cmdtab() -> object:
    """A new nd_cmdtab with every row in it, freed with the object that is returned."""
    table = ffi.gc(lib.nd_cmdtab_new(), lib.nd_cmdtab_free)
    for row in ROWS:
        first, last, step = row.keys
        rc = lib.nd_cmdtab_add(
            table, row.name.encode(), row.id, row.arity, int(row.flags), first, last, step, row.function.encode()
        )
        assert rc == 0, f"row {row.name}: errno {-rc}"
        lib.nd_cmdtab_key_access(table, row.id, *row.key_access)
    return table
