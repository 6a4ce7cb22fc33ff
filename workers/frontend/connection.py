"""Handlers of commands about the connection: HELLO, CLIENT, SELECT, RESET, QUIT, READONLY."""

from collections.abc import Callable

from workers.frontend import resp
from workers.frontend.context import Context

Handler = Callable[[Context, list[bytes]], bytes]

NO_PASSWORD = (
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
BAD_NAME = "ERR Client names cannot contain spaces, newlines or special characters."


def hello(ctx: Context, argv: list[bytes]) -> bytes:
    version, name = ctx.resp, None
    rest = argv[1:]
    if rest:
        asked = resp.integer(rest[0])
        if asked is None:
            return resp.error("ERR Protocol version is not an integer or out of range")
        if asked not in (2, 3):
            return resp.error("NOPROTO unsupported protocol version")
        version = asked
        rest = rest[1:]
    while rest:
        option = rest[0].lower()
        if option == b"auth" and len(rest) >= 3:
            if rest[1] != b"default":
                return resp.error("WRONGPASS invalid username-password pair or user is disabled.")
            rest = rest[3:]
        elif option == b"setname" and len(rest) >= 2:
            name, rest = rest[1], rest[2:]
            if not _good_name(name):
                return resp.error(BAD_NAME)
        else:
            return resp.error(f"ERR Syntax error in HELLO option '{rest[0].decode('latin-1')}'")
    ctx.set_resp(version)
    if name is not None:
        ctx.session.name = name
    facts: dict[resp.Value, resp.Value] = {
        "server": "redis",
        "version": "7.0.15",
        "proto": version,
        "id": _client_id(ctx),
        "mode": "cluster",
        "role": "master",
        "modules": [],
    }
    return resp.encode(facts, version)


def auth(ctx: Context, argv: list[bytes]) -> bytes:
    if len(argv) == 2:
        return resp.error(NO_PASSWORD)
    if len(argv) == 3 and argv[1] == b"default":
        return resp.OK
    if len(argv) == 3:
        return resp.error("WRONGPASS invalid username-password pair or user is disabled.")
    return resp.error("ERR syntax error")


def reset(ctx: Context, argv: list[bytes]) -> bytes:
    ctx.set_resp(2)
    ctx.set_readonly(False)
    ctx.session.name = ctx.session.lib_name = ctx.session.lib_ver = b""
    return b"+RESET\r\n"


def quit_(ctx: Context, argv: list[bytes]) -> bytes:
    ctx.closing = True
    return resp.OK


def select(ctx: Context, argv: list[bytes]) -> bytes:
    index = resp.integer(argv[1])
    if index is None:
        return resp.error("ERR value is not an integer or out of range")
    if not -(1 << 31) <= index < 1 << 31:
        return resp.error("ERR value is out of range, value must between -2147483648 and 2147483647")
    return resp.OK if index == 0 else resp.error("ERR DB index is out of range")


def readonly(ctx: Context, argv: list[bytes]) -> bytes:
    ctx.set_readonly(True)
    return resp.OK


def readwrite(ctx: Context, argv: list[bytes]) -> bytes:
    ctx.set_readonly(False)
    return resp.OK


def client_id(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.encode(_client_id(ctx), 2)


def client_getname(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.encode(ctx.session.name or None, ctx.resp)


def client_setname(ctx: Context, argv: list[bytes]) -> bytes:
    if not _good_name(argv[2]):
        return resp.error(BAD_NAME)
    ctx.session.name = argv[2]
    return resp.OK


def client_setinfo(ctx: Context, argv: list[bytes]) -> bytes:
    field, value = argv[2].lower(), argv[3]
    if field not in (b"lib-name", b"lib-ver"):
        return resp.error(f"ERR Unrecognized option '{argv[2].decode('latin-1')}'")
    if not _good_name(value):
        word = field.decode()
        return resp.error(f"ERR {word} cannot contain spaces, newlines or special characters.")
    if field == b"lib-name":
        ctx.session.lib_name = value
    else:
        ctx.session.lib_ver = value
    return resp.OK


def client_on_off(ctx: Context, argv: list[bytes]) -> bytes:
    """NO-EVICT and NO-TOUCH: no client is evicted here, and idle times are coarse."""
    return resp.OK if argv[2].lower() in (b"on", b"off") else resp.error("ERR syntax error")


def client_info(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.verbatim(ctx.client_line() + "\n", ctx.resp)


def client_help(ctx: Context, argv: list[bytes]) -> bytes:
    names = ("GETNAME", "ID", "INFO", "NO-EVICT", "NO-TOUCH", "SETINFO", "SETNAME", "HELP")
    return resp.encode(["CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", *names], ctx.resp)


def _good_name(name: bytes) -> bool:
    return all(33 <= byte <= 126 for byte in name)


def _client_id(ctx: Context) -> int:
    return (ctx.worker << 40) | (ctx.session.gen & 0xFFFFFFFF)


HANDLERS: dict[str, Handler] = {
    "hello": hello,
    "auth": auth,
    "reset": reset,
    "quit": quit_,
    "select": select,
    "readonly": readonly,
    "readwrite": readwrite,
    "client|id": client_id,
    "client|getname": client_getname,
    "client|setname": client_setname,
    "client|setinfo": client_setinfo,
    "client|no-evict": client_on_off,
    "client|no-touch": client_on_off,
    "client|info": client_info,
    "client|help": client_help,
}
