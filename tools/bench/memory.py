"""Memory of 1 M keys: the sum of Pss of every process of the node above an empty node's, against redis-server's RSS
growth.

Invariant: clean pages of the LMDB map do not count (the kernel takes them back at will), everything else does:
processes, shared memory, rings, dirty file pages. Peak means the largest sample while all keys are overwritten and
checkpoints run.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from tools.bench import proc, resp
from tools.bench.cells import Load
from tools.bench.scrape import scrape
from tools.bench.servers import NodeServer, RedisServer

SAMPLE_EVERY_S = 0.03
STEADY_SECONDS_MAX = 60.0
STEADY_SAMPLES = 10
OVERWRITES = 2


@dataclass(frozen=True)
class MemoryUse:
    keys: int
    redis_growth_bytes: int
    node_empty_bytes: int
    node_steady_bytes: int
    node_peak_bytes: int
    checkpoints: int

    @property
    def steady_ratio(self) -> float:
        return (self.node_steady_bytes - self.node_empty_bytes) / self.redis_growth_bytes

    @property
    def peak_ratio(self) -> float:
        return (self.node_peak_bytes - self.node_empty_bytes) / self.redis_growth_bytes


def measure(node: NodeServer, redis: RedisServer, load: Load) -> MemoryUse:
    """Both servers run and are empty."""
    redis_empty = proc.rss_bytes(redis.pid)
    resp.fill(redis.port, load.keys, load.value_bytes)
    growth = proc.rss_bytes(redis.pid) - redis_empty
    node_empty = steady(node)
    before = scrape(node.http_port).total("store_checkpoints_total")
    peak = Peak(node.pid)
    peak.start()
    for _ in range(1 + OVERWRITES):
        resp.fill(node.port, load.keys, load.value_bytes)
    settled = steady(node)
    peak.stop()
    done = scrape(node.http_port).total("store_checkpoints_total") - before
    return MemoryUse(load.keys, growth, node_empty, settled, peak.largest, int(done))


def steady(node: NodeServer) -> int:
    """Pss of the tree once it stopped moving by more than 1 % over ten samples, within bounds."""
    deadline, samples = time.monotonic() + STEADY_SECONDS_MAX, [proc.tree_pss_bytes(node.pid)]
    while time.monotonic() < deadline:
        time.sleep(0.2)
        samples.append(proc.tree_pss_bytes(node.pid))
        recent = samples[-STEADY_SAMPLES:]
        if len(recent) == STEADY_SAMPLES and max(recent) <= 1.01 * min(recent):
            break
    return samples[-1]


class Peak:
    """Samples a process tree's memory on a thread until stopped."""

    def __init__(self, root: int) -> None:
        self.root, self.largest = root, 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join()

    def watch(self) -> None:
        while not self.stopping.wait(SAMPLE_EVERY_S):
            self.largest = max(self.largest, proc.tree_pss_bytes(self.root))
