"""docs/commands.md from the command table: a table per family, a line per command."""

from workers.commands.row import Flag, Row
from workers.commands.table import ROWS

FAMILIES = {
    "string": "Strings",
    "bitmap": "Bitmaps",
    "generic": "Keys of any type",
    "connection": "The connection",
    "server": "The server and all keys",
}


def document() -> str:
    """The whole document."""
    parts = [
        "# Commands\n\nMade from the command table (workers/commands) by `python -m tools.docs`; "
        "a test compares the two.\n"
        "Arity counts the name; negative means at least. What differs from Redis is in "
        "[differences.md](differences.md).\n"
    ]
    for family, title in FAMILIES.items():
        lines = [_line(row) for row in ROWS if row.family == family and not _only_container(row)]
        head = "| command | arity | keys | kind | what it does |\n|---|---|---|---|---|\n"
        parts.append(f"\n## {title}\n\n{head}{''.join(lines)}")
    return "".join(parts)


def _only_container(row: Row) -> bool:
    return not row.function and row.arity == -2 and any(other.container == row.name for other in ROWS)


def _line(row: Row) -> str:
    name = row.name.replace("|", " ").upper()
    first, last, step = row.keys
    keys = f"{first}..{last}" + (f" step {step}" if step > 1 else "") if first else ""
    kind = "write" if Flag.WRITE in row.flags or "write" in row.marks else "read" if "readonly" in row.marks else ""
    return f"| {name} | {row.arity} | {keys} | {kind} | {row.summary} |\n"
