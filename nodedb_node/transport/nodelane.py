"""A process's lane in the running node: opened once there are credentials, kept up every second, drained at the end.
World file: the event loop, clocks, the inherited socket.

Invariant: a process serves before, and without, its lane: what a lane needs is imported in a thread after the process
is ready, and a failure there is logged and tried again. The generation of a lane is its process's life, the number that
its groups' heartbeats carry too.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from nodedb_node import __version__, log
from nodedb_node.errors import StartError
from nodedb_node.ids import ClusterId, NodeId, Process
from nodedb_node.supervisor.boot import Boot

if TYPE_CHECKING:
    from nodedb_node.transport.quic import Credentials, Endpoint

RETRY_S = 5.0
SUCCEED_S = 240.0  # from a new certificate to its use in every session: peers know it by then, and the old one still
IMPORT_TURN_S = 0.0003


class NodeLane:
    """Of one process. `tick` is called about once a second from the loop's thread."""

    def __init__(self, boot: Boot, loop: asyncio.AbstractEventLoop, metrics: Any) -> None:
        """metrics: this process's nd_metrics."""
        self.endpoint: Endpoint | None = None
        self._boot = boot
        self._loop = loop
        self._metrics = metrics
        self._credentials: Credentials | None = None
        self._opening: asyncio.Future[None] | None = None
        self._failed_at = 0.0
        self._succeed_at = float("inf")
        self._stale = True
        self._draining = False

    def tick(self) -> None:
        if self.endpoint is not None:
            self._keep_up(self.endpoint)
        elif self._wanted and time.monotonic() - self._failed_at > RETRY_S:
            self._opening = self._loop.run_in_executor(None, _imported)
            self._opening.add_done_callback(self._imported)

    def drain(self) -> None:
        """Nothing new is taken any more, a lane that is not open stays so; what was asked is answered."""
        self._draining = True
        if self.endpoint is not None:
            self.endpoint.hub.drain()

    @property
    def _wanted(self) -> bool:
        return not self._draining and self._opening is None and self._boot.lane_fd >= 0

    @property
    def drained(self) -> bool:
        return self.endpoint is None or self.endpoint.hub.drained

    def close(self) -> None:
        if self.endpoint is not None:
            self._copy_figures(self.endpoint)
            self.endpoint.close()
            self.endpoint = None

    def _imported(self, done: asyncio.Future[None]) -> None:
        """Back in the loop's thread: open, if there are credentials by now."""
        self._opening = None
        try:
            done.result()
            if not self._draining:
                self._open()
        except (OSError, StartError, ValueError) as error:
            self._failed_at = time.monotonic()
            log.error("the lane cannot be opened; tried again soon", why=error)

    def _open(self) -> None:
        from nodedb_node.native.udp import ALL, ERRQUEUE, Udp
        from nodedb_node.rpc.envelope import EpochFence
        from nodedb_node.rpc.hello import Local
        from nodedb_node.transport.quic import Endpoint
        from nodedb_node.transport.services import Services

        boot = self._boot
        if self._credentials is None:
            self._credentials = _credentials(boot)
        if not self._credentials.insecure and not self._credentials.reload():
            return
        local = Local(
            cluster_id=ClusterId(boot.cluster_id),
            node_id=NodeId(boot.node_id),
            generation=boot.life,
            nonce=secrets.token_bytes(16),
            lane=Process(boot.process),
            membership_epoch=0,
            software=__version__,
        )
        services = Services(self._owned, EpochFence(0))
        services.changed = self._on_peer
        sock = socket.socket(fileno=os.dup(boot.lane_fd))
        sock.setblocking(False)
        udp = Udp(sock, boot.config.peers.socket_bytes, ALL if boot.config.peers.gso else ERRQUEUE)
        self.endpoint = Endpoint(self._loop, udp, self._credentials, local, services)
        services.transport = self.endpoint.hub
        log.info("lane open", port=udp.address[1], features=udp.stats().features, insecure=self._credentials.insecure)
        self._publish(self.endpoint)

    def _owned(self, vshard: int) -> int | None:
        """Epoch 1 of the vShards that this worker has by the layout; there is no other routing yet."""
        boot = self._boot
        if boot.role != "worker" or not 0 <= vshard < 1024:
            return None
        first, last = (1024 * n // boot.workers for n in (boot.worker, boot.worker + 1))
        return 1 if first <= vshard < last else None

    def _on_peer(self, event: Any) -> None:
        self._stale = True
        why = getattr(event, "why", None)
        what = "peer up" if why is None else "peer down"
        log.info(what, peer=event.peer, lane=event.lane, generation=event.generation, why=why or "-")

    def _keep_up(self, endpoint: Endpoint) -> None:
        assert self._credentials is not None
        try:
            shown = self._credentials.own().certificate
            if self._credentials.reload():
                endpoint.rejudge()
            if self._credentials.own().certificate != shown:
                self._succeed_at = time.monotonic() + SUCCEED_S
            if time.monotonic() >= self._succeed_at:
                self._succeed_at = float("inf")
                if replaced := endpoint.succeed():
                    log.info("sessions are opened anew with the new certificate", sessions=replaced)
        except (OSError, StartError, ValueError) as error:
            log.error("changed certificates are not taken over", why=error)
        self._copy_figures(endpoint)
        if self._stale:
            self._stale = False
            self._publish(endpoint)

    def _publish(self, endpoint: Endpoint) -> None:
        from nodedb_node.transport import board

        host, port = endpoint.udp.address
        sizes = [conn.quic.datagram_size for conn in endpoint.connections()]
        shown = board.LaneBoard(
            pid=os.getpid(),
            generation=self._boot.life,
            host=host,
            port=port,
            insecure=bool(self._credentials and self._credentials.insecure),
            datagram_bytes=max(sizes, default=0),
            lanes=tuple(endpoint.hub.lanes()),
        )
        board.write(self._boot.board_fds[self._boot.process], shown)

    def _copy_figures(self, endpoint: Endpoint) -> None:
        """Into shared memory, for control to read."""
        m, hub, own, udp = self._metrics, endpoint.hub.figures, endpoint.figures, endpoint.udp.stats()
        m.lane_sessions = len(endpoint.connections())
        m.lane_sessions_begun, m.lane_sessions_lost, m.lane_dials = hub.sessions, hub.lost, hub.dials
        m.lane_refused_peers = hub.refused_in + own.handshakes_refused
        m.lane_refused_by_peers = hub.refused_out
        m.lane_frames_in, m.lane_frames_out = hub.frames_in, hub.frames_out
        m.lane_bytes_in, m.lane_bytes_out = hub.bytes_in, hub.bytes_out
        m.lane_datagrams_in, m.lane_datagrams_out = udp.datagrams_in, udp.datagrams_out
        m.lane_packets_lost = own.lost_packets
        m.lane_calls, m.lane_calls_unknown, m.lane_calls_late = hub.calls, hub.calls_unknown, hub.calls_late
        m.lane_full, m.lane_requests_repeated = hub.full, hub.duplicates
        m.lane_bulk_bytes_in, m.lane_bulk_bytes_out = hub.bulk_bytes_in, hub.bulk_bytes_out


def _imported() -> None:
    """In a thread: the libraries of a lane take as long to import as a worker to start.

    Each time the loop has something to do it waits for this thread's turn to end: turns are short meanwhile. Nothing is
    collected, and afterwards what was imported is not looked at by collections any more: both take 10 to 20 ms.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(IMPORT_TURN_S)
    gc.disable()
    try:
        import nodedb_node.transport.board
        import nodedb_node.transport.quic
        import nodedb_node.transport.services  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
        sys.setswitchinterval(interval)


def _credentials(boot: Boot) -> Credentials:
    from nodedb_node.transport.credentials.files import CredentialFiles
    from nodedb_node.transport.credentials.live import InsecureCredentials, LiveCredentials

    if boot.config.peers.security == "insecure":
        return InsecureCredentials(ClusterId(boot.cluster_id), NodeId(boot.node_id), wall_s())
    return LiveCredentials(CredentialFiles(boot.data_dir), wall_s)


def wall_s() -> int:
    """Seconds since 1970: certificates are dated by it."""
    return time.time_ns() // 1_000_000_000
