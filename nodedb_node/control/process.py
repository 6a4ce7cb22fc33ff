"""Composition root of the control process: catalog, facts, admin HTTP, heartbeat, drain. World file.

Invariant: control is beside the data path. It maps the counters that workers write, asks them nothing, and can die and
start again at any moment without a client noticing. Its loop wakes once a second when idle. When told to stop it turns
unready first, keeps answering while workers drain, and ends after the last of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time

import uvloop

from nodedb_node import log
from nodedb_node.admin.app import Endpoints, application
from nodedb_node.admin.facts import NodeFacts, State
from nodedb_node.admin.guard import Guard
from nodedb_node.admin.loops import LoopRegistry
from nodedb_node.admin.sources import Sources, boottime_us
from nodedb_node.admin.status import Document, document
from nodedb_node.admin.token import AdminToken
from nodedb_node.control.memory import Memory
from nodedb_node.control.peersecurity import PeerSecurity, wall_s
from nodedb_node.control.post import Post
from nodedb_node.control.server import AdminServer
from nodedb_node.errors import Exit, StartError
from nodedb_node.ids import Process
from nodedb_node.lograte import LineRate
from nodedb_node.metadata.catalog import Catalog
from nodedb_node.supervisor.boot import Boot
from nodedb_node.supervisor.child import ready
from nodedb_node.supervisor.ports import listener
from nodedb_node.transport.nodelane import NodeLane

TICK_SECONDS = 1.0
LANE_DRAIN_SECONDS = 1.0
LANE_LOOK_SECONDS = 0.02
SAMPLE_TICKS = 5


def run(boot: Boot, memory: Memory, catalog: Catalog, post: Post) -> None:
    """Until told to stop; raises StartError when the process cannot do its work."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Control(boot, memory, catalog, post).main())


class Control:
    """The parts of one control process."""

    def __init__(self, boot: Boot, memory: Memory, catalog: Catalog, post: Post) -> None:
        self._boot = boot
        self._memory = memory
        self._catalog = catalog
        self._post = post
        self._sources = Sources(boot, self._memory)
        self._loops = LoopRegistry()
        self._sampling = self._loops.add("sample")
        self._samples: list[NodeFacts] = []
        self._lines = LineRate()
        self._ticks = 0
        self._stop = asyncio.Event()

    async def main(self) -> None:
        """Start everything, serve until SIGTERM, drain, end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_reader(self._post.bell, self._on_bell)
        self._on_bell()
        self._peers = PeerSecurity(self._catalog.security(), self._boot, self._loops.add("credentials"))
        self._sources.peers = self._peers.open(wall_s())
        self._server = server = self._admin()
        await server.start()
        self._lane = NodeLane(self._boot, loop, self._memory.own_metrics())
        ticking = asyncio.create_task(self._tick())
        self._memory.ready(self._boot.ports.http)
        ready(self._boot)
        log.info("control serves", http=self._boot.ports.http, catalog_engine=self._catalog.engine)
        await self._stop.wait()
        self._sources.draining = True
        await self._workers_gone()
        ticking.cancel()
        await self._lane_drained()
        await server.stop()

    def _on_bell(self) -> None:
        """A turn that fails leaves rings half read: another life begins them anew, this one cannot."""
        try:
            self._post.turn()
        except Exception as error:  # noqa: BLE001 - whatever it was, no worker may wait for an answer that never comes
            log.exception("control stops", error=error)
            os._exit(Exit.SOFTWARE.value)

    def _admin(self) -> AdminServer:
        http = self._boot.config.http
        token = AdminToken(http.token_file, self._boot.data_dir)
        guarded = Guard(application(self._endpoints()), token.matches, self._refused)
        return AdminServer(guarded, self._listening(), http.tls_cert, http.tls_key)

    def _refused(self, address: str) -> None:
        self._sources.admin_refusals += 1
        suppressed = self._lines.take(0, boottime_us())
        if suppressed is not None:
            log.warning("admin request without the token refused", address=address, suppressed=suppressed)

    def _listening(self) -> socket.socket:
        host, port = self._boot.ports.http_host, self._boot.ports.http
        try:
            return listener(host, port)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            line = f"cannot serve HTTP on {host}:{port}: {reason}; choose another with --http-port"
            raise StartError(Exit.UNAVAILABLE, line) from error

    def _endpoints(self) -> Endpoints:
        sources = self._sources
        return Endpoints(
            facts=lambda: sources.facts(usage=False),
            measured=lambda: sources.facts(usage=True),
            document=self._document,
            loops=self._loops.all,
        )

    def _document(self) -> Document:
        return document(self._sources.facts(usage=True), self._samples[0] if self._samples else None)

    async def _tick(self) -> None:
        """Heartbeat every second; every few of them a sample, so that rates cover the last five to ten seconds."""
        while True:
            self._memory.beat(boottime_us())
            self._sources.peers = self._peers.tick(wall_s())
            self._lane.tick()
            self._server.look()
            if self._ticks % SAMPLE_TICKS == 0:
                self._sample()
            self._ticks += 1
            await asyncio.sleep(TICK_SECONDS)

    def _sample(self) -> None:
        began = time.perf_counter()
        try:
            self._samples = [*self._samples[-1:], self._sources.facts(usage=False)]
        except Exception as error:  # noqa: BLE001 - counted and shown; a report that fails must not end control
            self._sampling.failed(error)
        self._sampling.ran(time.perf_counter() - began)

    async def _lane_drained(self) -> None:
        """Peers are told; what they asked before is answered, within the drain's time."""
        self._lane.drain()
        end = time.monotonic() + LANE_DRAIN_SECONDS
        while not self._lane.drained and time.monotonic() < end:
            await asyncio.sleep(LANE_LOOK_SECONDS)
        self._lane.close()

    async def _workers_gone(self) -> None:
        """Until every worker has ended; the supervisor kills what takes too long, control included."""
        lives = [self._memory.life(Process(worker + 1)) for worker in range(self._boot.workers)]
        await asyncio.gather(*(_ended(life.pid) for life in lives if life.state is not State.DOWN and life.pid))


async def _ended(pid: int) -> None:
    """Until the process has ended, told by the kernel."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
