"""The ports of a worker that clients come through: listening sockets, and what TLS ports show. World file.

Invariant: ports are the Boot's; a port speaks TLS or plain text, never both. Certificates and lists are looked at once
a second and read again when a file changed; connections keep what they began with, unless a new list revokes them;
files that cannot be used leave everything as it was.
"""

import asyncio
import socket
from typing import Any

from nodedb_node import log
from nodedb_node.errors import Exit, StartError
from nodedb_node.files import Watched
from nodedb_node.native import engine as native
from nodedb_node.native import tls
from nodedb_node.native.engine import Engine
from nodedb_node.supervisor.boot import Boot

LOOK_S = 1.0
BACKLOG = 1024


class Doors:
    """Of one worker. Raises StartError when the certificate of the configuration cannot be used."""

    def __init__(self, boot: Boot, engine: Engine, metrics: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._boot, self._engine, self._metrics, self._loop = boot, engine, metrics, loop
        self._clients = clients = boot.config.clients
        self._files = Watched([clients.tls_cert, clients.tls_key, clients.tls_ca, clients.tls_crl])
        if clients.tls == "off":
            return
        for worker, port in enumerate(boot.ports.tls_workers or boot.ports.workers):
            tls.advertise(engine, worker, port)
        try:
            self._show()
        except tls.TlsError as error:
            raise StartError(Exit.CONFIG, f"[clients] TLS cannot be served: {error}") from error
        loop.call_later(LOOK_S, self._look)

    def listen(self) -> None:
        """Let clients come."""
        ports, own = self._boot.ports, self._boot.worker
        first = tls.LISTEN_TLS if self._clients.tls == "only" else 0
        self._open(ports.clients, native.PORT_SHARED | first)
        self._open(ports.workers[own], native.PORT_WORKER | first)
        if ports.tls_workers:
            self._open(ports.tls, native.PORT_SHARED | tls.LISTEN_TLS)
            self._open(ports.tls_workers[own], native.PORT_WORKER | tls.LISTEN_TLS)

    def _open(self, port: int, kind: int) -> None:
        host = self._boot.ports.clients_host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        self._engine.listen(sock.detach(), kind)

    def _show(self) -> tls.Shown:
        shown = tls.show(self._engine, self._clients)
        self._metrics.tls_not_after, self._metrics.tls_lists_end = shown.ends_s, shown.lists_end_s
        return shown

    def _look(self) -> None:
        self._loop.call_later(LOOK_S, self._look)
        if not self._files.changed():
            return
        try:
            shown = self._show()
            log.info("certificate read again", **shown._asdict())
        except tls.TlsError as error:
            log.error("certificate cannot be used; the one before is shown still", reason=error)
