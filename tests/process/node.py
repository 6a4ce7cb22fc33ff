"""A real node as a test uses it: start, wait until it serves, look at it, stop or kill it.

Invariant: nothing outlives the `with` block; ports are the same at every start of one Node, so that
a client finds it after a restart. Waiting is for a condition with a deadline, never for a time.
"""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import redis

ROOT = Path(__file__).resolve().parents[2]
READY_S = 30.0
T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, seconds: float = 10.0) -> T:
    """The first true value of the condition; AssertionError with what was waited for when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def free_ports(count: int = 16) -> int:
    """The first of some ports in a row that nobody uses, below those the kernel gives to clients: so that none is taken
    between two starts of a node."""
    while True:
        first = random.randrange(20_000, 32_000 - count)
        if all(_free(first + i) for i in range(count)):
            return first


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Node:
    """One data directory and the node on it. Settings by `section.key`: Node(dir, {"ring.bytes": 1 << 20})."""

    def __init__(
        self,
        directory: Path,
        settings: dict[str, object] | None = None,
        *,
        workers: int = 1,
        program: tuple[str, ...] = ("-m", "nodedb_node"),
        env: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.log_file = directory / "node.log"
        self.workers = workers
        self.settings = {"peers.port": 0, "peers.worker_port": 0} | (settings or {})  # any free ones
        self.program = program
        self.extra_env = env or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.port = free_ports()
        self.http_port, self.worker_ports = self.port + 1, [self.port + 2]  # workers go upwards from there
        self._starts_at = 0

    # ---- life ----

    def start(self, *arguments: str, wait: bool = True) -> "Node":
        """Start the node; by default return once it serves."""
        assert self.process is None, "it runs already"
        self._starts_at = self.log_file.stat().st_size if self.log_file.exists() else 0
        argv = [sys.executable, *self.program, "start", *self._flags(), *arguments]
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                argv, cwd=self.directory, env=self.environment(), stderr=log, stdout=log, stdin=subprocess.DEVNULL
            )
        if wait:
            self.wait_ready()
        return self

    def _flags(self) -> list[str]:
        flags = ["--data-dir", str(self.data_dir), "--workers", str(self.workers), "--http-port", str(self.http_port)]
        flags += ["--port", str(self.port), "--worker-port", str(self.worker_ports[0])]
        return [*flags, "--peer-port", "0", "--peer-worker-port", "0"]

    def environment(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("NODEDB_")}
        env |= {f"NODEDB_{key.replace('.', '_').upper()}": _spelled(value) for key, value in self.settings.items()}
        return env | {"PYTHONPATH": str(ROOT)} | self.extra_env

    def wait_ready(self, seconds: float = READY_S) -> None:
        """Until every process serves; fails with the log when the node ends instead."""

        def look() -> str | None:
            line = self.find_log(r"process=supervisor msg=ready .*")
            assert line or self.running, f"the node ended with {self.process and self.process.poll()}:\n{self.log()}"
            return line

        line = wait_for(look, "the node to be ready", seconds)
        fields = dict(pair.split("=", 1) for pair in line.split() if "=" in pair)
        self.port = int(fields["clients"].rpartition(":")[2])
        self.http_port = int(fields["http"].rpartition(":")[2])
        self.worker_ports = [int(port) for port in fields["workers"].split(",")]

    def stop(self, seconds: float = 15.0) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to the supervisor, and wait until its children are gone too."""
        pids = list(self.pids().values())
        self.signal(signal.SIGKILL)
        self.wait(10.0)
        wait_for(lambda: not any(alive(pid) for pid in pids), "children to die with their supervisor", 5.0)

    def kill_all(self) -> None:
        """SIGKILL to every process at once: the nearest thing to power loss that keeps the page cache."""
        pids = [self.pid, *self.pids().values()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait(10.0)
        wait_for(lambda: not any(alive(pid) for pid in pids), "all processes to die", 5.0)

    def signal(self, number: int) -> None:
        assert self.process is not None, "it does not run"
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Until the supervisor has ended; its exit code."""
        assert self.process is not None, "it does not run"
        code = self.process.wait(seconds)
        self.process = None
        return code

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()

    # ---- a look at it ----

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, "it does not run"
        return self.process.pid

    def pids(self) -> dict[str, int]:
        """Children by name: control, worker-0, ..."""
        found = {}
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
                name = Path(f"/proc/{word}/comm").read_text().strip()
                if name.startswith("nodedb-"):
                    found[name.removeprefix("nodedb-")] = int(word)
        return found

    def log(self) -> str:
        """What the node has logged since its last start."""
        with open(self.log_file, "rb") as file:
            file.seek(self._starts_at)
            return file.read().decode(errors="replace")

    def find_log(self, pattern: str) -> str | None:
        """The last line since the start that the pattern is found in."""
        lines = [line for line in self.log().splitlines(keepends=True) if re.search(pattern, line)]
        return lines[-1] if lines and lines[-1].endswith("\n") else None

    def wait_log(self, pattern: str, seconds: float = 10.0) -> str:
        return wait_for(lambda: self.find_log(pattern), f"the log to say {pattern}", seconds)

    def client(self, port: int | None = None, **options: object) -> "redis.Redis":
        """A redis-py client of the shared port, or of another."""
        return redis.Redis(host="127.0.0.1", port=port or self.port, **options)


def _spelled(value: object) -> str:
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextlib.contextmanager
def node(directory: Path, settings: dict[str, object] | None = None, **options: object) -> Iterator[Node]:
    """A started node that is gone after the block."""
    with Node(directory, settings, **options) as one:  # type: ignore[arg-type]
        yield one.start()
