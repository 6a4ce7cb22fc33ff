"""csrc/tls.h: what TLS ports of clients show. World file: C reads the PEM files.

Invariant: a file that cannot be used changes nothing: connections go on, and new ones are shown what was good before.
"""

from typing import Any, NamedTuple

from nodedb_node._native import ffi, lib
from nodedb_node.config import ClientsSection
from nodedb_node.native.engine import Engine

LISTEN_TLS: int = lib.ND_LISTEN_TLS
CLIENTS = {
    "no": lib.ND_TLS_CLIENTS_NO,
    "optional": lib.ND_TLS_CLIENTS_OPTIONAL,
    "yes": lib.ND_TLS_CLIENTS_YES,
}


class TlsError(Exception):
    """A PEM file that cannot be used: which, and why."""


class Shown(NamedTuple):
    """What TLS ports show now. Times are seconds since 1970; revoked: open connections that end by the new lists."""

    ends_s: int
    lists_end_s: int
    revoked: int


def show(engine: Engine, clients: ClientsSection) -> Shown:
    """Read the files again and show what they hold from now on."""
    error = ffi.new("char[]", lib.ND_TLS_ERROR_BYTES)
    paths = [path.encode() for path in (clients.tls_cert, clients.tls_key, clients.tls_ca, clients.tls_crl)]
    made: Any = lib.nd_tls_new(*paths, CLIENTS[clients.tls_auth_clients], error)
    if made == ffi.NULL:
        raise TlsError(ffi.string(error).decode(errors="replace"))
    revoked = lib.nd_engine_tls(engine.handle, made, clients.tls_handshake_ms, clients.tls_handshakes_max)
    shown = Shown(int(lib.nd_tls_not_after(made)), int(lib.nd_tls_lists_end(made)), int(revoked))
    lib.nd_tls_free(made)
    return shown


def advertise(engine: Engine, worker: int, port: int) -> None:
    """What MOVED names on TLS connections."""
    lib.nd_engine_advertise_tls(engine.handle, worker, port)
