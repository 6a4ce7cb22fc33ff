"""python -m tools.bench VERB: the benches, one verb each."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tools.bench import checkpoint as checkpoint_run
from tools.bench import groups as groups_run
from tools.bench import lanes as lane_run
from tools.bench import memory as memory_run
from tools.bench import profile as profile_run
from tools.bench import ratios as ratio_run
from tools.bench import report, resp
from tools.bench import startup as start_run
from tools.bench.cells import Cell, Load, Measurement
from tools.bench.servers import NodeServer, RedisServer, Server

Command = Callable[..., Any]

console = Console(width=170)
directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path(tempfile.gettempdir()),
    show_default=True,
    help="Where both servers' data directories are made: one file system for both.",
)
json_option = click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Also write every figure here, of rounds as they end."
)
CELL_NAMES = [cell.name for cell in ratio_run.PLAIN_CELLS]


def cell_options(command: Command) -> Command:
    """What is measured, how often and how long: of every verb that runs cells in rounds."""
    names = click.Choice(CELL_NAMES, case_sensitive=False)
    for option in (
        click.option("--keys", default=1_000_000, show_default=True),
        click.option("--seconds", default=4.0, show_default=True, help="Length of one cell."),
        click.option("--rounds", default=7, show_default=True),
        click.option("--cell", "names", multiple=True, type=names, default=CELL_NAMES, help="Repeat; default: all."),
    ):
        command = option(command)
    return command


def cells_named(names: tuple[str, ...]) -> tuple[Cell, ...]:
    return tuple(cell for cell in ratio_run.PLAIN_CELLS if cell.name in names)


@click.group()
def main() -> None:
    """Benches against redis-server in the same run. Nothing else should use the machine meanwhile."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end with the bench


def progress(one: Measurement) -> None:
    report.progress(console, one)


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start the servers, and leave neither processes nor data behind."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.erase()


@main.command()
@directory_option
@json_option
@cell_options
@click.option("--workers", default=1, show_default=True, help="Workers of the node.")
@click.option("--connections", default=50, show_default=True)
@click.option("--value-bytes", default=64, show_default=True)
@click.option("--threads", default=0, help="Threads of redis-benchmark (0: its plain single-threaded mode).")
@click.option("--cluster", is_flag=True, help="Also the cells where the client speaks cluster to the worker ports.")
@click.option("--self-test", is_flag=True, help="redis-server against itself: shows the noise of this machine.")
@click.option("--option", "options", multiple=True, help="One more word on the node's command line; repeat.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a picture of the ratios.")
def ratios(
    directory: Path,
    json_path: Path | None,
    names: tuple[str, ...],
    rounds: int,
    seconds: float,
    keys: int,
    workers: int,
    connections: int,
    value_bytes: int,
    threads: int,
    cluster: bool,
    self_test: bool,
    options: tuple[str, ...],
    plot: Path | None,
) -> None:
    """SET and GET at pipeline 1 and 32: node against redis-server, interleaved, medians."""
    load = Load(connections, value_bytes, keys, seconds, threads)
    cells = cells_named(names) + (ratio_run.CLUSTER_CELLS if cluster else ())
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as base:
        redis = RedisServer("redis", Path(base) / "redis")
        node = node_under_test(Path(base), workers, list(options), self_test)
        with running(redis, node):
            for server in (redis, node):
                resp.fill(server.port, keys, value_bytes)
            facts: dict[str, Any] = report.machine_facts() | {
                "node": node.describe(),
                "redis": redis.describe(),
                "client mode": "shared port, plain client"
                + (", and cluster client on worker ports" if cluster else ""),
                "load": f"{connections} connections, {value_bytes} B values, {keys:,} keys",
            }

            def keep(so_far: list[Measurement]) -> None:
                facts["rounds"] = f"{so_far[-1].round} of {seconds} s a cell"
                if json_path:
                    made = ratio_run.table(so_far, node.name, redis.name, ratio_run.marks_for(workers))
                    report.write_json(json_path, ratio_run.as_json(made, so_far, facts, workers))

            found = ratio_run.measure(node, redis, cells, load, rounds, progress, keep)
    rows = ratio_run.table(found, node.name, redis.name, ratio_run.marks_for(workers))
    report.print_facts(console, facts)
    report.print_rows(console, rows, node.name, redis.name)
    if plot:
        report.plot_ratios(plot, rows, found, facts["node"])


@main.command()
@json_option
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def merge(json_path: Path | None, paths: tuple[Path, ...]) -> None:
    """One table from the --json files of several ratio runs with as many workers: a cell or some rounds at a time."""
    runs = [json.loads(path.read_text()) for path in paths]
    if len({run["workers"] for run in runs}) != 1:
        raise click.UsageError("the runs differ in their number of workers")
    found = ratio_run.merged([Measurement(**one) for one in run["measurements"]] for run in runs)
    ours, base = dict.fromkeys(one.server for one in found)  # the first round begins with ours
    facts = runs[0]["facts"] | {"rounds": "; ".join(run["facts"]["rounds"] for run in runs)}
    workers = runs[0]["workers"]
    rows = ratio_run.table(found, ours, base, ratio_run.marks_for(workers))
    report.print_facts(console, facts)
    report.print_rows(console, rows, ours, base)
    if json_path:
        report.write_json(json_path, ratio_run.as_json(rows, found, facts, workers))


@main.command()
@directory_option
@json_option
@cell_options
@click.option("--workers", "worker_counts", multiple=True, default=(1, 2), show_default=True, help="Repeat for more.")
@click.argument("a", type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True))
@click.argument("b", type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True))
def ab(
    directory: Path,
    json_path: Path | None,
    names: tuple[str, ...],
    rounds: int,
    seconds: float,
    keys: int,
    worker_counts: tuple[int, ...],
    a: Path,
    b: Path,
) -> None:
    """Two trees of the node, each with its own build: B ÷ A of rates and CPU time per command, interleaved, medians."""
    load, runs = Load(keys=keys, seconds=seconds), []
    for workers in worker_counts:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as base:
            trees = {"A": a, "B": b}
            pair = [NodeServer(name, Path(base) / name, workers=workers, tree=tree) for name, tree in trees.items()]
            with running(*pair):
                for server in pair:
                    resp.fill(server.port, keys, load.value_bytes)
                described = {server.name: f"{server.tree}: {server.describe()}" for server in pair}
                facts: dict[str, Any] = report.machine_facts() | described
                cells = cells_named(names)

                def keep(so_far: list[Measurement], facts: dict[str, Any] = facts, workers: int = workers) -> None:
                    if json_path:
                        made = ratio_run.as_json(ratio_run.table(so_far, "B", "A"), so_far, facts, workers)
                        report.write_json(json_path, {"runs": [*runs, made]})

                found = ratio_run.measure(pair[1], pair[0], cells, load, rounds, progress, keep)
        rows = ratio_run.table(found, "B", "A")
        report.print_facts(console, facts)
        report.print_rows(console, rows, "B", "A")
        runs.append(ratio_run.as_json(rows, found, facts, workers))


@main.command()
@directory_option
@json_option
@click.option("--workers", default=1, show_default=True)
@click.option("--fraction", default=0.5, show_default=True, help="Of the most SETs per second the node can do.")
@click.option("--seconds", default=40.0, show_default=True)
@click.option("--dirty-mib", default=16, show_default=True, help="Changed rows that start a checkpoint.")
@click.option("--keys", default=1_000_000, show_default=True)
def checkpoint(
    directory: Path, json_path: Path | None, workers: int, fraction: float, seconds: float, dirty_mib: int, keys: int
) -> None:
    """Foreground SET p99 and timer lateness while checkpoints run."""
    load = Load(keys=keys)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as base:
        node = NodeServer("node", Path(base) / "node", workers=workers)
        node.environment["NODEDB_STORE_DIRTY_BYTES_MAX"] = str(dirty_mib << 20)
        with running(node):
            resp.fill(node.port, keys, load.value_bytes)
            facts = report.machine_facts() | {"node": node.describe(), "dirty_mib": dirty_mib}
            finish(facts, checkpoint_run.measure(node, fraction, seconds, load), json_path)


@main.command()
@directory_option
@json_option
@click.option("--workers", default=1, show_default=True)
@click.option("--keys", default=1_000_000, show_default=True)
def memory(directory: Path, json_path: Path | None, workers: int, keys: int) -> None:
    """Memory of the keys, steady and at the checkpoint's peak, against redis-server."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as base:
        redis = RedisServer("redis", Path(base) / "redis")
        node = NodeServer("node", Path(base) / "node", workers=workers)
        with running(redis, node):
            facts = report.machine_facts() | {"node": node.describe(), "redis": redis.describe()}
            found = memory_run.measure(node, redis, Load(keys=keys))
            finish(facts | {"steady ratio": found.steady_ratio, "peak ratio": found.peak_ratio}, found, json_path)


@main.command()
@click.option("--busy", default=64, show_default=True, help="Groups that all propose 1 KiB in every turn.")
@click.option("--turns", default=500, show_default=True)
@click.option("--idle", default=1000, show_default=True, help="Groups in which nothing happens.")
@click.option("--seconds", default=20, show_default=True, help="Of virtual time.")
def groups(busy: int, turns: int, idle: int, seconds: int) -> None:
    """Raft alone, three processes without disk and network: CPU of one of them."""
    turn = groups_run.busy(busy, turns)
    rest = groups_run.idle(idle, seconds)
    console.print(f"{turn.groups} busy groups, 3 nodes, 1 KiB each: {turn.leader_us_per_turn / 1000:.2f} ms per turn")
    console.print(
        f"{rest.groups} idle groups, {rest.led} of them led here: {rest.core_percent:.3f} % of a core, "
        f"{rest.messages_per_peer:.0f} messages/s to and from each peer"
    )


@main.command()
@directory_option
@json_option
@click.option("--workers", default=1, show_default=True)
@click.option("--keys", default=1_000_000, show_default=True)
@click.option("--starts", default=5, show_default=True)
@click.option("--idle-seconds", default=10.0, show_default=True)
def start(directory: Path, json_path: Path | None, workers: int, keys: int, starts: int, idle_seconds: float) -> None:
    """Start on an empty directory, restart with every key, idle CPU."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as base:
        node = NodeServer("node", Path(base) / "node", workers=workers)
        try:
            found = start_run.measure(node, Load(keys=keys), starts, idle_seconds)
            finish(report.machine_facts() | {"node": node.describe()}, found, json_path)
        finally:
            node.erase()


@main.command()
@directory_option
@json_option
@click.option("--workers", default=1, show_default=True)
@click.option("--keys", default=1_000_000, show_default=True)
@click.option("--seconds", default=5.0, show_default=True)
@click.option("--top", default=25, show_default=True, help="Functions to list.")
@click.option("--redis", "of_redis", is_flag=True, help="Profile redis-server instead.")
@click.option("--cell", "names", multiple=True, type=click.Choice(CELL_NAMES), default=CELL_NAMES)
def profile(
    directory: Path,
    json_path: Path | None,
    workers: int,
    keys: int,
    seconds: float,
    top: int,
    of_redis: bool,
    names: tuple[str, ...],
) -> None:
    """Where a worker's time goes in each cell, by perf."""
    load = Load(keys=keys, seconds=seconds)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as base:
        node = NodeServer("node", Path(base) / "node", workers=workers)
        server = RedisServer("redis", Path(base) / "redis") if of_redis else node
        with running(server):
            resp.fill(server.port, keys, load.value_bytes)
            for cell in cells_named(names):
                pids = [server.pid] if of_redis else node.worker_pids()
                finish({}, profile_run.measure(server, pids, cell, load, top), json_path)


def finish(facts: dict[str, Any], found: Any, json_path: Path | None) -> None:
    """Print facts and figures, and write them when asked."""
    figures = dataclasses.asdict(found)
    report.print_facts(console, facts | figures)
    if json_path:
        report.write_json(json_path, {"facts": facts, "figures": figures})


def node_under_test(base: Path, workers: int, options: list[str], self_test: bool) -> Server:
    if self_test:
        return RedisServer("redis2", base / "redis2")
    return NodeServer("node", base / "node", workers=workers, options=options)


@main.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Length of one cell.")
@click.option("--case", "cases", multiple=True, default=(*lane_run.CASES, "reconnect"), help="Repeat; default: all.")
@click.option("--veth", is_flag=True, help="Also between two network namespaces, 1500 B; needs root.")
@click.option(
    "--others-max", default=lane_run.OTHERS_ANY, help="Percent of a core; cells in which others took more are repeated."
)
@json_option
def lanes(
    rounds: int, seconds: float, cases: tuple[str, ...], veth: bool, others_max: float, json_path: Path | None
) -> None:
    """Lanes, plain aioquic, TCP+TLS and qh3 (if installed): bulk, round trips, messages, heartbeats, reconnects."""
    found = lane_run.run(rounds, seconds, cases, veth, others_max, console.print)
    for place, by_case in found.items():
        for case, by_kind in by_case.items():
            for kind, figures in by_kind.items():
                shown = "  ".join(f"{name} {value:.1f}" for name, value in figures.items())
                console.print(f"{place:9} {case:10} {kind:8} {shown}", soft_wrap=True)
    if json_path:
        json_path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
