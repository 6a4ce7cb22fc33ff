"""The admin HTTP server: uvicorn on a given socket, without its tick. World file.

Invariant: an idle server costs nothing: uvicorn's own main loop wakes ten times a second, so only its start and its
shutdown are used here and the caller decides how long to serve. Connections and their request heads are bounded.
"""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

CONNECTIONS_MAX = 128
REQUEST_HEAD_BYTES_MAX = 16 << 10
KEEP_ALIVE_SECONDS = 75
SHUTDOWN_SECONDS = 1


class AdminServer:
    """Serves one application from start() to stop()."""

    def __init__(self, application: ASGIApp, listening: socket.socket) -> None:
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
            )
        )

    async def start(self) -> None:
        """Accept connections from now on."""
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[self._listening])

    async def stop(self) -> None:
        """Finish the requests that run, for a bounded time, and close everything."""
        await self._server.shutdown(sockets=[self._listening])
