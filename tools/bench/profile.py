"""Where a worker's time goes during one cell: perf samples by program part and by function.

It needs perf and the right to use it; it explains figures and is never itself a measurement of speed (sampling costs
some).
"""

from __future__ import annotations

import collections
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from tools.bench.cells import Cell, Load, benchmark
from tools.bench.servers import Server

PERF_HZ = 997
PERF_SECONDS_SLACK = 30


@dataclass(frozen=True)
class Profile:
    cell: str
    rate: float
    by_part: dict[str, float]
    """kernel, native, libpython, libc, … → percent of samples."""
    by_function: dict[str, float]


def measure(server: Server, pids: list[int], cell: Cell, load: Load, top: int) -> Profile:
    """Samples the processes while a cell runs."""
    rate = benchmark(server, cell, load, 10_000 * cell.pipeline)["rps"]
    results: list[float] = []
    requests = int(rate * (load.seconds + 1))
    client = threading.Thread(target=lambda: results.append(benchmark(server, cell, load, requests)["rps"]))
    with tempfile.TemporaryDirectory(prefix="perf-") as directory:
        data = Path(directory) / "perf.data"
        client.start()
        words = ["perf", "record", "-q", "-g", "-F", str(PERF_HZ), "-o", str(data), "-p", ",".join(map(str, pids))]
        perf([*words, "--", "sleep", str(load.seconds * 0.8)])
        client.join()
        parts = shares(perf(["perf", "report", "-q", "-i", str(data), "--no-children", "-g", "none", "--sort", "dso"]))
        functions = shares(
            perf(["perf", "report", "-q", "-i", str(data), "--no-children", "-g", "none", "--sort", "dso,symbol"])
        )
    return Profile(cell.name, results[0], first(parts, 8), first(functions, top))


def perf(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=PERF_SECONDS_SLACK * 4, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def shares(report: str) -> dict[str, float]:
    """perf's lines as name → percent, largest first."""
    found: dict[str, float] = collections.defaultdict(float)
    for line in report.splitlines():
        percent, _, what = line.strip().partition("%")
        if what:
            found[" ".join(what.split())] += float(percent)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def first(shares_found: dict[str, float], count: int) -> dict[str, float]:
    return dict(list(shares_found.items())[:count])
