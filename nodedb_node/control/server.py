"""The admin HTTP server: uvicorn on a given socket, without its tick. World file.

Invariant: an idle server costs nothing: uvicorn's own main loop wakes ten times a second, so only its start and its
shutdown are used here and the caller decides how long to serve. Connections and their request heads are bounded.
"""

from __future__ import annotations

import socket
import ssl

import uvicorn
from starlette.types import ASGIApp

from nodedb_node import log
from nodedb_node.errors import Exit, StartError
from nodedb_node.files import Watched

CONNECTIONS_MAX = 128
REQUEST_HEAD_BYTES_MAX = 16 << 10
KEEP_ALIVE_SECONDS = 75
SHUTDOWN_SECONDS = 1
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good


class AdminServer:
    """Serves one application from start() to stop()."""

    def __init__(self, application: ASGIApp, listening: socket.socket, cert: str = "", key: str = "") -> None:
        self._cert, self._key = cert, key
        self._files = Watched([cert, key])
        self._listening = listening
        self._server = uvicorn.Server(
            uvicorn.Config(
                application,
                http="h11",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                h11_max_incomplete_event_size=REQUEST_HEAD_BYTES_MAX,
                ssl_certfile=cert or None,
                ssl_keyfile=key or None,
                ssl_ciphers=CIPHERS,
            )
        )

    async def start(self) -> None:
        """Accept connections from now on."""
        config = self._server.config
        if self._cert:
            self._try()
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[self._listening])

    def look(self) -> None:
        """Show another certificate from now on if its files changed; connections go on with theirs."""
        context = self._server.config.ssl
        if context is None or not self._files.changed():
            return
        try:
            self._try()
        except StartError as error:
            log.error("certificate cannot be used; the one before is shown still", reason=error)
            return
        context.load_cert_chain(self._cert, self._key)
        log.info("certificate read again", file=self._cert)

    def _try(self) -> None:
        """Whether the files fit, in a context of their own: one that was half changed would show neither."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            line = f"[http] TLS cannot be served with {self._cert} and {self._key}: {error}"
            raise StartError(Exit.CONFIG, line) from error

    async def stop(self) -> None:
        """Finish the requests that run, for a bounded time, and close everything."""
        await self._server.shutdown(sockets=[self._listening])
