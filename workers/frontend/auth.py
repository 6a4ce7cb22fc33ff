"""Handlers of commands that say who the client is: AUTH and HELLO.

Invariant: a refused password leaves the connection as it was. Pure but for what the context does.
"""

from collections.abc import Awaitable, Callable

from nodedb_node.errors import Kind
from workers.acl.access import Denied
from workers.acl.user import DEFAULT
from workers.frontend import resp
from workers.frontend.connection import BAD_NAME, client_id_of, good_name
from workers.frontend.context import Context

AsyncHandler = Callable[[Context, list[bytes]], Awaitable[bytes]]

NO_PASSWORD = (
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
FIRST = (
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option "
    "can be used to authenticate the client and select the RESP protocol version at the same time"
)


async def auth(ctx: Context, argv: list[bytes]) -> bytes:
    if len(argv) > 3:
        return resp.error(Kind.SYNTAX.value)
    name, password = (DEFAULT, argv[1]) if len(argv) == 2 else (argv[1], argv[2])
    default = ctx.access.find(DEFAULT)
    if len(argv) == 2 and default is not None and default.user.nopass:
        return resp.error(NO_PASSWORD)
    try:
        await ctx.authenticate(name, password, "AUTH")
    except Denied as error:
        return resp.error(str(error))
    return resp.OK


async def hello(ctx: Context, argv: list[bytes]) -> bytes:
    version, name = ctx.resp, None
    rest = argv[1:]
    if rest:
        asked = resp.integer(rest[0])
        if asked is None:
            return resp.error("ERR Protocol version is not an integer or out of range")
        if asked not in (2, 3):
            return resp.error(Kind.NOPROTO.value)
        version = asked
        rest = rest[1:]
    while rest:
        option = rest[0].lower()
        if option == b"auth" and len(rest) >= 3:
            try:
                await ctx.authenticate(rest[1], rest[2], "HELLO")
            except Denied as error:
                return resp.error(str(error))
            rest = rest[3:]
        elif option == b"setname" and len(rest) >= 2:
            name, rest = rest[1], rest[2:]
            if not good_name(name):
                return resp.error(BAD_NAME)
        else:
            return resp.error(f"ERR Syntax error in HELLO option '{rest[0].decode('latin-1')}'")
    if not ctx.authenticated:
        return resp.error(FIRST)
    ctx.set_resp(version)
    if name is not None:
        ctx.session.name = name
    return resp.encode(_facts(ctx, version), version)


def _facts(ctx: Context, version: int) -> dict[resp.Value, resp.Value]:
    return {
        "server": "redis",
        "version": "7.0.15",
        "proto": version,
        "id": client_id_of(ctx),
        "mode": "cluster",
        "role": "master",
        "modules": [],
    }


HANDLERS: dict[str, AsyncHandler] = {"auth": auth, "hello": hello}
