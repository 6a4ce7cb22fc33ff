"""nodedb-node doctor: whether this machine and data directory can carry a node, without starting one. World file.

Invariant: it leaves nothing behind and changes nothing: what it writes are temporary files beside the data, ports are
taken and given back. Each line is one finding with what to do; a warning costs speed or comfort, a failure keeps a node
from starting or its promises from holding. Judgements are examine.py's, this file only takes the readings.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator

import click

from nodedb_node.cli import examine
from nodedb_node.cli.examine import Finding, Syncs, Verdict
from nodedb_node.cli.load import load_config
from nodedb_node.cli.start import flags
from nodedb_node.config import Config
from nodedb_node.errors import Exit, StartError
from nodedb_node.multiraft.start import BUFFER_BYTES
from nodedb_node.native import wal
from nodedb_node.native.walio import IoConfig, Walio
from nodedb_node.supervisor import cgroup, pinplan
from nodedb_node.supervisor.datadir import holder
from nodedb_node.supervisor.ports import Reservation
from nodedb_node.supervisor.system import read_text

SYNCS = 64
SYNC_BYTES = 3_000
SYNC_WAIT_MS = 10_000
PROBE_SEGMENT_BYTES = 4 << 20
MARKS = {Verdict.OK: "ok  ", Verdict.WARN: "warn", Verdict.FAIL: "FAIL"}


@click.command("doctor")
@click.option("--config", "config_file", metavar="FILE", help="the node's TOML file; also $NODEDB_CONFIG")
@click.option("--data-dir", metavar="DIR", help="where the node would keep everything (default ./nodedb-data)")
@click.option("--bind", metavar="ADDRESS", help="address it would listen on (default 127.0.0.1)")
@click.option("--port", metavar="N", help="Redis protocol port it would use (default 6379)")
@click.option("--worker-port", metavar="N", help="first port of the workers (default 7000)")
@click.option("--http-port", metavar="N", help="port for health and metrics (default 6480)")
@click.option("--peer-port", metavar="N", help="UDP port of the control process (default 6490)")
@click.option("--peer-worker-port", metavar="N", help="first UDP port of the workers (default 6500)")
@click.option("--workers", metavar="N", help='worker processes, or "auto" (default: allowed cores - 1)')
def command(config_file: str | None, **options: str | None) -> int:
    """Check this machine and data directory for what a node needs. Exit code 1 when something fails."""
    worst = Verdict.OK
    for finding in findings(load_config(config_file, flags(options))):
        click.echo(f"{MARKS[finding.verdict]}  {finding.name:<10} {finding.text}")
        if finding.advice:
            click.echo(f"      {'':<10} -> {finding.advice}")
        worst = max(worst, finding.verdict, key=lambda verdict: verdict.value)
    return 1 if worst is Verdict.FAIL else Exit.OK.value


def findings(config: Config) -> Iterator[Finding]:
    """Every finding, in the order shown; a slow one is shown when it is known."""
    yield examine.python(sys.version_info[:3], __debug__)
    yield examine.kernel(os.uname().release)
    yield from _cores(config)
    yield examine.clock(read_text("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
    yield examine.huge_pages(read_text("/sys/kernel/mm/transparent_hugepage/enabled"))
    yield examine.open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1], config.clients.connections_max)
    yield examine.locked_memory(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], os.geteuid() == 0)
    yield examine.memory(read_text("/proc/meminfo") or "", cgroup.memory_bytes(read_text), config.store)
    place = _nearest(config.node.data_dir)
    yield _directory(config.node.data_dir, place)
    space = os.statvfs(place)
    yield examine.space(space.f_bavail * space.f_frsize, config.wal)
    if os.access(place, os.W_OK | os.X_OK):
        syncs = {backend: measure(place, backend) for backend in ("uring", "thread")}
        yield examine.io_uring(syncs["uring"], config.wal.backend)
        yield examine.sync_times(syncs)
    yield _ports(config)


def _cores(config: Config) -> Iterator[Finding]:
    machine = pinplan.machine(read_text, os.sched_getaffinity(0))
    try:
        plan = pinplan.plan(machine, config.cpu)
    except pinplan.PlanError as error:
        yield examine.failed("cores", str(error), "change the [cpu] section")
        return
    yield examine.cores(machine, plan)


def _ports(config: Config) -> Finding:
    if os.path.isdir(config.node.data_dir) and holder(config.node.data_dir):
        return examine.passed("ports", "not checked: the node that runs on this directory has them")
    try:
        plan = pinplan.plan(pinplan.machine(read_text, os.sched_getaffinity(0)), config.cpu)
        reservation = Reservation(config, plan.workers)
    except pinplan.PlanError:
        return examine.warned("ports", "not checked: the number of workers is not known", "change the [cpu] section")
    except StartError as error:
        problem, _, advice = str(error).partition("; ")
        return examine.failed("ports", problem, advice)
    reservation.close()
    tcp = [str(config.clients.port), f"{config.clients.worker_port} (+ worker)", str(config.http.port)]
    udp = [str(config.peers.port), f"{config.peers.worker_port} (+ worker)"]
    return examine.passed("ports", f"free: {', '.join(tcp)}; UDP {', '.join(udp)}")


def _directory(wanted: str, place: str) -> Finding:
    """Whether the data directory can be used; one that does not exist is judged by where it would be made."""
    path = os.path.abspath(wanted)
    if not os.access(place, os.W_OK | os.X_OK):
        return examine.failed("directory", f"{place} cannot be written", "choose another with --data-dir, or its owner")
    kind = examine.file_system(read_text("/proc/self/mountinfo") or "", os.path.realpath(place))
    if place == path and holder(path):
        return examine.warned("directory", f"{path} is in use by a running node", "ask that node: nodedb-node status")
    return examine.directory(path, place == path, kind)


def _nearest(path: str) -> str:
    """The directory itself or the nearest one above it that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def measure(place: str, backend: str) -> Syncs:
    """Durable appends of one page each through the log's own code, in a directory of their own; what they took."""
    directory = tempfile.mkdtemp(prefix=".nodedb-doctor-", dir=place)
    try:
        io = Walio(_io_config(directory, backend))
        try:
            return Syncs(_timed_appends(io), "")
        finally:
            io.close()
    except OSError as error:
        return Syncs((), error.strerror or str(error))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _timed_appends(io: Walio) -> tuple[int, ...]:
    records, payloads = wal.records_array([wal.Record(wal.PROBE, 0, 1, 0, bytes(SYNC_BYTES))])
    took = []
    for _ in range(SYNCS):
        began = time.perf_counter_ns()
        io.append(records, 1, False)
        io.wait(SYNC_WAIT_MS)
        took.append((time.perf_counter_ns() - began) // 1000)
    assert payloads, "borrowed by the records until here"
    return tuple(took)


def _io_config(directory: str, backend: str) -> IoConfig:
    return IoConfig(
        dir=directory,
        backend=backend,
        direct=True,
        log_id=1,
        oldest_segment=1,
        next_segment=1,
        next_sequence=1,
        prev_crc=0,
        flags_first=0,
        first_segment_bytes=PROBE_SEGMENT_BYTES,
        segment_bytes=PROBE_SEGMENT_BYTES,
        buffer_bytes=BUFFER_BYTES,
        free_floor_bytes=0,
        spares_max=0,
    )
