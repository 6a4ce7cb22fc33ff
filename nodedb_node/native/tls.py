"""csrc/tls.h: what TLS ports of clients show. World file: C reads the PEM files.

Invariant: a file that cannot be used changes nothing: connections go on, and new ones are shown what was good before.
"""

from typing import Any

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


def show(engine: Engine, clients: ClientsSection) -> int:
    """Read the files again and show what they hold from now on; when the certificate ends, seconds since 1970."""
    error = ffi.new("char[]", lib.ND_TLS_ERROR_BYTES)
    paths = [path.encode() for path in (clients.tls_cert, clients.tls_key, clients.tls_ca)]
    made: Any = lib.nd_tls_new(*paths, CLIENTS[clients.tls_auth_clients], error)
    if made == ffi.NULL:
        raise TlsError(ffi.string(error).decode(errors="replace"))
    lib.nd_engine_tls(engine.handle, made, clients.tls_handshake_ms, clients.tls_handshakes_max)
    ends = int(lib.nd_tls_not_after(made))
    lib.nd_tls_free(made)
    return ends


def advertise(engine: Engine, worker: int, port: int) -> None:
    """What MOVED names on TLS connections."""
    lib.nd_engine_advertise_tls(engine.handle, worker, port)
