"""`python -m tests.sim`: replay one seed, explore, or re-introduce old bugs. A replay ends in `trace digest: HEX`."""

import random
import sys

import click

from nodedb_node import log
from tests.sim import spec as specs
from tests.sim.mutations import check_mutations
from tests.sim.run import Result, run
from tests.sim.swarm import swarm, varied


@click.command()
@click.option("--seed", type=int, help="Replays this one; without it a random one is taken and printed.")
@click.option("--spec", "name", type=click.Choice(specs.names()), default="mixed", show_default=True)
@click.option("--steps", type=int, default=0, help="Messages, ticks and disk completions under faults; 0: the spec's.")
@click.option("--swarm", "minutes", type=float, default=0.0, help="Explore seeds and specs for so long, on one core.")
@click.option("--varied", "vary", is_flag=True, help="With the part of the spec's faults that the swarm takes.")
@click.option("--without", multiple=True, help="With --varied: leave this fault or crash point out.")
@click.option("--mutations", default="", help="`all`, or a number of classic bugs to re-introduce one at a time.")
def main(
    seed: int | None, name: str, steps: int, minutes: float, vary: bool, without: tuple[str, ...], mutations: str
) -> None:
    """Whole clusters in virtual time, under faults."""
    log.setup("sim", "error")
    if mutations:
        sys.exit(0 if check_mutations(None if mutations == "all" else int(mutations), seed) else 1)
    if minutes:
        sys.exit(1 if swarm(minutes, seed) else 0)
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 32)
    spec = specs.load(name)
    result = run(varied(spec, seed, frozenset(without)) if vary else spec, seed, steps)
    show(result)
    sys.exit(1 if result.failure else 0)


def show(result: Result) -> None:
    print(f"spec {result.spec} seed {result.seed}: {result.virtual_s:.1f} s of virtual time in {result.wall_s:.1f} s")
    rate = result.events / max(result.wall_s, 1e-9)
    print(
        f"{result.events} events ({rate:.0f} per second), {result.client_messages} clients' messages, "
        f"{result.operations} operations, {result.undecided} undecided"
    )
    print("faults: " + " ".join(f"{name}={count}" for name, count in sorted(result.faults.items())))
    print("marks: " + " ".join(f"{name}={count}" for name, count in sorted(result.marks.items())))
    print(f"FAILED: {result.failure}" if result.failure else "ok")
    print(f"trace digest: {result.digest}")


if __name__ == "__main__":
    main()
