"""One timed redis-benchmark run against one server, with the machine's state beside the rate.

Invariant: a cell lasts about the asked seconds whatever the rate, because the count of requests is taken from a short
run before. A cell during which others used the machine is repeated a bounded number of times; the quietest try is kept
and says how loud it was.
"""

from __future__ import annotations

import csv
import subprocess
import time
from dataclasses import dataclass

from tools.bench import proc
from tools.bench.servers import Server

FOREIGN_PERCENT_MAX = 15.0
TRIES_MAX = 4
SETTLE_SECONDS_MAX = 5.0
CALIBRATION_REQUESTS = 10_000
COMMAND_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Cell:
    command: str
    pipeline: int
    cluster: bool = False

    @property
    def name(self) -> str:
        return f"{self.command.upper()} P{self.pipeline}" + (" cluster" if self.cluster else "")


@dataclass(frozen=True)
class Load:
    """What the client does in every cell of a run."""

    connections: int = 50
    value_bytes: int = 64
    keys: int = 1_000_000
    seconds: float = 4.0
    threads: int = 0


@dataclass(frozen=True)
class Measurement:
    server: str
    cell: str
    round: int
    requests: int
    rate: float
    """Requests per second, as the client counted."""
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    """CPU time of the server's process tree per command."""
    client_cpu_us: float
    foreign_percent: float
    tries: int


def run(server: Server, cell: Cell, load: Load, round_number: int, rates: dict[tuple[str, str], float]) -> Measurement:
    """Measure one cell; rates remembers what (server, cell) reached, to size the next run."""
    known = (server.name, cell.name)
    if known not in rates:
        rates[known] = benchmark(server, cell, load, CALIBRATION_REQUESTS * cell.pipeline)["rps"]
    best: Measurement | None = None
    for attempt in range(1, TRIES_MAX + 1):
        settle()
        measured = attempt_once(server, cell, load, round_number, rates[known], attempt)
        rates[known] = measured.rate
        if best is None or measured.foreign_percent < best.foreign_percent:
            best = measured
        if best.foreign_percent <= FOREIGN_PERCENT_MAX:
            break
    assert best is not None
    return best


def attempt_once(server: Server, cell: Cell, load: Load, round_number: int, rate: float, attempt: int) -> Measurement:
    requests = max(1000, int(rate * load.seconds))
    before = proc.sample(server.pid)
    figures = benchmark(server, cell, load, requests)
    used = proc.use(before, proc.sample(server.pid))
    return Measurement(
        server=server.name,
        cell=cell.name,
        round=round_number,
        requests=requests,
        rate=figures["rps"],
        p50_ms=figures["p50_latency_ms"],
        p99_ms=figures["p99_latency_ms"],
        server_cpu_us=1e6 * used.server / requests,
        client_cpu_us=1e6 * used.client / requests,
        foreign_percent=used.foreign_percent,
        tries=attempt,
    )


def settle() -> None:
    """Wait, within bounds, until a quarter of a second passes without foreign load or background work of a server."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while time.monotonic() < deadline:
        before = proc.sample(None)
        time.sleep(0.25)
        if proc.use(before, proc.sample(None)).foreign_percent <= FOREIGN_PERCENT_MAX:
            return


def benchmark(server: Server, cell: Cell, load: Load, requests: int) -> dict[str, float]:
    """One redis-benchmark process; the numeric columns of its CSV line."""
    port = server.cluster_port if cell.cluster else server.port
    words = ["redis-benchmark", "-h", "127.0.0.1", "-p", port, "-t", cell.command, "-P", cell.pipeline, "--csv"]
    words += ["-c", load.connections, "-d", load.value_bytes, "-r", load.keys, "-n", requests]
    words += ["--threads", load.threads] if load.threads else []
    words += ["--cluster"] if cell.cluster else []
    limit = load.seconds * 4 + COMMAND_SECONDS_MAX
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=limit, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if done.returncode != 0 or len(lines) < 2:
        raise RuntimeError(f"{' '.join(map(str, words))} failed: {(done.stderr or done.stdout)[-1000:]}")
    header, row = csv.reader(lines[-2:])
    return {name: float(value) for name, value in zip(header[1:], row[1:], strict=True)}
