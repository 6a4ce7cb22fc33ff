"""The swarm: random seeds × specs on one core, until time is up or something is found; a finding is shrunk.

A run takes each of its spec's faults and crash points with probability 0.6, and as many nodes as voters to seven, as
rare combinations are found sooner where not everything happens at once. Invariant: what is printed of a finding (spec,
seed, steps, faults left out, commit) is enough to have it again on that commit.
"""

import ast
import hashlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from tests.sim import spec as specs
from tests.sim.run import Result, run
from tests.sim.spec import Spec
from tests.sim.world import Violation

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("nodedb_node/raft", "nodedb_node/multiraft", "tests/sim")
STEPS = (5_000, 60_000)
KEEP = 0.6
FATAL = {"raft-halt"}  # a group that stops is a finding


def swarm(minutes: float, seed: int | None) -> str:
    """Explore; the first finding's text, or nothing. Core-seconds of swarms on one tree may be added up."""
    rng = random.Random(seed if seed is not None else random.SystemRandom().randrange(1 << 32))
    end = time.monotonic() + minutes * 60
    code, began, runs, events = tree(), time.process_time(), 0, 0
    faults: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    while time.monotonic() < end:
        name, one = rng.choice(specs.names()), rng.randrange(1 << 32)
        steps = rng.randrange(*STEPS)
        result = run(varied(specs.load(name), one), one, steps)
        runs, events = runs + 1, events + result.events
        faults.update(result.faults)
        hits.update(result.marks)
        if result.failure:
            text = found(name, one, steps, result)
            print(text, flush=True)
            return text
    print("faults: " + " ".join(f"{name}={count}" for name, count in sorted(faults.items())))
    print("marks: " + " ".join(f"{name}={count}" for name, count in sorted(hits.items())))
    print("marks never hit: " + (" ".join(sorted(marks_in_source() - hits.keys() - FATAL)) or "none"))
    took_s = time.process_time() - began
    print(f"no finding on tree {code} ({commit()}): {took_s:.0f} core-seconds, {runs} runs, {events} events")
    return ""


def varied(spec: Spec, seed: int, without: frozenset[str] = frozenset()) -> Spec:
    """The spec with a random part of its faults, by seed only."""
    rng = random.Random(seed)
    keep = {shape.kind for shape in spec.fault if rng.random() < KEEP} - without
    crash = {point: chance for point, chance in spec.crash.items() if rng.random() < KEEP and point not in without}
    nodes = rng.randrange(spec.cluster.voters, 8)
    lease = rng.random() < 0.7
    shape = replace(spec.cluster, nodes=nodes, lease=lease, checkpoint_entries=rng.choice([20, 80, 300]))
    return replace(
        spec,
        cluster=shape,
        fault=tuple(shape for shape in spec.fault if shape.kind in keep),
        crash=crash,
        steps=1 << 62,  # quietness is judged over the whole swarm
    )


def found(name: str, seed: int, steps: int, result: Result) -> str:
    """Shrunk: fewer steps, then fewer faults, while it still fails for the same reason."""
    spec = specs.load(name)
    without: frozenset[str] = frozenset()
    best = result
    candidates = [shape.kind for shape in varied(spec, seed).fault] + list(varied(spec, seed).crash)
    for kind in candidates:
        shorter = min(steps, best.events + 1)
        tried = run(varied(spec, seed, without | {kind}), seed, shorter)
        if reason(tried.failure) == reason(result.failure):
            without, best, steps = without | {kind}, tried, shorter
    again = f"python -m tests.sim --seed {seed} --spec {name} --steps {min(steps, best.events + 1)} --varied"
    left_out = "".join(f" --without {kind}" for kind in sorted(without))
    return (
        f"FOUND on {commit()}: {result.failure}\n  first at {result.events} events, shrunk to {best.events}: "
        f"{best.failure}\n  again: {again}{left_out}"
    )


def reason(failure: str) -> str:
    """What two failures of one finding have in common: the rule that is broken, or the error and its place."""
    error, _, rest = failure.partition(": ")
    if error == Violation.__name__:
        return rest.partition(":")[0]
    return f"{error} {rest.rpartition('[')[2].partition(' ')[0]}"


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def marks_in_source() -> set[str]:
    """Every mark that raft/ and multiraft/ name, where they drop a message too."""
    paths = [path for package in PARTS[:2] for path in sorted((ROOT / package).rglob("*.py"))]
    return {name for path in paths for name in marks_of(path)}


def marks_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name == "mark" or (name == "drop" and isinstance(node.args[0], ast.Constant)):
            assert isinstance(node.args[0], ast.Constant) or path.name == "state.py", f"{path}: a mark is a literal"
            yield from [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []


def tree() -> str:
    """Of what a swarm explores: the hash of its files as they are now, committed or not."""
    digest = hashlib.sha256()
    for path in sorted(path for part in PARTS for path in (ROOT / part).rglob("*") if path.suffix in (".py", ".toml")):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]
