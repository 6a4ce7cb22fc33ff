"""How much memory a process may use: the machine's, or the tightest limit of its groups."""

from pathlib import Path

import pytest

from nodedb_node.supervisor.cgroup import memory_bytes

RECORDED = Path(__file__).parent / "sysfs"
MACHINE = {"/proc/meminfo": "MemTotal:       16384000 kB\nMemAvailable:   14000000 kB\n"}
MACHINE_BYTES = 16_384_000 << 10
V2 = {"/proc/self/cgroup": "0::/system.slice/db.service\n"}
V1 = {"/proc/self/cgroup": "4:memory:/docker/abc\n1:cpu:/docker/abc\n0::/\n"}
NONE_V1 = "9223372036854771712\n"


def recorded(name: str) -> dict[str, str]:
    lines = (RECORDED / f"{name}.txt").read_text().splitlines()
    return {path: text.replace("\\n", "\n") + "\n" for path, _, text in (line.partition("=") for line in lines)}


def test_a_recorded_machine_without_limits() -> None:
    assert memory_bytes(recorded("vm-2cpu-cgroup1").get) == 24_684_084 << 10


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE_BYTES),
        (V2 | {"/sys/fs/cgroup/system.slice/db.service/memory.max": "max\n"}, MACHINE_BYTES),
        (V2 | {"/sys/fs/cgroup/system.slice/db.service/memory.max": "4294967296\n"}, 4 << 30),
        (V2 | {"/sys/fs/cgroup/system.slice/db.service/memory.high": "3221225472\n"}, 3 << 30),
        (V2 | {"/sys/fs/cgroup/system.slice/memory.max": "2147483648\n"}, 2 << 30),
        (V2 | {"/sys/fs/cgroup/memory.max": "1073741824\n"}, 1 << 30),  # a container sees its group as the root
        (V2 | {"/sys/fs/cgroup/memory.max": "1099511627776\n"}, MACHINE_BYTES),
        (V1 | {"/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": NONE_V1}, MACHINE_BYTES),
        (V1 | {"/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "536870912\n"}, 512 << 20),
        (V1 | {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n"}, 256 << 20),
        (V1 | {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "nonsense\n"}, MACHINE_BYTES),
    ],
)
def test_the_tightest_limit_counts(files: dict[str, str], expected: int) -> None:
    assert memory_bytes((MACHINE | files).get) == expected


def test_nothing_can_be_told() -> None:
    assert memory_bytes({}.get) is None
