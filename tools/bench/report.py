"""Tables, JSON and plots of a finished run; measures nothing."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.bench import proc
from tools.bench.cells import Measurement
from tools.bench.ratios import Row

PLOT_INCHES = (10, 4.5)


def machine_facts() -> dict[str, Any]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cores": proc.CORES,
        "cpu": model,
        "memory_gib": round(memory_kb / 2**20, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


def progress(console: Console, one: Measurement) -> None:
    console.print(
        f"round {one.round} {one.server:>6} {one.cell:<16} {one.rate:>10,.0f}/s  p99 {one.p99_ms:6.2f} ms"
        f"  server {one.server_cpu_us:6.2f} µs/cmd  client {one.client_cpu_us:5.2f}"
        f"  foreign {one.foreign_percent:4.1f} %" + (f"  ({one.tries} tries)" if one.tries > 1 else ""),
        highlight=False,
        markup=False,
    )


def print_rows(console: Console, rows: list[Row], ours: str, base: str) -> None:
    """The table of a ratio run; ours and base are the servers' names."""
    names = [f"{ours} /s", f"{base} /s", "ratio (low–high)", "must", "aim", "", f"{ours} µs", f"{base} µs", "µs ratio"]
    table = Table("cell", *names, "p99 ms", "foreign")
    for one in rows:
        table.add_row(
            one.cell,
            f"{one.rate:,.0f}",
            f"{one.base_rate:,.0f}",
            f"{one.ratio:.2f} ({one.ratio_low:.2f}–{one.ratio_high:.2f})",
            "" if one.must is None else f"{one.must:.2f}",
            "" if one.aim is None else f"{one.aim:.2f}",
            one.verdict,
            f"{one.cpu_us:.2f}",
            f"{one.base_cpu_us:.2f}",
            f"{one.cpu_ratio:.2f}",
            f"{one.p99_ms:.2f} / {one.base_p99_ms:.2f}",
            f"≤ {one.foreign_percent_max:.0f} %" + (f", {one.loud_rounds} loud" if one.loud_rounds else ""),
        )
    console.print(table)


def print_facts(console: Console, facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            console.print(f"{name}:", highlight=False, markup=False)
            print_facts(console, {f"    {inner}": figure for inner, figure in value.items()})
            continue
        shown = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        console.print(f"{name}: {shown}", highlight=False, markup=False)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a bench may be killed while it writes what it has so far."""
    half = path.with_name(path.name + ".half")
    half.write_text(json.dumps(content, indent=1) + "\n")
    half.replace(path)


def plot_ratios(path: Path, rows: list[Row], found: list[Measurement], node: str) -> None:
    """Ratio per cell with its spread over the rounds, and the marks as lines."""
    import matplotlib  # only asked for by --plot, and slow to import

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=PLOT_INCHES)
    for x, one in enumerate(rows):
        axes.bar(x, one.ratio, width=0.55, color="#4c78a8")
        axes.vlines(x, one.ratio_low, one.ratio_high, color="black", linewidth=1)
        if one.must is not None and one.aim is not None:
            axes.hlines(one.must, x - 0.4, x + 0.4, color="#e45756", linestyles="solid")
            axes.hlines(one.aim, x - 0.4, x + 0.4, color="#e45756", linestyles="dotted")
    rounds = max(one.round for one in found)
    axes.set_xticks(range(len(rows)), [one.cell for one in rows])
    axes.set_ylabel("× redis-server, appendfsync always")
    axes.set_title(f"{node}: median and range of {rounds} rounds; red: must (line), aim (dots)")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
