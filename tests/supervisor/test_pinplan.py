"""The pin plan over recorded and composed sysfs trees: what it chooses, and what it must never do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodedb_node.config import CpuSection
from nodedb_node.supervisor.pinplan import Machine, Plan, PlanError, cpu_list, machine, plan

RECORDED = Path(__file__).parent / "sysfs"
Files = dict[str, str]


def recorded(name: str) -> Files:
    """A tree as it was on a machine: path=content, with \\n for line ends inside."""
    lines = (RECORDED / f"{name}.txt").read_text().splitlines()
    return {path: text.replace("\\n", "\n") + "\n" for path, _, text in (line.partition("=") for line in lines)}


def composed(sockets: int, cores: int, threads: int) -> Files:
    """A tree as Linux numbers most servers: the first threads of all cores, then their siblings; a node per socket."""
    files = {"/sys/devices/system/node/online": f"0-{sockets - 1}\n" if sockets > 1 else "0\n"}
    per_node: dict[int, list[str]] = {node: [] for node in range(sockets)}
    for thread in range(threads):
        for socket in range(sockets):
            for core in range(cores):
                number = (thread * sockets + socket) * cores + core
                base = f"/sys/devices/system/cpu/cpu{number}/topology"
                files |= {f"{base}/physical_package_id": f"{socket}\n", f"{base}/core_id": f"{core}\n"}
                per_node[socket].append(str(number))
    for node, numbers in per_node.items():
        files[f"/sys/devices/system/node/node{node}/cpulist"] = ",".join(numbers) + "\n"
    return files | {"/sys/devices/system/cpu/online": f"0-{sockets * cores * threads - 1}\n"}


def seen(files: Files, affinity: range | set[int] = range(1024)) -> Machine:
    return machine(files.get, affinity)


def cores(found: Plan) -> list[int | None]:
    return [pins[0] if pins else None for pins in found.pins]


def test_recorded_two_cores_leave_one_for_control() -> None:
    here = seen(recorded("vm-2cpu-cgroup1"))
    assert here.quota is None
    assert plan(here, CpuSection()) == Plan(1, [[0], [1]], [-1, -1], True, [[], [0]])


def test_two_workers_on_two_cores_are_not_pinned() -> None:
    found = plan(seen(recorded("vm-2cpu-cgroup1")), CpuSection(workers=2))
    assert (found.workers, found.pinned, found.pins) == (2, False, [[], [], []])


def test_recorded_two_threads_of_one_core_are_one_core() -> None:
    here = seen(recorded("vm-2cpu-one-core"))
    assert plan(here, CpuSection()) == Plan(1, [[], []], [-1, -1], False, [[], []])
    assert plan(here, CpuSection(smt="all")) == Plan(1, [[0], [1]], [-1, -1], True, [[], [0]])


def test_siblings_carry_no_workers_unless_asked() -> None:
    here = seen(composed(1, 4, 2))
    assert cores(plan(here, CpuSection())) == [0, 1, 2, 3]
    assert sorted(cores(plan(here, CpuSection(smt="all")))) == list(range(8))


def test_workers_go_node_by_node_with_their_memory() -> None:
    found = plan(seen(composed(2, 4, 1)), CpuSection())
    assert cores(found) == list(range(8))
    assert found.memory_nodes == [0, 0, 0, 0, 1, 1, 1, 1]
    assert plan(seen(composed(2, 4, 1)), CpuSection(numa=False)).memory_nodes == [-1] * 8


def test_affinity_and_reserved_cores_are_respected() -> None:
    found = plan(seen(composed(1, 8, 1), {2, 3, 4, 5, 6}), CpuSection(reserved=[2]))
    assert cores(found) == [3, 4, 5, 6]


def test_control_core_is_taken_from_its_physical_core() -> None:
    found = plan(seen(composed(1, 4, 2)), CpuSection(control_core=6))
    assert cores(found) == [6, 0, 1, 3]


def test_pinned_workers_may_take_every_core_and_control_floats() -> None:
    assert cores(plan(seen(composed(1, 4, 1)), CpuSection(workers=4, pin=True))) == [None, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "350000 100000\n"}, 3.5),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2.0),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            {
                "/proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n0::/\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ({}, None),
    ],
)
def test_cgroup_quota(files: Files, quota: float | None) -> None:
    assert seen(composed(1, 8, 1) | files).quota == quota


def test_quota_bounds_the_workers() -> None:
    files = {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "350000 100000\n"}
    assert cores(plan(seen(composed(1, 8, 1) | files), CpuSection())) == [0, 1, 2]
    files["/sys/fs/cgroup/cpu.max"] = "50000 100000\n"
    assert plan(seen(composed(1, 8, 1) | files), CpuSection()).workers == 1


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (CpuSection(reserved=[0, 1]), "reserved leaves no core"),
        (CpuSection(control_core=7), "control_core = 7 is not one of the cores allowed: 0,1"),
        (CpuSection(workers=3, pin=True), "workers = 3 cannot be pinned: 2 of the allowed cores can take one (0,1)"),
        (CpuSection(workers=2, pin=True, control_core=1), "1 of the allowed cores beside control can take one (0)"),
    ],
)
def test_what_cannot_be_is_said(section: CpuSection, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(seen(recorded("vm-2cpu-cgroup1")), section)
    assert words in str(caught.value)


def test_no_files_at_all() -> None:
    assert plan(machine({}.get, {0, 1, 2}), CpuSection()).workers == 2


def test_cpu_list() -> None:
    assert cpu_list("0-2,5,7-8\n") == [0, 1, 2, 5, 7, 8]
    assert cpu_list("\n") == []


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 8), st.integers(1, 2)),
    affinity=st.sets(st.integers(0, 31), min_size=1),
    reserved=st.lists(st.integers(0, 31), max_size=8),
    workers=st.one_of(st.just("auto"), st.integers(1, 12)),
    pin=st.sampled_from(["auto", True, False]),
    smt=st.sampled_from(["all", "one"]),
    control=st.one_of(st.just("auto"), st.integers(0, 31)),
)
def test_a_plan_is_always_possible(shape, affinity, reserved, workers, pin, smt, control):  # type: ignore
    here = seen(composed(*shape), affinity)
    section = CpuSection(workers=workers, pin=pin, smt=smt, control_core=control, reserved=reserved)
    try:
        found = plan(here, section)
    except PlanError:
        return
    used = [core for core in cores(found) if core is not None]
    assert len(used) == len(set(used))
    assert set(used) <= {cpu.number for cpu in here.cpus} - set(reserved)
    assert len(found.pins) == len(found.memory_nodes) == found.workers + 1
    assert workers in ("auto", found.workers)
    assert found.pinned == bool(used)
    if found.pinned:
        assert all(found.pins[1:])
    if smt == "one":
        physical = {cpu.number: cpu.core for cpu in here.cpus}
        assert len({physical[core] for core in used}) == len(used)


def test_spares_are_cores_of_no_worker_on_the_same_node() -> None:
    found = plan(seen(composed(2, 4, 1)), CpuSection(workers=5))
    assert found.pins == [[0], [1], [2], [3], [4], [5]]
    assert found.spares == [[], [0], [0], [0], [6, 7], [6, 7]]
    anywhere = plan(seen(composed(2, 4, 1)), CpuSection(workers=5, numa=False))
    assert anywhere.spares == [[]] + [[0, 6, 7]] * 5
