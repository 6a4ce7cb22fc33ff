"""How fast a node answers after its start, and what it costs when nobody asks anything.

Start times run from the process's birth to the first PONG on the shared port. Idle CPU is what each process used, in
percent of one core.
"""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass

from tools.bench import proc, resp
from tools.bench.cells import Load
from tools.bench.servers import NodeServer


@dataclass(frozen=True)
class StartFigures:
    empty_s: float
    """Median of several starts on an empty directory."""
    restart_s: float
    """After SIGTERM, with every key."""
    restart_after_kill_s: float
    """After kill -9 of every process, with every key."""
    keys: int
    idle_percent: dict[str, float]
    """Process → percent of one core, over the idle time, node filled."""


def measure(node: NodeServer, load: Load, starts: int, idle_seconds: float) -> StartFigures:
    """The node must not be running; it is left running."""
    times = []
    for _ in range(starts):
        shutil.rmtree(node.directory, ignore_errors=True)
        node.start()
        times.append(node.start_seconds)
        node.stop()
    node.start()
    resp.fill(node.port, load.keys, load.value_bytes)
    node.stop()
    node.start()
    restart = node.start_seconds
    node.kill()
    node.start()
    after_kill = node.start_seconds
    time.sleep(idle_seconds / 2)  # whatever follows a start is not idleness
    return StartFigures(statistics.median(times), restart, after_kill, load.keys, idle(node, idle_seconds))


def idle(node: NodeServer, seconds: float) -> dict[str, float]:
    before = cpu_by_process(node)
    time.sleep(seconds)
    after = cpu_by_process(node)
    return {name: 100 * (after[name] - before[name]) / seconds for name in after if name in before}


def cpu_by_process(node: NodeServer) -> dict[str, float]:
    """Role → CPU seconds of its threads, in the kernel's nanoseconds rather than its ticks."""
    return {role: proc.thread_seconds(pid) for role, pid in node.roles().items()}
