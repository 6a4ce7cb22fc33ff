"""The two servers under measurement, started and stopped alike, with data below the same directory.

Invariant: stop() leaves no process of the server behind. Redis runs durable: each write is in a synced append-only file
before its reply, and nothing rewrites that file during a measurement.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tools.bench import proc, resp

READY_DEADLINE_S = 30.0
STOP_DEADLINE_S = 12.0


def free_ports(count: int) -> int:
    """The first of count consecutive ports that nobody listens on."""
    for _ in range(100):
        with contextlib.ExitStack() as held:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
            try:
                for port in range(first + 1, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return first
    raise RuntimeError(f"no {count} consecutive free ports found; free some and try again")


@dataclass
class Server:
    """One server process tree; subclasses say how it is started."""

    name: str
    directory: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    start_seconds: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)
    wrapper: list[str] = field(default_factory=list)
    """Words before the command line: a program that changes its own limits and then becomes the server."""
    tree: Path = field(default_factory=lambda: repository())
    """Where it runs; a node is the one built there."""

    def argv(self) -> list[str]:
        raise NotImplementedError

    @property
    def cluster_port(self) -> int:
        """Where a cluster client starts."""
        return self.port

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def pid(self) -> int:
        assert self.process is not None, "start the server first"
        return self.process.pid

    def start(self) -> None:
        """Start and wait for PONG and the end of loading; start_seconds is the time this took."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.port:
            self.port = free_ports(1)
        begun = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, *self.argv()],
                stdout=log,
                stderr=log,
                cwd=self.tree,
                env={**os.environ, **self.environment},
            )
        self.wait_ready(begun + READY_DEADLINE_S)
        self.start_seconds = time.monotonic() - begun

    def wait_ready(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                if resp.ask(self.port, b"PING", timeout_s=1.0).startswith(b"+PONG"):
                    return
            time.sleep(0.01)
        tail = self.log.read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"{self.name} did not answer PING; end of its log:\n{tail}")

    def stop(self) -> None:
        if self.process is None:
            return
        members = proc.tree_of(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in members[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process = None

    def kill(self) -> None:
        """SIGKILL to every process of the tree at once."""
        for pid in proc.tree_of(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        self.process = None

    def erase(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def describe(self) -> str:
        raise NotImplementedError


@dataclass
class RedisServer(Server):
    """redis-server 7.0.15, durable. Debian ships the one binary under several names; argv[0] chooses the role."""

    def argv(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "auto-aof-rewrite-percentage": "0",
            "save": "",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        found = shutil.which("redis-server")
        if found:
            return [found, *words]
        return ["bash", "-c", 'exec -a redis-server /usr/bin/redis-check-rdb "$@"', "redis-server", *words]

    def describe(self) -> str:
        return "redis-server, appendonly yes, appendfsync always, unpinned"


@dataclass
class NodeServer(Server):
    """A node with W workers, of this tree unless told another."""

    workers: int = 1
    worker_port: int = 0
    http_port: int = 0
    options: list[str] = field(default_factory=list)
    """More command-line words, as a user would give them."""

    def argv(self) -> list[str]:
        if not self.worker_port:
            self.http_port = free_ports(1)
            self.worker_port = free_ports(self.workers)
        words = ["--data-dir", str(self.directory / "data"), "--bind", "127.0.0.1", "--port", str(self.port)]
        words += ["--worker-port", str(self.worker_port), "--http-port", str(self.http_port)]
        if (self.tree / "nodedb_node" / "transport" / "quic.py").exists():  # a tree before lanes has no such options
            words += ["--peer-port", "0", "--peer-worker-port", "0"]
        return [python(self.tree), "-m", "nodedb_node", "start", *words, "--workers", str(self.workers), *self.options]

    @property
    def cluster_port(self) -> int:
        return self.worker_port

    def worker_pids(self) -> list[int]:
        """Process ids of the workers, in their order."""
        return [pid for name, pid in sorted(self.roles().items()) if name.startswith("worker-")]

    def roles(self) -> dict[str, int]:
        """Role → process id of everything that lives now: supervisor, control, worker-0, …"""
        stats = proc.all_stats()
        tree = proc.tree_of(self.pid, stats)
        return {stats[pid].name.removeprefix("nodedb-"): pid for pid in tree[1:]} | {"supervisor": tree[0]}

    def describe(self) -> str:
        everywhere = sorted(os.sched_getaffinity(0))
        cores = [proc.affinity(pid) for pid in self.worker_pids()]
        pins = ["unpinned" if pin == everywhere else "core " + ",".join(map(str, pin)) for pin in cores]
        return f"{len(cores)} worker(s), {' / '.join(pins) or 'no worker process seen'}"


def repository() -> Path:
    return Path(__file__).resolve().parents[2]


def python(tree: Path) -> str:
    local = tree / ".venv" / "bin" / "python"
    return str(local) if local.exists() else sys.executable
