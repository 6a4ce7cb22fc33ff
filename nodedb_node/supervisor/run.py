"""The supervisor's process: starts all children at once, waits for signals, exits and readiness, ends with them.
World file.

Invariant: it holds the data directory's lock and the ports from before the first child until after the last; a child
is started only after its last life was reaped and the process table says so; no child outlives it (child.py). No
event loop library and no client data here: one poll, a few lines per event. Decisions are watch.py's.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from nodedb_node import log
from nodedb_node.config import Config, CpuSection
from nodedb_node.errors import Exit, StartError
from nodedb_node.ids import Process, process_name
from nodedb_node.routing.table import one_node
from nodedb_node.supervisor import descriptors, pinplan
from nodedb_node.supervisor.boot import Boot, Ports, encode
from nodedb_node.supervisor.child import inherited
from nodedb_node.supervisor.datadir import DataDir, open_data_dir
from nodedb_node.supervisor.notify import Notifier
from nodedb_node.supervisor.ports import Reservation
from nodedb_node.supervisor.shared import Shared
from nodedb_node.supervisor.system import read_text
from nodedb_node.supervisor.watch import Watch

MODULES = {"control": "nodedb_node.control", "worker": "workers", "redistribute": "workers.redistribute"}
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LOOK_US = 1_000_000  # how often heartbeats are looked at
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def run(config: Config, started_us: int) -> int:
    """Be the node until it is told to stop; returns the exit code. Raises StartError with one line for the user."""
    if not __debug__:
        raise StartError(Exit.USAGE, "python -O removes the assertions that guard the data; start without it")
    log.setup("supervisor", config.log.level)
    descriptors.raise_limit()
    plan = _plan(config.cpu)
    data = open_data_dir(config.node.data_dir, plan.workers)
    try:
        if plan.workers > data.layout.groups:
            plan = _plan(at_most(config.cpu, plan.workers, data))
        reservation = Reservation(config, plan.workers)  # before the rows are moved: a start in vain moves none
        try:
            if data.layout.workers != plan.workers:
                redistribute(config, data, plan.workers)
            data.remove_others()
            return Supervisor(config, plan, data, reservation, started_us).run()
        finally:
            reservation.close()
    finally:
        data.close()


def redistribute(config: Config, data: DataDir, workers: int) -> None:
    """Bring the rows into a layout for this number of workers, in a process of its own, then switch to it."""
    layout, directory = data.next_layout(workers)
    processes = max(data.layout.workers, workers) + 1
    boot = Boot(
        role="worker",
        process=1,
        generation=1,
        workers=data.layout.workers,
        supervisor_pid=os.getpid(),
        started_us=now_us(),
        node_id=data.node.node_id,
        cluster_id=data.node.cluster_id,
        node_generation=data.node.generation,
        groups=data.layout.groups,
        data_dir=data.path,
        layout_dir=data.layout_dir,
        ports=Ports("", 0, [], "", 0),
        pins=[[]] * processes,
        spares=[[]] * processes,
        memory_nodes=[-1] * processes,
        shm_fd=-1,
        bell_fds=[],
        status_fd=-1,
        config=config,
        to_workers=workers,
        to_layout_dir=directory,
    )
    pid = spawn(MODULES["redistribute"], boot, "boot-redistribute")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        line = f"the rows could not be brought from {data.layout.workers} to {workers} workers; the log says why"
        raise StartError(Exit.IO if code > 0 else Exit.SOFTWARE, f"{line}; --workers {data.layout.workers} still works")
    data.switch(layout)


def spawn(module: str, boot: Boot, name: str) -> int:
    """fork and exec, with the Boot in a memfd. Descriptors are close-on-exec but those the Boot names."""
    fd = os.memfd_create(name, 0)
    try:
        os.write(fd, encode(boot))
        for descriptor in inherited(boot):
            os.set_inheritable(descriptor, True)
        argv = [sys.executable, "-P", "-m", module, "--boot-fd", str(fd)]
        # A process group of its own: Ctrl-C in a terminal reaches the supervisor alone, which drains in order.
        env = {**os.environ, "PYTHONPATH": ROOT}
        return os.posix_spawn(sys.executable, argv, env, setpgroup=0, setsigdef=(signal.SIGPIPE,))
    finally:
        os.close(fd)


def at_most(cpu: CpuSection, workers: int, data: DataDir) -> CpuSection:
    """A worker owns whole groups, and a directory keeps the number it was made with: fewer workers if we may choose."""
    groups = data.layout.groups
    if cpu.workers != "auto":
        line = f"data directory {data.path} has {groups} groups, for at most {groups} workers, not {workers}"
        raise StartError(Exit.CONFIG, f"{line}; start with --workers {groups}, or on a new one with --data-dir")
    log.warning("the directory's groups are fewer than the workers there are cores for", groups=groups, cores=workers)
    return msgspec.structs.replace(cpu, workers=groups)


def _plan(cpu: CpuSection) -> pinplan.Plan:
    try:
        return pinplan.plan(pinplan.machine(read_text, os.sched_getaffinity(0)), cpu)
    except pinplan.PlanError as error:
        raise StartError(Exit.CONFIG, str(error)) from error


class Supervisor:
    """One run of the node."""

    def __init__(
        self, config: Config, plan: pinplan.Plan, data: DataDir, reservation: Reservation, started_us: int
    ) -> None:
        self.started_us = started_us
        self.lane_fds = [lane.fileno() for lane in reservation.lanes]
        self.watch = Watch(plan.workers + 1, config.supervise)
        self.shared = Shared(plan.workers + 1, config.ring.bytes)
        self.shared.publish_routes(one_node(data.layout.groups, plan.workers))
        self.notifier = Notifier()
        self.pids: dict[int, int] = {}  # pid -> process, of those that run
        self.status_read, self.status_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.status = b""
        self.looked_us = 0
        self.boot = Boot(
            role="control",
            process=0,
            generation=1,
            workers=plan.workers,
            supervisor_pid=os.getpid(),
            started_us=started_us,
            node_id=data.node.node_id,
            cluster_id=data.node.cluster_id,
            node_generation=data.node.generation,
            groups=data.layout.groups,
            data_dir=data.path,
            layout_dir=data.layout_dir,
            ports=reservation.ports,
            pins=plan.pins,
            spares=plan.spares,
            memory_nodes=plan.memory_nodes,
            shm_fd=self.shared.fd,
            bell_fds=self.shared.bells,
            board_fds=self.shared.boards,
            status_fd=self.status_write,
            config=config,
        )

    def run(self) -> int:
        with self._signals():
            poll = select.poll()
            poll.register(self.wake_read, select.POLLIN)
            poll.register(self.status_read, select.POLLIN)
            try:
                while not self.watch.ended:
                    self._start_due()
                    for fd, _ in poll.poll(self._timeout_ms()):
                        if fd == self.wake_read:
                            self._on_signals(os.read(fd, 512))
                        else:
                            self._on_status(os.read(fd, 4096))
                    self._look(now_us())
            finally:
                self._kill(list(self.pids.values()), "the supervisor ends")
        log.info("stopped", code=self.watch.give_up or 0)
        return self.watch.give_up or 0

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals arrive as bytes in a pipe; nothing happens inside a handler."""
        wanted = (*STOP_SIGNALS, signal.SIGCHLD, signal.SIGHUP)
        before = {number: signal.signal(number, lambda *_: None) for number in wanted}
        previous = signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _timeout_ms(self) -> int:
        """Until the next restart, kill or look at the heartbeats."""
        deadline_us = min(self.watch.next_deadline_us() or (1 << 62), self.looked_us + LOOK_US)
        return max(0, (deadline_us - now_us() + 999) // 1000)

    # ---- children ----

    def _start_due(self) -> None:
        for process in self.watch.due(now_us()):
            pid = self._spawn(process)
            self.shared.started(process, pid)
            self.watch.started(process, now_us())
            self.pids[pid] = process

    def _spawn(self, process: int) -> int:
        role = "worker" if process else "control"
        boot = replace_boot(self.boot, role, process, self.watch.children[process].generation, self.lane_fds[process])
        return spawn(MODULES[role], boot, f"boot-{process_name(Process(process))}")

    def _reap(self) -> None:
        for pid, process in list(self.pids.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del self.pids[pid]
                self._on_exit(process, os.waitstatus_to_exitcode(status))

    def _on_exit(self, process: int, code: int) -> None:
        generation = self.shared.died(process)
        wait_us = self.watch.on_exit(process, code, now_us())
        assert generation == self.watch.children[process].generation, "the process table counts other lives"
        name = process_name(Process(process))
        if self.watch.stopping:
            log.debug("child ended", child=name, code=code)
        elif wait_us is None:
            log.error("child cannot start; the node gives up", child=name, code=code)
            self._stop()
        else:
            child = self.watch.children[process]
            log.error("child died", child=name, code=code, restarts=child.restarts, restart_in_ms=wait_us // 1000)

    def _kill(self, processes: list[int], why: str) -> None:
        for pid, process in list(self.pids.items()):
            if process in processes:
                log.error("child killed", child=process_name(Process(process)), why=why)
                os.kill(pid, signal.SIGKILL)

    # ---- events ----

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGCHLD in numbers:
            self._reap()
        for number in numbers:
            if number in STOP_SIGNALS:
                self._on_stop_signal(number)
            elif number == signal.SIGHUP:
                log.info("certificates are read again by themselves when their files change; nothing to do")

    def _on_stop_signal(self, number: int) -> None:
        if self.watch.stopping:
            self._kill(list(self.pids.values()), "second signal")
        else:
            log.info("stopping", signal=signal.Signals(number).name)
            self._stop()

    def _stop(self) -> None:
        """Children drain at the same time: they stop accepting, answer what is pending, sync, exit."""
        self.notifier.tell("STOPPING=1")
        self.watch.stop(now_us())
        for pid in self.pids:
            os.kill(pid, signal.SIGTERM)

    def _on_status(self, raw: bytes) -> None:
        *lines, self.status = (self.status + raw).split(b"\n")
        for line in lines:
            word, process, generation = line.split()
            assert word == b"ready", f"unknown status {line!r}"
            if self.watch.on_ready(int(process), int(generation)):
                self._on_node_ready()

    def _on_node_ready(self) -> None:
        ports = self.boot.ports
        log.info(
            "ready",
            clients=f"{ports.clients_host}:{ports.clients}",
            workers=ports.workers,
            **({"tls": ports.tls, "tls_workers": ports.tls_workers} if ports.tls else {}),
            http=f"{ports.http_host}:{ports.http}",
            peers=f"{ports.peers_host}:{ports.peers[0]}",
            lanes=ports.peers[1:],
            pinned=any(self.boot.pins),
            pid=os.getpid(),
            start_ms=(now_us() - self.started_us) // 1000,
        )
        self.notifier.tell("READY=1")

    def _look(self, now: int) -> None:
        """Once a second: kill children that hang, feed systemd's watchdog while none does."""
        if self.watch.overdue(now):
            self._kill(list(self.pids.values()), "not drained in time")
        if now - self.looked_us < LOOK_US:
            return
        self.looked_us = now
        stalled = self.watch.stalled(now, self.shared.beats_us())
        self._kill(stalled, "stalled")
        if self.notifier.watchdog_us and not stalled:
            self.notifier.tell("WATCHDOG=1")


def replace_boot(boot: Boot, role: str, process: int, generation: int, lane_fd: int) -> Boot:
    """The same node, told to another process or life."""
    return msgspec.structs.replace(boot, role=role, process=process, generation=generation, lane_fd=lane_fd)
