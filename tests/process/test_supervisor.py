"""The supervisor with toy children: deaths, restarts, signals, limits, and every refusal to start."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.node import ROOT, Node, alive, wait_for

TOY = (str(ROOT / "tests/process/toy_node.py"),)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path, workers=2, program=TOY) as node:
        yield node


def test_children_die_with_a_killed_supervisor(toy: Node) -> None:
    pids = list(toy.start().pids().values())
    assert len(pids) == 3
    os.kill(toy.pid, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in pids), "children to die", 1.0)


def test_even_a_stopped_child_dies_with_the_supervisor(toy: Node) -> None:
    pid = toy.start().pids()["worker-1"]
    os.kill(pid, signal.SIGSTOP)
    os.kill(toy.pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid), "the stopped child to die", 1.0)


def test_sigterm_ends_the_node_with_code_0(toy: Node) -> None:
    toy.start()
    assert toy.stop(10.0) == 0
    assert toy.find_log("msg=stopped")


def test_a_deaf_child_is_killed_when_draining_took_too_long(toy: Node) -> None:
    toy.extra_env["TOY_WORKER_1"] = "deaf"
    toy.settings["supervise.drain_ms"] = 300
    toy.start()
    assert toy.stop(5.0) == 0
    assert toy.find_log('msg="child killed" child=worker-1 why="not drained in time"')


def test_a_second_signal_quits_at_once(toy: Node) -> None:
    toy.extra_env["TOY_CONTROL"] = "deaf"
    toy.start()
    toy.signal(signal.SIGINT)
    toy.wait_log("msg=stopping")
    before = time.monotonic()
    toy.signal(signal.SIGTERM)
    assert toy.wait(5.0) == 0
    assert time.monotonic() - before < 2.0
    assert toy.find_log('why="second signal"')


def test_a_killed_child_is_restarted_with_the_next_generation(toy: Node) -> None:
    toy.start()
    old = toy.pids()
    os.kill(old["worker-0"], signal.SIGKILL)
    new = wait_for(lambda: toy.pids().get("worker-0", old["worker-0"]) != old["worker-0"] and toy.pids(), "a restart")
    assert new["worker-1"] == old["worker-1"] and new["control"] == old["control"]
    assert toy.find_log('msg="child died" child=worker-0 code=-9 restarts=1 restart_in_ms=0')


def test_restarts_back_off(toy: Node) -> None:
    toy.settings |= {"supervise.backoff_first_ms": 10, "supervise.backoff_max_ms": 40}
    toy.start()
    for wait_ms in (0, 10, 20, 40, 40):
        pid = wait_for(lambda: toy.pids().get("control"), "control to run")
        os.kill(pid, signal.SIGKILL)
        toy.wait_log(f'msg="child died" child=control .* restart_in_ms={wait_ms}\\b')
        wait_for(lambda pid=pid: toy.pids().get("control", pid) != pid, "control to be restarted")


def test_a_hanging_child_is_killed_and_restarted(toy: Node) -> None:
    toy.extra_env["TOY_WORKER_1"] = "hang"
    toy.settings["supervise.stall_ms"] = 1000
    toy.start()
    toy.wait_log('msg="child killed" child=worker-1 why=stalled')
    toy.wait_log('msg="child died" child=worker-1 code=-9 restarts=1')
    assert not toy.find_log('msg="child killed" child=worker-0')


@pytest.mark.parametrize(("code", "expected"), [(65, 65), (74, 74), (1, 70)])
def test_a_node_that_cannot_come_up_gives_up(toy: Node, code: int, expected: int) -> None:
    toy.extra_env["TOY_WORKER_0"] = f"exit:{code}"
    toy.settings["supervise.backoff_first_ms"] = 1
    assert toy.start(wait=False).wait(10.0) == expected
    assert toy.find_log(f'msg="child cannot start; the node gives up" child=worker-0 code={code}')


def test_systemd_is_told(toy: Node, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        address = str(tmp_path / "notify")
        listener.bind(address)
        listener.settimeout(10.0)
        toy.extra_env |= {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
        toy.start()
        assert listener.recv(64) in (b"READY=1", b"WATCHDOG=1")
        told = wait_for(lambda: listener.recv(64) == b"WATCHDOG=1", "the watchdog to be fed")
        assert told
        assert toy.stop() == 0
        wait_for(lambda: listener.recv(64) == b"STOPPING=1", "the stop to be told")


# ---- refusals: one clear line and an exit code ----


def refused(node: Node, code: int, *words: str, arguments: tuple[str, ...] = ()) -> None:
    assert node.start(*arguments, wait=False).wait(10.0) == code, node.log()
    lines = node.log().splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("flag", ["--port", "--http-port", "--worker-port"])
@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_in_use(toy: Node, flag: str, reuse: bool) -> None:
    with socket.socket() as other:
        if reuse:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        refused(toy, 69, f"port {port} ", "is in use", flag, arguments=(flag, port))


@pytest.mark.parametrize("flag", ["--peer-port", "--peer-worker-port"])
def test_a_datagram_port_in_use(toy: Node, flag: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = str(other.getsockname()[1])
        refused(toy, 69, f"port {port} ", "is in use", flag, arguments=(flag, port))


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_is_about_to_be_free_is_waited_for(toy: Node, kind: socket.SocketKind) -> None:
    """As processes of a node that was killed a moment ago have it: the kernel takes their memory away first."""
    with socket.socket(type=kind) as other:
        other.bind(("127.0.0.1", 0))
        port = str(other.getsockname()[1])
        toy.start("--port" if kind is socket.SOCK_STREAM else "--peer-port", port, wait=False)
        wait_for(lambda: (toy.data_dir / "LOCK").exists(), "the node to begin")
    toy.wait_ready()


def test_a_second_node_on_the_same_ports(toy: Node, tmp_path: Path) -> None:
    toy.start()
    (tmp_path / "second").mkdir()
    with Node(tmp_path / "second", program=TOY) as second:
        second.port = toy.port
        refused(second, 69, f"port {toy.port} ", "is in use")


def test_an_address_of_another_host(toy: Node) -> None:
    refused(toy, 78, "cannot listen on 192.0.2.1", "--bind", arguments=("--bind", "192.0.2.1"))


def test_a_locked_directory_names_the_holder(toy: Node, tmp_path: Path) -> None:
    toy.start()
    (tmp_path / "second").mkdir()
    with Node(tmp_path / "second", program=TOY) as second:
        second.data_dir = toy.data_dir
        refused(second, 75, "is locked by process", str(toy.pid))


def test_a_directory_that_cannot_be_made(toy: Node, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    toy.data_dir = tmp_path / "file" / "data"
    refused(toy, 73, "cannot be used", "Not a directory", "--data-dir")


def test_a_directory_that_cannot_be_written(toy: Node) -> None:
    toy.data_dir = Path("/proc/self/fdinfo") if os.geteuid() == 0 else Path("/usr/share")
    refused(toy, 73, "cannot be used", "--data-dir")


def test_a_newer_format(toy: Node) -> None:
    toy.start()
    assert toy.stop() == 0
    file = toy.data_dir / "node.json"
    file.write_text(file.read_text().replace('"format":1', '"format":2'))
    before = file.read_bytes()
    refused(toy, 65, "has format 2, newer than 1")
    assert file.read_bytes() == before


def test_somebody_elses_directory(toy: Node) -> None:
    toy.data_dir.mkdir()
    (toy.data_dir / "letters").write_text("")
    refused(toy, 65, "'letters'", "no node.json")


def test_an_interrupted_first_start_is_finished(toy: Node) -> None:
    (toy.data_dir / "layout-1" / "worker-0" / "wal").mkdir(parents=True)
    (toy.data_dir / "layout.tmp").write_text('{"numb')
    toy.start()
    assert toy.stop() == 0


def test_an_impossible_core_list(toy: Node) -> None:
    toy.settings |= {"cpu.control_core": 4095}
    refused(toy, 78, "[cpu] control_core = 4095 is not one of the cores allowed")


def test_more_workers_than_groups(toy: Node) -> None:
    toy.start()
    assert toy.stop() == 0
    toy.workers = 9
    refused(toy, 78, "has 8 groups, for at most 8 workers, not 9; start with --workers 8", "--data-dir")


def test_more_workers_than_a_node_can_have(toy: Node) -> None:
    toy.workers = 65
    refused(toy, 78, "[cpu] workers: expected an integer 1..64")


def test_no_core_left(toy: Node) -> None:
    toy.settings |= {"cpu.reserved": sorted(os.sched_getaffinity(0))}
    refused(toy, 78, "[cpu] reserved leaves no core")


def test_python_without_assertions(toy: Node) -> None:
    toy.program = ("-O", *TOY)
    refused(toy, 64, "python -O")


def test_wrong_configuration(toy: Node) -> None:
    (toy.directory / "node.toml").write_text("[clients]\nprot = 1\n")
    refused(
        toy,
        78,
        "node.toml line 2: [clients] prot: no such key; did you mean port?",
        arguments=("--config", "node.toml"),
    )


def test_wrong_option(toy: Node) -> None:
    refused(toy, 64, "--prot", "--help", arguments=("--prot", "1"))


def test_missing_file(toy: Node) -> None:
    refused(toy, 66, "none.toml", "No such file", arguments=("--config", "none.toml"))


def test_identity_stays_and_starts_are_counted(toy: Node) -> None:
    seen = []
    for _ in range(2):
        toy.start()
        assert toy.stop() == 0
        seen.append((toy.data_dir / "node.json").read_text())
    assert seen[0].replace('"generation":1', '"generation":2') == seen[1]
