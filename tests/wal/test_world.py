"""The log against the real world: io_uring forbidden by seccomp, a full file system, recovery of many small writes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodedb_node.multiraft.start import LogConfig, open_log
from nodedb_node.native import wal
from nodedb_node.native.wal import Record
from nodedb_node.storage.directory import LogDirectory
from tests.conformance.test_wal import held, propose

ROOT = Path(__file__).parent.parent.parent
MIB = 1024 * 1024

FORBID = """
import ctypes, os, sys
# BPF: load the system call's number; 425 (io_uring_setup) returns EPERM, everything else runs.
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | 1), (0x06, 0, 0, 0x7FFF0000)]
class Row(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("rows", ctypes.POINTER(Row))]
rows = (Row * len(code))(*(Row(*row) for row in code))
program = Program(len(code), rows)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no_new_privs"
assert libc.prctl(22, 2, ctypes.byref(program)) == 0, os.strerror(ctypes.get_errno())
from nodedb_node import log
from nodedb_node.storage.directory import LogDirectory
from nodedb_node.multiraft.start import Held, LogConfig, open_log
from tests.conformance.test_wal import held, propose
log.setup("child", "info")
config = LogConfig(sys.argv[2], True, 1 << 20, 1 << 20, floor_bytes=0)
opened = open_log(LogDirectory(sys.argv[1]), config, held([0]), lambda records, n: None, lambda: 1)
assert propose(opened, [(0, b"x")]) == [(0, 2, 2)]
print(opened.stats().backend)
opened.close(mark=True)
"""


def run_without_uring(path: Path, backend: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", FORBID, str(path), backend]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_forbidden_io_uring_gives_the_thread_and_one_log_line(tmp_path: Path) -> None:
    done = run_without_uring(tmp_path, "auto")
    assert (done.returncode, done.stdout) == (0, "thread\n"), done.stderr
    assert done.stderr.count("io_uring refused") == 1
    assert "Operation not permitted" in done.stderr


def test_io_uring_demanded_and_forbidden_fails_with_the_reason(tmp_path: Path) -> None:
    done = run_without_uring(tmp_path, "uring")
    assert done.returncode != 0
    assert "Operation not permitted" in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(mount)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mount refused: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("backend", ["uring", "thread"])
def test_a_full_disk_refuses_writes_keeps_the_reserve_and_recovers(small_disk: Path, backend: str) -> None:
    config = LogConfig(backend, True, 1 * MIB, 1 * MIB, floor_bytes=4 * MIB)
    log = open_log(LogDirectory(str(small_disk / "wal")), config, held([0]), lambda records, n: None, lambda: 1)
    assert propose(log, [(0, b"before")])
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(11 * MIB))
    refused = None
    for _ in range(1000):
        refused = propose(log, [(0, bytes(100_000))])
        if refused is None:
            break
    assert refused is None, "never refused"
    assert log.nospace()
    assert propose(log, [(0, b"reserve")], reserve=True)
    ballast.unlink()
    while log.nospace():  # asked again after 100 ms; the test's own time limit is the deadline
        pass
    assert propose(log, [(0, b"after")])
    log.close(mark=True)


def test_writes_go_on_after_the_reserve_was_used_up(small_disk: Path) -> None:
    """No room for the next segment: the append in flight waits, and is written when there is room."""
    config = LogConfig("thread", True, 2 * MIB, 1 * MIB, floor_bytes=0)
    log = open_log(LogDirectory(str(small_disk / "wal")), config, held([0]), lambda records, n: None, lambda: 1)
    free = os.statvfs(small_disk)
    wanted = free.f_bavail * free.f_frsize
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(max(0, wanted - 2 * MIB)))
    array, keep = wal.records_array([Record(wal.ENTRY, 0, kind=wal.DATA, data=bytes(900_000))])
    n = 0
    while log.inflight_us() < 300_000:  # an append that waits this long waits for room
        if not log.busy:
            assert log.propose(array, 1, True)
            n += 1
        log.reap()
    ballast.unlink()
    while log.busy:
        log.reap()
    assert log.last(0) == (n + 1, 1)
    del keep
    log.close(mark=True)


def test_a_crash_does_not_cost_another_file_full_of_zeros(tmp_path: Path) -> None:
    """The segment made ready for a life that ended before it came to it is the next life's."""
    config = LogConfig("auto", True, 2 * MIB, 1 * MIB, floor_bytes=0)
    made = []
    for life in range(1, 4):
        log = open_log(LogDirectory(str(tmp_path)), config, held([0]), lambda records, n: None, lambda: 1)
        assert propose(log, [(0, b"x")]) == [(0, 2 * life, 2 * life)]
        ready = tmp_path / f"wal-{life + 1:016d}"
        while not ready.exists():  # the test's own time limit is the deadline
            pass
        made.append(ready.stat().st_ino)
        log.close(mark=False)
    assert len(set(made)) == 1
    log = open_log(LogDirectory(str(tmp_path)), config, held([0]), lambda records, n: None, lambda: 1)
    assert log.last(0) == (7, 4)
    log.close(mark=True)


def test_many_small_turns_come_back_in_batches(tmp_path: Path) -> None:
    config = LogConfig("auto", False, 64 * MIB, 64 * MIB, floor_bytes=0)
    log = open_log(LogDirectory(str(tmp_path)), config, held([0, 1, 2, 3]), lambda records, n: None, lambda: 1)
    for i in range(3000):
        propose(log, [(group, b"%d" % i) for group in range(4)])
    log.close(mark=False)
    calls: list[int] = []
    seen: dict[int, int] = dict.fromkeys(range(4), 0)

    def apply(records: Any, n: int) -> None:
        calls.append(n)
        for i in range(n):
            assert records[i].index == seen[records[i].group] + 1
            seen[records[i].group] += 1

    log = open_log(LogDirectory(str(tmp_path)), config, held([0, 1, 2, 3]), apply, lambda: 1)
    log.close(mark=True)
    assert seen == dict.fromkeys(range(4), 3002)  # and each term's first
    assert len(calls) <= 4 + 4
