"""Handlers of commands about the connection: CLIENT, SELECT, RESET, QUIT, READONLY."""

from collections.abc import Callable

from nodedb_node.errors import Kind
from workers.frontend import resp
from workers.frontend.context import Context

Handler = Callable[[Context, list[bytes]], bytes]

BAD_NAME = "ERR Client names cannot contain spaces, newlines or special characters."


def reset(ctx: Context, argv: list[bytes]) -> bytes:
    ctx.set_resp(2)
    ctx.set_readonly(False)
    ctx.forget_user()
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
    return resp.encode(client_id_of(ctx), 2)


def client_getname(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.encode(ctx.session.name or None, ctx.resp)


def client_setname(ctx: Context, argv: list[bytes]) -> bytes:
    if not good_name(argv[2]):
        return resp.error(BAD_NAME)
    ctx.session.name = argv[2]
    return resp.OK


def client_setinfo(ctx: Context, argv: list[bytes]) -> bytes:
    field, value = argv[2].lower(), argv[3]
    if field not in (b"lib-name", b"lib-ver"):
        return resp.error(f"ERR Unrecognized option '{argv[2].decode('latin-1')}'")
    if not good_name(value):
        word = field.decode()
        return resp.error(f"ERR {word} cannot contain spaces, newlines or special characters.")
    if field == b"lib-name":
        ctx.session.lib_name = value
    else:
        ctx.session.lib_ver = value
    return resp.OK


def client_on_off(ctx: Context, argv: list[bytes]) -> bytes:
    """NO-EVICT and NO-TOUCH: no client is evicted here, and idle times are coarse."""
    return resp.OK if argv[2].lower() in (b"on", b"off") else resp.error(Kind.SYNTAX.value)


def client_info(ctx: Context, argv: list[bytes]) -> bytes:
    return resp.verbatim(ctx.client_line() + "\n", ctx.resp)


def client_help(ctx: Context, argv: list[bytes]) -> bytes:
    names = ("GETNAME", "ID", "INFO", "NO-EVICT", "NO-TOUCH", "SETINFO", "SETNAME", "HELP")
    return resp.encode(["CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", *names], ctx.resp)


def good_name(name: bytes) -> bool:
    return all(33 <= byte <= 126 for byte in name)


def client_id_of(ctx: Context) -> int:
    return (ctx.worker << 40) | (ctx.session.gen & 0xFFFFFFFF)


HANDLERS: dict[str, Handler] = {
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
