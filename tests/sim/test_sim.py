"""The simulator itself: replay, determinism, a few seeds of every spec, and that it can fail."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from nodedb_node.raft import reads
from tests.sim import spec as specs
from tests.sim import swarm
from tests.sim.mutations import MUTATIONS
from tests.sim.run import Result, run
from tests.sim.swarm import marks_in_source, varied
from tests.sim.world import Violation, World

ROOT = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("NODEDB_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
STEPS = 12_000


@pytest.mark.parametrize("name", specs.names())
@pytest.mark.parametrize("seed", [7, SEED], ids=["fixed", "random"])
def test_a_run_of_every_spec(name: str, seed: int) -> None:
    print(f"python -m tests.sim --spec {name} --seed {seed} --steps {STEPS}")
    result = run(specs.load(name), seed, STEPS)
    assert not result.failure
    assert result.operations > 100
    assert not result.undecided


def test_two_hash_seeds_give_one_digest() -> None:
    """The canary: text is hashed differently in each process, and nothing may depend on it."""
    lines = []
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "tests.sim", "--seed", "5", "--spec", "mixed", "--steps", "6000"]
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        lines.append(done.stdout.splitlines()[-1])
    assert lines[0] == lines[1]
    assert lines[0].startswith("trace digest: ")


def test_one_seed_gives_one_digest_and_another_seed_another() -> None:
    spec = varied(specs.load("mixed"), 3)
    digests = [run(spec, seed, 3_000).digest for seed in (3, 3, 4)]
    assert digests[0] == digests[1] != digests[2]


def test_a_fault_that_never_happens_fails_the_run() -> None:
    spec = specs.load("network")
    rare = specs.FaultShape("power_cut_all", every_ms=(10_000_000, 10_000_001))
    result = run(specs.Spec(**{**spec_fields(spec), "steps": 2_000, "fault": (rare,)}), 1)
    assert "quiet injector" in result.failure
    assert "fault.power_cut_all" in result.failure


def spec_fields(spec: specs.Spec) -> dict[str, object]:
    return {name: getattr(spec, name) for name in spec.__struct_fields__}


def test_time_that_stands_still_is_noticed() -> None:
    world = World(1)

    def again() -> None:
        world.after(0, again)

    again()
    with pytest.raises(Violation, match="stands still"):
        world.run(1, 1)


def test_reads_without_a_lease_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkers can fail: a leader that believes its lease for ever answers stale reads."""
    monkeypatch.setattr(reads, "lease_valid", lambda state, now_us: state.role == 3 and state.own_committed)
    assert any(run(specs.load("leases"), seed, 20_000).failure for seed in range(6))


@pytest.mark.parametrize("name", ["ack-before-disk", "vote-for-older-log", "new-majority-only", "lease-too-long"])
def test_a_classic_bug_put_back_is_caught(name: str) -> None:
    """All of them: `python -m tests.sim --mutations all`."""
    command = [sys.executable, "-m", "tests.sim.mutations", name, "60", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_mutation_fits_the_code() -> None:
    for mutation in MUTATIONS.values():
        for module, old, _ in mutation.edits:
            assert (ROOT / f"{module.replace('.', '/')}.py").read_text().count(old) == 1, (module, old)


def test_marks_are_found_in_the_source() -> None:
    assert {"raft-truncate", "multi-lane-silent", "raft-drop-ack-of-old-term"} <= marks_in_source()


def test_a_finding_is_shrunk_to_itself_not_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less of the faults may break something else first; that is no shorter way to the finding."""
    spec = varied(specs.load("mixed"), 3)
    needed, other = spec.fault[0].kind, spec.fault[1].kind
    real = run(spec, 3, 100)

    def fails(tried: specs.Spec, seed: int, steps: int) -> Result:
        kinds = {shape.kind for shape in tried.fault}
        if needed not in kinds:
            return real._replace(failure="", events=steps)
        broken = "Violation: lease: group 2" if other in kinds else "KeyError: 3 [cut_power:72 < die:12]"
        return real._replace(failure=broken, events=steps - 1)

    monkeypatch.setattr(swarm, "run", fails)
    text = swarm.found("mixed", 3, 100, real._replace(failure="Violation: lease: group 1", events=99))
    assert "shrunk to 99: Violation: lease" in text
    left_out = text.split(" --without ")[1:]
    assert len(left_out) == len(spec.fault) + len(spec.crash) - 2 and not {needed, other} & set(left_out)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Violation: lease: group 2: node 4", "Violation: lease: group 1: node 3", True),
        ("Violation: lease: group 2: node 4", "Violation: match: group 2: node 4", False),
        ("KeyError: 3 [cut_power:72 < die:12]", "KeyError: 9 [cut_power:72 < do_kill:14]", True),
        ("KeyError: 3 [cut_power:72 < die:12]", "KeyError: 3 [begin:72 < die:12]", False),
        ("AssertionError:  [step:5 < run:1]", "", False),
    ],
)
def test_failures_of_one_finding(one: str, other: str, same: bool) -> None:
    assert (swarm.reason(one) == swarm.reason(other)) is same
