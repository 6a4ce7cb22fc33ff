"""Handlers of commands about the server: COMMAND, INFO, CONFIG GET, CLUSTER, TIME, WAIT. World file: TIME."""

import fnmatch
import time
from collections.abc import Callable
from typing import cast

from nodedb_node.errors import Kind
from nodedb_node.native.kernels import slot_of_key
from nodedb_node.routing import view
from workers.commands import table
from workers.commands.row import Flag, KeySpec, Row
from workers.frontend import resp
from workers.frontend.context import Context

Handler = Callable[[Context, list[bytes]], bytes]


def command(ctx: Context, argv: list[bytes]) -> bytes:
    rows = list(table.public_rows())
    return b"*%d\r\n" % len(rows) + b"".join(_describe(row, ctx.resp) for row in rows)


def command_count(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.encode(sum(1 for _ in table.public_rows()), ctx.resp)


def command_list(ctx: Context, argv: list[bytes]) -> bytes:
    """Subcommands too, as in Redis, which counts them in no COMMAND COUNT."""
    rows = [child for row in table.public_rows() for child in (row, *table.subcommands(row))]
    if len(argv) != 2:
        if len(argv) != 5 or argv[2].lower() != b"filterby":
            return resp.error(Kind.SYNTAX.value)
        kind, value = argv[3].lower(), argv[4].decode("latin-1").lower()
        if kind == b"pattern":
            rows = [row for row in rows if fnmatch.fnmatchcase(row.name, value)]
        elif kind == b"aclcat":
            rows = [row for row in rows if f"@{value}" in row.categories]
        elif kind == b"module":
            rows = []
        else:
            return resp.error(Kind.SYNTAX.value)
    return resp.encode([row.name for row in rows], ctx.resp)


def command_info(ctx: Context, argv: list[bytes]) -> bytes:
    if len(argv) == 2:
        return command(ctx, argv)
    rows = [_public(name) for name in argv[2:]]
    nothing = resp.encode(None, ctx.resp)
    return b"*%d\r\n" % len(rows) + b"".join(_describe(row, ctx.resp) if row else nothing for row in rows)


def command_docs(ctx: Context, argv: list[bytes]) -> bytes:
    rows = list(table.public_rows()) if len(argv) == 2 else [row for row in map(_public, argv[2:]) if row]
    docs: dict[resp.Value, resp.Value] = {
        row.name: {"summary": row.summary, "since": row.since, "group": row.family} for row in rows
    }
    return resp.encode(docs, ctx.resp)


def command_getkeys(ctx: Context, argv: list[bytes]) -> bytes:
    found = _keys_of(argv[2:])
    return found if isinstance(found, bytes) else resp.encode([key for key, _ in found], ctx.resp)


def command_getkeysandflags(ctx: Context, argv: list[bytes]) -> bytes:
    found = _keys_of(argv[2:])
    if isinstance(found, bytes):
        return found
    parts = [b"*2\r\n" + resp.bulk(key) + resp.status_set(access.split(), ctx.resp) for key, access in found]
    return b"*%d\r\n" % len(parts) + b"".join(parts)


def command_help(ctx: Context, argv: list[bytes]) -> bytes:
    return _help(ctx, "command")


def info(ctx: Context, argv: list[bytes]) -> bytes:
    wanted = {name.decode("latin-1").lower() for name in argv[1:]}
    everything = not wanted or wanted & {"default", "all", "everything"}
    parts = []
    for name, facts in ctx.info().items():
        if everything or name in wanted:
            lines = "".join(f"{key}:{value}\r\n" for key, value in facts.items())
            parts.append(f"# {name.capitalize()}\r\n{lines}")
    return resp.verbatim("\r\n".join(parts), ctx.resp)


def config_get(ctx: Context, argv: list[bytes]) -> bytes:
    """A parameter named in full comes back in the spelling it was asked for, as Redis does it."""
    settings, found = ctx.settings(), dict[resp.Value, resp.Value]()
    for pattern in (argument.decode("latin-1") for argument in argv[2:]):
        if pattern.lower() in settings:
            found[pattern] = settings[pattern.lower()]
        elif set(pattern) & set("*?["):
            found |= {name: value for name, value in settings.items() if fnmatch.fnmatchcase(name, pattern.lower())}
    return resp.encode(found, ctx.resp)


def config_help(ctx: Context, argv: list[bytes]) -> bytes:
    return _help(ctx, "config")


def now(ctx: Context, argv: list[bytes]) -> bytes:
    us = time.time_ns() // 1000
    return resp.encode([b"%d" % (us // 1_000_000), b"%d" % (us % 1_000_000)], ctx.resp)


def wait(ctx: Context, argv: list[bytes]) -> bytes:
    """A single node has no replicas, and what it acknowledged is on its disk already."""
    timeout_ms = resp.integer(argv[2])
    if resp.integer(argv[1]) is None:
        return resp.error("ERR value is not an integer or out of range")
    if timeout_ms is None:
        return resp.error("ERR timeout is not an integer or out of range")
    if timeout_ms < 0:
        return resp.error("ERR timeout is negative")
    return resp.encode(0, ctx.resp)


def cluster_slots(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.encode(cast(resp.Value, view.slots(ctx.members())), ctx.resp)


def cluster_shards(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.encode(cast(resp.Value, view.shards(ctx.members())), ctx.resp)


def cluster_nodes(ctx: Context, argv: list[bytes]) -> bytes:
    members = ctx.members()
    return resp.verbatim(view.nodes(members, members[ctx.worker].id), ctx.resp)


def cluster_info(ctx: Context, argv: list[bytes]) -> bytes:
    members = ctx.members()
    return resp.verbatim(view.info(members, members[ctx.worker].id), ctx.resp)


def cluster_myid(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.encode(ctx.members()[ctx.worker].id, ctx.resp)


def cluster_keyslot(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.encode(slot_of_key(argv[2]), ctx.resp)


def cluster_links(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.encode([], ctx.resp)


def cluster_help(ctx: Context, argv: list[bytes]) -> bytes:
    return _help(ctx, "cluster")


def _public(name: bytes) -> Row | None:
    row = table.BY_NAME.get(name.decode("latin-1").lower())
    return None if row is None or Flag.INTERNAL in row.flags else row


def _describe(row: Row, version: int) -> bytes:
    first, last, step = row.keys
    children = table.subcommands(row)

    head = resp.bulk(row.name.encode()) + b":%d\r\n" % row.arity + resp.status_set(list(row.marks), version)
    keys = b":%d\r\n:%d\r\n:%d\r\n" % (first, last, step)
    specs = b"".join(_spec(spec, version) for spec in row.specs)
    return (
        b"*10\r\n"
        + head
        + keys
        + resp.status_set(list(row.categories), version)
        + resp.set_head(len(row.tips), version)
        + b"".join(resp.bulk(tip.encode()) for tip in row.tips)
        + resp.set_head(len(row.specs), version)
        + specs
        + (b"*%d\r\n" % len(children) if children else resp.set_head(0, version))
        + b"".join(_describe(child, version) for child in children)
    )


def _spec(spec: KeySpec, version: int) -> bytes:
    last = spec.last - spec.first if spec.last > 0 else spec.last
    begin: resp.Value = {"type": "index", "spec": {"index": spec.first}}
    find: resp.Value = {"type": "range", "spec": {"lastkey": last, "keystep": spec.step, "limit": 0}}
    head = b"%3\r\n" if version == 3 else b"*6\r\n"
    return (
        head
        + resp.bulk(b"flags")
        + resp.status_set(spec.access.split(), version)
        + resp.bulk(b"begin_search")
        + resp.encode(begin, version)
        + resp.bulk(b"find_keys")
        + resp.encode(find, version)
    )


def _keys_of(argv: list[bytes]) -> list[tuple[bytes, str]] | bytes:
    row = table.find(argv)
    if row is None:
        return resp.error("ERR Invalid command specified")
    if not row.specs:
        return resp.error("ERR The command has no key arguments")
    if len(argv) < abs(row.arity) or (row.arity > 0 and len(argv) != row.arity):
        return resp.error("ERR Invalid number of arguments specified for command")
    found = []
    for spec in row.specs:
        last = spec.last if spec.last >= 0 else len(argv) + spec.last
        found += [(argv[i], spec.access) for i in range(spec.first, min(last, len(argv) - 1) + 1, spec.step)]
    return found


def _help(ctx: Context, name: str) -> bytes:
    children = [row.name.partition("|")[2].upper() for row in table.subcommands(table.BY_NAME[name])]
    first = f"{name.upper()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    return resp.encode([first, *children], ctx.resp)


HANDLERS: dict[str, Handler] = {
    "command": command,
    "command|count": command_count,
    "command|list": command_list,
    "command|info": command_info,
    "command|docs": command_docs,
    "command|getkeys": command_getkeys,
    "command|getkeysandflags": command_getkeysandflags,
    "command|help": command_help,
    "info": info,
    "config|get": config_get,
    "config|help": config_help,
    "time": now,
    "wait": wait,
    "cluster|slots": cluster_slots,
    "cluster|shards": cluster_shards,
    "cluster|nodes": cluster_nodes,
    "cluster|info": cluster_info,
    "cluster|myid": cluster_myid,
    "cluster|keyslot": cluster_keyslot,
    "cluster|links": cluster_links,
    "cluster|help": cluster_help,
}
