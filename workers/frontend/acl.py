"""Handlers of ACL: users, their rules, what clients were refused. World file: random passwords, the age of entries.

Invariant: a change is answered when it is durable and in effect in every worker. Words and errors are Redis 7.0's;
where an answer follows from the command set it is made from the command table.
"""

import secrets
import time
from collections.abc import Callable

from nodedb_node.metadata.limits import USER_BYTES_MAX, USER_NAME_BYTES_MAX, USERS_MAX
from nodedb_node.native import access as native
from workers.acl import commandset, rules
from workers.acl.user import DEFAULT, Selector, User, encode
from workers.commands import table
from workers.frontend import resp
from workers.frontend.auth import AsyncHandler
from workers.frontend.context import Context

Handler = Callable[[Context, list[bytes]], bytes]

NO_FILE = (
    "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER "
    "command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store "
    "users in the Redis configuration."
)
GENPASS_BITS_MAX = 4_096
GENPASS_RANGE = (
    "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to "
    f"{GENPASS_BITS_MAX}"
)
LOG_COUNT = 10


def whoami(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.bulk(ctx.user)


def users(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.encode(list(ctx.access.names), ctx.resp)


def list_(ctx: Context, argv: list[bytes]) -> bytes:
    known = [ctx.access.find(name) for name in ctx.access.names]
    return resp.encode([one.user.line() for one in known if one is not None], ctx.resp)


def getuser(ctx: Context, argv: list[bytes]) -> bytes:
    known = ctx.access.find(argv[2])
    if known is None:
        return resp.encode(None, ctx.resp)
    user = known.user
    flags = resp.set_head(len(user.flags), ctx.resp) + b"".join(resp.bulk(flag.encode()) for flag in user.flags)
    root, *others = user.selectors
    parts = [resp.map_head(6, ctx.resp), resp.bulk(b"flags"), flags, resp.bulk(b"passwords")]
    parts += [resp.encode(list(user.passwords), ctx.resp), _selector(root), resp.bulk(b"selectors")]
    parts += [b"*%d\r\n" % len(others), *(resp.map_head(3, ctx.resp) + _selector(other) for other in others)]
    return b"".join(parts)


def _selector(selector: Selector) -> bytes:
    """The pairs of a selector."""
    pairs = {
        b"commands": selector.commands_text(),
        b"keys": selector.keys_text(),
        b"channels": selector.channels_text(),
    }
    return b"".join(resp.bulk(name) + resp.bulk(text) for name, text in pairs.items())


def cat(ctx: Context, argv: list[bytes]) -> bytes:
    if len(argv) > 3:
        return _arguments(argv)
    if len(argv) == 2:
        return resp.encode(list(commandset.CATEGORY_NAMES), ctx.resp)
    category = argv[2].decode("latin-1").lower()
    if category not in commandset.CATEGORY_NAMES:
        return resp.error(f"ERR Unknown category '{argv[2].decode('latin-1')}'")
    return resp.encode([row.name for row in commandset.in_category(category)], ctx.resp)


def genpass(ctx: Context, argv: list[bytes]) -> bytes:
    if len(argv) > 3:
        return _arguments(argv)
    bits = 256
    if len(argv) == 3:
        asked = resp.integer(argv[2])
        if asked is None:
            return resp.error("ERR value is not an integer or out of range")
        if not 0 < asked <= GENPASS_BITS_MAX:
            return resp.error(GENPASS_RANGE)
        bits = asked
    digits = (bits + 3) // 4
    return resp.bulk(secrets.token_hex((digits + 1) // 2)[:digits].encode())


def dryrun(ctx: Context, argv: list[bytes]) -> bytes:
    known = ctx.access.find(argv[2])
    if known is None:
        return resp.error(f"ERR User '{argv[2].decode('latin-1')}' not found")
    command = argv[3:]
    row = table.find(command)
    if row is None:
        return resp.error(f"ERR Command '{command[0].decode('latin-1')}' not found")
    if len(command) != row.arity if row.arity >= 0 else len(command) < -row.arity:
        return resp.error(f"ERR wrong number of arguments for '{row.name}' command")
    verdict, at = ctx.access.judge(known, command)
    if verdict == native.OK:
        return resp.OK
    if verdict == native.DENIED_COMMAND:
        return resp.bulk(f"This user has no permissions to run the '{row.name}' command".encode())
    return resp.bulk(b"This user has no permissions to access the '%s' key" % command[at])


def no_file(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.error(NO_FILE)


def help_(ctx: Context, argv: list[bytes]) -> bytes:
    container = table.BY_NAME["acl"]
    names = [row.name.partition("|")[2].upper() for row in table.subcommands(container)]
    return resp.encode(["ACL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", *names], ctx.resp)


def _arguments(argv: list[bytes]) -> bytes:
    sent = argv[1].decode("latin-1")
    return resp.error(f"ERR unknown subcommand or wrong number of arguments for '{sent}'. Try ACL HELP.")


# ---- changes, and what control keeps ----


async def setuser(ctx: Context, argv: list[bytes]) -> bytes:
    access, name = ctx.access, argv[2]
    if rules.SPACES.search(name):
        return resp.error("ERR Usernames can't contain spaces or null characters")
    if len(name) > USER_NAME_BYTES_MAX:
        return resp.error(f"ERR a user's name has at most {USER_NAME_BYTES_MAX} bytes")
    try:
        words = rules.merged(argv[3:])
    except rules.Unmatched as error:
        return resp.error(f"ERR Unmatched parenthesis in acl selector starting at '{error}'.")

    def make() -> tuple[list[User], list[bytes]]:
        known = access.find(name)
        user = rules.apply(known.user if known else User(name), words, access.hasher())
        return ([] if known and known.user == user else [user]), []

    def checked() -> tuple[list[User], list[bytes]]:
        puts, drops = make()
        if any(len(encode(user)) > USER_BYTES_MAX for user in puts):
            raise rules.BadRule(words[-1], f"a user's rules take at most {USER_BYTES_MAX} bytes")
        if access.find(name) is None and len(access.names) >= USERS_MAX:
            raise rules.BadRule(words[-1] if words else b"", f"a node has at most {USERS_MAX} users")
        return puts, drops

    try:
        await access.change(checked, slow=rules.hashes(words))
    except rules.BadRule as error:
        return resp.error(f"ERR Error in ACL SETUSER modifier '{error.rule.decode('latin-1')}': {error.why}")
    return resp.OK


async def deluser(ctx: Context, argv: list[bytes]) -> bytes:
    access, deleted = ctx.access, 0
    if DEFAULT in argv[2:]:
        return resp.error("ERR The 'default' user cannot be removed")

    def make() -> tuple[list[User], list[bytes]]:
        nonlocal deleted
        found = [name for name in dict.fromkeys(argv[2:]) if access.find(name) is not None]
        deleted = len(found)
        return [], found

    await access.change(make, slow=False)
    return resp.encode(deleted, ctx.resp)


async def log(ctx: Context, argv: list[bytes]) -> bytes:
    if len(argv) > 3:
        return _arguments(argv)
    if len(argv) == 3 and argv[2].lower() == b"reset":
        await ctx.access.denials(0, reset=True)
        return resp.OK
    count = resp.integer(argv[2]) if len(argv) == 3 else LOG_COUNT
    if count is None:
        return resp.error("ERR value is not an integer or out of range")
    now_ms = time.time_ns() // 1_000_000
    entries = await ctx.access.denials(max(0, min(count, 1 << 31)))
    parts = [b"*%d\r\n" % len(entries)]
    for entry in entries:
        parts += [resp.map_head(7, ctx.resp), resp.bulk(b"count"), resp.encode(entry.count, ctx.resp)]
        parts += [resp.bulk(b"reason"), resp.bulk(entry.reason.encode())]
        parts += [
            resp.bulk(b"context"),
            resp.bulk(entry.context.encode()),
            resp.bulk(b"object"),
            resp.bulk(entry.object),
        ]
        parts += [resp.bulk(b"username"), resp.bulk(entry.username), resp.bulk(b"age-seconds")]
        parts += [resp.double((now_ms - entry.at_ms) / 1000, ctx.resp)]
        parts += [resp.bulk(b"client-info"), resp.bulk(entry.client.encode("latin-1", "replace"))]
    return b"".join(parts)


HANDLERS: dict[str, Handler] = {
    "acl|whoami": whoami,
    "acl|users": users,
    "acl|list": list_,
    "acl|getuser": getuser,
    "acl|cat": cat,
    "acl|genpass": genpass,
    "acl|dryrun": dryrun,
    "acl|load": no_file,
    "acl|save": no_file,
    "acl|help": help_,
}
ASYNC_HANDLERS: dict[str, AsyncHandler] = {"acl|setuser": setuser, "acl|deluser": deluser, "acl|log": log}
