"""csrc/access.h and acl.h: users of a worker's connections, what they were refused, messages of control. World file.

Invariant: a compiled user lives as long as this object holds it or a connection acts as it. Nothing here runs once per
command but for refused ones.
"""

import errno
from typing import Any, NamedTuple

from nodedb_node._native import ffi, lib
from nodedb_node.native.engine import Engine
from nodedb_node.native.store import check

OK: int = lib.ND_ACL_OK
DENIED_COMMAND: int = lib.ND_ACL_DENIED_COMMAND
DENIED_KEY: int = lib.ND_ACL_DENIED_KEY


class Denial(NamedTuple):
    conn: int
    gen: int
    reason: int
    object: bytes


class Mail(NamedTuple):
    """A message of control; type 0: control died, and what it was asked has no answer."""

    type: int
    request_id: int
    data: bytes


class CompiledUser:
    """Owner of one reference to an nd_acl_user."""

    def __init__(self, form: bytes) -> None:
        handle = lib.nd_acl_user_new(ffi.from_buffer(form), len(form))
        assert handle != ffi.NULL, "a user's byte form is broken"
        self.handle: Any = ffi.gc(handle, lib.nd_acl_user_free)


class AccessEngine:
    """The engine's side of users."""

    def __init__(self, engine: Engine, table: Any) -> None:
        self._engine, self._table = engine, table
        self._denial, self._mail, self._info = (
            ffi.new("nd_denial *"),
            ffi.new("nd_ring_msg *"),
            ffi.new("nd_conn_access *"),
        )
        self._default: CompiledUser | None = None

    def set_default(self, user: CompiledUser) -> None:
        """Whom new connections act as."""
        lib.nd_engine_default_user(self._engine.handle, user.handle)
        self._default = user

    def swap(self, old: CompiledUser, fresh: CompiledUser | None) -> int:
        """Move connections over; None: close them."""
        new = ffi.NULL if fresh is None else fresh.handle
        return int(lib.nd_engine_users_swap(self._engine.handle, old.handle, new))

    def authenticated(self, conn: int, gen: int, user: CompiledUser) -> bool:
        """The connection acts as the user from now on; False: it has gone."""
        return bool(lib.nd_engine_conn_user(self._engine.handle, conn, gen, user.handle))

    def forget(self, conn: int, gen: int) -> None:
        """The connection is as a new one."""
        lib.nd_engine_conn_unuser(self._engine.handle, conn, gen)

    def user_of(self, conn: int, gen: int) -> tuple[bytes, bool]:
        """(name, has it authenticated) of the connection's user."""
        i = self._info
        if not lib.nd_engine_conn_access(self._engine.handle, conn, gen, i):
            return b"", False
        return bytes(ffi.buffer(i.name, i.name_len)), bool(i.authenticated)

    def speaks_tls(self, conn: int, gen: int) -> bool:
        i = self._info
        return bool(lib.nd_engine_conn_access(self._engine.handle, conn, gen, i)) and bool(i.tls)

    def judge(self, user: CompiledUser, argv: list[bytes]) -> tuple[int, int]:
        """(OK or DENIED_…, number of the argument that is a refused key); the command must be known, its arity
        right."""
        keep = [ffi.from_buffer(arg) for arg in argv]
        array = ffi.new("nd_arg[]", len(argv))
        for row, view in zip(array, keep, strict=True):
            row.ptr, row.len = ffi.cast("const uint8_t *", view), len(view)
        at = ffi.new("uint32_t *")
        return int(lib.nd_acl_check(user.handle, self._table, array, len(argv), at)), int(at[0])

    def next_denial(self) -> Denial | None:
        d = self._denial
        if not lib.nd_engine_denial_next(self._engine.handle, d):
            return None
        return Denial(d.conn, d.gen, d.reason, bytes(ffi.buffer(d.object, d.object_len)))

    def protect(self, text: str) -> None:
        """What connections from elsewhere than loopback are told while the default user needs no password."""
        lib.nd_engine_protect(self._engine.handle, text.encode())

    def auth_limit(self, auth_ms: int) -> None:
        lib.nd_engine_auth_limit(self._engine.handle, auth_ms)

    def send(self, kind: int, request_id: int, data: bytes) -> bool:
        """A message to control; False: there is no room, or no control."""
        code = lib.nd_engine_control_send(self._engine.handle, kind, request_id, ffi.from_buffer(data), len(data))
        return code != -errno.EHOSTDOWN and check(code, "message to control") == 1

    def next_mail(self) -> Mail | None:
        m = self._mail
        if not lib.nd_engine_control_next(self._engine.handle, m):
            return None
        return Mail(m.type, m.request_id, bytes(ffi.buffer(m.data, m.len)) if m.len else b"")
