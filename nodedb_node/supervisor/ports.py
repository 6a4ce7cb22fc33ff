"""Ports of the node, held by the supervisor for its whole life. World file.

Invariant: a port is taken by an exclusive bind first, so another program that listens there (with SO_REUSEPORT too)
is noticed; the same socket then lets the node's own processes bind beside it, and never listens itself. So a port
cannot be lost while the worker that serves it is restarted, and port 0 means one free port for all.
"""

import errno
import os
import socket
import time
from collections.abc import Callable

from nodedb_node.config import Config
from nodedb_node.errors import Exit, StartError
from nodedb_node.supervisor.boot import Ports

BACKLOG = 1024
# The kernel may still be closing the sockets of a node that was killed a moment ago.
PATIENCE_S = 1.0
RETRY_S = 0.02


class Reservation:
    """The node's ports; close() gives them back."""

    def __init__(self, config: Config, workers: int) -> None:
        self.lanes: list[socket.socket] = []  # UDP, by process
        self._sockets: list[socket.socket] = []
        self._patience = time.monotonic() + PATIENCE_S
        take = self._take
        try:
            clients = take(config.clients_bind, config.clients.port, "clients", "--port or [clients] port")
            host, knob = config.clients_bind, "--worker-port or [clients] worker_port"
            of_workers = self._take_in_row(host, config.clients.worker_port, workers, knob)
            tls, tls_workers = self._take_tls(config, workers)
            http = take(config.http_bind, config.http.port, "http", "--http-port or [http] port")
            lanes = self._lanes(config, workers)
        except StartError:
            self.close()
            raise
        self.ports = Ports(
            clients_host=config.clients_bind,
            clients=clients,
            workers=of_workers,
            http_host=config.http_bind,
            http=http,
            peers_host=config.peers_bind,
            peers=lanes,
            tls=tls,
            tls_workers=tls_workers,
        )

    def _lanes(self, config: Config, workers: int) -> list[int]:
        """The UDP sockets of all processes."""
        peers = config.peers
        self._lane(config.peers_bind, peers.port, "control's lane", "--peer-port or [peers] port")
        for i in range(workers):
            port = peers.worker_port + i if peers.worker_port else 0
            self._lane(config.peers_bind, port, f"lane of worker {i}", "--peer-worker-port or [peers] worker_port")
        return [int(lane.getsockname()[1]) for lane in self.lanes]

    def _lane(self, host: str, port: int, what: str, knob: str) -> None:
        self.lanes.append(self._when_free(_bind_datagrams, host, port, what, knob))

    def _take_in_row(self, host: str, first: int, workers: int, knob: str) -> list[int]:
        """A port for each worker, from `first` on; any free ones when that is 0."""
        return [self._take(host, first + i if first else 0, f"worker {i}", knob) for i in range(workers)]

    def _take_tls(self, config: Config, workers: int) -> tuple[int, list[int]]:
        """The shared port and those of workers that TLS has beside the plain ones."""
        clients = config.clients
        if clients.tls != "both":
            return 0, []
        shared = self._take(config.clients_bind, clients.tls_port, "clients, TLS", "[clients] tls_port")
        return shared, self._take_in_row(
            config.clients_bind, clients.tls_worker_port, workers, "[clients] tls_worker_port"
        )

    def _take(self, host: str, port: int, what: str, knob: str) -> int:
        held = self._when_free(_bind, host, port, what, knob)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._sockets.append(held)
        return int(held.getsockname()[1])

    def _when_free(
        self, bind: Callable[[str, int], socket.socket | None], host: str, port: int, what: str, knob: str
    ) -> socket.socket:
        if port > 65535:
            raise StartError(Exit.CONFIG, f"port {port} ({what}) does not exist; choose a lower one with {knob}")
        while (held := bind(host, port)) is None:
            if time.monotonic() > self._patience:
                raise _in_use(host, port, what, knob)
            time.sleep(RETRY_S)
        return held

    def close(self) -> None:
        for held in (*self._sockets, *self.lanes):
            held.close()
        self._sockets.clear()
        self.lanes.clear()


def _bind(host: str, port: int) -> socket.socket | None:
    """An exclusively bound socket, None when the port is in use.

    SO_REUSEADDR: connections of an earlier run in TIME_WAIT are no reason to refuse.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise _refusal(error, host, port) from error
    return held


def _bind_datagrams(host: str, port: int) -> socket.socket | None:
    """A bound UDP socket, None when the port is in use; a child of a killed node may still have it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    lane = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        lane.bind((host, port))
    except OSError as error:
        lane.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise _refusal(error, host, port) from error
    return lane


def _in_use(host: str, port: int, what: str, knob: str) -> StartError:
    line = f"port {port} ({what}) on {host} is in use; stop what listens there or choose another with {knob}"
    return StartError(Exit.UNAVAILABLE, line)


def _refusal(error: OSError, host: str, port: int) -> StartError:
    if error.errno == errno.EACCES:
        return StartError(Exit.UNAVAILABLE, f"port {port} on {host} needs privileges; choose one above 1023")
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return StartError(Exit.CONFIG, f"cannot listen on {host}: {reason}; give an address of this host with --bind")


def listener(host: str, port: int) -> socket.socket:
    """A listening socket on one of the node's ports, for the process that serves it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    listening.listen(BACKLOG)
    return listening
