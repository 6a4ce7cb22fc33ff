"""A supervisor's stage for one real control process: shared memory, ports, boot, and stand-ins for the workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from nodedb_node._native import lib
from nodedb_node.config import Config, HttpSection
from nodedb_node.native.shm import ring_all
from nodedb_node.supervisor.boot import Boot, encode
from nodedb_node.supervisor.ports import Reservation
from nodedb_node.supervisor.shared import Shared

WAIT_SECONDS = 20
WORKERS = 2
EPHEMERAL = Config(
    clients=msgspec.structs.replace(Config().clients, port=0, worker_port=0),
    http=HttpSection(bind="127.0.0.1", port=0),
    peers=msgspec.structs.replace(Config().peers, port=0, worker_port=0),
)


def now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Stage:
    """Everything control needs of its surroundings; control itself is started by start()."""

    def __init__(self, data_dir: Path) -> None:
        self.shared = Shared(WORKERS + 1, 262_144)
        self.reservation = Reservation(EPHEMERAL, WORKERS)
        self.status_read, status_write = os.pipe2(os.O_CLOEXEC)
        self.generation = 1
        self.boot = Boot(
            role="control",
            process=0,
            generation=1,
            workers=WORKERS,
            supervisor_pid=os.getpid(),
            started_us=now_us(),
            node_id="a" * 40,
            cluster_id="b" * 32,
            node_generation=1,
            groups=8,
            data_dir=str(data_dir),
            layout_dir=str(data_dir),
            ports=self.reservation.ports,
            pins=[[]] * (WORKERS + 1),
            spares=[[]] * (WORKERS + 1),
            memory_nodes=[-1] * (WORKERS + 1),
            shm_fd=self.shared.fd,
            bell_fds=self.shared.bells,
            board_fds=self.shared.boards,
            status_fd=status_write,
            config=EPHEMERAL,
        )
        self.workers = [subprocess.Popen(["sleep", "600"]) for _ in range(WORKERS)]
        self.controls: list[subprocess.Popen[bytes]] = []
        for number in range(WORKERS):
            self.worker_ready(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in (*self.controls, *self.workers):
            child.kill()
            child.wait()
        self.reservation.close()
        for descriptor in (self.status_read, self.boot.status_fd, self.shared.fd, *self.shared.bells):
            os.close(descriptor)

    def worker_ready(self, number: int) -> None:
        """What a worker's start does to shared memory, and the bells it rings."""
        self.shared.started(number + 1, self.workers[number].pid)
        self.shared.memory.ready(number + 1, [0, 0, 0, 0])
        ring_all(self.shared.bells)
        block = self.block(number)
        block.wal_backend = lib.ND_WALIO_THREAD
        block.heartbeat_us = now_us() + WAIT_SECONDS * 1_000_000

    def block(self, number: int) -> Any:
        """The counters of a worker, to write to."""
        return lib.nd_shm_metrics(self.shared.memory.handle, number + 1)

    def start(self) -> subprocess.Popen[bytes]:
        """A control process in its next life; does not wait for it."""
        if self.controls:
            self.generation = self.shared.died(0)
        boot = msgspec.structs.replace(self.boot, generation=self.generation)
        descriptor = os.memfd_create("boot", 0)
        inherited = (boot.shm_fd, boot.status_fd, *boot.bell_fds, *boot.board_fds, descriptor)
        os.write(descriptor, encode(boot))
        argv = [sys.executable, "-m", "nodedb_node.control", "--boot-fd", str(descriptor)]
        child = subprocess.Popen(argv, pass_fds=inherited, stderr=subprocess.PIPE)
        os.close(descriptor)
        self.shared.started(0, child.pid)
        self.controls.append(child)
        return child

    def wait_ready(self) -> None:
        """Until the last started control has said that it serves."""
        assert os.read(self.status_read, 100) == f"ready 0 {self.generation}\n".encode()

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of one request."""
        url = f"http://127.0.0.1:{self.boot.ports.http}{path}"
        try:
            with urllib.request.urlopen(url, timeout=WAIT_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until_ready_answers(self, code: int) -> str:
        """Asks /readyz until it answers `code`; its text."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            found, text = self.get("/readyz")
            if found == code:
                return text
        raise AssertionError(f"/readyz did not answer {code} within {WAIT_SECONDS} s")
