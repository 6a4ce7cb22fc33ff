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
from tests.process.recorder import Outcome, Recorder, shared_targets, worker_targets
from tests.process.scene import new_node

IMAGE_MIB = 2048
"""Room for 20 cuts: each restart keeps about 48 MiB of segments until a checkpoint, which this never reaches."""
CLIENTS = 4
ACKED_BEFORE_CUT = (300, 3000)


def run(cuts: int, seed: int, workers: int = 2, settings: dict[str, object] | None = None) -> tuple[int, int]:
    """(acknowledged, unknown) operations over all rounds; AssertionError when a promise was broken."""
    rng = random.Random(seed)
    disk = LoopFilesystem(IMAGE_MIB)
    node = new_node(disk.path / "node", workers, wal__segment_bytes=20 << 20, store__dirty_bytes_max=1 << 20)
    node.settings |= settings or {}
    past: list[Recorder] = []
    try:
        node.start()
        for number in range(cuts):
            recorder = one_cut(disk, node, number, rng)
            past.append(recorder)
            for earlier in past:
                earlier.verify(node.port)
    finally:
        node.__exit__()
        disk.close()
    outcomes = [one.outcome for recorder in past for one in recorder.history]
    return outcomes.count(Outcome.ACKED), outcomes.count(Outcome.UNKNOWN)


def one_cut(disk: LoopFilesystem, node: Node, number: int, rng: random.Random) -> Recorder:
    """Load, cut, kill, mount, start. Keys carry the number of the cut, so that every round is judged to the end."""
    prefix = b"%d:" % number
    targets = shared_targets(node.port, CLIENTS, prefix)
    targets += worker_targets(node.port, 1, prefix) if number % 2 else []
    recorder = Recorder(targets, rng.randrange(1 << 30))
    recorder.start()
    recorder.wait_acked(rng.randint(*ACKED_BEFORE_CUT), 30.0)
    disk.cut()
    node.kill_all()
    recorder.stop()
    disk.unmount()
    disk.mount()
    node.start()
    return recorder


@click.command()
@click.option("--cuts", default=20, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--seed", type=int, help="Default: a new one, printed.")
@click.option("--backend", type=click.Choice(["auto", "uring", "thread"]), default="auto", show_default=True)
def main(cuts: int, workers: int, seed: int | None, backend: str) -> None:
    """Cut power again and again; ends with 1 when anything acknowledged was lost."""
    if unavailable():
        sys.exit(f"skipped: {unavailable()}")
    seed = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    click.echo(f"seed {seed}, {cuts} cuts, {workers} workers, log backend {backend}")
    begun = time.monotonic()
    acked, unknown = run(cuts, seed, workers, {"wal.backend": backend})
    click.echo(f"{acked} acknowledged, 0 lost, {unknown} unknown, in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
