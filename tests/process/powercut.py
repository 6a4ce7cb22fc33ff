"""Power cuts under load: python -m tests.process.powercut --cuts 20.

A node runs on a loop-mounted ext4 while a recorder writes; the file system loses power in mid-flight, the node is
killed, the image mounted again and a new node started on what is left. Nothing that was acknowledged may be missing, in
any round. Needs root.
"""

from __future__ import annotations

import random
import sys
import time

import click

from tests.process.loopfs import LoopFilesystem, unavailable
from tests.process.node import Node
from tests.process.recorder import Outcome, Recorder, longest_gap, shared_targets, worker_targets
from tests.process.scene import new_node
from tests.seeds import run_seed

IMAGE_MIB = 768
"""Room for a few lives' segments, not for 20: the checkpoint after each restart lets the log of the life before go."""
PAUSE_SECONDS_MAX = 4.0
"""What all clients together may wait for an acknowledgement while nothing fails."""
CLIENTS = 4
ACKED_BEFORE_CUT = (300, 3000)


def run(cuts: int, seed: int, workers: int = 2, settings: dict[str, object] | None = None) -> tuple[int, int, float]:
    """(acknowledged, unknown) operations over all rounds, and the longest pause between two acknowledgements of one
    round, in seconds; AssertionError when a promise was broken."""
    rng = random.Random(seed)
    disk = LoopFilesystem(IMAGE_MIB)
    node = new_node(disk.path / "node", workers, wal__segment_bytes=20 << 20, store__dirty_bytes_max=1 << 20)
    node.settings |= settings or {}
    past: list[Recorder] = []
    pauses = []
    try:
        node.start()
        for number in range(cuts):
            recorder, pause = one_cut(disk, node, number, rng)
            assert pause < PAUSE_SECONDS_MAX, f"seed {seed} cut {number}: no write was acknowledged for {pause:.1f} s"
            past.append(recorder)
            pauses.append(pause)
            for earlier in past:
                earlier.verify(node.port)
    finally:
        node.__exit__()
        disk.close()
    outcomes = [one.outcome for recorder in past for one in recorder.history]
    return outcomes.count(Outcome.ACKED), outcomes.count(Outcome.UNKNOWN), max(pauses)


def one_cut(disk: LoopFilesystem, node: Node, number: int, rng: random.Random) -> tuple[Recorder, float]:
    """Load, cut, kill, mount, start; the load's longest pause. Keys carry the number of the cut, so that every round is
    judged to the end."""
    prefix = b"%d:" % number
    targets = shared_targets(node.port, CLIENTS, prefix)
    targets += worker_targets(node.port, 1, prefix) if number % 2 else []
    recorder = Recorder(targets, rng.randrange(1 << 30))
    begun = time.monotonic()
    recorder.start()
    recorder.wait_acked(rng.randint(*ACKED_BEFORE_CUT), 30.0)
    pause = longest_gap(list(recorder.history), begun, time.monotonic())
    disk.cut()
    node.kill_all()
    recorder.stop()
    disk.unmount()
    disk.mount()
    node.start()
    return recorder, pause


@click.command()
@click.option("--cuts", default=20, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--seed", type=int, help="Default: a new one, printed.")
@click.option("--backend", type=click.Choice(["auto", "uring", "thread"]), default="auto", show_default=True)
def main(cuts: int, workers: int, seed: int | None, backend: str) -> None:
    """Cut power again and again; ends with 1 when anything acknowledged was lost."""
    if unavailable():
        sys.exit(f"skipped: {unavailable()}")
    seed = run_seed() if seed is None else seed
    click.echo(f"seed {seed}, {cuts} cuts, {workers} workers, log backend {backend}")
    begun = time.monotonic()
    acked, unknown, pause = run(cuts, seed, workers, {"wal.backend": backend})
    took = time.monotonic() - begun
    click.echo(f"{acked} acknowledged, 0 lost, {unknown} unknown, longest pause {pause:.2f} s, in {took:.0f} s")


if __name__ == "__main__":
    main()
