"""What a checkpoint costs its neighbours: foreground SET p99 and timer lateness at half load, with and without one
running.

Invariant: both figures come from one run of one process under one schedule; a request counts as disturbed when it was
scheduled while a checkpoint ran. When checkpoints ran is taken from the node's counters: each ends between two scrapes
and lasted what the node says, so a window is at most one scrape interval too long.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

from tools.bench import pace
from tools.bench.cells import Cell, Load, benchmark, settle
from tools.bench.scrape import Scrape, bound_of_percentile, scrape
from tools.bench.servers import NodeServer

SCRAPE_EVERY_S = 0.1
WARM_UP_SECONDS = 2.0


@dataclass(frozen=True)
class CheckpointCost:
    rate: float
    checkpoints: int
    checkpoint_seconds: float
    disturbed_share: float
    undisturbed_p50_ms: float
    undisturbed_p99_ms: float
    disturbed_p50_ms: float
    disturbed_p99_ms: float
    ratio_p99: float
    lateness_p99_ms: dict[str, float]
    """Worker → bucket bound of its timer's lateness over the whole run."""
    generator_lateness_p99_ms: float
    unanswered: int
    errors: int


def measure(node: NodeServer, fraction: float, seconds: float, load: Load) -> CheckpointCost:
    """The node must be running and filled."""
    settle()  # what filling left behind is over
    full = benchmark(node, Cell("set", 1), load, 20_000)["rps"]
    full = benchmark(node, Cell("set", 1), load, int(full * load.seconds))["rps"]
    settle()
    scrapes: list[Scrape] = []

    def watch(begun: float) -> None:
        while time.monotonic() < begun + seconds:
            scrapes.append(scrape(node.http_port))
            time.sleep(SCRAPE_EVERY_S)

    load_run = pace.run(node.port, full * fraction, seconds, watch, load.connections)
    scrapes.append(scrape(node.http_port))
    busy = windows(scrapes)
    begun = scrapes[0].moment + WARM_UP_SECONDS
    quiet = gaps(busy, begun, scrapes[-1].moment)
    disturbed, undisturbed = load_run.within([one for one in busy if one[0] >= begun]), load_run.within(quiet)
    return CheckpointCost(
        rate=full * fraction,
        checkpoints=len(busy),
        checkpoint_seconds=sum(ended - started for started, ended in busy),
        disturbed_share=len(disturbed.due_s) / max(1, len(load_run.due_s)),
        undisturbed_p50_ms=undisturbed.percentile_ms(50),
        undisturbed_p99_ms=undisturbed.percentile_ms(99),
        disturbed_p50_ms=disturbed.percentile_ms(50),
        disturbed_p99_ms=disturbed.percentile_ms(99),
        ratio_p99=disturbed.percentile_ms(99) / undisturbed.percentile_ms(99),
        lateness_p99_ms={
            core: 1e3 * bound
            for core, bound in bound_of_percentile(scrapes[0], scrapes[-1], "loop_stall_seconds", 99).items()
        },
        generator_lateness_p99_ms=load_run.own_lateness_p99_s * 1e3,
        unanswered=load_run.unanswered,
        errors=load_run.errors,
    )


def windows(scrapes: list[Scrape]) -> list[tuple[float, float]]:
    """(begun, ended) of each checkpoint that ended between two scrapes, overlapping ones joined."""
    found: list[tuple[float, float]] = []
    for before, after in itertools.pairwise(scrapes):
        if after.total("checkpoint_seconds_count") > before.total("checkpoint_seconds_count"):
            lasted = after.total("checkpoint_seconds_sum") - before.total("checkpoint_seconds_sum")
            begun = before.moment - lasted
            if found and begun <= found[-1][1]:
                found[-1] = (found[-1][0], after.moment)
            else:
                found.append((begun, after.moment))
    return found


def gaps(busy: list[tuple[float, float]], begun: float, ended: float) -> list[tuple[float, float]]:
    """The times between the windows, from begun to ended."""
    edges = [begun, *(moment for window in busy for moment in window), ended]
    return [(first, last) for first, last in zip(edges[::2], edges[1::2], strict=True) if first < last]
