"""The ratio run: interleaved rounds of two servers over the same cells, and the table of medians with its marks.

The marks are what the project promises (must) and wants (aim) of a node beside redis-server; a run reports them and
never fails because of them. Two nodes of different trees are compared the same way, without marks.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
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
    """One cell of a server against a base, in the same rounds."""

    cell: str
    rate: float
    base_rate: float
    ratio: float
    """Median over the rounds of rate ÷ base rate of the same round, as the three below."""
    ratio_low: float
    ratio_high: float
    cpu_ratio: float
    """Of the CPU time per command: below 1 is cheaper than the base."""
    cpu_us: float
    base_cpu_us: float
    p99_ms: float
    base_p99_ms: float
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
    ours: Server,
    base: Server,
    cells: Sequence[Cell],
    load: Load,
    rounds: int,
    report: Callable[[Measurement], None],
    keep: Callable[[list[Measurement]], None],
) -> list[Measurement]:
    """Every cell on both servers back to back, in every round; who goes first alternates. Only ours is clustered.

    `keep` is given all that was measured after each round: what a run that is ended early leaves behind.
    """
    rates: dict[tuple[str, str], float] = {}
    found = []
    for round_number in range(1, rounds + 1):
        pair = (ours, base) if round_number % 2 else (base, ours)
        for cell in cells:
            for server in pair:
                clustered = cell.cluster and server is ours
                measured = run(server, Cell(cell.command, cell.pipeline, clustered), load, round_number, rates)
                found.append(Measurement(**{**asdict(measured), "cell": cell.name}))
                report(found[-1])
        keep(found)
    return found


def merged(runs: Iterable[list[Measurement]]) -> list[Measurement]:
    """Several runs as one: rounds are numbered on, so that each is compared with its own neighbour."""
    found: list[Measurement] = []
    for one in runs:
        before = max((measured.round for measured in found), default=0)
        found += [replace(measured, round=before + measured.round) for measured in one]
    return found


def table(
    found: list[Measurement], ours: str, base: str, marks: dict[str, tuple[float, float]] | None = None
) -> list[Row]:
    """A row for each cell, in the order in which they were measured first."""
    return [row(found, cell, ours, base, (marks or {}).get(cell)) for cell in dict.fromkeys(one.cell for one in found)]


def marks_for(workers: int) -> dict[str, tuple[float, float]]:
    return {cell: marks for (number, cell), marks in MARKS.items() if number == workers}


def row(found: list[Measurement], cell: str, ours: str, base: str, mark: tuple[float, float] | None) -> Row:
    mine = [one for one in found if one.cell == cell and one.server == ours]
    theirs = {one.round: one for one in found if one.cell == cell and one.server == base}
    ratios = [one.rate / theirs[one.round].rate for one in mine]
    both = [*mine, *theirs.values()]

    def median(measurements: Iterable[Measurement], name: str) -> float:
        return float(statistics.median(getattr(one, name) for one in measurements))

    return Row(
        cell=cell,
        rate=median(mine, "rate"),
        base_rate=median(theirs.values(), "rate"),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        cpu_ratio=statistics.median(one.server_cpu_us / theirs[one.round].server_cpu_us for one in mine),
        cpu_us=median(mine, "server_cpu_us"),
        base_cpu_us=median(theirs.values(), "server_cpu_us"),
        p99_ms=median(mine, "p99_ms"),
        base_p99_ms=median(theirs.values(), "p99_ms"),
        foreign_percent_max=max(one.foreign_percent for one in both),
        loud_rounds=sum(one.foreign_percent > FOREIGN_PERCENT_MAX for one in both),
        must=mark[0] if mark else None,
        aim=mark[1] if mark else None,
    )


def as_json(rows: list[Row], found: list[Measurement], facts: dict[str, Any], workers: int) -> dict[str, Any]:
    rows_out = [{**asdict(one), "verdict": one.verdict} for one in rows]
    return {"facts": facts, "workers": workers, "rows": rows_out, "measurements": [asdict(one) for one in found]}
