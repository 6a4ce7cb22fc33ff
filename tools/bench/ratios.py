"""The ratio run: interleaved rounds of node and redis-server over the same cells, and the table of medians with its
marks.

The marks are what the project promises (must) and wants (aim); a run reports them and never fails because of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tools.bench.cells import FOREIGN_PERCENT_MAX, Cell, Load, Measurement, run
from tools.bench.servers import Server

PLAIN_CELLS = (Cell("set", 1), Cell("get", 1), Cell("set", 32), Cell("get", 32))
CLUSTER_CELLS = (Cell("set", 1, True), Cell("get", 1, True), Cell("set", 32, True), Cell("get", 32, True))

MARKS: dict[tuple[int, str], tuple[float, float]] = {
    (1, "SET P1"): (1.0, 1.25),
    (1, "GET P1"): (1.0, 1.25),
    (1, "SET P32"): (2.0, 3.5),
    (1, "GET P32"): (1.3, 2.0),
    (2, "SET P1"): (0.6, 0.8),
    (2, "GET P1"): (0.6, 0.8),
    (2, "SET P32"): (1.8, 2.8),
    (2, "GET P32"): (1.0, 1.6),
}
"""(workers, cell) → (must, aim), as multiples of redis-server."""


@dataclass(frozen=True)
class Row:
    cell: str
    node_rate: float
    redis_rate: float
    ratio: float
    ratio_low: float
    ratio_high: float
    node_cpu_us: float
    redis_cpu_us: float
    node_p99_ms: float
    redis_p99_ms: float
    foreign_percent_max: float
    loud_rounds: int
    must: float | None
    aim: float | None

    @property
    def verdict(self) -> str:
        if self.must is None or self.aim is None:
            return "no mark"
        return "aim" if self.ratio >= self.aim else "must" if self.ratio >= self.must else "MISSES"


def measure(
    node: Server, redis: Server, cells: tuple[Cell, ...], load: Load, rounds: int, report: Callable[[Measurement], None]
) -> list[Measurement]:
    """Every cell on node and redis back to back, in every round; who goes first alternates."""
    rates: dict[tuple[str, str], float] = {}
    found = []
    for round_number in range(1, rounds + 1):
        pair = (node, redis) if round_number % 2 else (redis, node)
        for cell in cells:
            for server in pair:
                clustered = cell.cluster and server is node
                measured = run(server, Cell(cell.command, cell.pipeline, clustered), load, round_number, rates)
                found.append(Measurement(**{**asdict(measured), "cell": cell.name}))
                report(found[-1])
    return found


def table(found: list[Measurement], cells: tuple[Cell, ...], node: str, redis: str, workers: int) -> list[Row]:
    return [row(found, cell.name, node, redis, MARKS.get((workers, cell.name))) for cell in cells]


def row(found: list[Measurement], cell: str, node: str, redis: str, mark: tuple[float, float] | None) -> Row:
    ours = [one for one in found if one.cell == cell and one.server == node]
    theirs = [one for one in found if one.cell == cell and one.server == redis]
    by_round = {one.round: one.rate for one in theirs}
    ratios = [one.rate / by_round[one.round] for one in ours]

    def median(measurements: list[Measurement], name: str) -> float:
        return float(statistics.median(getattr(one, name) for one in measurements))

    return Row(
        cell=cell,
        node_rate=median(ours, "rate"),
        redis_rate=median(theirs, "rate"),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        node_cpu_us=median(ours, "server_cpu_us"),
        redis_cpu_us=median(theirs, "server_cpu_us"),
        node_p99_ms=median(ours, "p99_ms"),
        redis_p99_ms=median(theirs, "p99_ms"),
        foreign_percent_max=max(one.foreign_percent for one in ours + theirs),
        loud_rounds=sum(one.foreign_percent > FOREIGN_PERCENT_MAX for one in ours + theirs),
        must=mark[0] if mark else None,
        aim=mark[1] if mark else None,
    )


def as_json(rows: list[Row], found: list[Measurement], facts: dict[str, Any]) -> dict[str, Any]:
    rows_out = [{**asdict(one), "verdict": one.verdict} for one in rows]
    return {"facts": facts, "rows": rows_out, "measurements": [asdict(one) for one in found]}
