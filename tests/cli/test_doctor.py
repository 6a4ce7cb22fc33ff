"""Doctor: judgements over tables of readings, and one real run that leaves nothing behind."""

import fcntl
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nodedb_node.cli import doctor, examine
from nodedb_node.cli.examine import Finding, Syncs, Verdict
from nodedb_node.config import StoreSection, WalSection
from nodedb_node.supervisor.pinplan import Cpu, Machine, Plan

MIB = 1 << 20
TWO = Machine((Cpu(0, (0, 0), 0), Cpu(1, (0, 1), 0)), 1, None)
PINNED = Plan(1, [[0], [1]], [-1, -1], True, [[], [0]])
LOOSE = Plan(2, [[], [], []], [-1, -1, -1], False, [[], [], []])
MOUNTS = """\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /tmp rw - tmpfs tmpfs rw
31 22 0:26 / /tmpfoo rw - nfs4 server:/x rw
"""

READINGS = [
    (examine.python((3, 11, 7), True), Verdict.OK, "3.11.7"),
    (examine.python((3, 10, 1), True), Verdict.FAIL, "3.10.1"),
    (examine.python((3, 12, 0), False), Verdict.FAIL, "without assertions"),
    (examine.kernel("6.1.0-13-amd64"), Verdict.OK, "6.1.0"),
    (examine.kernel("5.4.0"), Verdict.WARN, "too old for io_uring"),
    (examine.kernel("4.19.0"), Verdict.FAIL, "4.19.0"),
    (examine.cores(TWO, PINNED), Verdict.OK, "allowed 0,1 (no quota); 1 worker(s) on cores 1"),
    (examine.cores(TWO._replace(quota=1.5), LOOSE), Verdict.WARN, "quota 1.5"),
    (examine.clock("kvm-clock\n"), Verdict.OK, "kvm-clock"),
    (examine.clock("hpet\n"), Verdict.WARN, "hpet"),
    (examine.clock(None), Verdict.WARN, "unknown"),
    (examine.huge_pages("always [madvise] never\n"), Verdict.OK, "madvise"),
    (examine.huge_pages("[always] madvise never\n"), Verdict.WARN, "always"),
    (examine.huge_pages(None), Verdict.OK, "unknown"),
    (examine.open_files(65_536, 10_000), Verdict.OK, "65536 open files"),
    (examine.open_files(4_096, 10_000), Verdict.WARN, "4096 open files, 11000 needed"),
    (examine.open_files(-1, 10_000), Verdict.OK, "unlimited"),
    (examine.locked_memory(64 << 10, False), Verdict.WARN, "64 KiB"),
    (examine.locked_memory(64 << 10, True), Verdict.OK, "privileged"),
    (examine.locked_memory(-1, False), Verdict.OK, "unlimited"),
    (examine.memory("MemTotal: 1 kB\nMemAvailable:    8388608 kB\n", None, StoreSection()), Verdict.OK, "8192 MiB"),
    (examine.memory("MemAvailable:    102400 kB\n", 1 << 40, StoreSection()), Verdict.WARN, "100 MiB available"),
    (examine.memory("MemAvailable:    8388608 kB\n", 64 << 20, StoreSection()), Verdict.WARN, "64 MiB available"),
    (examine.memory("", None, StoreSection()), Verdict.WARN, "unknown"),
    (examine.directory("/d", True, "ext4"), Verdict.OK, "/d on ext4"),
    (examine.directory("/d", False, "xfs"), Verdict.OK, "will be made"),
    (examine.directory("/d", True, "tmpfs"), Verdict.WARN, "tmpfs"),
    (examine.directory("/d", True, "overlay"), Verdict.WARN, "overlay"),
    (examine.directory("/d", True, "fuse.sshfs"), Verdict.WARN, "fuse.sshfs"),
    (examine.space(100_000 * MIB, WalSection()), Verdict.OK, "100000 MiB free"),
    (examine.space(300 * MIB, WalSection()), Verdict.WARN, "300 MiB free"),
    (examine.space(100 * MIB, WalSection()), Verdict.FAIL, "100 MiB free, writes stop below 128 MiB"),
    (examine.io_uring(Syncs((1,), ""), "auto"), Verdict.OK, "allowed"),
    (examine.io_uring(Syncs((), "Operation not permitted"), "auto"), Verdict.WARN, "not permitted"),
    (examine.io_uring(Syncs((), "Operation not permitted"), "uring"), Verdict.FAIL, "not permitted"),
    (examine.sync_times({"uring": Syncs((100, 120), ""), "thread": Syncs((130, 900), "")}), Verdict.OK, "900 p99"),
    (examine.sync_times({"uring": Syncs((), "no"), "thread": Syncs((20_000,) * 9, "")}), Verdict.WARN, "20000 us"),
    (examine.sync_times({"uring": Syncs((), "no"), "thread": Syncs((), "EIO")}), Verdict.FAIL, "thread: EIO"),
]


@pytest.mark.parametrize(("finding", "verdict", "text"), READINGS)
def test_judgement(finding: Finding, verdict: Verdict, text: str) -> None:
    assert finding.verdict is verdict
    assert text in finding.text
    assert bool(finding.advice) == (verdict is not Verdict.OK)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/data", "ext4"), ("/tmp/x", "tmpfs"), ("/tmp", "tmpfs"), ("/tmpfoo", "nfs4"), ("/tmpx", "ext4")],
)
def test_file_system_of_a_path(path: str, kind: str) -> None:
    assert examine.file_system(MOUNTS, path) == kind


def run(directory: Path, *arguments: str) -> Result:
    given = ["--data-dir", str(directory), "--workers", "1", *arguments]
    return CliRunner().invoke(doctor.command, given, standalone_mode=False)


def free_ports() -> Iterable[str]:
    return ("--port", "0", "--worker-port", "0", "--http-port", "0", "--peer-port", "0", "--peer-worker-port", "0")


def test_a_run_on_this_machine_leaves_nothing(tmp_path: Path) -> None:
    result = run(tmp_path / "data", *free_ports())
    assert result.exception is None, result.output
    lines = {line.split()[1]: line for line in result.output.splitlines() if not line.startswith(" ")}
    wanted = "python kernel cores clock hugepages files memlock memory directory space io_uring syncs ports"
    assert list(lines) == wanted.split()
    assert "thread" in lines["syncs"] and "(will be made)" in lines["directory"]
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(tmp_path, *free_ports(), "--http-port", str(port))
    assert result.return_value == 1
    assert f"port {port} (http) on 127.0.0.1 is in use" in result.output
    assert "--http-port" in result.output


def test_a_directory_in_use_is_told(tmp_path: Path) -> None:
    with open(tmp_path / "LOCK", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with socket.create_server(("127.0.0.1", 0)) as its_own:
            result = run(tmp_path, *free_ports(), "--port", str(its_own.getsockname()[1]))
        assert "is in use by a running node" in result.output
        assert result.return_value == 0 and "the node that runs on this directory has them" in result.output


def test_impossible_cores_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODEDB_CPU_CONTROL_CORE", "4000")
    result = run(tmp_path, *free_ports())
    assert result.return_value == 1
    assert "control_core = 4000 is not one of the cores allowed" in result.output
