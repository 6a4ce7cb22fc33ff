"""Composition root of a worker: opens what it owns, recovers, serves, drains.

Invariant: no client is accepted before the rows hold everything the log has, and the process ends with a clean mark in
the log or not at all (a crash is a recovery like any other). World file: sockets, descriptors, clocks and the event
loop meet here.
"""

import asyncio
import gc
import os
import signal
import time
import traceback
from typing import Any

import uvloop

from nodedb_node import __version__, log
from nodedb_node.clocks.hlc import Hlc
from nodedb_node.config import MIB
from nodedb_node.errors import StartError
from nodedb_node.lograte import LineRate
from nodedb_node.native import engine as native
from nodedb_node.native.access import AccessEngine
from nodedb_node.native.engine import Engine, EngineConfig
from nodedb_node.native.page import Page
from nodedb_node.native.ringset import NativeRingSet
from nodedb_node.native.shm import SharedMemory, ring_all
from nodedb_node.native.timer import LatenessTimer
from nodedb_node.routing.places import groups_of_worker
from nodedb_node.supervisor import child, descriptors
from nodedb_node.supervisor.boot import Boot
from nodedb_node.transport.nodelane import NodeLane
from workers.acl.access import Access
from workers.commands.table import build_cmdtab
from workers.frontend.doors import Doors
from workers.frontend.facts import Figures
from workers.frontend.sessions import Sessions
from workers.shard import recovery
from workers.shard.checkpoint import Checkpointer
from workers.shard.turn import Turns

TICK_S = 0.1
LANE_TICK_S = 1.0
CALM_TICK_S = 0.25  # while nobody asks anything and nothing is left to do
CALM_TICKS = 4
CHECKPOINT_TICK_US = 1_000  # while a checkpoint runs, the loop's lateness is what it must not spoil
SWEEP_ROWS = 200
HOUSEKEEP_ROWS = 2_000
CHECKPOINT_ROWS = 500  # per millisecond: what a checkpoint left is cleared before the next one
DRAIN_S = 5.0
LANE_DRAIN_US = 2_000_000  # more than a dead peer takes to be noticed
LANE_LOOK_S = 0.01
GATHER_BYTES_MAX = 32 * MIB
NO_SPACE_RETRY_TICKS = 10


def now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def run(boot: Boot) -> int:
    """Serve until SIGTERM; the process's exit code."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    worker = Worker(boot, loop)
    try:
        worker.start()
        loop.run_forever()
        worker.stop()
    except StartError as error:
        log.error("worker cannot start", reason=error)
        return error.code.value
    except OSError as error:
        # A failed disk or store: what was not acknowledged is not promised, and another process recovers the rest.
        log.exception("worker stops", error=error)
        return 74
    return worker.exit_code


def trace(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error)) if error is not None else ""


class Worker:
    """One worker process; also the hooks of its turns."""

    def __init__(self, boot: Boot, loop: asyncio.AbstractEventLoop) -> None:
        self.boot = boot
        self.loop = loop
        self.exit_code = 0
        self.lane: NodeLane | None = None
        self._again = False
        self._draining = False
        self._lane_until_us = 0
        self._lines = LineRate()
        self._tick_due_us = 0
        self._turns_seen = 0
        self._calm_ticks = 0
        self._unfinished = False
        self._hurried = False
        self._refused_ticks = 0
        self.shm = SharedMemory(boot.shm_fd)
        self.rings = NativeRingSet(self.shm, boot.process, boot.bell_fds, boot.config.ring.overflow_bytes)
        self.page = Page(self.shm)
        self.metrics = self.shm.metrics(boot.process)
        self.lateness = LatenessTimer(native.histogram(self.metrics, "loop_stall_us"))
        self.place = child.Place(boot)
        self.groups = groups_of_worker(boot.worker, boot.groups, boot.workers)

    # ---- start and stop ----

    def start(self) -> None:
        """Recover, then listen."""
        boot = self.boot
        self.store = recovery.open_store(boot, self.groups)
        self.engine = self._engine()
        self.log = recovery.open_log(
            boot, self.groups, self.store, self.engine, now_us, native.histogram(self.metrics, "wal_sync_us")
        )
        self.hlc = Hlc(self.engine.stamp())
        self.turns = Turns(self.engine, self.log, self.hlc, self, now_us, wall_ms)
        self.turns.refuse_halted()
        self.doors = Doors(boot, self.engine, self.metrics, self.loop)
        self.access = Access(
            AccessEngine(self.engine, self.table),
            self.metrics,
            boot.config.clients,
            boot.worker == 0,
            self.loop,
            now_us,
            self._flush,
            self._on_welcome,
            self._give_up,
        )
        self.sessions = Sessions(self)
        self.checkpointer = Checkpointer(
            self.store, self.log, self.groups, self.engine.applied, boot.config.store.log_bytes_max
        )
        self.loop.add_reader(self.engine.epoll_fd(), self.turns.on_clients)
        self.loop.add_reader(self.rings.bell, self.turns.on_bell)
        self.loop.add_reader(self.log.fd, self.turns.on_log)
        self.loop.add_reader(self.store.checkpoint_fd(), self._on_checkpoint)
        self.loop.add_reader(self.lateness.fd, self._on_checkpoint_tick)
        self.loop.set_exception_handler(self._fail)
        self._tick_due_us = now_us()
        self._tick()
        # From inside the loop: uvloop drops a signal that comes before it runs; a worker told to stop would go on.
        self.loop.call_soon(self.loop.add_signal_handler, signal.SIGTERM, self._drain)
        self.loop.call_soon(self.turns.on_bell)  # takes what control has sent, lets it and peers ring

    def _flush(self) -> None:
        self.turns.flush(now_us())

    def _on_welcome(self) -> None:
        """Control said that this worker has the users; until then nobody could be told from anybody else."""
        if not self._draining:
            self.doors.listen()
            self._serve()

    def _give_up(self, error: StartError) -> None:
        log.error("worker cannot serve", reason=error)
        self.exit_code = error.code.value
        self.loop.stop()

    def _serve(self) -> None:
        boot = self.boot
        self._copy_figures()  # readiness looks at them, and a calm worker's next ones come late
        self.lane = NodeLane(boot, self.loop, self.metrics)
        self.shm.ready(boot.process, [boot.ports.clients, boot.ports.workers[boot.worker], 0, 0])
        ring_all(boot.bell_fds)
        child.ready(boot)
        wal = self.log.stats()
        log.info("worker serves", port=boot.ports.workers[boot.worker], wal=wal.backend, direct=wal.direct)
        gc.collect()
        gc.freeze()
        self.loop.call_later(LANE_TICK_S, self._lane_tick)

    def _lane_tick(self) -> None:
        assert self.lane is not None
        self.lane.tick()
        self.loop.call_later(LANE_TICK_S, self._lane_tick)

    def stop(self) -> None:
        """After the loop: everything is answered or past its time."""
        if self.lane is not None:
            self.lane.close()
        if self.exit_code == 0:
            self.log.close(mark=True)
        self.engine.close()
        self.store.close()
        self.lateness.close()

    def _engine(self) -> Engine:
        boot, clients = self.boot, self.boot.config.clients
        config = EngineConfig(
            worker=boot.worker,
            workers=boot.workers,
            groups=boot.groups,
            generation=boot.life,
            connections_max=self._connections_max(),
            deadline_ms=clients.deadline_ms,
            output_bytes_max=clients.output_bytes_max,
            query_bytes_max=clients.query_bytes_max,
            forward_bytes_max=boot.config.ring.overflow_bytes // 2,
            gather_bytes_max=GATHER_BYTES_MAX,
            moved=clients.mode == "moved",
        )
        self.table = build_cmdtab()
        engine = Engine(config, self.store, self.table, self.metrics)
        for kind, text in native.texts(clients.deadline_ms).items():
            engine.text(kind, text)
        for worker, port in enumerate(boot.ports.workers):
            engine.advertise(worker, boot.config.node.announce, port)
        engine.rings(self.rings.handle, self.page.handle)
        return engine

    def _connections_max(self) -> int:
        """This worker's share of the node's clients, if it may open that many descriptors."""
        share = max(descriptors.CLIENTS_MIN, self.boot.config.clients.connections_max // self.boot.workers)
        fit = descriptors.clients(share, descriptors.allowed())
        if fit < share:
            log.warning("fewer clients: too few open files are allowed", clients=fit, wanted=share)
        return fit

    def _drain(self) -> None:
        """Take no more clients, answer what is owed, then end the loop."""
        if self._draining:
            return
        self._draining = True
        self.engine.unlisten()
        if self.lane is not None:
            self.lane.drain()
            self._lane_until_us = now_us() + LANE_DRAIN_US
        log.info("draining", pending=self.engine.pending())
        self.loop.call_later(DRAIN_S, self.loop.stop)
        self._look_drained()

    def _look_drained(self) -> None:
        self._check_drained()
        self.loop.call_later(LANE_LOOK_S, self._look_drained)

    def _check_drained(self) -> None:
        if not self._draining or self.engine.pending() or self.log.busy or self._lane_owes():
            return
        self.turns.flush(now_us())
        self.engine.close_connections()
        self.loop.stop()

    def _lane_owes(self) -> bool:
        """Whether a peer waits for an answer, or we for one's, within the lane's time: one that hangs keeps nobody."""
        return self.lane is not None and not self.lane.drained and now_us() < self._lane_until_us

    def _fail(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised: a failed disk or store, or a defect. Stop acknowledging at once; a successor recovers."""
        error = context.get("exception")
        log.error("worker stops", error=error or context.get("message"), trace=trace(error))
        self.exit_code = 74 if isinstance(error, OSError) else 70
        self.loop.stop()

    # ---- hooks of the turn ----

    def run_commands(self) -> None:
        self.sessions.run()

    def log_events(self) -> None:
        while event := self.engine.next_event():
            suppressed = self._lines.take(event.kind, now_us())
            if suppressed is not None:
                fields: dict[str, object] = {"suppressed": suppressed} if suppressed else {}
                fields |= {"address": event.address} if event.address else {}
                message = native.EVENT_MESSAGES[event.kind]
                log.warning(message, number=event.conn, value=event.value, what=event.text, **fields)
        for kind, count in self.engine.dropped_events().items():
            self._lines.suppress(kind, count)

    def again(self) -> None:
        if not self._again:
            self._again = True
            self.loop.call_soon(self._run_again)

    def _run_again(self) -> None:
        self._again = False
        self.turns.on_clients()

    def watch_clients(self, watch: bool) -> None:
        if watch:
            self.loop.add_reader(self.engine.epoll_fd(), self.turns.on_clients)
        else:
            self.loop.remove_reader(self.engine.epoll_fd())

    def no_space(self) -> None:
        if self._refused_ticks == 0:
            log.warning("writes refused: no disk space")
        self._refused_ticks = NO_SPACE_RETRY_TICKS
        self.engine.refuse_writes(native.TEXT_NOSPACE)

    def committed(self) -> None:
        if self.checkpointer.maybe_begin(now_us()):
            self.lateness.start(CHECKPOINT_TICK_US)
        if self._draining:
            self._check_drained()

    def now_us(self) -> int:
        return now_us()

    def facts(self) -> Figures:
        """Of this worker, for INFO."""
        m, stats = self.metrics, self.store.read_stats()
        return Figures(
            pid=os.getpid(),
            uptime_s=(now_us() - self.boot.started_us) // 1_000_000,
            clients=m.connections,
            connections_max=self.engine.config.connections_max,
            memory_bytes=stats.memory_bytes,
            commands=m.commands,
            connections_accepted=m.connections_accepted,
            bytes_in=m.bytes_in,
            bytes_out=m.bytes_out,
            rows=stats.rows,
            rows_with_expiry=stats.rows_with_expiry,
            version=__version__,
        )

    # ---- timers ----

    def _tick(self) -> None:
        """Ten times a second, fewer in calm: heartbeat, deadlines, and what else there is to do."""
        now = now_us()
        self.metrics.heartbeat_us = now
        late_us = max(0, now - self._tick_due_us)
        self._observe("loop_stall_us", late_us)
        if self._refused_ticks:
            self._refused_ticks -= 1
            if self._refused_ticks == 0:  # the next write finds out
                self.engine.refuse_writes(-1)
        self.turns.on_deadlines(late_us > TICK_S * 1e6)
        turns, self._turns_seen = self._turns_seen, self.metrics.turns
        calm = turns == self._turns_seen and not (self._unfinished or self._draining or self._refused_ticks)
        self._calm_ticks = self._calm_ticks + 1 if calm else 0
        if (not calm or self.place.away) and self.place.look(now):
            self.metrics.core_moves += 1
            self.place.put_thread(self.store.checkpoint_thread(), own_core=self._hurried)
        if self._calm_ticks % CALM_TICKS == 0:
            self._background(now)
        wait_s = CALM_TICK_S if calm else TICK_S
        self._tick_due_us = now_us() + int(wait_s * 1e6)
        self.loop.call_later(wait_s, self._tick)

    def _background(self, now: int) -> None:
        """Expiry, bounded background work, figures; every CALM_TICKS ticks while nobody asks and nothing is left."""
        stats = self.store.read_stats()
        expiring = stats.rows_with_expiry > 0
        if self.checkpointer.running and stats.dirty_bytes > self.boot.config.store.dirty_bytes_max:
            self._hurry_checkpoint(True)  # another one is due
        if expiring:
            self.engine.sweep(self.turns.read_stamp(), now, SWEEP_ROWS)
            self.turns.propose()
        worked = self.store.housekeep(HOUSEKEEP_ROWS) > 0
        self.committed()
        self.log.tick()
        self.turns.refuse_halted()
        for kind, suppressed in self._lines.overdue(now):
            log.warning(native.EVENT_MESSAGES[kind], suppressed=suppressed)
        self._copy_figures()
        self._unfinished = expiring or worked or self.log.busy

    def _on_checkpoint_tick(self) -> None:
        """While a checkpoint runs: how late the loop is, and the checkpoint's own leavings."""
        self.lateness.observe()
        if not self.store.housekeep(CHECKPOINT_ROWS) and not self.checkpointer.running:
            self.lateness.stop()

    def _on_checkpoint(self) -> None:
        duration_ms = self.checkpointer.on_thread(now_us())
        if not self.checkpointer.running:
            self._hurry_checkpoint(False)
        if duration_ms is not None:
            self._observe("checkpoint_ms", duration_ms)
            log.info("checkpoint", ms=duration_ms, rows=self.store.read_stats().rows)

    def _hurry_checkpoint(self, hurry: bool) -> None:
        """Changed rows must not pile up behind a checkpoint that the other cores have no time for."""
        if hurry != self._hurried:
            self._hurried = hurry
            self.place.put_thread(self.store.checkpoint_thread(), own_core=hurry)

    def _observe(self, histogram: str, value: int) -> None:
        native.observe(self.metrics, histogram, value)

    def _copy_figures(self) -> None:
        """Into shared memory, for control to read."""
        stats, m = self.store.read_stats(), self.metrics
        m.store_rows, m.store_resident_rows = stats.rows, stats.resident_rows
        m.store_dirty_rows, m.store_dirty_bytes = stats.dirty_rows, stats.dirty_bytes
        m.store_memory_bytes, m.store_checkpoints = stats.memory_bytes, stats.checkpoints
        self.log.copy_figures(m)
        m.store_cold_reads, m.store_evictions = stats.cold_reads, stats.evictions
